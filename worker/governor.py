"""The governor: reads the database's load about once a second and writes how hard we may work.

One worker at a time does it, whoever holds the row of `pace`. When none does, the last verdict grows old, and a verdict too
old to trust holds all work.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from migrations.events import PaceSet
from migrations.store import events, pace, runs
from monitoring import probes
from monitoring.probes import Reading
from worker import throttle

if TYPE_CHECKING:
    from migrations.events import Observer
    from migrations.postgres.connect import Connection
    from migrations.settings import Limits

TICK_SECONDS = 1.0


class Governor:
    """Reads, decides, writes."""

    def __init__(self, limits: Limits, *, observe: Observer) -> None:
        self._limits = limits
        self._observe = observe
        #: Our own canary: how long the last verdict took to commit. Nothing measured yet counts as no load.
        self._commit_seconds = 0.0
        self._history = probes.WalHistory(horizon_seconds=2 * limits.replica_lag_seconds.hard)

    def run_once(self, connection: Connection) -> int:
        """One verdict; returns 1 when this worker gave it, 0 when another does."""
        with connection.transaction():
            taken = pace.take(connection)
            if taken is None:
                return 0
            readings = [
                *probes.read(connection, self._limits, history=self._history),
                Reading(signal="commit_seconds", value=self._commit_seconds),
            ]
            verdict = throttle.decide(
                readings,
                self._limits,
                width=taken.width,
                max_width=taken.max_width,
                since_widened_seconds=taken.since_widened_seconds,
            )
            pace.write(
                connection,
                width=verdict.width,
                hold_reason=verdict.hold_reason,
                readings={reading.signal: reading.value for reading in readings},
            )
            if (verdict.hold_reason is None) != (taken.hold_reason is None):
                what = "hold.began" if verdict.hold_reason else "hold.ended"
                events.record(
                    connection, None, actor=runs.WORKER, what=what, reason=verdict.hold_reason or taken.hold_reason
                )
            began = time.monotonic()
        self._commit_seconds = time.monotonic() - began
        self._observe(
            PaceSet(
                width=verdict.width,
                hold_signal=verdict.hold_signal,
                hold_reason=verdict.hold_reason,
                elapsed_seconds=min(taken.age_seconds or 0.0, throttle.STALE_SECONDS),
            )
        )
        return 1
