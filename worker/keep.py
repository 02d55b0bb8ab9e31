"""The statements that keep old values and give them back: of the archive and of the journal, for one batch each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from migrations.names import sendable
from migrations.store import kept

if TYPE_CHECKING:
    from migrations.operations import Archived
    from migrations.walks.keys import KeyWalk


def archiving(
    walk: KeyWalk, archived: Archived, condition: sql.Composable, *, run: int, operation: int
) -> sql.Composed:
    """Copy the rows that meet the condition, where the archive does not have them as they are.

    Gives `changed`, the rows that were copied, and `missing`, those of them that the archive did not have at all.
    """
    table = walk.table
    new = _text(table.name, archived.new) if archived.new is not None else sql.SQL("NULL::text")
    return sql.SQL(
        "WITH copied AS (INSERT INTO {archive} AS archive (run, operation, key, old, new) "
        "SELECT {run}, {operation}, {key}, {old}, {new} FROM {table} WHERE {condition} "
        "ON CONFLICT (operation, key, run) DO UPDATE SET old = excluded.old, new = excluded.new "
        "WHERE (archive.old, archive.new) IS DISTINCT FROM (excluded.old, excluded.new) "
        # A row that was there has its former version's deletion in xmax.
        "RETURNING xmax = 0 AS missing) "
        "SELECT count(*) AS changed, count(*) FILTER (WHERE missing) AS missing FROM copied"
    ).format(
        archive=kept.partition("archive", run).identifier,
        run=sql.Literal(run),
        operation=sql.Literal(operation),
        key=key_array(walk),
        old=_text(table.name, archived.old),
        new=new,
        table=sendable(table.identifier),
        condition=condition,
    )


def unarchived(walk: KeyWalk, condition: sql.Composable, *, run: int, operation: int) -> sql.Composed:
    """Give `rows`: how many rows that meet the condition the archive does not have."""
    return sql.SQL(
        'SELECT count(*) AS rows FROM {table} WHERE {condition} AND NOT EXISTS (SELECT FROM {archive} "~archive" '
        'WHERE "~archive".operation = {operation} AND "~archive".key = {key})'
    ).format(
        table=sendable(walk.table.identifier),
        condition=condition,
        archive=kept.partition("archive", run).identifier,
        operation=sql.Literal(operation),
        key=key_array(walk),
    )


def key_array(walk: KeyWalk) -> sql.Composed:
    """A row's key as the journal and the archive write it."""
    texts = sql.SQL(", ").join(_text(walk.table.name, column.name) for column in walk.key)
    return sql.SQL("ARRAY[{}]").format(texts)


def _text(table: str, column: str) -> sql.Composed:
    # With a collation, because the column may have one of its own.
    return sql.SQL('{}::text COLLATE "C"').format(sendable(sql.Identifier(table, column)))
