"""One line about each run that works, every half minute: for readers of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.record import runs
from backfilld.migrations.record.states import State
from backfilld.migrations.telemetry import RunReported
from backfilld.monitoring import progress

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.telemetry import Observer

TICK_SECONDS = 30.0


class Reporter:
    """Reads the progress of the runs that work, and tells it."""

    def __init__(self, *, observe: Observer) -> None:
        self._observe = observe

    def run_once(self, connection: Connection) -> int:
        """Tell each; returns how many."""
        working = [run for run in runs.listed(connection) if run.state is State.RUNNING]
        for now in progress.read(connection, working) if working else ():
            self._observe(
                RunReported(
                    run=now.run,
                    name=now.name,
                    phase=now.phase,
                    rows_done=now.rows_done,
                    rows_total=now.rows_total,
                    percent=now.percent,
                    rows_per_second=now.rows_per_second,
                    eta_seconds=now.eta_seconds,
                    hold_reason=now.hold_reason,
                )
            )
        return len(working)
