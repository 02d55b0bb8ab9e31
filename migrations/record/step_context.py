"""What a step must know before it works: where its run stands, and at what pace work may go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.queries import queries
from backfilld.migrations.record import pace
from backfilld.migrations.record.model import Awaited, Rollback, run_settings
from backfilld.migrations.record.states import Phase, State, StopReason, why_stop

if TYPE_CHECKING:
    from datetime import datetime

    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.postgres.connect import Connection, Row

#: Statement text that the claim sends in one round trip together with others.
QUERY = queries(__package__, "step_context")["step_context"]


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a step must know before it works."""

    name: str
    phase: Phase
    state: State
    pass_: int
    settings: RunSettings
    rollback: Rollback
    #: About how many rows all walks pass over; None before they were planned.
    rows_total: int | None
    width: int
    hold_reason: str | None
    #: How long a batch may last at the present pace; None: as long as the run says.
    batch_seconds: float | None
    #: Seconds a lane rests for each second of work.
    rest: float
    #: Sessions of others that are active.
    others: int
    #: Seconds since the governor's reading; None when there never was one.
    age_seconds: float | None
    #: Lanes of the walk that are not at their end: those at work, and those that wait for their turn.
    lanes_awake: int
    lanes_asleep: int
    #: The greatest number of a lane at work: the first to step back when fewer are wanted.
    last_lane: int | None
    #: What the lane with the largest rest has before it, in rows.
    most_left: int | None
    stop: pace.Stop | None
    #: Migrations that must be verified before the run begins, and are not.
    awaited: tuple[Awaited, ...] = ()
    #: Where the WAL was, in bytes; None in recovery.
    wal_position: int | None
    #: By the database's clock.
    now: datetime
    #: When the run was made. Together with its number it is the run: numbers begin anew in a schema that was dropped and made again.
    created_at: datetime

    @property
    def why_stop(self) -> StopReason | None:
        """Why a step that is under way must stop now; None while it may continue."""
        return why_stop(self.state, rollback_pending=self.rollback.pending, all_stopped=self.stop is not None)

    @property
    def target_seconds(self) -> float:
        """How long a batch should last: the run's own wish, or less when the pace says so."""
        return min(self.settings.batch_seconds, self.batch_seconds or self.settings.batch_seconds)

    @property
    def rest_ratio(self) -> float:
        """Seconds of rest after each second of work: the run's `nice`, or more when the pace says so."""
        return max(self.settings.nice, self.rest)

    @property
    def beside_others(self) -> bool:
        """Whether the pace is one for batches beside other sessions, which are short."""
        return self.batch_seconds is not None

    @property
    def wal_bytes_per_second(self) -> float | None:
        """What one lane may write beside others: its part of what the run may; None: no limit."""
        limit = self.settings.wal_mb_per_second * 1_000_000
        if not limit or self.others < pace.MIN_OTHERS:
            return None
        return limit / max(1, min(self.width, self.lanes_awake))

    @classmethod
    def from_row(cls, row: Row) -> StepContext:
        return cls(
            name=row["name"],
            phase=Phase(row["phase"]),
            state=State(row["state"]),
            pass_=row["pass"],
            settings=run_settings(row["settings"]),
            rollback=Rollback.from_json(row["rollback"]),
            rows_total=row["rows_total"],
            width=row["width"],
            hold_reason=row["hold_reason"],
            batch_seconds=row["batch_seconds"],
            rest=row["rest"],
            others=row["others"],
            age_seconds=row["age_seconds"],
            lanes_awake=row["lanes_awake"],
            lanes_asleep=row["lanes_asleep"],
            last_lane=row["last_lane"],
            most_left=row["most_left"],
            stop=pace.stop_of(row),
            awaited=Awaited.listed(row["awaited"]),
            wal_position=row["wal_position"],
            now=row["now"],
            created_at=row["created_at"],
        )


def read(connection: Connection, run: int) -> StepContext:
    """Where a run stands, without a lock. Raises LookupError when there is no such run."""
    row = connection.execute(QUERY, {"run": run}).fetchone()
    if row is None:
        msg = f"there is no run {run}"
        raise LookupError(msg)
    return StepContext.from_row(row)
