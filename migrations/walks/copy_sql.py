"""The statement of a batch that copies a column into another table; its text is `sql/templates/copy.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.queries import templates
from backfilld.migrations.walks.firing import THEIRS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.walks.keys import Query
    from backfilld.migrations.walks.rewrite import Rewrite

_SQL = templates(__package__, "copy")


def copy(
    rewrite: Rewrite,
    table: sql.Composable,
    condition: sql.Composable,
    parameters: Sequence[Any],  # Any: key values
) -> Query:
    """Gives `changed`: how many rows were written. Afterwards the application's settings are in force."""
    to = rewrite.copies
    if to is None:
        msg = f"nothing of {rewrite.table} is copied"
        raise ValueError(msg)
    given = [sql.Identifier(f"~given_{number}") for number in range(len(to.by) + 1)]
    # Qualified by the table's bare name, as expressions know it.
    picked = [sendable(sql.Identifier(rewrite.table.name, name)) for name in (*to.by, to.column)]
    columns = [sendable(sql.Identifier(name)) for name in (*to.on, to.column)]
    query = _SQL["copy"].format(
        picked=_list(sql.SQL("{} AS {}").format(*pair) for pair in zip(picked, given, strict=True)),
        table=table,
        condition=condition,
        needs_work=rewrite.needs_work,
        name=sendable(sql.Identifier(rewrite.table.name)),
        into=sendable(to.table.identifier),
        columns=_list(columns),
        names=_list(given),
        on=_list(columns[:-1]),
        column=columns[-1],
        theirs=THEIRS,
    )
    return query, [*parameters]


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
