"""A table with all that belongs to it, as PostgreSQL writes it: what a table that is made anew must have too.

Texts are read under an empty search_path, so that they mean the same everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from psycopg import errors, sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import column_parts
from backfilld.migrations.postgres.bound import TABLE, RowFunction, copied, placed, row_functions
from backfilld.migrations.postgres.column_dependents import CopiedView, DependentPolicy, DependentView
from backfilld.migrations.postgres.dependents import ColumnDependent
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "belongings")

_PRIMARY_KEY = re.compile(rf'ALTER TABLE {TABLE} ADD CONSTRAINT (?:"(?:[^"]|"")*"|[^ "]+) PRIMARY KEY ')


@dataclass(frozen=True, kw_only=True)
class ColumnDefinition:
    """A column, with all that CREATE TABLE says of it."""

    name: str
    type: str
    #: As SQL; empty for the type's own.
    collation: str
    not_null: bool
    #: The name of its NOT NULL, where that has one (from PostgreSQL 18 on).
    not_null_name: str
    #: The DEFAULT, or what a generated column is computed by; empty for none.
    expression: str
    #: `s` or `v`; empty for a column that is not generated.
    generated: str
    #: `a` (always) or `d` (by default); empty for a column that is no identity.
    identity: str
    #: A sequence belongs to it: an identity's, or a serial's.
    has_sequence: bool
    sequence: str
    sequence_schema: str
    sequence_type: str
    sequence_options: str
    #: MINVALUE and MAXVALUE, where they are not the type's own.
    sequence_limits: str

    @property
    def is_serial(self) -> bool:
        return self.has_sequence and not self.identity


@dataclass(frozen=True, kw_only=True)
class Belonging:
    """Something that is made by a statement of its own."""

    #: early: before the rows · key: the key that rows are known by · unique, index: once all rows are there · late: after these ·
    #: policy, foreign key comment: when the new table has its place.
    moment: str
    kind: str
    name: str
    #: The columns that it is about.
    columns: tuple[str, ...]
    statement: str

    @property
    def is_primary_key(self) -> bool:
        return _PRIMARY_KEY.match(self.statement) is not None

    def of_columns(self, columns: tuple[str, ...]) -> Self:
        """A primary key with other columns."""
        found = _PRIMARY_KEY.match(self.statement)
        listed = sql.SQL(", ").join(map(sql.Identifier, columns)).as_string()
        return replace(self, columns=columns, statement=f"{found[0] if found else ''}({listed})")

    def made(self, table: TableName) -> sql.Composed:
        """The statement that makes it for a table, whose indexes and sequences are in its own schema."""
        return placed(self.statement, table)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "columns": tuple(value["columns"])})


@dataclass(frozen=True, kw_only=True)
class ForeignKey:
    """A foreign key of the table, or one that refers to it."""

    name: str
    #: The table that refers, and the one that is referred to.
    schema: str
    table_name: str
    other_schema: str
    other_name: str
    #: Without NOT VALID.
    definition: str
    valid: bool
    enforced: bool
    columns: tuple[str, ...]
    other_columns: tuple[str, ...]
    comment: str | None
    #: The table that refers, as PostgreSQL writes it.
    relation: str

    @property
    def table(self) -> TableName:
        return TableName(self.schema, self.table_name)

    @property
    def other(self) -> TableName:
        return TableName(self.other_schema, self.other_name)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, **{name: tuple(value[name]) for name in ("columns", "other_columns")}})


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Extended statistics."""

    schema: str
    name: str
    columns: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "columns": tuple(value["columns"])})


