"""Indexes as the catalog has them, each with the definition from which it could be built again.

To be asked under an empty search_path, as in a probe or in a step of ours: PostgreSQL writes definitions by it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import catalog, sessions
from backfilld.migrations.postgres.definitions import IndexDefinition
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from datetime import datetime

    from psycopg import sql

    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = queries(__package__, "indexes")


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


@dataclass(frozen=True, kw_only=True)
class Work:
    """An index that is being built or dropped for a run at this moment."""

    run: int
    #: The statement.
    what: str
    #: As PostgreSQL calls it; None for a drop, which has none.
    phase: str | None
    #: Of the phase, in percent; None where PostgreSQL does not count.
    percent: float | None
    #: The session that is waited for, in words; None when there is none.
    waits_for: str | None

    @property
    def in_words(self) -> str:
        """On one line, for people."""
        percent = f", {self.percent:.0f} %" if self.percent is not None else ""
        told = f"{self.what}: {self.phase or 'under way'}{percent}"
        return f"{told}; waits for {self.waits_for}" if self.waits_for else told

    @classmethod
    def from_row(cls, row: Row) -> Work:
        waits_for = None
        if row["waits_for"] is not None:
            seconds = row["waits_for_seconds"] or 0
            waits_for = f"pid {row['waits_for']} ({row['waits_for_state'] or 'hidden'}, {seconds:.0f} s)"
            waits_for += f": {row['waits_for_query']}" if row["waits_for_query"] else ""
        percent = min(100.0 * row["done"] / row["total"], 100.0) if row["total"] else None
        return cls(run=row["run"], what=row["what"], phase=row["phase"], percent=percent, waits_for=waits_for)


def find(connection: Connection, schema: str, name: str) -> Named | None:
    """What has this name in a schema, or None."""
    row = connection.execute(_SQL["find_index"], {"schema": schema, "name": name}).fetchone()
    return Named.from_row(row) if row else None


def of_table(connection: Connection, table: int) -> list[Named]:
    """The indexes of a table, by its oid, in the order of their names."""
    return [Named.from_row(row) for row in connection.execute(_SQL["indexes_of"], {"table": table}).fetchall()]


def definitions_on(connection: Connection, table: sql.Identifier) -> list[IndexDefinition]:
    """The definitions of a table's indexes, by its name."""
    named = of_table(connection, catalog.oid_of(connection, table))
    return [one.definition for one in named if one.definition is not None]


def uses(connection: Connection, index: int) -> Uses | None:
    """What an index is needed for, by its oid; None when it is gone."""
    row = connection.execute(_SQL["index_uses"], {"index": index}).fetchone()
    if row is None:
        return None
    return Uses(
        **{**row, "constraints": tuple(row["constraints"]), "foreign_keys": tuple(row["foreign_keys"])},
    )


def end_sessions(connection: Connection, run: int, *, but: int, patience_seconds: float) -> list[int]:
    """End the sessions that work on an index of a run, but for the one with this pid; returns those that do not go.

    The caller holds the run's coordinator.
    """
    parameters = {
        "run": run,
        "tidying": sessions.tidying(run),
        "but": but,
        "patience_ms": round(patience_seconds * 1000),
    }
    rows = connection.execute(_SQL["end_index_sessions"], parameters).fetchall()
    return [row["pid"] for row in rows if not row["ended"]]


def at_work(connection: Connection) -> dict[int, Work]:
    """What is built or dropped for runs at this moment, by run. Of a moment: asked twice in a transaction it is the same."""
    rows = connection.execute(_SQL["index_work"]).fetchall()
    return {row["run"]: Work.from_row(row) for row in rows}
