"""What happens, as values. The engine emits them; metrics and log lines are listeners (`backfilld.monitoring.observers`).

Seconds are wall seconds of this process; rows are rows the database reported, never rows that were planned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from backfilld.migrations.wire.news import MessageMalformed, RedisBack, RedisFailed

if TYPE_CHECKING:
    from backfilld.migrations.record.states import Phase, State


@dataclass(frozen=True, kw_only=True)
class BatchCommitted:
    """One transaction of one lane committed."""

    run: int
    name: str
    lane: int
    kind: str
    #: Keys the walk passed over.
    rows_walked: int
    #: Rows an UPDATE changed; for a verifying batch, always 0.
    rows_changed: int
    #: Rows a verifying batch found still needing work.
    rows_residual: int
    rows_quarantined: int
    #: From taking a connection to holding lane, permit and bounds.
    wait_seconds: float
    #: Inside the walking statements.
    statement_seconds: float
    #: Writing the checkpoint and committing.
    commit_seconds: float


@dataclass(frozen=True, kw_only=True)
class BatchRetried:
    """A batch was rolled back by an error that goes away; the lane tries again after `delay_seconds`."""

    run: int
    name: str
    lane: int
    error_class: ErrorClass
    sqlstate: str | None
    message: str
    delay_seconds: float


@dataclass(frozen=True, kw_only=True)
class RowQuarantined:
    """A row could not be converted and was quarantined."""

    run: int
    name: str
    lane: int
    sqlstate: str


@dataclass(frozen=True, kw_only=True)
class LaneHeld:
    """A lane was woken and may not work now; it comes back by itself."""

    run: int
    name: str
    lane: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class MessageDropped:
    """A message named a step that was already taken, or a lane that is not there."""

    run: int
    lane: int
    seq: int


@dataclass(frozen=True, kw_only=True)
class CommitUnknown:
    """The connection went away during COMMIT; the lane's `seq` told which way it went."""

    run: int
    lane: int
    committed: bool


@dataclass(frozen=True, kw_only=True)
class SendFailed:
    """A wake-up could not be sent; the reconciler will find the lane."""

    run: int
    lane: int
    message: str


@dataclass(frozen=True, kw_only=True)
class LanesWoken:
    """The reconciler found due lanes that no message had woken."""

    lanes: int


@dataclass(frozen=True, kw_only=True)
class PhaseEntered:
    run: int
    name: str
    phase: Phase


@dataclass(frozen=True, kw_only=True)
class StateChanged:
    run: int
    name: str
    state: State
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunReported:
    """The progress of a run, reported now and then while it works."""

    run: int
    name: str
    phase: Phase
    rows_done: int
    rows_total: int | None
    percent: float
    rows_per_second: float
    eta_seconds: float | None
    hold_reason: str | None


@dataclass(frozen=True, kw_only=True)
class PaceSet:
    """The governor wrote its verdict."""

    width: int
    #: The longest a batch may last; None: as long as its run says.
    batch_seconds: float | None = None
    #: Seconds a lane rests for each second of work.
    rest: float = 0.0
    #: A reason from a closed set of signal names, or None when work may continue.
    hold_signal: str | None
    #: The reason in words, for people.
    hold_reason: str | None
    #: Seconds since the governor's last verdict: what a hold has lasted longer by.
    elapsed_seconds: float


@dataclass(frozen=True, kw_only=True)
class ControlApplied:
    """A control message was taken up."""

    run: int
    verb: str
    statements_cancelled: int


@dataclass(frozen=True, kw_only=True)
class ControlSettled:
    """What a person wished has come true: no batch of the run is in flight any more."""

    run: int
    verb: Literal["pause", "cancel", "rollback"]
    #: Since the wish was put on record, by the database's clock.
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StopSwitched:
    """A person stopped all runs of the database, or lifted the stop."""

    stopped: bool
    #: Who stopped them and since when; None once the stop is lifted.
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class SessionFrozen:
    """A session of ours held a lane and did nothing: its worker is frozen, and it was ended."""

    application_name: str


@dataclass(frozen=True, kw_only=True)
class SessionWaited:
    """A session of others had waited too long for a batch of ours, which was cancelled for it."""

    run: int
    lane: int
    pid: int
    application_name: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BatchGaveWay:
    """A batch was cancelled before its time was up; the lane tries again after `delay_seconds` with `batch_rows`."""

    run: int
    name: str
    lane: int
    batch_rows: int
    delay_seconds: float


@dataclass(frozen=True, kw_only=True)
class LockTried:
    """A DDL step tried for its lock: acquired, timed out, or put off because of the present holders."""

    run: int
    outcome: Literal["had", "timed_out", "put_off"]
    #: Since the step first looked for its lock.
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BlockerSentAway:
    """A session that kept our DDL from its lock was cancelled or ended, as the run's policy says."""

    run: int
    name: str
    how: Literal["cancelled", "ended"]
    pid: int
    application_name: str
    role: str | None
    state: str | None
    query: str | None
    #: How old its transaction was.
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SideTaskTicked:
    """A side task finished a tick."""

    task: str


@dataclass(frozen=True, kw_only=True)
class NoticeSent:
    """A notice was delivered by a channel, will be tried again, or has failed for good."""

    run: int
    name: str
    about: str
    channel: str
    outcome: Literal["delivered", "retried", "failed"]
    #: Why not; never a secret of the channel.
    message: str


@dataclass(frozen=True, kw_only=True)
class SideTaskFailed:
    """A side task of a worker (reconciler, governor, control) met an error; it continues at its next tick."""

    task: str
    error_class: ErrorClass
    message: str


#: What happens next after an error: a closed set, so that it can be a metric's label.
ErrorClass = Literal["transient", "data", "connection", "fatal", "redis"]

Event = (
    BatchCommitted
    | BatchRetried
    | RowQuarantined
    | LaneHeld
    | MessageDropped
    | CommitUnknown
    | SendFailed
    | LanesWoken
    | PhaseEntered
    | StateChanged
    | RunReported
    | PaceSet
    | ControlApplied
    | ControlSettled
    | StopSwitched
    | SessionFrozen
    | SessionWaited
    | BatchGaveWay
    | LockTried
    | BlockerSentAway
    | SideTaskTicked
    | NoticeSent
    | SideTaskFailed
    | RedisFailed
    | RedisBack
    | MessageMalformed
)


class Observer(Protocol):
    """Receives events. Called in the thread where it happened; must be quick and never raise."""

    def __call__(self, event: Event, /) -> None: ...


def nobody(event: Event, /) -> None:
    """The observer that looks away, for callers who do not care."""
