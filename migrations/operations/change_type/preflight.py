"""Whether a column can have another type, and everything on it with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts, Target
from backfilld.migrations.operations.base import object_name
from backfilld.migrations.operations.change_type.steps import cast
from backfilld.migrations.planning.checks.columns import check_reads, column_of, mentions
from backfilld.migrations.postgres import catalog, column_copy, column_parts, dependents
from backfilld.migrations.postgres.column_dependents import ColumnDependents, parked
from backfilld.migrations.postgres.definitions import Grant
from backfilld.migrations.postgres.dependents import IN_THE_WAY, ColumnDependent
from backfilld.migrations.postgres.expression_probe import Analysis, Rejected

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import ChangeType
    from backfilld.migrations.planning.checks.findings import Case

#: Kinds of attachment that are made anew in the switch, as they are told of.
_REMADE = {"view": "view", "policy": "policy", "function": "function", "trigger": "trigger"}


def examine(case: Case, operation: ChangeType) -> Facts:
    """Raises Rejected."""
    table, name = case.table, operation.column
    facts = Facts(relation=str(table.name))
    column = column_of(table, name)
    own = dependents.column(case.connection, table.name, name)
    found = dependents.of_column(case.connection, table.name, name)
    new_column, old_column = parked(name, "_backfilld_new"), parked(name, "_backfilld_old")
    before = len(case.found.findings)
    _refuse_what_is_in_the_way(case, operation, found, generated=column.generated)
    for made in (new_column, old_column):
        if table.column(made) is not None:
            case.refuse(
                "column",
                f"{table.name} has a column {made}, which is the name that this change needs",
                "If an earlier run left it, roll that one back; otherwise rename it",
            )
    if len(case.found.findings) > before:
        return facts

    file = catalog.file_of(case.connection, _copy(case))
    type_, _ = case.trial.add_column(new_column, operation.type, None)
    if catalog.file_of(case.connection, _copy(case)) != file:
        raise Rejected(
            "type",
            f"to add a column of type {type_} is to write the table anew, under a lock that stops the application",
            "Use the type that the domain is made of, and put its rule into an `add_check`",
        )
    plain = catalog.plain_types(case.connection, replace(table, oid=_copy(case)))
    target = Target(
        column=new_column,
        type=type_,
        as_text=not case.trial.has_equality(new_column),
        plain_type=plain[new_column],
    )
    up = _analysed(case, operation.up or cast(name, plain[new_column]), what="up", given=operation.up is not None)
    case.trial.check_update({new_column: operation.up or cast(name, plain[new_column])}, None)
    generated = sorted(one.name for one in table.columns if one.generated and one.name in up.reads)
    if generated:
        raise Rejected(
            "expression",
            f"up reads the generated column {generated[0]}, which is not yet computed when the sync trigger fires",
        )
    constant = _constant(case, own["default"]) and _constant(case, operation.default)
    as_text = not case.trial.has_equality(name)
    default = operation.default
    if default is None and own["default"] is not None:
        default = f"CAST(({own['default']}) AS {type_})"

    new_type = sql.SQL(type_)  # as format_type wrote it
    with column_copy.successor(case.connection, table.name, name, named=name, type_=new_type, found=found):
        down = _analysed(
            case,
            operation.down or cast(name, plain[name]),
            what="down",
            given=operation.down is not None,
            type_=column.type,
        )
        column_copy.try_dependents(case.connection, table.name, found, default, name)
        column_copy.try_foreign_keys(case.connection, table.name, found, name)
    with column_copy.successor(case.connection, table.name, name, named=new_column, type_=new_type) as copy:
        new = column_copy.definitions(case.connection, copy, found)
    with column_copy.successor(case.connection, table.name, name, named=old_column, type_=None) as copy:
        old = column_copy.definitions(case.connection, copy, found)

    forms = [f"{object_name(f'backfilld_{side}', case.migration.name, case.number)}_{{}}" for side in ("new", "old")]
    checks, foreign_keys = column_parts.rules(case.connection, table.name, name, found, new, named=new_column)
    sequences = [one for one in found if one.kind == "sequence"]
    held = ColumnDependents(
        new_column=new_column,
        old_column=old_column,
        type=own["type"],
        collation=own["collation"],
        plain_type=plain[name],
        as_text=as_text,
        not_null=own["not_null"],
        default=own["default"],
        new_default=default,
        constant_default=constant,
        statistics_target=own["statistics_target"],
        options=own["options"] or "",
        comment=own["comment"],
        grants=tuple(Grant(**one) for one in own["grants"]),
        sequence=sequences[0].name if sequences else None,
        widens_sequence=bool(sequences) and type_ == "bigint" and sequences[0].definition != "bigint",
        up_reads=tuple(sorted(up.reads - {name})),
        down_reads=tuple(sorted(down.reads - {name})),
        indexes=column_parts.indexes(
            case.connection, table.name, found, new, old, names=column_parts.Names(new_form=forms[0], old_form=forms[1])
        ),
        checks=checks,
        foreign_keys=foreign_keys,
        statistics=column_parts.statistics(case.connection, table.name, found, new),
        views=column_parts.views(case.connection, found),
        policies=column_parts.policies(case.connection, found),
        functions=column_parts.functions(case.connection, found),
        triggers=column_parts.triggers(case.connection, found),
        seen=tuple((one.kind, one.name, one.digest) for one in found),
    )
    _tell(case, operation, held, found, type_, last=own["last"])
    return replace(facts, targets=(target,), column_dependents=held)


def _refuse_what_is_in_the_way(
    case: Case, operation: ChangeType, found: list[ColumnDependent], *, generated: bool
) -> None:
    table, name = case.table, operation.column
    if table.kind == "p":
        case.refuse(
            "partitioned",
            f"{table.name} is partitioned, and the indexes of its partitions cannot change places yet",
            "Make a new table with the new type, and move the rows",
        )
    if generated:
        case.refuse("column", f"{name} is computed by PostgreSQL", "Drop it and add it again with `add_column`")
    for one in found:
        if one.kind in IN_THE_WAY:
            problem, remedy = IN_THE_WAY[one.kind]
            case.refuse("column_dependents", f"{name} cannot have another type: {problem.format(one.name)}", remedy)
    walked = {column.name for key in table.keys[:1] for column in key.columns}
    if name in walked and not any(one.kind == "primary key" for one in found):
        case.refuse(
            "column",
            f"{name} is part of the key that {table.name} is walked by",
            "Give the table a primary key of other columns first",
        )
    if sum(one.kind == "sequence" for one in found) > 1:
        case.refuse("column_dependents", f"several sequences belong to {name}", "Let one belong to it (OWNED BY)")
    for number, other in enumerate(case.migration.operations):
        if number != case.number and other.table == table.name and mentions(other, name):
            case.refuse(
                "operations",
                f"operations[{number}].{other.kind} is about {table.name}.{name} too",
                "Put the two into migrations of their own, one after the other",
            )


def _analysed(case: Case, expression: str, *, what: str, given: bool, type_: str | None = None) -> Analysis:
    try:
        analysis = case.trial.analyse(expression, what=what, type_=type_)
    except Rejected as complaint:
        if given:
            raise
        way = "the new type from the old one" if what == "up" else "the old type from the new one"
        raise Rejected(
            "expression", complaint.problem, f"Write `{what}:`, an expression that gives {way}"
        ) from complaint
    check_reads(case, analysis)
    if analysis.unrepeatable:
        raise Rejected(
            "expression",
            f"{what} calls {', '.join(analysis.unrepeatable)}, which may answer differently each time",
            "Write an expression over the row that always gives the same",
        )
    if analysis.reads_others:
        case.warn(
            f"{what} reads {', '.join(analysis.reads_others)}; a change there reaches {case.table.name} only when the row "
            "itself is written"
        )
    return analysis


def _constant(case: Case, default: str | None) -> bool:
    return default is None or not case.trial.analyse(default, what="the default").unrepeatable


def _copy(case: Case) -> int:
    """The temporary copy of the table."""
    return catalog.oid_of(case.connection, sql.Identifier("pg_temp", case.table.name.name))


def _tell(  # noqa: PLR0913 - one place for all warnings; each part is named where it is called
    case: Case, operation: ChangeType, held: ColumnDependents, found: list[ColumnDependent], type_: str, *, last: bool
) -> None:
    """What a careful person should know."""
    table, name = case.table.name, operation.column
    if operation.up is None and not column_copy.rewrites(case.connection, table, name, sql.SQL(type_)):
        case.warn(
            f"PostgreSQL changes {held.type} to {type_} without writing the table anew: a `sql` operation with ALTER COLUMN "
            f"{name} TYPE {type_} would do, in a moment"
        )
    if {held.type.removesuffix(" with time zone").removesuffix(" without time zone")} >= {"timestamp"} and (
        "with time zone" in type_ + held.type
    ):
        case.warn(
            f"{name} is read and written as UTC, whatever the time zone of the session; `up` and `down` can say otherwise"
        )
    if not last:
        case.warn(
            f"{name} goes to the end of {table}: what names no columns (SELECT *, INSERT without a list) sees another order "
            "after the switch"
        )
    remade = [f"{one.kind} {one.name}" for one in found if one.kind in _REMADE]
    if remade:
        case.warn(f"made anew in the switch, as they are: {', '.join(remade)}")
    strict = [*(one.name for one in held.rules), *(one.name for one in held.indexes if one.new.unique)]
    if strict or held.not_null:
        rules = ", ".join([*strict, *(["NOT NULL"] if held.not_null else [])])
        case.warn(
            f"from verify on the new values must meet the rules of {name} as well ({rules}): a statement that writes a value "
            "which does not fit the new type, or is the same as another one there, fails as it will after the switch"
        )
    if mentioned := dependents.mentions(case.connection, table, name):
        case.warn(
            f"functions that name {name} in their text see the new type from the switch on: {', '.join(mentioned)}"
        )
    if table_publications := case.table.publications:
        case.warn(
            f"{table} is published ({', '.join(table_publications)}): what receives it needs the columns {held.new_column}, and "
            f"from the switch on {held.old_column}, before they are there"
        )
    case.warn(
        f"a statement that was prepared and gives {name} back fails once, and is to be prepared anew, after the switch"
    )
