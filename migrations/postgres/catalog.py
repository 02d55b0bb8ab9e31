"""What PostgreSQL says of a table: kind, size, columns, keys, triggers, rights, and who depends on it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.definitions import Grant, KeyColumn
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "catalog")

#: Kinds of relation that can be walked: ordinary and partitioned tables.
TABLES = frozenset({"r", "p"})

#: Pages whose rows are counted: 16 MB, some ten milliseconds, and a few per cent off at most.
SAMPLED_PAGES = 2048


@dataclass(frozen=True, kw_only=True)
class Column:
    name: str
    type: str
    not_null: bool
    generated: bool
    identity_always: bool
    has_default: bool
    nondeterministic: bool
    indexed: bool
    #: Generated, and computed when it is read.
    virtual: bool


@dataclass(frozen=True, kw_only=True)
class UniqueKey:
    """A unique key whose order a walk can follow."""

    name: str
    is_primary: bool
    columns: tuple[KeyColumn, ...]


@dataclass(frozen=True, kw_only=True)
class Trigger:
    name: str
    #: Those it waits for; none when it fires for all.
    of_columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A relation as the catalog describes it."""

    name: TableName
    oid: int
    kind: str
    #: Of the table itself, without what is stored out of line.
    pages: int
    heap_bytes: int
    index_bytes: int
    row_security_active: bool
    owned: bool
    may_select: bool
    may_update: bool
    replica_identity: str
    has_children: bool
    is_partition: bool
    persistence: str
    columns: tuple[Column, ...]
    keys: tuple[UniqueKey, ...]
    triggers: tuple[Trigger, ...]
    publications: tuple[str, ...]
    dependents: tuple[str, ...]

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A table that holds rows: a leaf of a partitioned one, or the table itself."""

    name: TableName
    oid: int
    kind: str
    #: Stored as PostgreSQL's own heap, in which a page walk knows its way.
    heap: bool
    filenode: int
    pages: int
    row_security_active: bool
    may_update: bool
    indexes: int
    #: Columns that an index holds, or needs for an expression or a condition: writing one of them writes every index.
    indexed_columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ColumnDetails:
    """A column, with what is only asked of one that is to be dropped."""

    number: int
    type: str
    #: Quoted, with its schema; None for the type's own.
    collation: str | None
    #: SQL of its DEFAULT.
    default: str | None
    not_null: bool
    generated: bool
    identity: bool
    #: It is a parent's column too.
    inherited: bool
    comment: str | None
    grants: tuple[Grant, ...]


@dataclass(frozen=True, kw_only=True)
class Nature:
    """What one column is made of."""

    #: Without domains.
    type: str
    #: As written in SQL; empty for the type's own.
    collation: str
    #: Its own or its domain's; empty for none.
    default: str
    identity: bool
    #: From a parent, or from the type of a typed table: it is not for this table to rename.
    inherited: bool
    comment: str


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The server behind a connection."""

    pid: int
    #: As in `server_version_num`: 180004 is 18.4.
    version: int
    in_recovery: bool
    read_only: bool
    may_make_temporary: bool
    role: str


def backend(connection: Connection) -> Backend:
    row = connection.execute(_SQL["backend"]).fetchone()
    return Backend(**(row or {}))


def describe(connection: Connection, name: TableName) -> Table | None:
    """A table, or None when there is none of that name. Runs in a transaction with an empty search_path."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        row = connection.execute(_SQL["table"], {"schema": name.schema, "name": name.name}).fetchone()
        if row is None:
            return None
        of = {"oid": row["oid"]}
        return Table(
            name=name,
            **{field.name: row[field.name] for field in fields(Table) if field.name in row},
            columns=tuple(Column(**column) for column in connection.execute(_SQL["columns"], of)),
            keys=tuple(
                UniqueKey(
                    name=key["name"],
                    is_primary=key["is_primary"],
                    columns=tuple(
                        KeyColumn(name=column, type=type_)
                        for column, type_ in zip(key["columns"], key["types"], strict=True)
                    ),
                )
                for key in connection.execute(_SQL["keys"], of)
            ),
            triggers=tuple(
                Trigger(**{**trigger, "of_columns": tuple(trigger["of_columns"])})
                for trigger in connection.execute(_SQL["triggers"], of)
            ),
            publications=tuple(publication["name"] for publication in connection.execute(_SQL["publications"], of)),
            dependents=tuple(dependent["what"] for dependent in connection.execute(_SQL["dependents"], of)),
        )


def plain_types(connection: Connection, table: Table) -> dict[str, str]:
    """The type of each column without a domain and a limit of length. Runs in a transaction with an empty search_path."""
    return {row["name"]: row["type"] for row in connection.execute(_SQL["plain_types"], {"oid": table.oid})}


def plain_type_names(connection: Connection, types: Sequence[str]) -> dict[str, str]:
    """Types by name, each without a domain and a limit of length."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        rows = connection.execute(_SQL["plain_type_names"], {"types": list(types)}).fetchall()
    return {row["name"]: row["type"] for row in rows}


