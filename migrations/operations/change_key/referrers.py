"""What refers to a key, found in the catalog, and how all that depends on each of the columns reads for the new one."""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts, Referrer, Target
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import object_name
from backfilld.migrations.operations.change_key.member import NUMBERS, Follower
from backfilld.migrations.operations.change_type.change import Change
from backfilld.migrations.planning.checks.columns import mentions
from backfilld.migrations.planning.checks.live_runs import live_operations
from backfilld.migrations.planning.checks.side_effects import refuse_update_rules
from backfilld.migrations.planning.checks.tables import check_table
from backfilld.migrations.planning.checks.walks import key_of, keys_because
from backfilld.migrations.postgres import catalog, column_copy, column_parts, constraints
from backfilld.migrations.postgres.column_dependents import ColumnDependents, DependentRule, inactive
from backfilld.migrations.postgres.definitions import Grant
from backfilld.migrations.postgres.dependents import IN_THE_WAY, of_column
from backfilld.migrations.postgres.dependents import column as read_column
from backfilld.migrations.postgres.expression_probe import Rejected, probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.file.migration import ChangeKey
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.column_dependents import DependentPublication
    from backfilld.migrations.postgres.constraints import ConstraintDetails
    from backfilld.migrations.postgres.dependents import ColumnDependent
    from backfilld.migrations.postgres.expression_probe import Probe

#: What is made again for the new columns.
TAKEN_ALONG = frozenset(
    {
        "index",
        "unique",
        "primary key",
        "foreign key",
        "inbound",
        "check",
        "statistics",
        "view",
        "policy",
        "trigger",
        "function",
        "publication",
    }
)
_FIRST = "Drop it first, and create it again for the new type after the run"
#: What stands behind the columns of a foreign key, as PostgreSQL writes it.
_ENDS = re.compile(r"\)(( MATCH FULL| ON (UPDATE|DELETE) (CASCADE|RESTRICT|SET NULL)| NOT VALID)*)$")


def new_column(name: str) -> str:
    """The new column, while it is inactive."""
    return inactive(name, "_backfilld_new")


def old_column(name: str) -> str:
    """The old one, once it is inactive."""
    return inactive(name, "_backfilld_old")


def table_of(case: Case, referrer: Referrer) -> TableName:
    """The table that refers."""
    return TableName.parse(referrer.table) if referrer.table else case.table.name


def all_referrers(case: Case, operation: ChangeKey, type_: str, members: set[tuple[TableName, str]]) -> list[Referrer]:
    """Every column that refers to the key, itself or through another one, each behind what it refers to."""
    found: list[Referrer] = []
    reached = [(case.table.name, operation.column)]
    while reached:
        table, name = reached.pop(0)
        for row in column_parts.foreign_keys(case.connection, table, name, named=name):
            for column, _ in row["referring"]:
                referrer = TableName(row["from_schema"], row["from_table"])
                if (referrer, column) in members:
                    continue
                members.add((referrer, column))
                reached.append((referrer, column))
                known = _referrer(case, operation, referrer, column, type_, number=len(found) + 1)
                if known is not None:
                    found.append(known)
    return found


def _referrer(  # noqa: PLR0913 - one column; each part is named where it is called
    case: Case, operation: ChangeKey, name: TableName, column: str, type_: str, *, number: int
) -> Referrer | None:
    connection = case.connection
    table = catalog.describe(connection, name)
    if table is None:
        return None
    before = len(case.found.findings)
    check_table(case.found, case.place, table, operation)
    refuse_table(case, table)
    refuse_update_rules(replace(case, table=table))
    seen = of_column(connection, name, column)
    own = read_column(connection, name, column)
    refuse_dependents(case, name, column, seen, allowed=TAKEN_ALONG)
    refuse_names(case, table, column)
    refuse_other_operations(case, name, column)
    _refuse_live(case, name, column)
    if own["default"] is not None:
        case.refuse(
            "references", f"{name}.{column} has a DEFAULT, which is an old value", "Drop it first: `drop_default`"
        )
    if not table.keys:
        case.refuse(
            "key",
            f"{name} has no primary key and no unique key of NOT NULL columns",
            "Add one first: `add_primary_key`",
        )
    keys = {one: details for one, details in _foreign_keys(case, table).items() if column in details.columns}
    for one, details in keys.items():
        _refuse_foreign_key(case, table, column, one, details)
    if len(case.found.findings) > before:
        return None
    first, details = next(iter(keys.items()))
    target = Target(column=new_column(column), type=type_)
    rules = tuple(
        DependentRule(
            name=one,
            new=_renamed(known, column),
            old=known.definition.removesuffix(" NOT VALID"),
            references=known.references,
            valid=True,
            comment=known.comment,
        )
        for one, known in keys.items()
    )
    return Referrer(
        table=str(name) if name != case.table.name else "",
        column=column,
        target=target,
        key=key_of(table),
        dependents=_with_whole(
            case,
            table,
            dependents_of(case, table, column, type_, seen, rules=rules, number=number),
            (column, type_),
            number=number,
        ),
        references=str(details.references) if details.references != case.table.name else "",
        columns=details.columns,
        referenced=details.referenced_columns,
        equalities=catalog.equalities(connection, table.oid, first),
        keys_because=keys_because(connection, table, Facts(relation=str(name), targets=(target,))),
    )


