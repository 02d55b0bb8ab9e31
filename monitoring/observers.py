"""Events become metrics and log lines, here and nowhere else: one table of how each is worded, how loud, and what it counts."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

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
    MessageDropped,
    NoticeSent,
    PaceSet,
    PhaseEntered,
    RowQuarantined,
    RunReported,
    SendFailed,
    SessionFrozen,
    SessionWaited,
    SideTaskFailed,
    SideTaskTicked,
    StateChanged,
    StopSwitched,
)
from backfilld.migrations.wire.messages import CONTROL_VERBS
from backfilld.migrations.wire.news import MessageMalformed, RedisBack, RedisFailed
from backfilld.monitoring import metrics
from backfilld.monitoring.exemplars import Exemplars

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from backfilld.migrations.telemetry import Event


Level = Literal["debug", "info", "warning", "error"]
E = TypeVar("E")


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What becomes of one kind of event. Any: that kind."""

    #: The name of its log line; None for none.
    word: Callable[[Any], str | None]
    level: Callable[[Any], Level]
    count: Callable[[Any], object]


def _row(
    kind: type[E],
    word: str | Callable[[E], str] | None,
    level: Level | Callable[[E], Level] = "info",
    count: Callable[[E], object] = lambda _: None,
) -> tuple[type[E], _Row]:
    named: Callable[[E], str | None] = word if callable(word) else lambda _: word
    loud: Callable[[E], Level] = level if callable(level) else lambda _: level
    return kind, _Row(word=named, level=loud, count=count)


def _count_parts(event: BatchCommitted) -> None:
    for part, seconds in _parts(event):
        metrics.BATCH_SECONDS.labels(part).observe(seconds)


def _count_side_task_failed(event: SideTaskFailed) -> None:
    metrics.ERRORS.labels(event.error_class).inc()
    metrics.LOOP_ERRORS.labels(_loop(event.task)).inc()


def _count_send_failed(_: SendFailed) -> None:
    metrics.SENDS_FAILED.inc()
    metrics.ERRORS.labels("redis").inc()


def _count_lock(event: LockTried) -> None:
    metrics.LOCK_TRIES.labels(event.outcome).inc()
    if event.outcome == "had":
        metrics.LOCK_WAIT_SECONDS.observe(event.seconds)


def _count_state(event: StateChanged) -> None:
    # The one sign of a fatal error: the batch that met it is neither committed nor retried.
    if event.state is State.FAILED:
        metrics.ERRORS.labels("fatal").inc()


def _count_hold(event: PaceSet) -> None:
    if event.hold_signal is not None:
        reason = event.hold_signal if event.hold_signal in metrics.HOLD_REASONS else metrics.OTHER
        metrics.HOLD_SECONDS.labels(reason).inc(event.elapsed_seconds)


def _count_control(event: ControlApplied) -> None:
    # Anyone who can write to Redis can invent verbs; they do not get series of their own.
    metrics.CONTROL_MESSAGES.labels(event.verb if event.verb in CONTROL_VERBS else metrics.OTHER).inc()
    metrics.STATEMENTS_CANCELLED.inc(event.statements_cancelled)


_NOTICE_LEVELS: dict[str, Level] = {"delivered": "info", "retried": "warning", "failed": "error"}

#: Events without a count: a hold is counted in seconds, and a phase shows in `backfilld_run_info`.
_ROWS: dict[type, _Row] = dict(
    (
        _row(BatchCommitted, "batch.committed", "debug", _count_parts),
        _row(BatchRetried, "batch.retried", "warning", lambda event: metrics.ERRORS.labels(event.error_class).inc()),
        _row(BatchGaveWay, "batch.gave_way", "info", lambda _: metrics.GIVE_WAYS.inc()),
        _row(RowQuarantined, "row.quarantined", "warning", lambda _: metrics.ERRORS.labels("data").inc()),
        _row(CommitUnknown, "commit.unknown", "warning", lambda _: metrics.ERRORS.labels("connection").inc()),
        _row(LaneHeld, "lane.held", "debug"),
        _row(LanesWoken, "lanes.woken", "debug", lambda event: metrics.RECONCILER_WAKEUPS.inc(event.lanes)),
        _row(MessageDropped, "message.dropped", "debug", lambda _: metrics.MESSAGES_DROPPED.inc()),
        # The broker has told why, once; this is said for each message.
        _row(SendFailed, "send.failed", "debug", _count_send_failed),
        _row(RedisFailed, "redis.failed", "warning"),
        _row(RedisBack, "redis.back"),
        _row(MessageMalformed, "message.malformed", "warning"),
        _row(PhaseEntered, "phase.entered"),
        _row(
            StateChanged,
            "state.changed",
            lambda event: "error" if event.state is State.FAILED else "info",
            _count_state,
        ),
        _row(RunReported, "run.progress"),
        _row(PaceSet, "pace.set", "debug", _count_hold),
        _row(StopSwitched, lambda event: "all.stopped" if event.stopped else "all.resumed", "warning"),
        _row(ControlApplied, "control.applied", "info", _count_control),
        _row(
            ControlSettled,
            "control.settled",
            "info",
            lambda event: metrics.CONTROL_SECONDS.labels(event.verb).observe(event.seconds),
        ),
        _row(LockTried, "lock.tried", "debug", _count_lock),
        _row(
            BlockerSentAway,
            "blocker.sent_away",
            "warning",
            lambda event: metrics.BLOCKERS_SENT_AWAY.labels(event.how).inc(),
        ),
        _row(SessionFrozen, "session.frozen", "warning"),
        _row(SessionWaited, "session.waited"),
        # Twenty times a second, so there is no line of it.
        _row(SideTaskTicked, None, "debug", lambda event: metrics.LOOP_TICKS.labels(_loop(event.task)).inc()),
        _row(SideTaskFailed, "side_task.failed", "warning", _count_side_task_failed),
        _row(
            NoticeSent,
            "notice.sent",
            lambda event: _NOTICE_LEVELS[event.outcome],
            lambda event: metrics.NOTIFICATIONS.labels(event.outcome).inc(),
        ),
    )
)


class Observers:
    """Counts and logs every event of a process. Never raises: a batch must not fail for a log line."""

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

    def _count(self, event: Event) -> None:
        _ROWS[type(event)].count(event)
        if isinstance(event, BatchCommitted):
            for part, seconds in _parts(event):
                self._exemplars.keep(part, seconds, run=event.name, lane=event.lane)

    def _tell(self, event: Event) -> None:
        row = _ROWS[type(event)]
        if isinstance(event, PaceSet) and event.hold_signal != self._hold_signal:
            self._tell_hold(event)
        elif (word := row.word(event)) is not None:
            getattr(self._log, row.level(event))(word, **vars(event))

    def _tell_hold(self, event: PaceSet) -> None:
        """A hold that begins, changes or ends."""
        before, self._hold_signal = self._hold_signal, event.hold_signal
        if event.hold_signal is None:
            self._log.info("pace.released", signal=before, width=event.width)
        else:
            self._log.info("pace.held", signal=event.hold_signal, reason=event.hold_reason)


def _parts(event: BatchCommitted) -> tuple[tuple[str, float], ...]:
    return (
        ("wait", event.wait_seconds),
        ("statement", event.statement_seconds),
        ("commit", event.commit_seconds),
    )


def _loop(name: str) -> str:
    """A side task's name as a label."""
    label = name.replace(" ", "_")
    return label if label in metrics.LOOPS else metrics.OTHER
