"""Whether an index can be built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.planning.checks import indexes
from backfilld.migrations.planning.lint import INDEX_COLUMNS

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
    if operation.storage:
        parameters = [
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(str(value).lower()))
            for name, value in operation.storage.items()
        ]
        rest += sql.SQL(" WITH ({})").format(sql.SQL(", ").join(parameters))
    if operation.where is not None:
        rest += sql.SQL(" WHERE (\n{}\n)").format(indexes.checked(operation.where, "`where`"))
    width = len(operation.columns or ())
    if width > INDEX_COLUMNS and not operation.unique:
        case.warn(f"an index that is not unique has {width} columns; keep those that narrow a search most")
    return indexes.built(case, operation.name, rest, unique=operation.unique)