def _foreign_keys(case: Case, table: Table) -> dict[str, ConstraintDetails]:
    """All foreign keys of a table, those to itself too."""
    names = [
        one.name
        for column in table.columns
        for one in of_column(case.connection, table.name, column.name)
        if one.kind in {"foreign key", "inbound"} and " of " not in one.name
    ]
    found = {one: constraints.find(case.connection, table, one) for one in dict.fromkeys(names)}
    return {name: one for name, one in found.items() if one is not None and one.kind == "f"}


def _refuse_foreign_key(case: Case, table: Table, column: str, name: str, known: ConstraintDetails) -> None:
    """Put down why the new column cannot have this foreign key."""
    what = f"the foreign key {name} of {table.name}"
    strict = {one.name for one in table.columns if one.not_null}
    for problem, remedy, is_so in (
        (
            "is not validated: rows may refer to nothing, and would lose what they say",
            "Validate it first",
            not known.valid,
        ),
        (
            "is deferrable: a row may come before the one it refers to",
            f"ALTER TABLE {table.name} ALTER CONSTRAINT {name} NOT DEFERRABLE, for the time of the run",
            bool(known.deferred),
        ),
        (
            "has an action or a match that cannot be taken along",
            "Add it again with CASCADE, RESTRICT, SET NULL or no action",
            _ENDS.search(known.definition.removesuffix(known.deferred)) is None,
        ),
        (
            "has columns that may be NULL beside others, and such a row refers to nothing",
            "Make them NOT NULL first",
            len(known.columns) > 1 and not {*known.columns} <= strict,
        ),
    ):
        if is_so:
            case.refuse("references", f"{what} {problem}", remedy)
    referenced = dict(zip(known.columns, known.referenced_columns, strict=True))[column]
    if known.references is not None and not _is_reached(case, known.references, referenced):
        case.refuse(
            "references",
            f"{what} also lets {column} refer to {known.references}.{referenced}, which keeps its values",
            "Drop that foreign key first",
        )


def _is_reached(case: Case, table: TableName, column: str) -> bool:
    """Whether a column is the key, or refers to it in the end."""
    seen: set[tuple[TableName, str]] = set()
    reached = [(table, column)]
    root = (case.table.name, getattr(case.migration.operations[case.number], "column", ""))
    while reached:
        one = reached.pop()
        if one == root:
            return True
        if one in seen:
            continue
        seen.add(one)
        described = catalog.describe(case.connection, one[0])
        if described is None:
            continue
        reached += [
            (known.references, dict(zip(known.columns, known.referenced_columns, strict=True))[one[1]])
            for known in _foreign_keys(case, described).values()
            if one[1] in known.columns and known.references is not None
        ]
    return False


def _renamed(known: ConstraintDetails, column: str) -> str:
    """The foreign key as it reads for the new columns, while these are inactive."""
    own = [new_column(one) if one == column else one for one in known.columns]
    pairs = zip(known.columns, known.referenced_columns, strict=True)
    other = [new_column(referenced) if one == column else referenced for one, referenced in pairs]
    ends = _ENDS.search(known.definition)
    names = [sql.SQL(", ").join(map(sql.Identifier, several)) for several in (own, other)]
    references = known.references.identifier if known.references is not None else sql.SQL("")
    body = sql.SQL("FOREIGN KEY ({}) REFERENCES {} ({})").format(names[0], references, names[1]).as_string()
    return f"{body}{ends.group(1).removesuffix(' NOT VALID') if ends is not None else ''}"


# What depends on each


def dependents_of(  # noqa: PLR0913 - one column; each part is named where it is called
    case: Case,
    table: Table,
    name: str,
    type_: str,
    found: Sequence[ColumnDependent],
    *,
    rules: tuple[DependentRule, ...],
    number: int,
) -> ColumnDependents:
    """What depends on a column, as it reads for the one and for the other. Raises Rejected."""
    connection = case.connection
    own = read_column(connection, table.name, name)
    with _copy_of(case, table):
        with column_copy.successor(
            connection, table.name, name, named=new_column(name), type_=sql.SQL(type_), found=found
        ) as copy:
            new = column_copy.definitions(connection, copy, found)
        with column_copy.successor(connection, table.name, name, named=old_column(name), type_=None) as copy:
            old = column_copy.definitions(connection, copy, found)
    # By the number of the column among those that change: several may have one name, each in a table of one schema.
    made = case.number + NUMBERS * number
    forms = [f"{object_name(f'backfilld_{side}', case.migration.name, made)}_{{}}" for side in ("new", "old")]
    names = column_parts.Names(new_form=forms[0], old_form=forms[1])
    checks, _ = column_parts.rules(connection, table.name, name, found, new, named=new_column(name))
    return ColumnDependents(
        new_column=new_column(name),
        old_column=old_column(name),
        type=own["type"],
        collation=own["collation"],
        plain_type=own["type"],
        as_text=False,
        not_null=own["not_null"],
        default=None,
        new_default=None,
        constant_default=False,
        statistics_target=own["statistics_target"],
        options=own["options"] or "",
        comment=own["comment"],
        grants=tuple(Grant(**one) for one in own["grants"]),
        sequence=None,
        widens_sequence=False,
        indexes=column_parts.indexes(connection, table.name, name, found, new=new, old=old, names=names),
        checks=checks,
        foreign_keys=rules,
        statistics=column_parts.statistics(connection, table.name, found, new),
        views=column_parts.views(connection, found),
        policies=column_parts.policies(connection, found),
        functions=column_parts.functions(connection, found),
        triggers=column_parts.triggers(connection, found),
        publications=_publications(case, table, found),
        seen=tuple((one.kind, one.name, one.digest) for one in found),
    )


