"""Events become metrics and log lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest
from structlog.testing import capture_logs

from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.settings import Limits
from backfilld.migrations.telemetry import (
    BatchCommitted,
    BatchGaveWay,
    BatchRetried,
    BlockerSentAway,
    CommitUnknown,
    ControlApplied,
    ControlSettled,
    ErrorClass,
    Event,
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
from backfilld.migrations.wire.news import MessageMalformed, RedisBack, RedisFailed
from backfilld.monitoring import metrics
from backfilld.monitoring.observers import _ROWS, Observers

if TYPE_CHECKING:
    from collections.abc import Callable

COMMITTED = BatchCommitted(
    run=1,
    name="jobs",
    lane=2,
    kind="backfill",
    rows_walked=10,
    rows_changed=8,
    rows_residual=0,
    rows_quarantined=1,
    wait_seconds=0.004,
    statement_seconds=0.45,
    commit_seconds=0.02,
)
RETRIED = BatchRetried(
    run=1,
    name="jobs",
    lane=2,
    error_class="transient",
    sqlstate="40P01",
    message="deadlock detected",
    delay_seconds=0.5,
)
GAVE_WAY = BatchGaveWay(run=1, name="jobs", lane=2, batch_rows=50, delay_seconds=0.2)
SENT_AWAY = BlockerSentAway(
    run=1,
    name="jobs",
    how="ended",
    pid=4711,
    application_name="psql",
    role="ann",
    state="idle in transaction",
    query="UPDATE jobs SET status = 'open'",
    seconds=73.0,
)
REPORT = RunReported(
    run=1,
    name="jobs",
    phase=Phase.BACKFILL,
    rows_done=10,
    rows_total=100,
    percent=10.0,
    rows_per_second=5.0,
    eta_seconds=18,
    hold_reason=None,
)
HELD = PaceSet(width=0, hold_signal="replica_lag_seconds", hold_reason="s1 is 31.0 s behind", elapsed_seconds=1.5)
RELEASED = PaceSet(width=2, hold_signal=None, hold_reason=None, elapsed_seconds=1.0)

NOTICE: dict[str, Any] = {"run": 1, "name": "jobs", "about": "failed", "channel": "ops", "message": ""}  # Any: a field


def _value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(
    ("event", "level", "word"),
    [
        (COMMITTED, "debug", "batch.committed"),
        (RETRIED, "warning", "batch.retried"),
        (RowQuarantined(run=1, name="jobs", lane=2, sqlstate="22P02"), "warning", "row.quarantined"),
        (LaneHeld(run=1, name="jobs", lane=2, reason="no permit"), "debug", "lane.held"),
        (MessageDropped(run=1, lane=2, seq=3), "debug", "message.dropped"),
        (CommitUnknown(run=1, lane=2, committed=True), "warning", "commit.unknown"),
        (SendFailed(run=1, lane=2, message="refused"), "debug", "send.failed"),
        (RedisFailed(problem="Redis is away", remedy="Start it"), "warning", "redis.failed"),
        (RedisBack(), "info", "redis.back"),
        (MessageMalformed(queue="lanes", reason="it has no body", count=1), "warning", "message.malformed"),
        (LanesWoken(lanes=3), "debug", "lanes.woken"),
        (PhaseEntered(run=1, name="jobs", phase=Phase.VERIFY), "info", "phase.entered"),
        (StateChanged(run=1, name="jobs", state=State.PAUSED, reason="operator"), "info", "state.changed"),
        (StateChanged(run=1, name="jobs", state=State.FAILED, reason="22012"), "error", "state.changed"),
        (REPORT, "info", "run.progress"),
        (HELD, "info", "pace.held"),
        (RELEASED, "debug", "pace.set"),
        (ControlApplied(run=1, verb="pause", statements_cancelled=1), "info", "control.applied"),
        (ControlSettled(run=1, verb="pause", seconds=0.3), "info", "control.settled"),
        (LockTried(run=1, outcome="had", seconds=0.0), "debug", "lock.tried"),
        (StopSwitched(stopped=True, reason="stopped for all runs by ann"), "warning", "all.stopped"),
        (StopSwitched(stopped=False, reason=None), "warning", "all.resumed"),
        (SessionFrozen(application_name="backfilld run=1 lane=1 seq=3"), "warning", "session.frozen"),
        (SessionWaited(run=1, lane=2, pid=4711, application_name="shop", seconds=0.26), "info", "session.waited"),
        (GAVE_WAY, "info", "batch.gave_way"),
        (SENT_AWAY, "warning", "blocker.sent_away"),
        (NoticeSent(**NOTICE, outcome="delivered"), "info", "notice.sent"),
        (NoticeSent(**NOTICE, outcome="retried"), "warning", "notice.sent"),
        (NoticeSent(**NOTICE, outcome="failed"), "error", "notice.sent"),
        (SideTaskFailed(task="governor", error_class="connection", message="gone"), "warning", "side_task.failed"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_every_event_is_one_line_of_its_own_level(event: Event, level: str, word: str) -> None:
    with capture_logs() as lines:
        Observers()(event)
    assert [(line["log_level"], line["event"]) for line in lines] == [(level, word)]


def test_every_event_there_is_has_a_case_above() -> None:
    """A new event without a line would go unseen: the observer may not raise. A tick is counted only: twenty come in a second."""
    (mark,) = test_every_event_is_one_line_of_its_own_level.pytestmark  # type: ignore[attr-defined] # set by the decorator
    assert {type(case[0]) for case in mark.args[1]} == set(get_args(Event)) - {SideTaskTicked}


def test_every_event_there_is_has_a_row() -> None:
    assert set(_ROWS) == set(get_args(Event))


def test_a_committed_batch_tells_all_its_numbers() -> None:
    with capture_logs() as lines:
        Observers()(COMMITTED)
    assert lines == [{"event": "batch.committed", "log_level": "debug", **vars(COMMITTED)}]


@pytest.mark.parametrize(
    ("event", "name", "labels", "more"),
    [
        (COMMITTED, "backfilld_batch_seconds_sum", {"part": "wait"}, 0.004),
        (COMMITTED, "backfilld_batch_seconds_sum", {"part": "statement"}, 0.45),
        (COMMITTED, "backfilld_batch_seconds_sum", {"part": "commit"}, 0.02),
        (COMMITTED, "backfilld_batch_seconds_count", {"part": "statement"}, 1),
        (RETRIED, "backfilld_errors_total", {"class": "transient"}, 1),
        (LockTried(run=1, outcome="put_off", seconds=2.0), "backfilld_lock_tries_total", {"outcome": "put_off"}, 1),
        (LockTried(run=1, outcome="had", seconds=2.0), "backfilld_lock_wait_seconds_sum", {}, 2),
        (ControlSettled(run=1, verb="cancel", seconds=0.5), "backfilld_control_seconds_sum", {"verb": "cancel"}, 0.5),
        (
            ControlApplied(run=1, verb="stop", statements_cancelled=3),
            "backfilld_statements_cancelled_total",
            {},
            3,
        ),
        (SideTaskTicked(task="give way"), "backfilld_loop_ticks_total", {"loop": "give_way"}, 1),
        (
            SideTaskFailed(task="governor", error_class="connection", message="gone"),
            "backfilld_loop_errors_total",
            {"loop": "governor"},
            1,
        ),
        (RowQuarantined(run=1, name="j", lane=1, sqlstate="22P02"), "backfilld_errors_total", {"class": "data"}, 1),
        (CommitUnknown(run=1, lane=1, committed=False), "backfilld_errors_total", {"class": "connection"}, 1),
        (StateChanged(run=1, name="j", state=State.FAILED, reason=""), "backfilld_errors_total", {"class": "fatal"}, 1),
        (StateChanged(run=1, name="j", state=State.PAUSED, reason=""), "backfilld_errors_total", {"class": "fatal"}, 0),
        (SendFailed(run=1, lane=1, message=""), "backfilld_sends_failed_total", {}, 1),
        (SendFailed(run=1, lane=1, message=""), "backfilld_errors_total", {"class": "redis"}, 1),
        (MessageDropped(run=1, lane=1, seq=1), "backfilld_messages_dropped_total", {}, 1),
        (LanesWoken(lanes=4), "backfilld_reconciler_wakeups_total", {}, 4),
        (GAVE_WAY, "backfilld_give_way_total", {}, 1),
        (SENT_AWAY, "backfilld_blockers_sent_away_total", {"how": "ended"}, 1),
        (HELD, "backfilld_hold_seconds_total", {"reason": "replica_lag_seconds"}, 1.5),
        (
            PaceSet(width=0, hold_signal="of my own", hold_reason="x", elapsed_seconds=2),
            "backfilld_hold_seconds_total",
            {"reason": "other"},
            2,
        ),
        (
            ControlApplied(run=1, verb="pause", statements_cancelled=0),
            "backfilld_control_messages_total",
            {"verb": "pause"},
            1,
        ),
        (
            ControlApplied(run=1, verb="' --", statements_cancelled=0),
            "backfilld_control_messages_total",
            {"verb": "other"},
            1,
        ),
    ],
)
def test_events_are_counted(event: Event, name: str, labels: dict[str, str], more: float) -> None:
    before = _value(name, **labels)
    with capture_logs():
        Observers()(event)
    assert _value(name, **labels) - before == pytest.approx(more)


def test_an_unknown_label_makes_no_series() -> None:
    with capture_logs():
        Observers()(ControlApplied(run=1, verb="drop", statements_cancelled=0))
        Observers()(PaceSet(width=0, hold_signal="drop", hold_reason="x", elapsed_seconds=2))
    values = {
        value for metric in metrics.REGISTRY.collect() for sample in metric.samples for value in sample.labels.values()
    }
    assert "drop" not in values


def test_a_going_database_adds_no_hold() -> None:
    def held() -> float:
        samples = [s for metric in metrics.REGISTRY.collect() for s in metric.samples]
        return sum(s.value for s in samples if s.name == "backfilld_hold_seconds_total")

    before = held()
    with capture_logs():
        Observers()(RELEASED)
    assert held() == before


def test_a_hold_is_told_when_it_begins_changes_and_ends_and_not_every_second() -> None:
    observe = Observers()
    other = PaceSet(width=0, hold_signal="blocked_sessions", hold_reason="4 wait", elapsed_seconds=1)
    with capture_logs() as lines:
        for event in (RELEASED, HELD, HELD, other, RELEASED, RELEASED):
            observe(event)
    told = [(line["event"], line.get("signal")) for line in lines if line["log_level"] == "info"]
    assert told == [
        ("pace.held", "replica_lag_seconds"),
        ("pace.held", "blocked_sessions"),
        ("pace.released", "blocked_sessions"),
    ]


def _raise(*_args: object, **_kwargs: object) -> None:
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    "broken",
    [
        lambda observe: setattr(observe, "_count", _raise),
        lambda observe: setattr(observe, "_tell", _raise),
        lambda observe: setattr(observe, "_log", None),  # not even the failure can be told
    ],
)
def test_an_observer_never_raises(broken: Callable[[Observers], None]) -> None:
    observe = Observers()
    broken(observe)
    with capture_logs():
        observe(COMMITTED)


def test_the_series_of_closed_sets_are_there_from_the_start() -> None:
    """An increase from nothing to 1 is invisible to rate()."""
    for part in ("wait", "statement", "commit"):
        assert metrics.REGISTRY.get_sample_value("backfilld_batch_seconds_count", {"part": part}) is not None
    for error_class in get_args(ErrorClass):
        assert metrics.REGISTRY.get_sample_value("backfilld_errors_total", {"class": error_class}) is not None
    for signal in Limits.model_fields:
        assert metrics.REGISTRY.get_sample_value("backfilld_hold_seconds_total", {"reason": signal}) is not None


def test_a_signal_of_the_operators_has_a_series_of_its_own_once_it_is_known() -> None:
    metrics.know_signals(["queue_length"])
    Observers()(PaceSet(width=1, hold_signal="queue_length", hold_reason="x", elapsed_seconds=2))
    assert metrics.REGISTRY.get_sample_value("backfilld_hold_seconds_total", {"reason": "queue_length"}) == 2


def test_no_metric_is_a_gauge() -> None:
    """A gauge of several processes needs a rule for adding up, and one that outlives its process lies."""
    assert {metric.type for metric in metrics.REGISTRY.collect()} == {"counter", "histogram"}
