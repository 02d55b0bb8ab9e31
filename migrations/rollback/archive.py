"""The archive: what a contract removes, row by row, and the values that come back out of it.

How an operation that removes a column uses it, its `contract` and the way back of that:

    Walk(kind="archive", operation=number, table=table, key=facts.key, archived=Archived(old="total", new="revenue"))
    Action(DROP COLUMN total, back=(
        Action(ADD COLUMN total),
        Walk(kind="restore", operation=number, table=table, key=facts.key, rewrite=Rewrite(
            table=table, facts=facts, assignments=(Assignment(target=target, expression=restored(
                table=table, key=facts.key, operation=number, type_="integer", new="revenue", fallback="revenue::integer")),))),
    ))

`archived.new` and `restored`'s `new` name the same column, or are both None where nothing replaced the one that goes. The archive
has a partition for each run. A step cannot know its run, so the expression reads the partition by the name `OF_THIS_RUN`, and the
worker, which knows it, puts the right one there (`in_run`). `facts.key` must be filled, which preflight does for an operation
that walks: see `backfilld.migrations.planning.checks.walks.with_key`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.queries import templates
from backfilld.migrations.rollback.retention import table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.definitions import KeyColumn
    from backfilld.migrations.walks.keys import KeyWalk
    from backfilld.migrations.walks.rewrite import Rewrite

_SQL = templates(__package__, "archive")

#: Stands for the partition of the run in which an expression is evaluated.
OF_THIS_RUN = "backfilld.archive_of_this_run"


def restored(  # noqa: PLR0913 - one expression; each part is named where it is called
    *, table: TableName, key: Sequence[KeyColumn], operation: int, type_: str, new: str | None, fallback: str
) -> str:
    """SQL over a row of `table`: the value it had when it was archived, or else `fallback`.

    The archived value counts while what replaced it is still what it was, letter by letter; with `new` None it always counts.
    `fallback` is an expression over the row, for rows that were written or added since.
    """
    entry = _entry(table, key, operation, new)
    # Not EXISTS: PostgreSQL may answer that by reading the whole archive, and would do so for each batch.
    return (
        f"CASE WHEN (SELECT true FROM {entry}) "  # noqa: S608 - names are quoted, the type is format_type's own
        f'THEN CAST((SELECT "~archive".old FROM {entry}) AS {type_}) ELSE (\n{fallback}\n) END'
    )


def in_run(rewrite: Rewrite, run: int) -> Rewrite:
    """The rewrite, with the archive of this run in its expressions."""
    partition = f"backfilld.archive_{run}"
    return replace(
        rewrite,
        assignments=tuple(
            replace(one, expression=one.expression.replace(OF_THIS_RUN, partition)) for one in rewrite.assignments
        ),
        where=rewrite.where.replace(OF_THIS_RUN, partition) if rewrite.where is not None else None,
    )


def archive(  # noqa: PLR0913 - one statement; each part is named where it is called
    walk: KeyWalk, condition: sql.Composable, *, old: str, new: str | None, run: int, operation: int
) -> sql.Composed:
    """Copy the columns `old` and `new` of rows that meet the condition, where the archive does not have them as they are.

    Gives `changed`, the rows that were copied, and `missing`, those of them that the archive did not have at all.
    """
    name = walk.table.name
    return _SQL["archive"].format(
        archive=table_of("archive", run).identifier,
        run=sql.Literal(run),
        operation=sql.Literal(operation),
        key=key_array(walk),
        old=_as_text(name, old),
        new=_as_text(name, new) if new is not None else sql.SQL("NULL::text"),
        table=sendable(walk.table.identifier),
        condition=condition,
    )


def unarchived(walk: KeyWalk, condition: sql.Composable, *, run: int, operation: int) -> sql.Composed:
    """Give `rows`: how many rows that meet the condition the archive does not have."""
    return _SQL["unarchived"].format(
        table=sendable(walk.table.identifier),
        condition=condition,
        archive=table_of("archive", run).identifier,
        operation=sql.Literal(operation),
        key=key_array(walk),
    )


def key_array(walk: KeyWalk) -> sql.Composed:
    """A row's key as the archive writes it."""
    return array(walk.table.name, [column.name for column in walk.key])


def array(table: str, columns: Sequence[str]) -> sql.Composed:
    """Columns of a row as an array of texts."""
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(_as_text(table, column) for column in columns))


def _as_text(table: str, column: str) -> sql.Composed:
    # With a collation, because the column may have one of its own.
    return sql.SQL('{}::text COLLATE "C"').format(sendable(sql.Identifier(table, column)))


def _entry(table: TableName, key: Sequence[KeyColumn], operation: int, new: str | None) -> str:
    texts = ", ".join(_text(table, column.name) for column in key)
    same = f' AND "~archive".new IS NOT DISTINCT FROM {_text(table, new)}' if new is not None else ""
    return (
        f'{OF_THIS_RUN} "~archive" WHERE "~archive".operation = {operation} AND "~archive".key = ARRAY[{texts}]{same}'
    )


def _text(table: TableName, column: str) -> str:
    # Qualified, so that a column of the archive's cannot be meant; with a collation, because the column may have one of its own.
    return f'{sql.Identifier(table.name, column).as_string()}::text COLLATE "C"'
