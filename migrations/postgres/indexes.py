"""Indexes as the catalog has them, each with the definition from which it could be built again.

To be asked under an empty search_path, as in a probe or in a step of ours: PostgreSQL writes definitions by it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from migrations.facts import IndexDefinition
from migrations.names import TableName
from migrations.sql import queries

if TYPE_CHECKING:
    from datetime import datetime

    from migrations.model import Row
    from migrations.postgres.connect import Connection

_SQL = queries("indexes")


@dataclass(frozen=True, kw_only=True)
class Named:
    """What has a name: an index, or something else that is in the way of one."""

    oid: int
    #: As in `pg_class.relkind`: i is an index, I one of a partitioned table.
    kind: str
    #: Whether queries may use it and writes keep it.
    valid: bool
    #: The table it is on; None for what is no index.
    table: TableName | None
    definition: IndexDefinition | None

    @classmethod
    def from_row(cls, row: Row) -> Named:
        if row["rest"] is None:
            return cls(oid=row["oid"], kind=row["kind"], valid=False, table=None, definition=None)
        known = {field.name: row[field.name] for field in fields(IndexDefinition)}
        return cls(
            oid=row["oid"],
            kind=row["kind"],
            valid=row["valid"],
            table=TableName(row["table_schema"], row["table_name"]),
            definition=IndexDefinition(**{**known, "keys": tuple(row["keys"])}),
        )


@dataclass(frozen=True, kw_only=True)
class Uses:
    """What an index is needed for, beside queries."""

    replica_identity: bool
    #: CLUSTER goes by it.
    clustered: bool
    #: It is a part of the index of a partitioned table.
    attached: bool
    #: Constraints of its table that it serves.
    constraints: tuple[str, ...]
    #: Foreign keys that refer to the table by it.
    foreign_keys: tuple[str, ...]
    #: How often a query has gone by it, since when; None: since the database was made.
    scans: int
    counted_since: datetime | None


def find(connection: Connection, schema: str, name: str) -> Named | None:
    """What has this name in a schema, or None."""
    row = connection.execute(_SQL["find_index"], {"schema": schema, "name": name}).fetchone()
    return Named.from_row(row) if row else None


def of_table(connection: Connection, table: int) -> list[Named]:
    """The indexes of a table, by its oid, in the order of their names."""
    return [Named.from_row(row) for row in connection.execute(_SQL["indexes_of"], {"table": table}).fetchall()]


def uses(connection: Connection, index: int) -> Uses | None:
    """What an index is needed for, by its oid; None when it is gone."""
    row = connection.execute(_SQL["index_uses"], {"index": index}).fetchone()
    if row is None:
        return None
    return Uses(
        **{**row, "constraints": tuple(row["constraints"]), "foreign_keys": tuple(row["foreign_keys"])},
    )