@dataclass(frozen=True, kw_only=True)
class PartitionDefinition:
    """A partition of a table that is partitioned already."""

    name: str
    #: What follows PARTITION OF.
    bounds: str
    #: Empty for the database's own.
    tablespace: str
    method: str
    options: tuple[str, ...]
    #: What is its own alone, and not its table's.
    belongings: tuple[Belonging, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        belongings = tuple(Belonging.from_json(one) for one in value["belongings"])
        return cls(**{**value, "options": tuple(value["options"]), "belongings": belongings})


@dataclass(frozen=True, kw_only=True)
class TableDefinition:
    """A table with all that belongs to it."""

    columns: tuple[ColumnDefinition, ...]
    owner: str
    #: This role is the owner, and not only a member of it.
    owned_directly: bool
    #: Empty for the database's own.
    tablespace: str
    method: str
    #: Storage parameters, `name=value`.
    options: tuple[str, ...]
    has_grants: bool
    belongings: tuple[Belonging, ...]
    foreign_keys: tuple[ForeignKey, ...]
    #: Triggers of users', by name, each with the mode it is enabled in (O, A, R or D).
    triggers: tuple[tuple[str, str], ...]
    statistics: tuple[Statistics, ...]
    #: Publications that name the table.
    publications: tuple[str, ...]
    #: Views of the table and of such views, each behind those that it reads; functions, as statements; policies of other tables.
    views: tuple[DependentView, ...] = ()
    functions: tuple[str, ...] = ()
    policies: tuple[DependentPolicy, ...] = ()
    #: Materialized views, and the views that these read; `views` read them, and are not read by them.
    copied: tuple[CopiedView, ...] = ()
    row_functions: tuple[RowFunction, ...] = ()
    #: A PostgREST is told to read the schema again.
    notifies: bool = False
    #: The partitions of the new table, where it is partitioned: each by name, with what follows PARTITION OF.
    partitions: tuple[tuple[str, str], ...] = ()
    #: By what the table is partitioned now, as PARTITION BY says it, and its partitions; empty for one that is not.
    partition_key: str = ""
    own_partitions: tuple[PartitionDefinition, ...] = ()

    def column(self, name: str) -> ColumnDefinition | None:
        return next((one for one in self.columns if one.name == name), None)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "columns": tuple(ColumnDefinition(**one) for one in value["columns"]),
                "belongings": tuple(Belonging.from_json(one) for one in value["belongings"]),
                "foreign_keys": tuple(ForeignKey.from_json(one) for one in value["foreign_keys"]),
                "statistics": tuple(Statistics.from_json(one) for one in value["statistics"]),
                "triggers": tuple((name, mode) for name, mode in value["triggers"]),
                "partitions": tuple((name, bounds) for name, bounds in value["partitions"]),
                "views": tuple(DependentView.from_json(one) for one in value["views"]),
                "policies": tuple(DependentPolicy.from_json(one) for one in value["policies"]),
                "copied": tuple(CopiedView.from_json(one) for one in value.get("copied", ())),
                "own_partitions": tuple(PartitionDefinition.from_json(one) for one in value.get("own_partitions", ())),
                "row_functions": tuple(RowFunction.from_json(one) for one in value.get("row_functions", ())),
                **{name: tuple(value[name]) for name in ("options", "publications", "functions")},
            }
        )


@dataclass(frozen=True, kw_only=True)
class Found:
    """A table's definition, and what is in the way of making it anew."""

    definition: TableDefinition
    #: In words, each with what to do about it.
    in_the_way: tuple[tuple[str, str], ...]
    #: What is bound to it by its number and cannot be made anew with it, in words.
    bound: tuple[str, ...]


def read(connection: Connection, table: Table, *, key: str, notifies: bool) -> Found:
    """What belongs to a table; `key` is the index of the key that it is walked by.

    Raises Rejected for a view, a function or a policy that cannot be made as it was.
    """
    of = {"oid": table.oid}
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        whole = connection.execute(_SQL["as_a_whole"], of).fetchone() or {}
        keys = connection.execute(_SQL["foreign_keys"], of).fetchall()
        published = connection.execute(_SQL["published"], of).fetchall()
        definition = TableDefinition(
            columns=tuple(ColumnDefinition(**row) for row in connection.execute(_SQL["columns"], of)),
            belongings=tuple(
                Belonging.from_json(row) for row in connection.execute(_SQL["belongings"], {**of, "key": key})
            ),
            foreign_keys=tuple(
                ForeignKey.from_json({name: row[name] for name in ForeignKey.__dataclass_fields__}) for row in keys
            ),
            triggers=tuple((row["name"], row["enabled"]) for row in connection.execute(_SQL["triggers"], of)),
            statistics=tuple(Statistics.from_json(row) for row in connection.execute(_SQL["statistics"], of)),
            publications=tuple(row["name"] for row in published if not row["all_tables"]),
            notifies=notifies,
            **{**whole, "options": tuple(whole["options"])},
        )
        in_the_way = [(row["what"], row["remedy"]) for row in connection.execute(_SQL["kept_out"], of)]
        if definition.partition_key:
            in_the_way += [_of_partition(row) for row in connection.execute(_SQL["partitions_kept_out"], of)]
            definition = replace(definition, own_partitions=_partitions(connection, table))
        found = [
            ColumnDependent(kind=row["kind"], oid=row["oid"], name=row["name"], definition=None)
            for row in connection.execute(_SQL["bound"], of)
        ]
        along = [replace(one, kind="view") for one in found if one.kind == "copied"]
        definition = replace(
            definition,
            views=column_parts.views(connection, found),
            functions=column_parts.functions(connection, found),
            policies=column_parts.policies(connection, found),
            copied=copied(connection, column_parts.views(connection, along), along),
            row_functions=row_functions(connection, [one for one in found if one.kind == "row function"]),
        )
        rights = connection.execute(_SQL["database_rights"], of).fetchone() or {}
    if not rights["may_create"]:
        in_the_way.append(
            ("the role may not make a schema in this database, where the new table is made", "GRANT CREATE ON DATABASE")
        )
    if not rights["may_move"]:
        schema = sql.Identifier(table.name.schema).as_string()
        in_the_way.append(
            (f"the role may not put a table into the schema {schema}", f"GRANT CREATE ON SCHEMA {schema}")
        )
    in_the_way += [_of_key(table, row) for row in keys if not (row["owned"] and row["may_refer"])]
    in_the_way += [_of_partitioned(row) for row in keys if _is_whole(connection, table, row)]
    in_the_way += [_of_publication(row) for row in published if row["all_tables"] or row["partly"] or not row["owned"]]
    return Found(
        definition=definition,
        in_the_way=tuple(in_the_way),
        bound=tuple(one.name for one in found if one.kind == "other"),
    )


