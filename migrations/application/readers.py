"""Through what statements read a table without naming it: views over it, and its partitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backfilld.migrations.application.usable import Plan
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "readers")

#: More views than this are not made over copies: their statements are bound as they are.
_MOST_VIEWS = 100
#: As many tables that such views join besides get a copy, so that no lock on one is kept.
_MOST_JOINED = 10


@dataclass(frozen=True, kw_only=True)
class View:
    """A view, in PostgreSQL's own words under an empty search path."""

    name: TableName
    definition: str
    options: str
    #: The tables and views that it reads.
    reads: tuple[TableName, ...]

    def on_copies(self, definition: str) -> sql.Composed:
        """The same over copies, for one session."""
        options = sql.SQL(" WITH ({})").format(_raw(self.options)) if self.options else sql.SQL("")
        return sql.SQL("CREATE TEMPORARY VIEW {}{} AS {}").format(
            sql.Identifier(self.name.name), options, _raw(definition)
        )


def _raw(text: str) -> sql.SQL:
    return sql.SQL(text)


@dataclass(frozen=True, kw_only=True)
class Readers:
    """The views over some tables, each behind those it reads, and the tables' partitions."""

    views: tuple[View, ...] = ()
    #: The table of each partition.
    partitions: Mapping[TableName, TableName] = field(default_factory=dict)
    #: What the views read besides.
    joined: tuple[TableName, ...] = ()

    @property
    def names(self) -> Iterator[TableName]:
        yield from (view.name for view in self.views)
        yield from self.partitions

    def by_index(self, plan: Plan | None, table: TableName) -> bool:
        """Whether a plan reads a table by an index, or a partition of it."""
        read = plan.by_index if plan is not None else ()
        return any(self.partitions.get(TableName(*one), TableName(*one)) == table for one in read)

    def standing_for(self, migration: Migration) -> dict[tuple[str, str], sql.Identifier]:
        """By the name of each partition the copy of its table, where a statement that names one fares as its table does."""
        moved = {
            one.table
            for one in migration.operations
            if isinstance(one, definition.RenameTable | definition.Rebuild | definition.DropTable)
        }
        return {
            (part.schema, part.name): sql.Identifier("pg_temp", table.name)
            for part, table in self.partitions.items()
            if table not in moved
        }


def read(connection: Connection, tables: Sequence[TableName]) -> Readers:
    """The readers of these tables. Left out are views that read what no copy can be made of: a foreign table, a materialized view."""
    by_name = {table.identifier.as_string(): table for table in tables}
    with connection.transaction():
        apply_settings(connection, SEMANTICS)
        rows = connection.execute(_SQL["views"], {"tables": list(by_name)}).fetchall()
        parts = connection.execute(_SQL["partitions"], {"tables": list(by_name)}).fetchall()
    views: dict[TableName, View] = {}
    joined: dict[TableName, None] = {}
    taken = {table.name for table in tables}
    for row in rows[:_MOST_VIEWS]:
        name = TableName(row["schema"], row["name"])
        kinds = {TableName(schema, relation): kind for schema, relation, kind in row["reads"]}
        besides = [one for one, kind in kinds.items() if kind in {"r", "p"} and one not in tables]
        names = {one.name for one in (*views, *besides, *joined)} | taken
        is_known = all(kind in {"r", "p"} or one in views for one, kind in kinds.items())
        if is_known and name.name not in names and len({*joined, *besides}) <= _MOST_JOINED:
            views[name] = View(
                name=name,
                definition=row["definition"].rstrip().removesuffix(";"),
                options=row["options"],
                reads=tuple(kinds),
            )
            joined |= dict.fromkeys(besides)
    partitions = {TableName(row["schema"], row["name"]): by_name[row["root"]] for row in parts}
    return Readers(
        views=tuple(views.values()),
        partitions={part: table for part, table in partitions.items() if part not in tables},
        joined=tuple(joined),
    )
