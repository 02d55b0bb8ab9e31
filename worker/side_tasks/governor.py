"""The governor: reads the database's load about once a second and writes how hard we may work.

One worker at a time does it, the one that holds the row of `pace`. When none does, the last verdict grows old, and a verdict too
old to trust holds all work. Between verdicts, while runs are at work, a canary commits several times a second. While no run is,
verdicts are rare; now and then the governor looks as closely as for a run, to learn what the application takes without us.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from backfilld.migrations.holds import STALE_SECONDS
from backfilld.migrations.record import audit, pace, runs
from backfilld.migrations.settings import limits_by_name
from backfilld.migrations.telemetry import PaceSet
from backfilld.monitoring import probes
from backfilld.worker.side_tasks import baseline, throttle
from backfilld.worker.side_tasks.activity import Activity
from backfilld.worker.side_tasks.canary import Canary

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.pace import Taken
    from backfilld.migrations.settings import Limits, Signal
    from backfilld.migrations.telemetry import Observer
    from backfilld.monitoring.probes import Reading, Span
    from backfilld.worker.side_tasks.throttle import Verdict

#: Between two commits of the canary.
TICK_SECONDS = 0.15
#: Between two verdicts, while a run is at work.
VERDICT_SECONDS = 1.0
#: The same while none is: below `holds.STALE_SECONDS`, so that a run may begin on the last one.
IDLE_VERDICT_SECONDS = 13.0
#: How often, while no run is at work and others are, their latency is learned, and for how long: a little longer than the
#: canary's window, so that there is an average of all of it.
LEARN_SECONDS, LESSON_SECONDS = 120.0, 7.0


class Governor:
    """Reads, decides, writes."""

    def __init__(
        self,
        limits: Limits,
        *,
        observe: Observer,
        signals: Sequence[Signal] = (),
        database_url: str = "",
        activity: Activity | None = None,
    ) -> None:
        """`signals` are the operator's own; those of SQL are asked at `database_url`."""
        self._activity = activity or Activity()
        self._limits = limits_by_name(limits, signals)
        self._observe = observe
        self._database = probes.Database(limits)
        self._custom = probes.Custom(signals, database_url=database_url)
        self._statements = probes.Statements()
        self._canary = Canary()
        #: When the last verdict was given here, or left to another worker (`time.monotonic`).
        self._judged_at = 0.0
        #: This worker gave the last verdict; there are runs it was given for; and others, whose baseline can be learned.
        self._on_duty = self._working = self._others_present = False
        #: When the last lesson began (`time.monotonic`).
        self._learned_at = -LEARN_SECONDS

    def tick(self, connection: Connection) -> int:
        """A verdict when it is time, and else a canary, or only a look at who is there."""
        now = time.monotonic()
        if self._on_duty and self._others_present and now - self._learned_at >= LEARN_SECONDS:
            self._learned_at = now
        if now - self._judged_at >= (VERDICT_SECONDS if self._is_awake else IDLE_VERDICT_SECONDS):
            return self.run_once(connection)
        if self._working or (self._on_duty and self._is_awake and self._canary.silent_seconds >= VERDICT_SECONDS):
            self._canary.commit(connection)
        elif self._on_duty and self._others_present and self._is_awake:
            self._canary.count_sessions(connection)
        return 0

    def wait(self, stopping: threading.Event) -> None:
        """Wait until it is time to look again, or the process stops."""
        due = self._judged_at + IDLE_VERDICT_SECONDS
        if self._on_duty and self._others_present:
            due = min(due, self._learned_at + LEARN_SECONDS)
        rest = TICK_SECONDS if self._is_awake else max(TICK_SECONDS, due - time.monotonic())
        self._activity.wait(stopping, seconds=TICK_SECONDS, idle_seconds=rest)

    @property
    def _is_awake(self) -> bool:
        """Whether a run is at work, or a lesson is under way."""
        return self._activity.at_work or time.monotonic() - self._learned_at < LESSON_SECONDS

    def run_once(self, connection: Connection) -> int:
        """One verdict; returns 1 when this worker gave it, 0 when another does."""
        self._judged_at = time.monotonic()
        self._on_duty = self._working = False
        if self._is_awake:
            self._canary.warm_up(connection)
        with connection.transaction():
            taken = pace.take(connection)
            if taken is None:
                return 0
            readings, scene = self._database.read(connection, at_work=self._activity.at_work)
            self._canary.count(scene.transactions)
            readings = [*readings, *self._canary.readings, *self._custom.read()]
            span = self._statements.read(connection)
            verdict = self._decide(taken, readings, span, others=scene.others)
            self._write(connection, taken, verdict, readings, tell=scene.runs)
        self._on_duty, self._working, self._others_present = True, scene.runs, scene.others >= pace.MIN_OTHERS
        self._observe(
            PaceSet(
                width=verdict.width,
                batch_seconds=verdict.batch_seconds,
                rest=verdict.rest,
                hold_signal=verdict.hold_signal,
                hold_reason=verdict.hold_reason,
                elapsed_seconds=min(taken.age_seconds or 0.0, STALE_SECONDS),
            )
        )
        return 1

    def _decide(self, taken: Taken, readings: list[Reading], span: Span | None, *, others: int) -> Verdict:
        """The verdict; adds what others compare_latency to `readings`."""
        elapsed = min(taken.age_seconds or VERDICT_SECONDS, STALE_SECONDS)
        memory = throttle.Memory.from_json(taken.memory)
        latency, memory = baseline.compare_latency(
            self._canary.latency, memory, span=span, others=others, elapsed_seconds=elapsed
        )
        readings.append(latency)
        return throttle.decide(
            readings,
            self._limits,
            memory=memory,
            others=others,
            working=self._canary.working,
            width=taken.width,
            max_width=taken.max_width,
            elapsed_seconds=elapsed,
            since_widened_seconds=taken.since_widened_seconds,
        )

    def _write(
        self, connection: Connection, taken: Taken, verdict: Verdict, readings: Sequence[Reading], *, tell: bool
    ) -> None:
        pace.write(
            connection,
            width=verdict.width,
            batch_seconds=verdict.batch_seconds,
            rest=verdict.rest,
            hold_reason=verdict.hold_reason,
            readings={reading.signal: self._shown(reading) for reading in readings if reading.signal in self._limits},
            memory=verdict.memory.to_json(),
        )
        before = throttle.Memory.from_json(taken.memory).hold_signal
        if (verdict.hold_reason is None) != (taken.hold_reason is None):
            what = "hold.began" if verdict.hold_reason else "hold.ended"
            audit.record(
                connection,
                None,
                actor=runs.WORKER,
                what=what,
                signal=verdict.hold_signal or before,
                reason=verdict.hold_reason or taken.hold_reason,
            )
        elif verdict.tell and tell:
            audit.record(
                connection,
                None,
                actor=runs.WORKER,
                what="pace.changed",
                width=verdict.width,
                batch_seconds=verdict.batch_seconds,
                rest=verdict.rest,
                reason=verdict.slow_reason or "nothing slows work down",
            )

    def _shown(self, reading: Reading) -> dict[str, Any]:
        """A reading as it is kept, for status, metrics and people. Any: JSON."""
        limit = self._limits[reading.signal]
        return {"value": reading.value, "soft": limit.soft, "hard": limit.hard, "detail": reading.detail}
