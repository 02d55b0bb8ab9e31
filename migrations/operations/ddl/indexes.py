"""Indexes: built and dropped CONCURRENTLY, outside of a transaction, and what a transaction may do to them.

    from backfilld.migrations.operations.ddl import indexes

    indexes.build(table, definition)    CREATE INDEX CONCURRENTLY; its `back` drops the index
    indexes.drop(table, definition)     DROP INDEX CONCURRENTLY; its `back` builds the index again

`definition` is a `facts.IndexDefinition` and comes from preflight, so that the steps are a function of the facts:
`postgres.indexes.find` and `of_table` read indexes that are there, `Probe.index` tries one on the temporary copy of the
table. For a copy under another name: `replace(definition, name=…)`. The index is in the schema of its table.

The coordinator carries such an action out (`worker/phases/index_build.py`): it removes what an earlier attempt left INVALID, takes
a valid index of the same name and definition for done, refuses one of another definition, and looks at the catalog afterwards.
A drop of what is not there, or is another index, does nothing. Both may therefore be repeated, and taken back half done.
They belong in verify or later.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Action, Index, Statement
from backfilld.migrations.operations.ddl import grants_and_comments
from backfilld.migrations.operations.ddl.columns import alter_table
from backfilld.migrations.operations.ddl.constraints import NAMED_ROWS
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations.base import Guard, Step
    from backfilld.migrations.postgres.definitions import IndexDefinition, KeyColumn

_WHILE = "outside a transaction, while reads and writes continue"


def build(table: TableName, definition: IndexDefinition, *, key: Sequence[KeyColumn] = ()) -> Action:
    """Build an index. `key` names the rows that a unique index cannot hold."""
    gone = _dropped(table, definition)
    return _built(table, definition, key=key, back=(replace(gone, frees=definition.unique),))


def drop(
    table: TableName, definition: IndexDefinition, *, key: Sequence[KeyColumn] = (), guards: tuple[Guard, ...] = ()
) -> Action:
    """Drop an index; the way back builds it again, with its tablespace and its comment."""
    back: tuple[Step, ...] = (_built(table, definition, key=key),)
    if definition.comment:
        comment = grants_and_comments.on_index(table.schema, definition.name, definition.comment)
        back += (Action(table=table, statements=(comment,)),)
    return _dropped(table, definition, guards=guards, back=back)


def rename(schema: str, name: str, to: str) -> Statement:
    """An index gets another name."""
    renamed = sql.SQL("ALTER INDEX {} RENAME TO {}").format(sql.Identifier(schema, name), sql.Identifier(to))
    return Statement(sql=renamed, lock=LockMode.NONE)


def drop_at_once(schema: str, name: str, *, note: str) -> Statement:
    """An index goes within a transaction, under a lock that stops the application for a moment."""
    gone = sql.SQL("DROP INDEX {}").format(sql.Identifier(schema, name))
    return Statement(sql=gone, lock=LockMode.ACCESS_EXCLUSIVE, note=note)


def cluster_on(table: TableName, name: str) -> Statement:
    """CLUSTER goes by this index."""
    what = sql.SQL("CLUSTER ON {}").format(sql.Identifier(name))
    return alter_table(table, what, lock=LockMode.SHARE_UPDATE_EXCLUSIVE, brief=False)


def _built(
    table: TableName, definition: IndexDefinition, *, key: Sequence[KeyColumn], back: tuple[Step, ...] = ()
) -> Action:
    create = sql.SQL("CREATE {}INDEX CONCURRENTLY {} ON {} {}").format(
        sql.SQL("UNIQUE " if definition.unique else ""),
        sql.Identifier(definition.name),
        table.identifier,
        sql.SQL(definition.rest),  # as pg_get_indexdef wrote it
    )
    return Action(
        table=table,
        statements=(
            Statement(
                sql=create,
                lock=LockMode.SHARE_UPDATE_EXCLUSIVE,
                scans=True,
                note=f"scans the table twice, {_WHILE}",
            ),
        ),
        index=Index(schema=table.schema, name=definition.name, present=True, definition=definition),
        offenders=_duplicates(table, definition, key=key) if definition.unique else None,
        back=back,
    )


def _dropped(
    table: TableName,
    definition: IndexDefinition,
    *,
    guards: tuple[Guard, ...] = (),
    back: tuple[Step, ...] = (),
) -> Action:
    gone = sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(table.schema, definition.name))
    return Action(
        table=table,
        statements=(Statement(sql=gone, lock=LockMode.SHARE_UPDATE_EXCLUSIVE, note=_WHILE),),
        index=Index(schema=table.schema, name=definition.name, present=False, definition=definition),
        guards=guards,
        back=back,
    )


def _duplicates(table: TableName, definition: IndexDefinition, *, key: Sequence[KeyColumn]) -> sql.Composed:
    """A query for rows that a unique index cannot hold, each by its `key`, or by where it is."""
    names = [sql.Identifier(name) for name in [column.name for column in key] or ["ctid"]]
    keys = [sql.SQL("({})").format(sql.SQL(key)) for key in definition.keys]
    indexed = [sql.SQL("({})").format(sql.SQL(definition.where))] if definition.where else []
    # Not a GROUP BY and a join: `=` would be looked up by its name, and a type outside of pg_catalog has its own elsewhere.
    return sql.SQL(
        "SELECT {told} FROM (SELECT {names}, count(*) OVER (PARTITION BY {keys}) AS rows FROM {table} WHERE {indexed}) indexed "
        "WHERE indexed.rows > 1 LIMIT {most}"
    ).format(
        told=sql.SQL(", ").join(sql.SQL("name_{}").format(sql.Literal(number)) for number in range(len(names))),
        names=sql.SQL(", ").join(
            sql.SQL("{}::text AS name_{}").format(name, sql.Literal(number)) for number, name in enumerate(names)
        ),
        keys=sql.SQL(", ").join(keys),
        table=table.identifier,
        indexed=sql.SQL(" AND ").join([*indexed, *(sql.SQL("{} IS NOT NULL").format(key) for key in keys)]),
        most=sql.Literal(NAMED_ROWS),
    )
