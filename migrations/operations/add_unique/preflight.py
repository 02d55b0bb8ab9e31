"""Whether a UNIQUE constraint can be added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.planning.checks import indexes

if TYPE_CHECKING:
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import AddUnique
    from backfilld.migrations.planning.checks.findings import Case


def examine(case: Case, operation: AddUnique) -> Facts:
    """Raises Rejected."""
    taken = case.connection.execute(
        "SELECT pg_get_constraintdef(oid) AS it FROM pg_constraint WHERE conrelid = %s::bigint::oid AND conname = %s",
        [case.table.oid, operation.name],
    ).fetchone()
    if taken is not None:
        case.refuse(
            "name",
            f"{case.table.name} already has a constraint {operation.name}: {taken['it']}",
            "Choose another name, or remove the operation if this is the constraint that it would add",
        )
    nullable = [name for name in operation.columns if (found := case.table.column(name)) and not found.not_null]
    if nullable:
        case.warn(f"rows in which {' or '.join(nullable)} is NULL may repeat: the constraint does not cover them")
    rest = sql.SQL("USING btree ({})").format(indexes.listed(operation.columns))
    return indexes.built(case, operation.name, rest, unique=True)
