"""Whether a column can be made NOT NULL, and its NULLs be filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts, Target
from backfilld.migrations.planning.checks.columns import check_reads, column_of, settable
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres import catalog

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import SetNotNull
    from backfilld.migrations.planning.checks.findings import Case

#: From here on DROP NOT NULL leaves partitions what they had of their own.
_NAMED_NOT_NULL = 180_000


def examine(case: Case, operation: SetNotNull) -> Facts:
    """Raises Rejected."""
    table = case.table
    column = column_of(table, operation.column)
    if column.not_null:
        _refuse_not_null(case, operation.column)
    reads: frozenset[str] = frozenset()
    if operation.backfill is not None:
        settable(table, operation.column)
        analysis = case.trial.analyse(operation.backfill, what="backfill")
        check_reads(case, analysis)
        reads = analysis.reads
        case.trial.check_update({operation.column: operation.backfill}, None)
    partitions = catalog.partitions_not_null(case.connection, table, operation.column)
    if partitions and case.found.backend.version < _NAMED_NOT_NULL:
        case.warn(
            f"{operation.column} is already NOT NULL in {', '.join(partitions)}; a rollback after the switch "
            "removes that too, because before PostgreSQL 18 partitions follow their table"
        )
    # Filled where it is NULL and only there, a row may be looked at twice whatever the expression answers.
    return Facts(
        relation=str(table.name),
        key=key_of(table),
        targets=(Target(column=column.name, type=column.type, as_text=not case.trial.has_equality(operation.column)),),
        reads=tuple(sorted(reads)),
    )


def _refuse_not_null(case: Case, column: str) -> None:
    table = case.table.name
    unproved = catalog.unproved_not_null(case.connection, case.table, column)
    if unproved is None:
        case.refuse("column", f"{table}.{column} is already NOT NULL", "Remove the operation")
        return
    constraint = sql.Identifier(unproved).as_string()
    case.refuse(
        "column",
        f"{table}.{column} is already NOT NULL, by the constraint {unproved}, which is not validated",
        f"ALTER TABLE {table.identifier.as_string()} VALIDATE CONSTRAINT {constraint}",
    )
