"""What there is to do at all, and what is to stop: asked by who stops runs, and answered in one look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.queries import queries
from backfilld.migrations.record.pace import Stop, stop_of

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = queries(__package__, "pulse")


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """What there is to do, seen in one look."""

    #: A run is queued, running, stopping or turning back.
    at_work: bool
    #: `stopping` gives at least one run.
    stopping: bool
    #: All runs are stopped, by a person.
    stop: Stop | None


def read(connection: Connection) -> Pulse:
    """One look at all runs. Raises LookupError when the control schema is damaged."""
    row = connection.execute(_SQL["pulse"]).fetchone()
    if row is None:
        msg = "backfilld.pace is empty"
        raise LookupError(msg)
    return Pulse(at_work=row["at_work"], stopping=row["stopping"], stop=stop_of(row))


def stopping(connection: Connection) -> list[Row]:
    """Runs that were asked to stop: `run, name, state, seconds`."""
    return connection.execute(_SQL["stopping"]).fetchall()


def cancel_statements(connection: Connection, run: int) -> int:
    """Cancel what our own backends are running for a run; returns how many were."""
    row = connection.execute(_SQL["cancel_statements"], {"run": run}).fetchone()
    return int(row["cancelled"]) if row else 0


def cancel_all_statements(connection: Connection, *, grace_seconds: float) -> dict[int, int]:
    """Cancel what our own backends have run for longer than the grace, for any run; returns how many for which."""
    rows = connection.execute(_SQL["cancel_all_statements"], {"grace_seconds": grace_seconds}).fetchall()
    return {row["run"]: row["cancelled"] for row in rows if row["cancelled"]}