def _publications(case: Case, table: Table, found: Sequence[ColumnDependent]) -> tuple[DependentPublication, ...]:
    """Publications whose list of columns names it. Raises Rejected."""
    named = column_parts.publications(case.connection, found)
    for one in named:
        if one.where is not None:
            raise Rejected(
                "publication",
                f"the publication {one.name} sends rows of {table.name} by a filter, which would have to be of the new values",
                f"Let it send all rows first: ALTER PUBLICATION {sql.Identifier(one.name).as_string()} SET TABLE …",
            )
    return named


@contextmanager
def _copy_of(case: Case, table: Table) -> Iterator[Probe]:
    """A copy of one of the tables, undone at the end; that of the operation's own table gives way, as it may have the same name."""
    own = sql.Identifier("pg_temp", case.table.name.name)
    with case.connection.transaction(force_rollback=True):
        case.connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(own, sql.Identifier("~backfilld key")))
        with probe(case.connection, table) as trial:
            yield trial


def _with_whole(
    case: Case, table: Table, dependents: ColumnDependents, target: tuple[str, str], *, number: int
) -> ColumnDependents:
    """With the check of ours that the column has at the switch, as PostgreSQL writes it."""
    column, type_ = target
    if dependents.not_null:
        return dependents
    change = Change(
        table=table.name,
        column=column,
        type=type_,
        up="",
        down="",
        key=key_of(table),
        dependents=dependents,
        migration=case.migration.name,
        number=case.number + NUMBERS * number,
    )
    whole = Follower.whole_of(change)
    with _copy_of(case, table) as trial:
        trial.add_column(new_column(column), type_, None)
        trial.add_constraint(whole.name, whole.body, check="references", what="the check of the new column")
        row = case.connection.execute(
            "SELECT pg_get_constraintdef(oid) AS definition FROM pg_constraint WHERE conname = %s AND conrelid = %s::regclass",
            [whole.name, sql.Identifier("pg_temp", table.name.name).as_string()],
        ).fetchone()
    digest = hashlib.md5(row["definition"].encode(), usedforsecurity=False).hexdigest() if row else ""
    return replace(dependents, seen=(*dependents.seen, ("check", whole.name, digest)))


# What is refused


def refuse_table(case: Case, table: Table) -> None:
    """Put down why a table cannot take part."""
    if table.kind == "p":
        case.refuse(
            "partitioned",
            f"{table.name} is partitioned, and the indexes of its partitions cannot be exchanged",
            "Keep the key's type, or go from integer to bigint with `rebuild`, which keeps the partitions; for another type give the "
            "table a second key beside it, in a column that `add_column` adds",
        )


def refuse_dependents(
    case: Case, table: TableName, name: str, found: Sequence[ColumnDependent], *, allowed: frozenset[str]
) -> None:
    """Put down what depends on the column and is not taken along."""
    for one in found:
        if one.kind not in allowed:
            problem, remedy = IN_THE_WAY.get(one.kind, (f"the {one.kind} {{}} depends on it", _FIRST))
            case.refuse(
                "column_dependents", f"{table}.{name} cannot have another type: {problem.format(one.name)}", remedy
            )


def refuse_names(case: Case, table: Table, name: str) -> None:
    """Put down columns that have the names which the two get while they are inactive."""
    for made in (new_column(name), old_column(name)):
        if table.column(made) is not None:
            case.refuse(
                "column",
                f"{table.name} has a column {made}, the name that this change needs",
                "If an earlier run left it, roll that one back; otherwise rename it",
            )


def refuse_other_operations(case: Case, table: TableName, name: str) -> None:
    """Put down the other operations of the file on the table."""
    for number, other in enumerate(case.migration.operations):
        if number != case.number and other.table == table:
            case.refuse(
                "operations",
                f"operations[{number}].{other.kind} is on {table} too, whose {name} changes"
                + (f", and names {name}" if mentions(other, name) else ""),
                f"Put it in a migration of its own, with `after: [{case.migration.name}]`",
            )


def _refuse_live(case: Case, table: TableName, name: str) -> None:
    for run in live_operations(case.connection, case.migration.name).get(table, ()):
        if name in run.decides or run.relies_on(name):
            case.refuse("live_run", f"{table}.{name} refers to it, and {run.why(name)}", run.remedy)
