"""Whether a column can be moved to another table, and how the rows of the two belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts, Target
from backfilld.migrations.planning.checks.columns import column_of, mentions
from backfilld.migrations.planning.checks.dropped_columns import (
    kept_of,
    refuse_what_cannot_come_back,
    tell_of_contract,
)
from backfilld.migrations.planning.checks.live_runs import check_columns, live_operations
from backfilld.migrations.planning.checks.tables import check_table, find_table
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.constraints import foreign_keys_of

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import MoveColumn
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.catalog import Table


def examine(case: Case, operation: MoveColumn) -> Facts:
    """Raises Rejected."""
    table, name = case.table, operation.column
    nothing = Facts(relation=str(table.name))
    before = len(case.found.findings)
    to = find_table(case.connection, case.found, case.place, operation.to)
    column = column_of(table, name)
    refuse_what_cannot_come_back(case, column, catalog.column_details(case.connection, table, name))
    _refuse_other_operations(case, operation)
    if to is None:
        return nothing
    check_table(case.found, case.place, to, operation)
    check_columns(
        case.found, case.place, operation, live_operations(case.connection, case.migration.name).get(to.name, ())
    )
    for one in (table, to):
        if one.kind == "p":
            case.refuse(
                "partitioned",
                f"{one.name} is partitioned, and rows of two tables are kept the same for ordinary tables only",
                "Add the column to the other table, and write both in the application, with an `sql` operation for the triggers",
            )
    _refuse_to(case, operation, to)
    by, equalities = _belongs_by(case, operation, to)
    if len(case.found.findings) > before:
        return nothing
    nature = catalog.nature(case.connection, table, name)
    dropped = kept_of(case, name)
    tell_of_contract(case, name, dropped, instead=f"{to.name}.{name}")
    _warn(case, operation, to, strict=dropped.not_null)
    return Facts(
        relation=str(table.name),
        key=key_of(table),
        targets=(
            Target(column=name, type=column.type, as_text=not case.trial.has_equality(name), plain_type=nature.type),
        ),
        reads=(name, *by),
        dropped=dropped,
        referenced=by,
        equalities=equalities,
        collation=nature.collation,
    )


def _refuse_other_operations(case: Case, operation: MoveColumn) -> None:
    for number, other in enumerate(case.migration.operations):
        named = [one for one in (operation.column, *operation.on) if mentions(other, one)]
        if number != case.number and other.table in {operation.table, operation.to} and named:
            case.refuse(
                "operations",
                f"operations[{number}].{other.kind} also names {named[0]}",
                f"Put the second in a migration of its own, with `after: [{case.migration.name}]`, or both in a folder",
            )


def _refuse_to(case: Case, operation: MoveColumn, to: Table) -> None:
    """Put down why the other table cannot have the column, or a row for each of this one's."""
    if to.column(operation.column) is not None:
        case.refuse(
            "column",
            f"{to.name} already has a column {operation.column}",
            f"Rename one of the two first; if a cancelled run left it, roll that back: backfilld rollback {case.migration.name}",
        )
    for name in operation.on:
        column_of(to, name)
    if not any({one.name for one in key.columns} == {*operation.on} for key in to.keys):
        case.refuse(
            "key",
            f"{', '.join(operation.on)} of {to.name} is not a unique key of NOT NULL columns, so several of its rows may belong to "
            "one row",
            "Add one first: `set_not_null` and `add_unique`, or `add_primary_key`",
        )
    strict = [
        one.name
        for one in to.columns
        if one.not_null
        and not (one.has_default or one.generated or one.identity_always)
        and one.name not in operation.on
    ]
    if strict:
        case.refuse(
            "column",
            f"{', '.join(strict)} of {to.name} is NOT NULL without a DEFAULT, so no row can be added for those of {case.table.name} "
            "that have none there",
            "Give it a DEFAULT first (`set_default`), or drop NOT NULL (`drop_not_null`)",
        )


def _belongs_by(case: Case, operation: MoveColumn, to: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that `on` refers to, in its order, and the operators that compare them."""
    for name, one in foreign_keys_of(case.connection, to).items():
        if one.references == case.table.name and {*one.columns} == {*operation.on}:
            equalities = catalog.equalities(case.connection, to.oid, name)
            pairs = dict(zip(one.columns, zip(one.referenced_columns, equalities, strict=True), strict=True))
            by = tuple(pairs[column][0] for column in operation.on)
            if not one.valid or {*by} != {column.name for column in key_of(case.table)}:
                break
            return by, tuple(pairs[column][1] for column in operation.on)
    case.refuse(
        "references",
        f"there is no validated foreign key from {to.name} ({', '.join(operation.on)}) to the key of {case.table.name}, so it is not "
        "known which of their rows belong together",
        "Add it first with `add_foreign_key`, to the key by which the table is walked (its primary key)",
    )
    return (), ()


def _warn(case: Case, operation: MoveColumn, to: Table, *, strict: bool) -> None:
    """What a careful person should know."""
    table, name = case.table.name, operation.column
    case.warn(
        f"from expand to contract a statement that writes {name} in one of the two tables writes the row of the other, too, and waits "
        f"for it: two sessions that write one row by the two tables lock them in opposite orders, and one of them may get a deadlock "
        "(40P01); try such a statement again"
    )
    case.warn(
        f"rows are added to {to.name} for those of {table} that have a {name} and none there; a rollback leaves them"
    )
    if strict:
        case.warn(
            f"{name} is NOT NULL in {table}; it may be NULL in {to.name}, as a row of {table} need not have one there"
        )
    for one in (case.table, to):
        if one.publications:
            case.warn(
                f"{one.name} is published ({', '.join(one.publications)}): subscribers need {to.name}.{name} before backfilld adds it, "
                f"and may lose {table}.{name} only after contract"
            )
