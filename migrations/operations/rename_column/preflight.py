"""Whether a column can be renamed by a second one that takes its place, and what that one needs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts, ShadowColumn, Target
from backfilld.migrations.operations.base import object_name
from backfilld.migrations.planning.checks.columns import column_of, mentions
from backfilld.migrations.postgres import catalog, dependents, indexes

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import RenameColumn
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.catalog import Nature

#: Names that PostgreSQL keeps for itself in every table.
SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})

#: The start of the transaction, for every session.
_NOW = frozenset({"now()", "CURRENT_TIMESTAMP"})

#: At most this many functions are named in a warning.
_MOST_NAMED = 10


def examine(case: Case, operation: RenameColumn) -> Facts:
    """Raises Rejected."""
    table, trial = case.table, case.trial
    column = column_of(table, operation.old)
    nature = catalog.nature(case.connection, table, column.name)
    before = len(case.found.findings)
    _refuse_names(case, operation, nature)
    _refuse_partitions(case, operation.old)
    _refuse_other_operations(case, operation)
    if len(case.found.findings) > before:
        return Facts(relation=str(table.name))
    asks_again = bool(nature.default) and _can_be_asked_again(case, nature)
    shadow = ShadowColumn(
        type=nature.type,
        collation=nature.collation,
        default=nature.default if asks_again else "",
        fills_itself=nature.identity or (bool(nature.default) and not asks_again),
        comment=nature.comment,
        grants=catalog.column_grants(case.connection, table, column.name),
    )
    _warn(case, operation, shadow)
    as_text = column.nondeterministic or not trial.has_equality(column.name)
    return Facts(
        relation=str(table.name),
        targets=(Target(column=operation.new, type=nature.type, as_text=as_text),),
        shadow=_with_indexes(case, operation, shadow),
    )


def _refuse_names(case: Case, operation: RenameColumn, nature: Nature) -> None:
    table, old, new = case.table, operation.old, operation.new
    if new in SYSTEM_COLUMNS:
        case.refuse("column", f"{new} is the name of a system column", "Choose another name")
    elif table.column(new) is not None:
        case.refuse(
            "column",
            f"{table.name} already has a column {new}",
            "Choose another name; if a cancelled run of this migration left it, roll that run back first: "
            f"backfilld rollback {case.migration.name}; if a run left it whose record is lost, drop it: "
            f"ALTER TABLE {table.name.identifier.as_string()} DROP COLUMN {sql.Identifier(new).as_string()}",
        )
    if (column := table.column(old)) is not None and column.generated:
        case.refuse(
            "column",
            f"{old} is a generated column, so values written to its shadow column could not be copied back to it",
            "Add a generated column with the new name, and drop this one later",
        )
    if nature.inherited:
        case.refuse(
            "column",
            f"{old} is inherited from the parent or the type of {table.name}",
            "Rename it there",
        )


def _refuse_partitions(case: Case, old: str) -> None:
    table = case.table
    deciding = catalog.partition_columns(case.connection, table)
    if old in deciding or None in deciding:
        decides = f"{old} decides" if old in deciding else f"an expression, which may read {old}, decides"
        case.refuse(
            "partition_key",
            f"{decides} in which partition of {table.name} a row is, and a trigger may not move a row to another one",
            "Rename it with ALTER TABLE … RENAME COLUMN while no application uses it, by a `sql` operation",
        )
    if table.kind == "p" and any(old in leaf.indexed_columns for leaf in catalog.leaves(case.connection, table)):
        case.refuse(
            "partitioned_index",
            f"{old} is indexed, and an index of a partitioned table cannot be built for its shadow column while "
            "the application writes",
            "Rename it with ALTER TABLE … RENAME COLUMN while no application uses it, by a `sql` operation",
        )


def _refuse_other_operations(case: Case, operation: RenameColumn) -> None:
    table, old = case.table, operation.old
    others = [
        number
        for number, other in enumerate(case.migration.operations)
        if number != case.number and other.table == operation.table
    ]
    for number in others:
        other = case.migration.operations[number]
        if mentions(other, old):
            case.refuse(
                "order",
                f"operations[{number}].{other.kind} also names {old}, which is being renamed while both run",
                "Rename the column in a migration of its own; `after:` puts the two in order",
            )
    if others and table.keys and old in {one.name for one in table.keys[0].columns}:
        case.refuse(
            "order",
            f"{table.name} is walked by {old}, and other operations of the file also walk it",
            "Rename the column in a migration of its own; `after:` puts the two in order",
        )


def _can_be_asked_again(case: Case, nature: Nature) -> bool:
    if nature.default in _NOW and nature.type.startswith("timestamp") and nature.type.endswith("with time zone"):
        return True
    return case.trial.is_constant(nature.default, nature.type)


def _with_indexes(case: Case, operation: RenameColumn, shadow: ShadowColumn) -> ShadowColumn:
    """The shadow with a second one of each index that holds the column."""
    if case.table.kind == "p":
        return shadow  # none holds it, or the operation is refused
    deferrable = catalog.deferrable_indexes(case.connection, case.table)
    present = [
        one.definition
        for one in indexes.of_table(case.connection, case.table.oid)
        if one.valid and one.definition is not None
    ]
    wanted = [
        replace(
            one,
            name=object_name(f"backfilld_shadow_{number}", case.migration.name, case.number),
            # A second index would refuse at once what a deferrable constraint lets pass until the end.
            unique=one.unique and one.name not in deferrable,
            comment="",
        )
        for number, one in enumerate(present)
    ]
    pairs = case.trial.shadow_indexes(
        operation.old, operation.new, wanted, type_=shadow.type, collation=shadow.collation
    )
    if any(index.unique for index, _ in pairs):
        case.warn(
            f"{operation.old} has a unique index, and so will its shadow column: until contract, one of two "
            "concurrent INSERT … ON CONFLICT with the same new key can fail with 23505 instead of updating"
        )
    return replace(
        shadow,
        indexes=tuple(as_shadow for as_shadow, _ in pairs),
        indexes_as_old=tuple(as_old for _, as_old in pairs),
    )


def _warn(case: Case, operation: RenameColumn, shadow: ShadowColumn) -> None:
    table, old, new = case.table, operation.old, operation.new
    case.warn(
        f"until contract {table.name} has both columns, {old} and {new}: SELECT * gives one more, and a prepared SELECT * fails "
        "(0A000) when the columns change, with some drivers on every call of that connection; name the columns that are read"
    )
    if shadow.fills_itself:
        case.warn(
            f"the DEFAULT of {old} is not constant: until contract, a new row that sets both names to different "
            "values keeps the value under the name without a DEFAULT, and an explicit NULL under that name is "
            "ignored"
        )
    by_text = [one.name for one in dependents.of_table(case.connection, table) if one.is_text and one.names(old)]
    if by_text:
        more = f" and {len(by_text) - _MOST_NAMED} more" if len(by_text) > _MOST_NAMED else ""
        case.warn(
            f"functions name {old} in their text: {', '.join(by_text[:_MOST_NAMED])}{more}. They work until "
            "contract and fail after it, and if one is a trigger function, so does every write to "
            f"{table.name}: change them to {new} before you approve contract"
        )
    of_column = [trigger.name for trigger in table.triggers if old in trigger.of_columns]
    if of_column:
        case.warn(
            f"the trigger {', '.join(of_column)} fires for UPDATE OF {old}: until contract only for statements that name the "
            f"column itself, which is {old} before the switch and {new} after it"
        )
    if table.publications:
        case.warn(
            f"{table.name} is published ({', '.join(table.publications)}): replication stops at a subscriber "
            f"without a column {new}; add it there first"
        )
