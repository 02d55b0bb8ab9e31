"""Tables that a run has cut by ranges: a worker makes their next partitions until a person ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from backfilld.migrations.file.operations.partitioning import PartitionBy
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "partitions")


@dataclass(frozen=True, kw_only=True)
class PartitionedTable:
    """One of them, with what the last look at it has found."""

    #: As PostgreSQL writes it, with its schema.
    relation: str
    run: int
    #: None: the run is not on record any more.
    run_name: str | None
    by: PartitionBy
    since: datetime
    #: None: before the first look.
    looked_at: datetime | None = None
    #: Whole ones beyond the one that rows come into now; None: not known.
    partitions_ahead: int | None = None
    #: Where the last of them ends.
    reaches: str | None = None
    #: Rows are in the default partition; None: not known.
    has_strays: bool | None = None
    #: Why the next one could not be made, in words.
    problem: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        by = PartitionBy.model_validate(row["partition_by"])
        return cls(by=by, **{name: value for name, value in row.items() if name != "partition_by"})

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "table": self.relation,
            "run": self.run,
            "name": self.run_name,
            "ahead": self.by.ahead,
            "partitions_ahead": self.partitions_ahead,
            "reaches": self.reaches,
            "rows_in_default": self.has_strays,
            "problem": self.problem,
            "looked_at": self.looked_at.isoformat() if self.looked_at is not None else None,
        }


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition by a range, or the default one."""

    schema: str
    name: str
    #: As PostgreSQL writes them; None for the default partition.
    begins: str | None
    ends: str | None
    #: Storage parameters, `name=value`.
    options: tuple[str, ...]
    secured: bool
    #: Empty for the database's own.
    tablespace: str
    method: str


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The table as a whole."""

    owner: str
    owned_directly: bool
    schema: str
    name: str


def listed(connection: Connection) -> list[PartitionedTable]:
    """All of them, by name."""
    return [PartitionedTable.from_row(row) for row in connection.execute(_SQL["listed_partitioned"])]


def hold(connection: Connection, relation: str) -> bool:
    """Whether this worker is the one that looks at a table, until the transaction ends."""
    return connection.execute(_SQL["hold_partitioned"], {"relation": relation}).fetchone() is not None


def tell(connection: Connection, found: PartitionedTable) -> None:
    """Put on record what a look has found."""
    names = ("relation", "partitions_ahead", "reaches", "has_strays", "problem")
    connection.execute(_SQL["tell_partitioned"], {name: getattr(found, name) for name in names})


def end(connection: Connection, relation: str) -> None:
    """No worker makes partitions of a table any more."""
    connection.execute(_SQL["end_partitioned"], {"relation": relation})


def of(connection: Connection, relation: str) -> tuple[Partition, ...]:
    """The partitions of a table, the default one among them, the newest last."""
    rows = connection.execute(_SQL["partitions_of"], {"relation": relation}).fetchall()
    return tuple(Partition(**{**row, "options": tuple(row["options"])}) for row in rows)


def parent(connection: Connection, relation: str) -> Parent | None:
    """None where there is no such partitioned table."""
    row = connection.execute(_SQL["owner_of_partitioned"], {"relation": relation}).fetchone()
    return Parent(**row) if row is not None else None
