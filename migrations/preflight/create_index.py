"""Whether an index can be built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from migrations.preflight import indexes

if TYPE_CHECKING:
    from migrations.definition import CreateIndex
    from migrations.facts import Facts
    from migrations.preflight.findings import Case


def examine(case: Case, operation: CreateIndex) -> Facts:
    """Raises Complaint."""
    keys: sql.Composable = (
        indexes.listed(operation.columns) if operation.columns else indexes.checked(operation.on or "", "`on`")
    )
    rest = sql.SQL("USING {} (\n{}\n)").format(sql.Identifier(operation.method), keys)
    if operation.include:
        rest += sql.SQL(" INCLUDE ({})").format(indexes.listed(operation.include))
    if operation.where is not None:
        rest += sql.SQL(" WHERE (\n{}\n)").format(indexes.checked(operation.where, "`where`"))
    return indexes.built(case, operation.name, rest, unique=operation.unique)
