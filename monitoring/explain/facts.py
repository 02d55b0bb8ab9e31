"""What there is to know about a run at one moment, and the reading of it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from backfilld.migrations.postgres.safe_path import one_moment
from backfilld.migrations.record import audit, lanes
from backfilld.migrations.record import pace as pace_store
from backfilld.migrations.record.states import State
from backfilld.migrations.walks.sizing import fixed_seconds
from backfilld.monitoring import pace as pace_report
from backfilld.monitoring import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.lanes import Waiting
    from backfilld.migrations.record.model import Pace, Run
    from backfilld.migrations.settings import Limits
    from backfilld.monitoring.pace import Signal
    from backfilld.monitoring.progress import Progress

#: The event that says who asked for a state: the worker, who only brings it about, is in the state's own.
ASKED: dict[State, State] = {
    State.PAUSED: State.PAUSING,
    State.CANCELLED: State.CANCELLING,
    State.ROLLED_BACK: State.ROLLING_BACK,
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What there is to know about a run at one moment."""

    run: Progress
    pace: Pace
    signals: Sequence[Signal]
    #: Lanes of all runs that are due.
    waiting: Waiting
    #: Sessions of ours, of all runs, that are inside a batch or a step.
    working_sessions: int
    #: Who asked for the run's state; None where no person did, or none is on record.
    asked_by: str | None
    #: A person has asked for its rollback.
    goes_back: bool = False
    #: Rows that the rollback did not touch, as they were written or removed since, and the keys of the first.
    rows_left: int = 0
    keys_left: tuple[tuple[str, ...], ...] = ()
    #: What a batch of the run costs before its first row, and how long one should last; 0 where that is not known.
    batch_fixed_seconds: float = 0.0
    batch_target_seconds: float = 0.0


def read(connection: Connection, run: Run, limits: Limits) -> Facts:
    """A run as it is now. The connection must not be in a transaction."""
    with one_moment(connection):
        pace = pace_store.read(connection)
        what = f"run.{ASKED.get(run.state, run.state)}"
        # A rollback that stops is resumed, by somebody else perhaps; it was asked for once.
        find = audit.first if run.rollback.requested else audit.latest
        asked = find(connection, run.run, what=what)
        left, left_keys = audit.rows_left(connection, run.run)
        return Facts(
            run=progress.read_within(connection, [run])[0],
            pace=pace,
            signals=pace_report.signals(pace, limits),
            waiting=lanes.waiting(connection),
            working_sessions=pace_store.working_sessions(connection),
            asked_by=str(asked["actor"]) if asked is not None else None,
            goes_back=run.rollback.requested,
            rows_left=left,
            keys_left=tuple(left_keys),
            batch_fixed_seconds=_fixed_seconds(connection, run),
            batch_target_seconds=min(run.settings.batch_seconds, pace.batch_seconds or run.settings.batch_seconds),
        )


def _fixed_seconds(connection: Connection, run: Run) -> float:
    """The median over the lanes that are at work."""
    found = [
        fixed_seconds(lane.recent) for lane in lanes.of_run(connection, run.run) if lane.done_at is None and lane.recent
    ]
    return median(found) if found else 0.0
