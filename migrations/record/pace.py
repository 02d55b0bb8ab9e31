"""The pace: how hard this database may be worked; one row, written by one governor at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from backfilld.migrations.queries import queries
from backfilld.migrations.record import audit
from backfilld.migrations.record.model import Pace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "pace")

#: Statement text that the claim sends in one round trip together with others.
TAKE_PERMIT = _SQL["take_permit"]
#: This many sessions of others at once are a load; one alone may be a person's psql.
MIN_OTHERS = 2
#: Statement text that a batch sends together with its checkpoint.
WAL_POSITION = _SQL["wal_position"]
#: Statement text that the canary sends in one round trip together with others.
CANARY = _SQL["canary"]
OTHERS = _SQL["others_at_work"]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The pace as the governor found it, held until its transaction ends."""

    width: int
    max_width: int
    hold_reason: str | None
    #: Any: what the governor remembers, as `backfilld.worker.side_tasks.throttle.Memory` writes it.
    memory: Mapping[str, Any]
    age_seconds: float | None
    since_widened_seconds: float | None


def read(connection: Connection) -> Pace:
    """The database's pace. Raises LookupError when the control schema is damaged."""
    row = connection.execute(_SQL["read_pace"]).fetchone()
    if row is None:
        msg = "backfilld.pace is empty"
        raise LookupError(msg)
    return Pace.from_row(row)


def take(connection: Connection) -> Taken | None:
    """Become the one governor of this moment; None when another worker is."""
    row = connection.execute(_SQL["take_pace"]).fetchone()
    return Taken(**row) if row else None


def write(  # noqa: PLR0913 - one row; each column is named where it is called
    connection: Connection,
    *,
    width: int,
    batch_seconds: float | None,
    rest: float,
    hold_reason: str | None,
    readings: Mapping[str, Any],
    memory: Mapping[str, Any],
) -> None:
    """Write the verdict. Any: readings by signal, for people; the memory, for the next governor."""
    connection.execute(
        _SQL["write_pace"],
        {
            "width": width,
            "batch_seconds": batch_seconds,
            "rest": rest,
            "hold_reason": hold_reason,
            "readings": Jsonb(dict(readings)),
            "memory": Jsonb(dict(memory)),
        },
    )


def set_max_width(connection: Connection, max_width: int) -> None:
    connection.execute(_SQL["set_max_width"], {"max_width": max_width})


@dataclass(frozen=True, kw_only=True)
class Stop:
    """All runs are stopped, by a person. It holds them, and is no state of theirs: each keeps its own."""

    at: datetime
    by: str

    @property
    def reason(self) -> str:
        return (
            f"stopped for all runs by {self.by} at {self.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: backfilld resume --all"
        )


def stop_of(row: Mapping[str, Any]) -> Stop | None:
    """The stop in a row that has `stopped_at` and `stopped_by`. Any: a row."""
    return Stop(at=row["stopped_at"], by=row["stopped_by"]) if row["stopped_at"] is not None else None


def read_stop(connection: Connection) -> Stop | None:
    """The stop that holds all runs; None when there is none."""
    row = connection.execute(_SQL["read_stop"]).fetchone()
    return stop_of(row) if row else None


def stop_all(connection: Connection, *, actor: str) -> bool:
    """Stop all runs, those of the future included; False when they are already."""
    if connection.execute(_SQL["stop_all"], {"actor": actor}).fetchone() is None:
        return False
    audit.record(connection, None, actor=actor, what="all.stopped")
    return True


def resume_all(connection: Connection, *, actor: str) -> bool:
    """Lift the stop; False when there was none."""
    if connection.execute(_SQL["resume_all"]).fetchone() is None:
        return False
    audit.record(connection, None, actor=actor, what="all.resumed")
    return True


def working_sessions(connection: Connection) -> int:
    """How many sessions of ours are inside a batch or a step of DDL."""
    row = connection.execute(_SQL["working_sessions"]).fetchone()
    return int(row["sessions"]) if row else 0
