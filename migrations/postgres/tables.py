"""A table as a whole: what is asked of one that is renamed, dropped, or gets row level security."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.definitions import Grant
from backfilld.migrations.queries import literally, queries

if TYPE_CHECKING:
    from psycopg import sql

    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "tables")


@dataclass(frozen=True, kw_only=True)
class TableNature:
    """Who sees which rows of a table, and where it is sent."""

    row_security: bool
    #: For its owner too.
    forced: bool
    policies: int
    #: Publications that name it; not those of all tables, or of a schema's.
    published: tuple[str, ...]


def nature(connection: Connection, table: Table) -> TableNature:
    row = connection.execute(_SQL["table_nature"], {"oid": table.oid}).fetchone() or {}
    return TableNature(**{**row, "published": tuple(row["published"])})


def comment(connection: Connection, table: Table) -> str | None:
    """The comment on the table itself."""
    row = connection.execute(_SQL["table_comment"], {"oid": table.oid}).fetchone()
    return row["comment"] if row else None


def grants(connection: Connection, table: Table) -> list[tuple[str | None, Grant]]:
    """Privileges of other roles on a table, its owner's included, each with the column that it is for; None for the whole."""
    rows = connection.execute(_SQL["table_grants"], {"oid": table.oid}).fetchall()
    return [(row.pop("column"), Grant(**row)) for row in rows]


def default_grantees(connection: Connection, schema: str) -> tuple[str, ...]:
    """Roles to which relations that this role makes in a schema are granted by themselves."""
    return tuple(row["grantee"] for row in connection.execute(_SQL["default_grantees"], {"schema": schema}).fetchall())


def has_public_api(connection: Connection) -> bool:
    """Whether anybody on the internet reads what is granted to some roles, through a PostgREST that knows the schema, as on Supabase.

    Not by the roles alone: they belong to the whole server, and the API to one of its databases.
    """
    row = connection.execute(_SQL["has_public_api"]).fetchone()
    return bool(row and row["public_api"])


def parts(connection: Connection, table: Table) -> tuple[tuple[str, bool], ...]:
    """Names of a table's indexes and of its columns' sequences, and of its partitions', each with whether it is a sequence."""
    rows = connection.execute(_SQL["table_parts"], {"oid": table.oid}).fetchall()
    return tuple((row["name"], row["is_sequence"]) for row in rows)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a table is to be."""

    has_schema: bool
    may_create: bool
    #: Something has the name.
    taken: bool
    #: A table is kept under the name that this one would be put away under.
    is_kept: bool


def place_for(connection: Connection, table: TableName, *, kept: str) -> Place:
    """What is known of the place of a table that is not there yet."""
    asked = {"schema": table.schema, "name": table.name, "kept": kept}
    return Place(**(connection.execute(_SQL["place_for_table"], asked).fetchone() or {}))


def temporary(connection: Connection, name: str) -> TableName:
    """A temporary table of this session by the name of its schema, which pg_temp stands for."""
    row = connection.execute(_SQL["temporary_schema"]).fetchone() or {}
    return TableName(str(row["name"]), name)


def dependents_of(table: TableName) -> sql.Composed:
    """A query for what would keep a table from being dropped, in words."""
    return literally(_SQL["dependents_of_table"], {"table": table.identifier.as_string()})


def columns_not_in(view: TableName, table: TableName) -> sql.Composed:
    """A query for a column that a table has and a view of it does not."""
    return literally(
        _SQL["columns_not_in"], {"table": table.identifier.as_string(), "view": view.identifier.as_string()}
    )
