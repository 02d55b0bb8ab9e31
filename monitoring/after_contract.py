"""What the application can no longer do once a run has done its contract, and whether it still does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backfilld.migrations.record import omitted_inserts
from backfilld.migrations.record.states import ENDED, Phase
from backfilld.monitoring.words import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run

#: A statement that came within this time says that an application which needs the old structure still runs. A deploy is over by
#: then; of what comes more rarely, as a job of the night, the age is told, and a person decides.
RECENT_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class AfterContract:
    """What fails after contract, for one operation."""

    operation: int
    #: "an INSERT that leaves out jobs.total_eur fails".
    fails: str
    #: How long ago the last such statement came; None where none was seen, or none can be.
    last_seconds: float | None = None

    @property
    def still_comes(self) -> bool:
        return self.last_seconds is not None and self.last_seconds < RECENT_SECONDS

    @property
    def in_words(self) -> str:
        last = f"; the last one came {duration(self.last_seconds)} ago" if self.last_seconds is not None else ""
        return f"After contract {self.fails}{last}"

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        seconds = None if self.last_seconds is None else round(self.last_seconds, 1)
        return {
            "operation": self.operation,
            "fails": self.fails,
            "last_seconds": seconds,
            "still_comes": self.still_comes,
        }


def read(connection: Connection, runs: Sequence[Run]) -> dict[int, tuple[AfterContract, ...]]:
    """What contract will take from the application, by run; nothing of runs that have done it, or never will."""
    ahead = [run for run in runs if run.state not in ENDED and run.phase is not Phase.DONE]
    if not ahead:
        return {}
    seen = {
        (one.run, one.operation): one.seconds for one in omitted_inserts.latest(connection, [run.run for run in ahead])
    }
    return {
        run.run: tuple(
            AfterContract(operation=number, fails=of.fails_after_contract, last_seconds=seen.get((run.run, number)))
            for number, of in enumerate(run.migration.operations)
            if of.fails_after_contract
        )
        for run in ahead
    }
