"""Statements of the application that fail once a run has done its contract: when the last of them came.

Sync triggers write them down, at most about one a second: an INSERT that gives no value for a NOT NULL column, which the trigger
fills until contract, and after the switch of a rename a statement that writes the old name. Only the latest of an operation counts;
older ones are pruned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "omitted_inserts")


@dataclass(frozen=True, kw_only=True)
class OmittedInsert:
    """The last statement of an operation that fails after contract."""

    run: int
    operation: int
    seen_at: datetime
    #: How long ago that was, by the database's clock.
    seconds: float


def latest(connection: Connection, runs: Sequence[int]) -> list[OmittedInsert]:
    """The last of each operation of these runs; nothing of operations that had none."""
    rows = connection.execute(_SQL["latest_omitted"], {"runs": list(runs)}).fetchall()
    return [OmittedInsert(**row) for row in rows]


def prune(connection: Connection) -> int:
    """Remove all that nobody will ask for; returns how many that was."""
    return connection.execute(_SQL["prune_omitted"]).rowcount