def _partitions(connection: Connection, table: Table) -> tuple[PartitionDefinition, ...]:
    rows = connection.execute(_SQL["partitions"], {"oid": table.oid}).fetchall()
    return tuple(
        PartitionDefinition(
            **{**row, "options": tuple(row["options"])},
            belongings=tuple(
                Belonging.from_json(one) for one in connection.execute(_SQL["belongings"], {"oid": oid, "key": ""})
            ),
        )
        for row, oid in [(row, row.pop("oid")) for row in rows]
    )


def is_collatable(connection: Connection, type_: str) -> bool:
    """Whether a type, in SQL, has a collation. False where there is no such type."""
    try:
        with connection.transaction():
            connection.execute("SET LOCAL search_path = ''")
            row = connection.execute(_SQL["is_collatable"], {"type": type_}).fetchone()
    except errors.Error:
        return False
    return bool(row and row["collatable"])


def _is_whole(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Whether a foreign key of a partitioned table cannot be added without a look at all of its rows."""
    refers = TableName(row["schema"], row["table_name"])
    return row["kind"] == "p" and refers != table.name and connection.info.server_version < 180_000


def _of_partition(row: Mapping[str, Any]) -> tuple[str, str]:
    return (
        f"its partition {row['name']} {row['what']}, which the partitions of the new table could not be",
        "Change that first, or DETACH it and rebuild without it",
    )


def _of_key(table: Table, row: Mapping[str, Any]) -> tuple[str, str]:
    refers = TableName(row["schema"], row["table_name"])
    if not row["owned"] and refers != table.name:
        return (
            f"the foreign key {row['name']} is of {refers}, which this role does not own",
            f"Use the owner of {refers}",
        )
    other = TableName(row["other_schema"], row["other_name"])
    return (
        f"the foreign key {row['name']} refers to {other}, to which this role may not refer",
        f"GRANT REFERENCES ON {other.identifier.as_string()}",
    )


def _of_partitioned(row: Mapping[str, Any]) -> tuple[str, str]:
    problem = (
        f"the foreign key {row['name']} is of {TableName(row['schema'], row['table_name'])}, which is partitioned: before "
        "PostgreSQL 18 it cannot be added NOT VALID, so the switch would read all of that table under its lock"
    )
    return problem, "Drop it first (drop_constraint), and add it again afterwards"


def _of_publication(row: Mapping[str, Any]) -> tuple[str, str]:
    name = sql.Identifier(row["name"]).as_string()
    if row["all_tables"]:
        return (
            f"the publication {name} is FOR ALL TABLES, and would send the new table to subscribers that do not have it",
            f"Replace it by one that names its tables, or by FOR TABLES IN SCHEMA: DROP PUBLICATION {name}",
        )
    if row["partly"]:
        return (
            f"the publication {name} sends some columns or rows of the table",
            f"Let it send all of the table first: ALTER PUBLICATION {name} SET TABLE …",
        )
    return f"the publication {name} names the table, and this role does not own it", "Use the owner of the publication"
