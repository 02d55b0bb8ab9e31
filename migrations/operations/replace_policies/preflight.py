"""Whether policies can be replaced, and for whom the result can be told beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backfilld.migrations.facts import Facts, OtherTable, PolicyChange, UncountedTable
from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.ddl import policies as ddl
from backfilld.migrations.planning.checks.walks import key_of, with_key
from backfilld.migrations.policies import advice, trial
from backfilld.migrations.policies.others import MOST_ROWS
from backfilld.migrations.postgres import catalog, policies, readings, tables
from backfilld.migrations.postgres.lexer import self_containment_problem
from backfilld.migrations.postgres.policies import Persona, Policy, PolicySet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg import sql

    from backfilld.migrations.file.migration import ReplacePolicies
    from backfilld.migrations.file.personas import Persona as OfFile
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.policies.trial import Tried
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.readings import Way

#: From 16 on a membership says whether it may be taken by SET ROLE.
_WITH_SET = 160_000


def examine(case: Case, operation: ReplacePolicies) -> Facts:
    table = case.table
    facts = with_key(case.found, case.place, table, Facts(relation=str(table.name)))
    nature = tables.nature(case.connection, table)
    old = PolicySet(
        policies=policies.policies_of(case.connection, table.oid), enabled=nature.row_security, forced=nature.forced
    )
    _check_roles(case, operation)
    _check_force(case, operation)
    personas = _personas(case)
    wanted = [_wanted(case, number, operation) for number in range(len(operation.policies))]
    if not facts.key or any(one is None for one in wanted):
        return facts
    with trial.copy_of(case.connection, table, _added(case)) as copy:
        tried = trial.written(
            case.connection,
            copy,
            [one for one in wanted if one],
            create=_create(table.name.name),
            table=table,
            forced=old.forced or operation.force,
        )
        if not _takes(case, tried):
            return facts
        new = PolicySet(
            policies=_with_comments(tried.policies, old),
            enabled=old.enabled or operation.enable,
            forced=old.forced or operation.force,
        )
        for persona in personas:
            _try_as(case, copy, persona, asked=new.enabled)
        oid, roles = catalog.oid_of(case.connection, copy), [persona.role for persona in personas]
        functions = policies.definers_called(case.connection, oid, roles)
    _check_change(case, operation, old, new)
    exposed = policies.exposed_schemas(case.connection) if tables.has_public_api(case.connection) else frozenset()
    for text in (
        *advice.of_set(str(table.name), new, personas, exposed=table.name.schema in exposed),
        *advice.of_views(str(table.name), policies.views_past(case.connection, table.oid, roles, forced=new.forced)),
        *advice.of_definers(functions, exposed),
    ):
        case.warn(text)
    others, uncounted = _others(case, forced=new.forced)
    change = PolicyChange(old=old, new=new, personas=tuple(personas), others=others, uncounted=uncounted)
    return Facts(relation=facts.relation, key=facts.key, policies=change)


def _others(case: Case, *, forced: bool) -> tuple[tuple[OtherTable, ...], tuple[UncountedTable, ...]]:
    """The tables whose policies read this one: those whose rows can be counted, and the others."""
    read_by: dict[TableName, list[Way]] = {}
    for way in readings.ways(case.connection, case.table.oid, forced=forced):
        read_by.setdefault(way.table, []).append(way)
    counted: list[OtherTable] = []
    uncounted: list[UncountedTable] = []
    for name, several in read_by.items():
        policies_ = ", ".join(dict.fromkeys(way.policy for way in several))
        said = f"the policy {policies_} of {name} reads {case.table.name}: which rows of {name} a role reaches changes with these policies"
        other = catalog.describe(case.connection, name)
        because = _uncountable(other, several)
        if because or other is None:
            case.warn(f"{said}, and cannot be counted, for {because}; a person is asked before the switch")
            uncounted.append(UncountedTable(relation=str(name), because=because))
            continue
        case.warn(f"{said}, which is counted for its first {MOST_ROWS:,} rows")
        nature = tables.nature(case.connection, other)
        counted.append(
            OtherTable(
                relation=str(name),
                key=key_of(other),
                policies=PolicySet(
                    policies=policies.policies_of(case.connection, other.oid),
                    enabled=nature.row_security,
                    forced=nature.forced,
                ),
                personas=tuple(_all_personas(case, other, tell=False)),
            )
        )
    return tuple(counted), tuple(uncounted)


def _uncountable(other: Table | None, several: Sequence[Way]) -> str:
    """Why nobody can count what becomes of a table; empty where that can be told."""
    around = [
        f"{way.policy} {'reads' if way.certain else 'seems to read'} it {way.in_words}"
        for way in several
        if way.through or way.role is not None
    ]
    if around:
        return "; ".join(around)
    if other is None or other.row_security_active or not other.may_select:
        return "this role may not read all of its rows"
    return "" if other.keys else "it has no key"


def _added(case: Case) -> list[tuple[str, str]]:
    """Columns, each with its type, that the table gets before by operations of the same file."""
    return [
        (earlier.column.name, earlier.column.type)
        for earlier in case.migration.operations[: case.number]
        if isinstance(earlier, definition.AddColumn)
        and earlier.table == case.table.name
        and case.table.column(earlier.column.name) is None
    ]


def _with_comments(new: Sequence[Policy], old: PolicySet) -> tuple[Policy, ...]:
    """What is said of a policy stays with its name."""
    comments = {policy.name: policy.comment for policy in old.policies}
    return tuple(replace(policy, comment=comments.get(policy.name)) for policy in new)


def _wanted(case: Case, number: int, operation: ReplacePolicies) -> Policy | None:
    """A policy of the file; None where its texts are more than one expression each."""
    policy = operation.policies[number]
    for key, text in (("using", policy.using), ("check", policy.check)):
        if text is not None and (problem := self_containment_problem(text)):
            case.refuse(
                "expression", f"policies[{number}].{key} is not one expression: {problem}", "Write one SQL condition"
            )
            return None
    return Policy(
        name=policy.name,
        command=policy.for_,
        permissive=not policy.restrictive,
        roles=tuple(sorted(policy.to)),
        using=policy.using,
        check=policy.check,
    )


def _create(name: str) -> Callable[[Policy], sql.Composed]:
    def create(policy: Policy) -> sql.Composed:
        return ddl.create(TableName("pg_temp", name), policy)[0].sql

    return create


def _takes(case: Case, tried: Tried) -> bool:
    """Whether PostgreSQL takes the policies, and none of them would have to ask itself."""
    for one in tried.failed:
        case.refuse(
            "policy",
            f"PostgreSQL does not take the policy {one.policy}: {one.problem}",
            "Write a condition over the table's columns; names outside pg_catalog need their schema (auth.uid())",
        )
    for way in tried.reads:
        _check_way(case, way)
    return not tried.failed and not any(way.certain for way in tried.reads)


def _check_way(case: Case, way: Way) -> None:
    """A policy must not read its own table where that table's policies are asked for it."""
    table, how = case.table.name, way.in_words
    if not way.certain:
        case.warn(
            f"the policy {way.policy} seems to read {table} {how}: where it does, its policies would have to be asked for that, and the "
            "switch is undone"
        )
    elif way.role is None:
        case.refuse(
            "recursion",
            f"the policy {way.policy} reads {table} {how}, whose policies would have to be asked for that (42P17)",
            "Read the rows in a SECURITY DEFINER function that returns the set, and write COLUMN IN (SELECT the_function())",
        )
    else:
        case.refuse(
            "prediction",
            f"the policy {way.policy} reads {table} {how}, and policies that change are asked for that role too: what it gives cannot be "
            "predicted",
            "Let a role own what lies between that policies are not asked for, as the table's owner",
        )


