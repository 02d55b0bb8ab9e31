"""Events become metrics and log lines, here and nowhere else: one table of what is counted, and how it is worded."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import structlog

from backfilld.migrations.record.states import State
from backfilld.migrations.telemetry import (
    BatchCommitted,
    BatchGaveWay,
    BatchRetried,
    BlockerSentAway,
    CommitUnknown,
    ControlApplied,
    ControlSettled,
    LaneHeld,
    LanesWoken,
    LockTried,
    LoopFailed,
    LoopTicked,
    MessageDropped,
    NoticeSent,
    PaceSet,
    PhaseEntered,
    RowQuarantined,
    RunReported,
    SendFailed,
    SessionFrozen,
    SessionWaited,
    StateChanged,
    StopSwitched,
)
from backfilld.migrations.wire.messages import CONTROL_VERBS
from backfilld.monitoring import metrics
from backfilld.monitoring.exemplars import Exemplars

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from backfilld.migrations.telemetry import Event


class Observers:
    """Counts and logs every event of a process. Never raises: the work matters more than the word about it."""

    def __init__(self) -> None:
        self._log: FilteringBoundLogger = structlog.get_logger("backfilld")
        #: The signal of the hold that was last logged, so that a hold is one line and not one per second.
        self._hold_signal: str | None = None
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self._exemplars = Exemplars(Path(folder) if folder else None, metrics.BATCH_BUCKETS)

    def __call__(self, event: Event, /) -> None:
        try:
            self._count(event)
            self._tell(event)
        except Exception:  # noqa: BLE001 - the edge of the engine: a batch that committed must not fail for a log line
            with suppress(Exception):
                self._log.exception("observer.failed", kind=type(event).__name__)

    def _count(self, event: Event) -> None:  # noqa: C901, PLR0912 - one case for each event, no deeper
        match event:
            case BatchCommitted():
                for part, seconds in (
                    ("wait", event.wait_seconds),
                    ("statement", event.statement_seconds),
                    ("commit", event.commit_seconds),
                ):
                    metrics.BATCH_SECONDS.labels(part).observe(seconds)
                    self._exemplars.keep(part, seconds, run=event.name, lane=event.lane)
            case BatchRetried():
                metrics.ERRORS.labels(event.error_class).inc()
            case LoopTicked():
                metrics.LOOP_TICKS.labels(_loop(event.loop)).inc()
            case LoopFailed():
                metrics.ERRORS.labels(event.error_class).inc()
                metrics.LOOP_ERRORS.labels(_loop(event.loop)).inc()
            case ControlSettled():
                metrics.CONTROL_SECONDS.labels(event.verb).observe(event.seconds)
            case LockTried():
                metrics.LOCK_TRIES.labels(event.outcome).inc()
                if event.outcome == "had":
                    metrics.LOCK_WAIT_SECONDS.observe(event.seconds)
            case RowQuarantined():
                metrics.ERRORS.labels("data").inc()
            case CommitUnknown():
                metrics.ERRORS.labels("connection").inc()
            case SendFailed():
                metrics.SENDS_FAILED.inc()
                metrics.ERRORS.labels("redis").inc()
            case MessageDropped():
                metrics.MESSAGES_DROPPED.inc()
            case LanesWoken():
                metrics.RECONCILER_WAKEUPS.inc(event.lanes)
            case StateChanged():
                # The one sign of a fatal error: the batch that met it is neither committed nor retried.
                if event.state is State.FAILED:
                    metrics.ERRORS.labels("fatal").inc()
            case PaceSet():
                if event.hold_signal is not None:
                    reason = event.hold_signal if event.hold_signal in metrics.HOLD_REASONS else metrics.OTHER
                    metrics.HOLD_SECONDS.labels(reason).inc(event.elapsed_seconds)
            case ControlApplied():
                # Whoever can write to Redis can invent verbs; they do not get series of their own.
                metrics.CONTROL_MESSAGES.labels(event.verb if event.verb in CONTROL_VERBS else metrics.OTHER).inc()
                metrics.STATEMENTS_CANCELLED.inc(event.statements_cancelled)
            case BatchGaveWay():
                metrics.GIVE_WAYS.inc()
            case BlockerSentAway():
                metrics.BLOCKERS_SENT_AWAY.labels(event.how).inc()
            case NoticeSent():
                metrics.NOTIFICATIONS.labels(event.outcome).inc()
            case LaneHeld() | PhaseEntered() | RunReported() | StopSwitched() | SessionFrozen() | SessionWaited():
                pass  # told, not counted: a hold is counted in seconds, a phase shows in `backfilld_run_info`
            case _:
                assert_never(event)

    def _tell(self, event: Event) -> None:  # noqa: C901, PLR0912, PLR0915 - as above
        facts = vars(event)
        match event:
            case BatchCommitted():
                self._log.debug("batch.committed", **facts)
            case BatchRetried():
                self._log.warning("batch.retried", **facts)
            case RowQuarantined():
                self._log.warning("row.quarantined", **facts)
            case LaneHeld():
                self._log.debug("lane.held", **facts)
            case MessageDropped():
                self._log.debug("message.dropped", **facts)
            case CommitUnknown():
                self._log.warning("commit.unknown", **facts)
            case SendFailed():
                self._log.warning("send.failed", **facts)
            case LanesWoken():
                self._log.info("lanes.woken", **facts)
            case PhaseEntered():
                self._log.info("phase.entered", **facts)
            case StateChanged():
                tell = self._log.error if event.state is State.FAILED else self._log.info
                tell("state.changed", **facts)
            case RunReported():
                self._log.info("run.progress", **facts)
            case PaceSet():
                self._tell_pace(event)
            case ControlApplied():
                self._log.info("control.applied", **facts)
            case ControlSettled():
                self._log.info("control.settled", **facts)
            case LockTried():
                self._log.debug("lock.tried", **facts)
            case LoopTicked():
                pass  # twenty times a second
            case StopSwitched():
                self._log.warning("all.stopped" if event.stopped else "all.resumed", **facts)
            case SessionFrozen():
                self._log.warning("session.frozen", **facts)
            case SessionWaited():
                self._log.info("session.waited", **facts)
            case BatchGaveWay():
                self._log.info("batch.gave_way", **facts)
            case BlockerSentAway():
                self._log.warning("blocker.sent_away", **facts)
            case NoticeSent():
                level = {"delivered": self._log.info, "retried": self._log.warning, "failed": self._log.error}
                level[event.outcome]("notice.sent", **facts)
            case LoopFailed():
                self._log.warning("loop.failed", **facts)
            case _:
                assert_never(event)

    def _tell_pace(self, event: PaceSet) -> None:
        before, self._hold_signal = self._hold_signal, event.hold_signal
        if event.hold_signal == before:
            self._log.debug("pace.set", **vars(event))
        elif event.hold_signal is None:
            self._log.info("pace.released", signal=before, width=event.width)
        else:
            self._log.info("pace.held", signal=event.hold_signal, reason=event.hold_reason)


def _loop(name: str) -> str:
    """A side task's name as a label."""
    label = name.replace(" ", "_")
    return label if label in metrics.LOOPS else metrics.OTHER
