"""What depends on a table and its columns: all that a change of the table may carry along, break, or take with it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.queries import literally, queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.catalog import ColumnDetails, Table
    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = queries(__package__, "dependents")
_OF_COLUMN = queries(__package__, "column_dependents")

#: Younger statistics say nothing of a day: a load at noon is no rate.
STATISTICS_SECONDS = 3600.0

#: What cannot be taken along to another column, by the kind that `of_column` gives: what to say, and what to do instead.
IN_THE_WAY = {
    "generated": ("the generated column {} reads it", "Drop that column first, and recreate it afterwards"),
    "materialized view": ("the materialized view {} reads it", "Drop that view first, and recreate it afterwards"),
    "rule": ("the rule {} reads it", "Drop that rule first, and recreate it afterwards"),
    "publication": (
        "{} names it in its column list or row filter",
        "Remove the table from it first, and add it again afterwards",
    ),
    "constraint": ("the constraint {} includes it", "Drop that constraint first, and recreate it afterwards"),
    "other": ("{} depends on it, or on a view that reads it", "Drop that first, and recreate it afterwards"),
}


@dataclass(frozen=True, kw_only=True)
class Dependent:
    """One thing that depends on a table."""

    #: view · materialized view · rule · function · policy · index · constraint · foreign key · inbound foreign key · trigger ·
    #: grant · column grant · publication · statistics · comment · default · generated column · sequence · replica identity
    kind: str
    name: str
    #: The columns it names; none when it is about the whole table.
    columns: tuple[str, ...] = ()
    #: `parsed` or `text` for functions, `of another table` for policies, the definition of constraints and defaults.
    detail: str = ""

    def names(self, column: str) -> bool:
        return column in self.columns

    @property
    def is_text(self) -> bool:
        """Whether PostgreSQL does not know that it depends on the table: it will only find out when it is called."""
        return self.kind == "function" and self.detail == "text"


def of_table(connection: Connection, table: Table) -> tuple[Dependent, ...]:
    """What depends on a table, by kind and name."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        rows = connection.execute(_SQL["of_table"], {"oid": table.oid}).fetchall()
    return tuple(Dependent(**{**row, "columns": tuple(sorted(set(row["columns"])))}) for row in rows)


@dataclass(frozen=True, kw_only=True)
class ColumnDependent:
    """One thing that depends on a column."""

    kind: str
    oid: int
    name: str
    definition: str | None

    @property
    def digest(self) -> str:
        return hashlib.md5((self.definition or "").encode(), usedforsecurity=False).hexdigest()


def column(connection: Connection, table: TableName, name: str) -> Row:
    """What belongs to a column itself; the columns are those of the query."""
    return connection.execute(_OF_COLUMN["column"], named_in_query(table, name)).fetchone() or {}


def of_column(connection: Connection, table: TableName, name: str) -> list[ColumnDependent]:
    """Everything that depends on a column; views in the order in which they can be made."""
    return [
        ColumnDependent(kind=row["kind"], oid=row["oid"], name=row["name"], definition=row["definition"])
        for row in connection.execute(_OF_COLUMN["of_column"], named_in_query(table, name))
    ]


@dataclass(frozen=True, kw_only=True)
class DroppedDependent:
    """What depends on a column that is to be dropped: whether it can come back with the column."""

    #: index, `constraint` with the letter that `pg_constraint.contype` has, sequence, or other.
    kind: str
    name: str
    #: As PostgreSQL writes it; empty where it has no way to.
    definition: str
    #: Proved for all rows; for an index, that it is whole and nothing but an index.
    valid: bool
    #: For people.
    what: str
    #: On how many columns of the table it depends in all.
    columns: int


def of_dropped(connection: Connection, table: Table, column: ColumnDetails) -> list[DroppedDependent]:
    """What depends on a column, its own default aside; to be asked under an empty search_path."""
    rows = connection.execute(_OF_COLUMN["of_dropped"], {"oid": table.oid, "number": column.number}).fetchall()
    return [
        DroppedDependent(
            **{**row, "name": row["name"] or "", "definition": row["definition"] or "", "valid": bool(row["valid"])}
        )
        for row in rows
    ]