def _try_as(case: Case, copy: sql.Identifier, persona: Persona, *, asked: bool) -> None:
    """What a persona's statements do under the new policies, seen on the copy."""
    if not asked or persona.bypasses:
        return
    seen = trial.as_persona(case.connection, copy, persona)
    if seen.recursion:
        case.refuse(
            "recursion",
            f"as {persona.name} the new policies would have to ask themselves: {seen.problem}",
            "Read the rows in a SECURITY DEFINER function that returns the set, and write COLUMN IN (SELECT the_function())",
        )
        return
    table = case.table
    told = advice.of_plan(
        str(table.name),
        persona,
        seen,
        columns=[column.name for column in table.columns],
        rows=case.found.rows.get(table.name, 0),
    )
    for text in told:
        case.warn(text)


def _check_roles(case: Case, operation: ReplacePolicies) -> None:
    for number, policy in enumerate(operation.policies):
        for role in policies.missing_roles(case.connection, policy.to):
            case.refuse(
                "role",
                f"policies[{number}].to: there is no role {role}",
                "Name a role that exists; names are exact, never folded",
            )


def _check_force(case: Case, operation: ReplacePolicies) -> None:
    if not operation.force:
        return
    own = policies.role(case.connection, case.found.backend.role, table=case.table.oid, key=[])
    if own is None or not own["bypasses"]:
        role = case.found.backend.role
        case.refuse(
            "row_security",
            f"`force` would hide rows of {case.table.name} from the role {role} itself, so that nothing could be counted any more",
            f"Use a role with BYPASSRLS (ALTER ROLE {role} BYPASSRLS), or remove `force:`",
        )


