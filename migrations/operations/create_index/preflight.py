"""Whether an index can be built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.planning.checks import indexes

if TYPE_CHECKING:
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import CreateIndex
    from backfilld.migrations.planning.checks.findings import Case


def examine(case: Case, operation: CreateIndex) -> Facts:
    """Raises Rejected."""
    keys: sql.Composable = (
        indexes.listed(operation.columns)
        if operation.columns
        else indexes.checked(operation.expressions or "", "`expressions`")
    )
    rest = sql.SQL("USING {} (\n{}\n)").format(sql.Identifier(operation.method), keys)
    if operation.include:
        rest += sql.SQL(" INCLUDE ({})").format(indexes.listed(operation.include))
    if operation.where is not None:
        rest += sql.SQL(" WHERE (\n{}\n)").format(indexes.checked(operation.where, "`where`"))
    if not operation.unique:
        indexes.warn_of_width(case, operation.columns or ())
    return indexes.built(case, operation.name, rest, unique=operation.unique)