def changed_since(table: TableName, name: str, seen: Sequence[tuple[str, str, str]]) -> sql.Composed:
    """A query that names a dependent of the column that was added, changed or removed since `seen`."""
    now = literally(_OF_COLUMN["of_column"], named_in_query(table, name))
    then = sql.SQL(", ").join(
        sql.SQL("({})").format(sql.SQL(", ").join(sql.Literal(part) for part in one)) for one in [("", "", ""), *seen]
    )
    return sql.SQL(
        "SELECT coalesce(now.kind || ' ' || now.name, since.kind || ' ' || since.name) AS what FROM ({now}) now "
        "FULL JOIN (VALUES {then}) since (kind, name, digest) ON since.kind = now.kind AND since.name = now.name "
        "AND since.digest = pg_catalog.md5(coalesce(now.definition, '')) "
        "WHERE (now.kind IS NULL OR since.kind IS NULL) AND since.kind IS DISTINCT FROM '' ORDER BY 1 LIMIT 1"
    ).format(now=now, then=then)


def sends_otherwise(table: TableName, publication: str, columns: Sequence[str] | None) -> sql.Composed:
    """A query that gives a row where the publication does not send just these columns of the table; None for any."""
    listed = "null" if columns is None else json.dumps(sorted(columns), ensure_ascii=False)
    parameters = {"table": table.identifier.as_string(), "publication": publication, "columns": listed}
    return literally(_OF_COLUMN["sends_otherwise"], parameters)


def appeared_since(table: TableName, name: str, seen: Sequence[tuple[str, str, str]]) -> sql.Composed:
    """A query that names a dependent of the column that was added since `seen`."""
    now = literally(_OF_COLUMN["of_column"], named_in_query(table, name))
    known = [sql.Literal(f"{kind} {known}") for kind, known, _ in seen]
    return sql.SQL(
        "SELECT now.kind || ' ' || now.name AS what FROM ({now}) now WHERE now.kind || ' ' || now.name <> ALL ({known}) "
        "ORDER BY 1 LIMIT 1"
    ).format(now=now, known=sql.SQL("ARRAY[{}]::text[]").format(sql.SQL(", ").join(known)))


def own_of_partitions(connection: Connection, table: TableName, name: str) -> list[str]:
    """What partitions have on a column that the table has not, in words."""
    rows = connection.execute(_OF_COLUMN["own_of_partitions"], {"table": table.identifier.as_string(), "column": name})
    return [row["what"] for row in rows]


def mentions(connection: Connection, table: TableName, name: str) -> list[str]:
    """Functions whose body is a text that holds the names of the table and of the column."""
    named = {"column": name, "name": table.name}
    return [row["name"] for row in connection.execute(_OF_COLUMN["mentions"], named)]


def ids_used(connection: Connection, table: TableName, name: str) -> Row | None:
    """How far the sequence of a column has come, as the query's columns say; None where it has none."""
    parameters = {**named_in_query(table, name), "least_seconds": STATISTICS_SECONDS}
    return connection.execute(_OF_COLUMN["ids_used"], parameters).fetchone()


def narrow_namesakes(connection: Connection, table: TableName, names: Sequence[str], *, bytes_: int) -> list[str]:
    """Columns of other tables of one of these names, of integers of fewer bytes, that have no foreign key to the table."""
    parameters = {"table": table.identifier.as_string(), "names": list(names), "bytes": bytes_}
    rows = connection.execute(_OF_COLUMN["narrow_namesakes"], parameters).fetchall()
    return [f"{TableName(row['schema'], row['table_name'])}.{row['name']}" for row in rows]


def named_in_query(table: TableName, name: str) -> dict[str, str]:
    """A table and its column as parameters of the queries in `column_dependents.sql`."""
    return {"table": table.identifier.as_string(), "column": name, "named": name}