def _check_change(case: Case, operation: ReplacePolicies, old: PolicySet, new: PolicySet) -> None:
    for number, other in enumerate(case.migration.operations):
        same = isinstance(other, definition.ReplacePolicies | definition.EnableRowSecurity)
        if same and number != case.number and other.table == case.table.name:
            case.refuse(
                "operations",
                f"operations[{number}].{other.kind} is about the policies of {case.table.name} too",
                "Put the two in separate migrations, one after the other, or use `enable: true`",
            )
    before = {policy.name: policy for policy in old.policies}
    like = {policy.name for policy in new.policies if policy.name in before and before[policy.name].is_like(policy)}
    if len(like) == len(new.policies) == len(old.policies) and (old.enabled, old.forced) == (new.enabled, new.forced):
        case.refuse("policies", f"{case.table.name} has these policies already", "Remove the operation")
    if operation.keep_both:
        for policy in new.policies:
            if policy.name in before and policy.name not in like:
                case.refuse(
                    "policies",
                    f"`keep_both` has both sets live side by side, and both have a policy {policy.name}",
                    "Give the new one another name",
                )


def _personas(case: Case) -> list[Persona]:
    """Those of the file, as far as they can be asked; why another cannot is put down."""
    if case.migration.application is None or not case.migration.application.personas:
        case.refuse(
            "personas",
            "there is nobody as whom the policies could be compared",
            "Add `application: {personas: {member: {role: authenticated, claims: {sub: …}}}}`, one for each kind of user",
        )
    return _all_personas(case, case.table, tell=True)


def _all_personas(case: Case, table: Table, *, tell: bool) -> list[Persona]:
    """The personas as they are to one table; with `tell` it is said what keeps one from being asked."""
    application = case.migration.application
    of_file = application.personas if application is not None else {}
    # A setting that one of them has is empty for the others: it is in a session in which somebody has set it before.
    unset = dict.fromkeys((setting for one in of_file.values() for setting in one.settings), "")
    found: list[Persona] = []
    for name, one in of_file.items():
        key = [column.name for column in key_of(table)]
        role = policies.role(case.connection, one.role, table=table.oid, key=key)
        if tell:
            _tell(case, name, one, role)
        if role is not None and role["may_be_taken"]:
            found.append(_persona(name, one, role, unset))
    return found


def _tell(case: Case, name: str, one: OfFile, role: Mapping[str, Any] | None) -> None:
    """Refuse a persona whose role cannot be taken, and say what a careful person should know of another. Any: of the catalog."""
    if role is None:
        case.refuse(
            "personas",
            f"personas.{name}: there is no role {one.role}",
            "Name a role that exists; names are exact, never folded",
        )
        return
    if not role["may_be_taken"]:
        ours = case.found.backend.role
        with_set = " WITH SET TRUE" if case.found.backend.version >= _WITH_SET else ""
        case.refuse(
            "personas",
            f"personas.{name}: the role {ours} may not take the role {one.role} (SET ROLE)",
            f"GRANT {one.role} TO {ours}{with_set}, or leave the persona out",
        )
        return
    if not one.claims and not one.settings and not role["bypasses"]:
        case.warn(f"the persona {name} has no claims: it is compared as somebody who has not signed in")
    if not _may(role):
        case.warn(f"the persona {name} has no privilege on {case.table.name}, whatever its policies say")
    elif not role["sees_key"]:
        case.warn(
            f"the persona {name} may not read the key of {case.table.name}: what it really sees cannot be compared row by row"
        )


def _may(role: Mapping[str, Any]) -> tuple[str, ...]:
    """What the privileges of a table let a role try. Any: of the catalog."""
    commands = ("select", "insert", "update", "delete")
    return tuple(what for what in commands if role["may_use_schema"] and role[f"may_{what}"])


def _persona(name: str, one: OfFile, role: Mapping[str, Any], unset: Mapping[str, str]) -> Persona:
    claims = json.dumps({"role": one.role, **one.claims}, ensure_ascii=False)
    return Persona(
        name=name,
        role=one.role,
        settings=(("request.jwt.claims", claims), *{**unset, **one.settings}.items()),
        bypasses=role["bypasses"],
        owns=role["owns"],
        roles=tuple(role["roles"]),
        may=_may(role),
        sees_key=bool(role["sees_key"]),
    )