def nature(connection: Connection, table: Table, column: str) -> Nature:
    """What a column of a table is made of. Runs in a transaction with an empty search_path."""
    row = connection.execute(_SQL["column_nature"], {"oid": table.oid, "column": column}).fetchone()
    return Nature(**(row or {}))


def column_grants(connection: Connection, table: Table, column: str) -> tuple[Grant, ...]:
    """Privileges that were granted on one column."""
    rows = connection.execute(_SQL["column_grants"], {"oid": table.oid, "column": column}).fetchall()
    return tuple(Grant(**row) for row in rows)


def deferrable_indexes(connection: Connection, table: Table) -> set[str]:
    """The names of indexes that may hold duplicates inside of a transaction."""
    return {row["name"] for row in connection.execute(_SQL["deferrable_indexes"], {"oid": table.oid}).fetchall()}


def similar_tables(connection: Connection, name: TableName) -> list[tuple[str, str]]:
    """(schema, name) of tables, the likeliest meant first."""
    rows = connection.execute(_SQL["similar_tables"], {"schema": name.schema, "name": name.name}).fetchall()
    return [(row["schema"], row["name"]) for row in rows]


def estimate_rows(connection: Connection, table: Table) -> int:
    """About how many rows a table has: counted when it is small, else on a sample of its pages.

    Not the planner's statistics: they are off by half for a table that was never analyzed, as after a bulk load.
    A table that this role cannot read counts as empty.
    """
    if table.kind not in TABLES or not table.may_select or table.row_security_active:
        return 0
    percent = min(100.0, 100.0 * SAMPLED_PAGES / max(table.pages, 1))
    sample = sql.SQL(" TABLESAMPLE SYSTEM ({})").format(percent) if percent < 100 else sql.SQL("")
    query = sql.SQL("SELECT count(*) AS rows FROM {}{}").format(table.name.identifier, sample)
    row = connection.execute(query).fetchone()
    return round(row["rows"] * 100 / percent) if row else 0


def leaves(connection: Connection, table: Table) -> list[Leaf]:
    """The tables that hold a table's rows: its leaf partitions, or itself."""
    return [
        Leaf(
            name=TableName(row["schema"], row["table_name"]),
            indexed_columns=tuple(row["indexed_columns"]),
            **{field.name: row[field.name] for field in fields(Leaf) if field.name not in {"name", "indexed_columns"}},
        )
        for row in connection.execute(_SQL["leaves"], {"oid": table.oid}).fetchall()
    ]


def column_details(connection: Connection, table: Table, name: str) -> ColumnDetails:
    """What a column is, to be asked under an empty search_path. Raises LookupError when it is not there."""
    row = connection.execute(_SQL["column_details"], {"oid": table.oid, "name": name}).fetchone()
    if row is None:
        msg = f"{table.name} has no column {name}"
        raise LookupError(msg)
    return ColumnDetails(**{**row, "grants": column_grants(connection, table, name)})


def partition_columns(connection: Connection, table: Table) -> set[str | None]:
    """The columns that decide in which partition a row is; None stands for an expression."""
    return {row["name"] for row in connection.execute(_SQL["partition_columns"], {"oid": table.oid}).fetchall()}


def constraint(connection: Connection, table: Table, name: str) -> tuple[str, bool] | None:
    """(kind, whether it is validated) of a table's constraint; None when there is none of that name."""
    row = connection.execute(_SQL["constraint"], {"oid": table.oid, "name": name}).fetchone()
    return (row["kind"], row["validated"]) if row else None


def referable_keys(connection: Connection, table: Table) -> list[tuple[bool, tuple[str, ...]]]:
    """(whether it is the primary key, columns) of each unique key that a foreign key may refer to, the primary key first."""
    rows = connection.execute(_SQL["referable_keys"], {"oid": table.oid}).fetchall()
    return [(row["is_primary"], tuple(row["columns"])) for row in rows]


def may_make_schemas(connection: Connection) -> bool:
    """Whether this role may make schemas in this database."""
    row = connection.execute(_SQL["may_make_schemas"]).fetchone()
    return bool(row and row["may"])


