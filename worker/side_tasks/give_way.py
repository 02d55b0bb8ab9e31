"""Giving way: a batch is cancelled once another session has waited for it longer than its run allows.

    look who waits for a lock, if a batch of ours is running at all
    follow whom they wait for; is it a batch, and has it been longer than `give_way_ms`?
    cancel that batch; its lane comes back with half the rows (`runner.py`)

The session that waited continues as soon as the batch is rolled back. Nothing is lost: a batch commits whole or not at all.
DDL is left alone while it waits for its own lock, as its short `lock_timeout` is how it gives way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backfilld.migrations.queries import queries
from backfilld.migrations.record import audit, runs
from backfilld.migrations.telemetry import SessionWaited
from backfilld.worker.side_tasks.activity import Activity

if TYPE_CHECKING:
    import threading
    from datetime import datetime

    from backfilld.migrations.postgres.connect import Connection, Row
    from backfilld.migrations.telemetry import Observer

_SQL = queries(__package__, "give_way")

#: How often is looked while batches run. With the cancel and its rollback this must stay below 100 ms, the time a session may
#: wait beyond `give_way_ms`.
BUSY_SECONDS = 0.05
#: How often is looked for batches. A session can wait this long, and then one look more, for a batch not seen yet.
IDLE_SECONDS = 0.1
#: The same while no run is at work: the first batch of a run is found when the run is.
REST_SECONDS = 30.0
#: Between two batches none is running for a moment; a lane's next one must not be found late.
LINGER_SECONDS = 1.0


class GiveWay:
    """Finds sessions that wait for our batches, and cancels batches that were waited for too long."""

    def __init__(self, *, observe: Observer, activity: Activity | None = None) -> None:
        self._observe = observe
        self._activity = activity or Activity()
        self._busy_at = -LINGER_SECONDS
        #: Batches that were cancelled and are still there, each by its backend and when it began: each is reported once.
        self._going: set[tuple[int, datetime]] = set()

    def run_once(self, connection: Connection) -> int:
        """One look; returns how many batches are running."""
        if not self._is_busy and not self._any(connection):
            return 0
        batches = connection.execute(_SQL["give_way"]).fetchall()
        going = {(batch["pid"], batch["xact_start"]): batch for batch in batches if batch["cancelled"]}
        for which, batch in going.items():
            if which not in self._going:
                self._tell(connection, batch)
        self._going = set(going)
        if batches:
            self._busy_at = time.monotonic()
        return len(batches)

    def wait(self, batches: int, stopping: threading.Event) -> None:
        """Wait until it is time to look again, or the process stops."""
        seconds = BUSY_SECONDS if batches or self._is_busy else IDLE_SECONDS
        self._activity.wait(stopping, seconds=seconds, idle_seconds=REST_SECONDS)

    @property
    def _is_busy(self) -> bool:
        return time.monotonic() - self._busy_at < LINGER_SECONDS

    def _any(self, connection: Connection) -> bool:
        row = connection.execute(_SQL["batch_runs"]).fetchone()
        return bool(row and row["runs"])

    def _tell(self, connection: Connection, batch: Row) -> None:
        waited = {
            "lane": batch["lane"],
            "pid": batch["waiting_pid"],
            "application_name": batch["waiting_name"],
            "seconds": round(batch["waiting_seconds"], 3),
        }
        # After the cancel, not before it: the one who waits comes first.
        audit.record(connection, batch["run"], actor=runs.WORKER, what="batch.gave_way", **waited)
        self._observe(SessionWaited(run=batch["run"], **waited))
