"""What is kept so that a run can go back: its partitions of the journal and the archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from migrations.names import TableName
from migrations.sql import queries

if TYPE_CHECKING:
    from migrations.postgres.connect import Connection

_SQL = queries("kept")

What = Literal["journal", "archive"]


def partition(what: What, run: int) -> TableName:
    """The table that holds a run's part. Statements name it and not its parent, which stays free for others."""
    return TableName("backfilld", f"{what}_{run}")


def make_partition(connection: Connection, what: What, run: int) -> None:
    """Make a run's partition where it is not there; locks nobody out."""
    connection.execute(_SQL["make_partition"], {"what": what, "run": run})


def has_partition(connection: Connection, what: What, run: int) -> bool:
    row = connection.execute(_SQL["has_partition"], {"what": what, "run": run}).fetchone()
    return bool(row and row["there"])