def is_built_in(connection: Connection, type_: str) -> bool:
    """Whether a type, in SQL, is PostgreSQL's own."""
    row = connection.execute(_SQL["is_built_in"], {"type": type_}).fetchone()
    return bool(row and row["is_built_in"])


def may_create(connection: Connection, schema: str) -> bool:
    """Whether this role may make something in a schema, such as an index of a table there."""
    row = connection.execute(_SQL["may_create"], {"schema": schema}).fetchone()
    return bool(row and row["may_create"])


def may_reference(connection: Connection, table: Table, columns: Sequence[str]) -> bool:
    """Whether this role may make foreign keys that refer to these columns."""
    row = connection.execute(_SQL["may_reference"], {"oid": table.oid, "columns": list(columns)}).fetchone()
    return bool(row and row["may_reference"])


def equalities(connection: Connection, table: int, foreign_key: str) -> tuple[str, ...]:
    """The operators by which a foreign key of a table compares, the referenced column on the left."""
    rows = connection.execute(_SQL["equalities"], {"oid": table, "name": foreign_key}).fetchall()
    return tuple(f"OPERATOR({sql.Identifier(row['schema']).as_string()}.{row['name']})" for row in rows)


def has_index_on(connection: Connection, table: Table, columns: Sequence[str]) -> bool:
    """Whether an index finds the rows of a value of these columns."""
    found = connection.execute(_SQL["index_that_begins_with"], {"oid": table.oid, "columns": list(columns)})
    return found.fetchone() is not None


def unproved_not_null(connection: Connection, table: Table, column: str) -> str | None:
    """The NOT NULL constraint of a column that is not validated, if there is one."""
    row = connection.execute(_SQL["unproved_not_null"], {"oid": table.oid, "column": column}).fetchone()
    return str(row["name"]) if row else None


def partitions_not_null(connection: Connection, table: Table, column: str) -> list[str]:
    """Partitions in which a column is NOT NULL by themselves."""
    rows = connection.execute(_SQL["partitions_not_null"], {"oid": table.oid, "column": column}).fetchall()
    return [row["name"] for row in rows]


def oid_of(connection: Connection, relation: sql.Identifier) -> int:
    """The oid of a relation that is there. Raises psycopg.Error when it is not."""
    row = connection.execute("SELECT %s::text::regclass::oid::bigint AS oid", [relation.as_string()]).fetchone()
    return int(row["oid"]) if row else 0


def file_of(connection: Connection, oid: int) -> int:
    """The file that a table is in at this moment."""
    row = connection.execute("SELECT pg_relation_filenode(%s::bigint::oid)::bigint AS file", [oid]).fetchone()
    return int(row["file"]) if row else 0


def filenode(connection: Connection, name: TableName) -> int | None:
    """The file a table is in at this moment; a rewrite gives it another one. None when there is no such table."""
    row = connection.execute(_SQL["filenode"], {"table": name.identifier.as_string()}).fetchone()
    return row["filenode"] if row else None


def sizes(connection: Connection, name: TableName) -> dict[str, int]:
    """`heap_bytes`, with what is stored out of line, and `index_bytes` of a table and its partitions."""
    return dict(connection.execute(_SQL["sizes"], {"table": name.identifier.as_string()}).fetchone() or {})


def sizes_of(connection: Connection, names: Sequence[TableName]) -> dict[TableName, dict[str, int]]:
    """`heap_bytes` and `index_bytes` of several tables, each without its partitions; those that are not there are left out."""
    tables = [name.identifier.as_string() for name in names]
    rows = connection.execute(_SQL["sizes_of"], {"tables": tables}).fetchall()
    return {names[row["number"] - 1]: {part: row[part] for part in ("heap_bytes", "index_bytes")} for row in rows}


@dataclass(frozen=True, kw_only=True)
class NamedAsOurs:
    """Something on a table that has a name of ours."""

    #: trigger, constraint, index, statistics or column.
    kind: str
    #: The table, as PostgreSQL writes it.
    relation: str
    name: str
    #: Of the name of the migration that made it; None for a column.
    digest: str | None
    #: The statement that drops it.
    remedy: str


def named_as_ours(connection: Connection, table: Table | None = None) -> list[NamedAsOurs]:
    """What is on a table, or on any, under names that only we give; written for an empty search_path."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        rows = connection.execute(_SQL["named_as_ours"], {"oid": table.oid if table is not None else None}).fetchall()
    return [NamedAsOurs(**row) for row in rows]
