"""What a run is doing, what it waits for, and what would let it continue, in words.

`explain` decides and is pure; `read` asks the database and does nothing else. A remedy ends in a command wherever there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, assert_never

from backfilld.migrations.application.checked import HOLDING, MOMENTS, Kind, holding
from backfilld.migrations.holds import Cause
from backfilld.migrations.postgres.safe_path import one_moment
from backfilld.migrations.record import audit, lanes
from backfilld.migrations.record import pace as pace_store
from backfilld.migrations.record.states import ENDED, Phase, State
from backfilld.migrations.walks.sizing import fixed_seconds
from backfilld.monitoring import pace as pace_report
from backfilld.monitoring import progress
from backfilld.monitoring.next_command import for_rows_set_aside
from backfilld.monitoring.words import counted, duration, number, rows_left, sentence, signal_name, signal_value

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from backfilld.migrations.holds import Hold
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.lanes import Waiting
    from backfilld.migrations.record.model import Pace, Run
    from backfilld.migrations.settings import Limits
    from backfilld.monitoring.pace import Signal
    from backfilld.monitoring.progress import Progress

#: A lane that is due is taken within a second; the reconciler needs a few more where its message got lost.
UNTAKEN_SECONDS = 10.0
#: A stop takes about a second. After this no worker is there to complete it.
UNSETTLED_SECONDS = 5.0
#: A batch lasts half a second; a step of DDL that scans may last for hours, but holds a session.
STILL_SECONDS = 60.0

#: A batch that costs more of its target than this before its first row is worth a sentence.
FIXED_SHARE = 0.5

#: What a check of the application found that stays true of a completed run.
LASTING = frozenset({Kind.REGRESSION, Kind.API})

#: The event that says who asked for a state: the worker, who only brings it about, is in the state's own.
ASKED: dict[State, State] = {
    State.PAUSED: State.PAUSING,
    State.CANCELLED: State.CANCELLING,
    State.ROLLED_BACK: State.ROLLING_BACK,
}

#: What helps against a load signal, by its name.
AGAINST: dict[str, str] = {
    "replica_lag_seconds": "look at the standby: is it up, does a query block its replay (pg_stat_replication)",
    "slot_retained_bytes": "look at the slot furthest behind, and drop one that has no reader (pg_replication_slots)",
    "slot_used_share": "let the slot's consumer catch up before the slot is lost (pg_replication_slots)",
    "archive_backlog_segments": "find out why the archiver is behind (pg_stat_archiver)",
    "wal_bytes_per_second": "it falls by itself once the heavy writer is done",
    "blocked_sessions": "sessions wait for batches; smaller batches hold locks more briefly: backfilld pace {name} --batch-seconds 0.1",
    "lock_waiters": "find the session that holds the lock (pg_blocking_pids)",
    "active_connections": "it falls by itself when the application has less to do",
    "connections": "look for idle sessions (pg_stat_activity), or raise max_connections",
    "commit_seconds": "look at the disk of the WAL, and at synchronous standbys",
    "foreground_latency": "the application is slower than without backfilld; it recovers while work is on hold",
    "snapshot_age_seconds": "end the oldest transaction, or wait for it; until then vacuum cannot clean up (pg_stat_activity, backend_xmin)",
    "dead_tuples": "let vacuum catch up: VACUUM the table, or make autovacuum faster for it",
    "table_growth": "the table has grown more than it should: find out what keeps vacuum from freeing space",
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What there is to know about a run at one moment."""

    run: Progress
    pace: Pace
    signals: Sequence[Signal]
    #: Lanes of all runs that are due.
    waiting: Waiting
    #: Sessions of ours, of all runs, that are inside a batch or a step.
    working_sessions: int
    #: Who asked for the run's state; None where no person did, or none is on record.
    asked_by: str | None
    #: A person has asked for its rollback.
    goes_back: bool = False
    #: Rows that the rollback did not touch, as they were written or removed since, and the keys of the first.
    rows_left: int = 0
    keys_left: tuple[tuple[str, ...], ...] = ()
    #: What a batch of the run costs before its first row, and how long one should last; 0 where that is not known.
    batch_fixed_seconds: float = 0.0
    batch_target_seconds: float = 0.0


@dataclass(frozen=True)
class Remedy:
    """What would let a run continue."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One run in words."""

    run: int
    name: str
    #: What holds the run, where it is held.
    cause: Cause | None
    #: What is going on, and why.
    sentences: tuple[str, ...]
    #: What would let it continue, each with its command where there is one.
    remedies: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "run": self.run,
            "name": self.name,
            "cause": str(self.cause) if self.cause is not None else None,
            "sentences": list(self.sentences),
            "remedies": list(self.remedies),
        }


def read(connection: Connection, run: Run, limits: Limits) -> Explanation:
    """Explain a run as it is now. The connection must not be in a transaction."""
    with one_moment(connection):
        pace = pace_store.read(connection)
        what = f"run.{ASKED.get(run.state, run.state)}"
        # A rollback that stops is resumed, by somebody else perhaps; it was asked for once.
        find = audit.first if run.rollback.requested else audit.latest
        asked = find(connection, run.run, what=what)
        left, left_keys = audit.rows_left(connection, run.run)
        facts = Facts(
            run=progress.read_within(connection, [run])[0],
            pace=pace,
            signals=pace_report.signals(pace, limits),
            waiting=lanes.waiting(connection),
            working_sessions=pace_store.working_sessions(connection),
            asked_by=str(asked["actor"]) if asked is not None else None,
            goes_back=run.rollback.requested,
            rows_left=left,
            keys_left=tuple(left_keys),
            batch_fixed_seconds=_fixed_seconds(connection, run),
            batch_target_seconds=min(run.settings.batch_seconds, pace.batch_seconds or run.settings.batch_seconds),
        )
    return explain(facts)


def _fixed_seconds(connection: Connection, run: Run) -> float:
    """The median over the lanes that are at work."""
    found = [
        fixed_seconds(lane.recent) for lane in lanes.of_run(connection, run.run) if lane.done_at is None and lane.recent
    ]
    return median(found) if found else 0.0


def explain(facts: Facts) -> Explanation:
    """Put the facts into words."""
    run = facts.run
    told = [*_by_state(facts), *_left_aside(run)]
    return Explanation(
        run=run.run,
        name=run.name,
        cause=run.hold.cause if run.hold is not None else None,
        sentences=tuple(one for one in told if isinstance(one, str)),
        remedies=tuple(dict.fromkeys(one.text for one in told if isinstance(one, Remedy))),
    )


def _by_state(facts: Facts) -> Iterator[str | Remedy]:
    run = facts.run
    match run.state:
        case State.QUEUED | State.RUNNING | State.ROLLING_BACK:
            yield from _going(facts)
        case State.WAITING:
            yield from _awaiting(run)
        case State.PAUSING | State.CANCELLING:
            yield from _stopping(facts)
        case State.PAUSED:
            yield from _paused(facts)
        case State.FAILED:
            yield from _failed(facts)
        case State.CANCELLED | State.ROLLED_BACK | State.COMPLETED:
            yield from _ended(facts)
        case _:
            assert_never(run.state)


# --- runs that should move ---------------------------------------------------------------------------------------------


def _going(facts: Facts) -> Iterator[str | Remedy]:
    run = facts.run
    yield _where(run)
    if run.hold is not None:
        yield from _held(facts, run.hold)
        return
    if run.index_work is not None:
        yield f"An index is being built or dropped: {run.index_work.in_words}."
    elif facts.waiting.seconds > UNTAKEN_SECONDS and not facts.working_sessions:
        due = counted(facts.waiting.lanes, "lane has", "lanes have")
        yield f"{due} been due for up to {duration(facts.waiting.seconds)}, and no worker has taken work."
        yield Remedy(
            "check that the worker processes are alive and that Redis answers (/ready of each worker names what is not); "
            "to start a worker: backfilld worker"
        )
    elif run.progress_age_seconds > STILL_SECONDS and not facts.working_sessions:
        yield f"Nothing holds it, and yet no batch has committed for {duration(run.progress_age_seconds)}."
        yield Remedy(f"see what happened last: backfilld events {run.name}")
    else:
        yield _at_work(run)
    yield from _slowed(facts)


def _where(run: Progress) -> str:
    if run.state is State.QUEUED:
        return f"It was enqueued {duration(run.state_seconds)} ago, and no worker has taken its first step yet."
    done = f", {run.percent:.1f} % done" if run.rows_total is not None or run.old_values_walk is not None else ""
    if run.state is State.ROLLING_BACK:
        return f"It has been rolling back for {duration(run.state_seconds)}, now in phase {run.phase}{done}."
    return f"It has been in phase {run.phase} for {duration(run.phase_seconds)}{done}."


def _at_work(run: Progress) -> str:
    left = f", about {duration(run.eta_seconds)} left" if run.eta_seconds is not None else ""
    return f"Nothing holds it: {number(run.rows_per_second)} rows/s{left}."


def _held(facts: Facts, hold: Hold) -> Iterator[str | Remedy]:  # noqa: C901, PLR0912 - a table, one case a cause
    name, lasting = facts.run.name, duration(hold.seconds)
    match hold.cause:
        case Cause.APPROVAL:
            yield from _awaiting(facts.run)
        case Cause.STOP:
            yield sentence(f"All runs of this database are held: {hold.reason}")
            yield Remedy("let all runs continue: backfilld resume --all")
        case Cause.AFTER:
            yield sentence(f"It has not begun: {hold.reason}")
            yield Remedy("it begins by itself once that is verified")
        case Cause.WINDOW:
            yield sentence(f"It is held: {hold.reason}")
            yield Remedy("it continues by itself when its window opens")
            yield Remedy(f"or let it work at any time: backfilld pace {name} --any-time")
        case Cause.LOAD:
            yield from _held_by_load(facts, hold)
        case Cause.BLIND:
            yield sentence(f"It is held: {hold.reason}")
            yield "Without a recent reading of the load no lane works."
            yield Remedy(
                "start a worker, or find out why the running one cannot read the load (its log says side_task.failed): backfilld worker"
            )
        case Cause.WORKERS:
            yield sentence(f"Nothing can work: {hold.reason}")
            yield Remedy("start a worker: backfilld worker")
            yield Remedy("or find out what keeps the running one from working: its log, and its /ready")
        case Cause.LOCK:
            yield sentence(f"A step of {facts.run.phase} has been {hold.reason} ({lasting} so far)")
            yield Remedy("it continues by itself once the lock is free")
            yield from _blockers(facts.run)
        case Cause.INDEX:
            yield sentence(f"It is held: {hold.reason}")
            yield Remedy("it continues by itself when that transaction ends; or end it")
        case Cause.BACKUP:
            yield f"It has not begun, {lasting} so far: it {hold.reason}."
            yield Remedy("it begins by itself once that is done; what is known of each backup: backfilld backup list")
        case Cause.APPLICATION:
            yield sentence(f"Contract is held for what a check of the application found: {hold.reason}")
            yield from _found(facts.run)
            yield Remedy("it continues by itself once a check finds nothing of that any more")
            yield Remedy(f"or let it begin all the same: backfilld approve {name} --phase contract --yes")
            yield Remedy(f"or switch back, which loses nothing: backfilld rollback {name}")
        case Cause.ERROR:
            yield from _met_an_error(facts.run, hold)
        case _:
            assert_never(hold.cause)


def _met_an_error(run: Progress, hold: Hold) -> Iterator[str | Remedy]:
    yield sentence(f"A lane met an error and will retry by itself: {hold.reason}")
    if any(error.get("class") == "connection" for error in run.errors):
        yield Remedy(
            "if it comes back, look into the log of the server and of a pooler in between for what ends the session: "
            "a restart, memory, or a limit of time such as transaction_timeout or PgBouncer's query_timeout"
        )
    yield Remedy(f"if it comes back, fix the cause: backfilld events {run.name}")


def _held_by_load(facts: Facts, hold: Hold) -> Iterator[str | Remedy]:
    yield sentence(f"All work has been held for {duration(hold.seconds)} because of the load: {hold.reason}")
    signal = facts.pace.hold_signal or ""
    limit = next((one.hard for one in facts.signals if one.name == signal), None)
    below = f" once it is below {signal_value(signal, limit)}" if limit is not None else ""
    yield Remedy(f"it continues by itself{below}")
    if signal in AGAINST:
        yield Remedy(AGAINST[signal].format(name=facts.run.name))
    for one in facts.signals:
        if one.value is None:
            yield sentence(f"{signal_name(one.name).capitalize()} cannot be read: {one.detail or 'no reason given'}")
    yield Remedy("see every signal beside its limits: backfilld pace")


def _slowed(facts: Facts) -> Iterator[str | Remedy]:
    """What makes it slower than it might be."""
    for one in facts.signals:
        if one.value is not None and one.soft is not None and one.hard is not None and one.soft < one.value < one.hard:
            detail = f" ({one.detail})" if one.detail else ""
            value, soft, hard = (signal_value(one.name, number) for number in (one.value, one.soft, one.hard))
            named = signal_name(one.name).capitalize()
            yield f"{named} slows it down: {value}{detail}; slower from {soft}, held from {hard}."
            if one.name in AGAINST:
                yield Remedy(AGAINST[one.name].format(name=facts.run.name))
    if facts.batch_fixed_seconds > FIXED_SHARE * facts.batch_target_seconds > 0:
        fixed, target = (
            f"{1000 * seconds:.0f} ms" for seconds in (facts.batch_fixed_seconds, facts.batch_target_seconds)
        )
        yield (
            f"A batch costs {fixed} before its first row, and should last {target}: network round trips to the database, a "
            "processor that is short, or a service that a Python function asks."
        )
        yield Remedy("run the worker nearer to the database, or give it more of a processor")
        yield Remedy(f"or let batches last longer: backfilld pace {facts.run.name} --batch-seconds {_longer(facts):g}")
    if facts.pace.width < min(facts.run.lanes, facts.pace.max_width):
        yield f"At the present pace {facts.pace.width} of its {counted(facts.run.lanes, 'lane')} may work at once."


def _longer(facts: Facts) -> float:
    """A target of which the fixed part is a tenth."""
    return math.ceil(100 * facts.batch_fixed_seconds) / 10


def _blockers(run: Progress) -> Iterator[Remedy]:
    """The sessions that block a lock, and how to end them."""
    blockers = [one for error in run.errors for one in error.get("blockers", [])]
    for one in blockers:
        if one.get("pid") is not None:
            yield Remedy(f"or end pid {one['pid']}: SELECT pg_terminate_backend({one['pid']})")
        elif one.get("application_name"):
            yield Remedy(f"or end the prepared transaction: ROLLBACK PREPARED '{one['application_name']}'")
    if blockers:
        yield Remedy(f"or let it end idle sessions: backfilld pace {run.name} --cancel-blockers idle")


# --- runs that need a person -------------------------------------------------------------------------------------------


def _awaiting(run: Progress) -> Iterator[str | Remedy]:
    yield f"{str(run.phase).capitalize()} has waited for approval for {duration(run.state_seconds)}."
    if run.verified:
        yield "The data is verified, and the new structure can be used."
        if run.own_values:
            yield f"{counted(run.own_values, 'row')} {'holds' if run.own_values == 1 else 'hold'} a value of the application's own."
    elif run.changed_since:
        yield sentence(f"Another session has changed what the verification relies on: {'; '.join(run.changed_since)}")
        yield "The data will be verified again before the run continues."
    for one in run.after_contract:
        yield sentence(one.in_words)
    if run.policies:
        yield f"The policies from {run.phase} on do more than the file expects:"
        yield from (sentence(one.in_words) for one in run.policies)
    yield from _found(run)
    begin = f"let it begin: backfilld approve {run.name} --phase {run.phase}"
    if holding(run.application) and not any(one.still_comes for one in run.after_contract):
        yield Remedy(f"do what is said of each, then {begin}")
        yield Remedy(f"or let it begin all the same: backfilld approve {run.name} --phase {run.phase} --yes")
        yield Remedy(f"or switch back, which loses nothing: backfilld rollback {run.name}")
        return
    if any(one.still_comes for one in run.after_contract):
        yield Remedy(f"deploy an application that no longer sends such statements, then {begin}")
        yield Remedy(f"or let them fail: backfilld approve {run.name} --phase {run.phase} --yes")
    else:
        yield Remedy(begin)
    yield Remedy(f"or undo everything: backfilld rollback {run.name}")


def _found(run: Progress, kinds: Collection[Kind] = HOLDING) -> Iterator[str | Remedy]:
    """What the newest check of the application found that contract is held for."""
    for one in (told for told in holding(run.application) if told.kind in kinds):
        yield sentence(f"The check of the application {MOMENTS[run.application['moment']]} found: {one.in_words}")  # type: ignore[index] # there is one where it holds
        if one.remedy:
            yield Remedy(one.remedy)


def _stopping(facts: Facts) -> Iterator[str | Remedy]:
    run = facts.run
    verb = "pause" if run.state is State.PAUSING else "cancel"
    in_flight = (
        f"{counted(facts.working_sessions, 'batch or step is', 'batches or steps are')} in flight"
        if facts.working_sessions
        else "nothing is in flight"
    )
    yield f"{_actor(facts)} asked {duration(run.state_seconds)} ago to {verb} it; {in_flight}."
    if run.state_seconds > UNSETTLED_SECONDS:
        yield "Only a worker can complete that; with one it takes about a second."
        yield Remedy("start a worker: backfilld worker")


def _paused(facts: Facts) -> Iterator[str | Remedy]:
    run = facts.run
    if run.error_class is None:
        yield f"{_actor(facts)} paused it {duration(run.state_seconds)} ago."
        yield Remedy(f"let it continue: backfilld resume {run.name}")
        return
    yield sentence(f"It paused itself {duration(run.state_seconds)} ago: {_text(run.errors[0])}")
    match run.error_class:
        case "quarantine":
            yield Remedy(f"see which rows, and why: backfilld quarantine list {run.name}")
            yield Remedy(f"fix them and retry them, which also resumes it: backfilld quarantine retry {run.name}")
            if run.phase is not Phase.VERIFY:  # there nothing else is left to do, and a higher limit would not help
                more = 2 * run.max_quarantined or 100
                yield Remedy(f"or allow more of them: backfilld pace {run.name} --max-quarantined {more}")
                yield Remedy(f"and then let it continue: backfilld resume {run.name}")
        case "violated":
            yield Remedy(f"fix the rows that are named, then let it continue: backfilld resume {run.name}")
        case "blocked":
            yield from _blockers(run)
            yield Remedy(f"then let it continue: backfilld resume {run.name}")
        case _:
            yield Remedy(f"fix the cause, then let it continue: backfilld resume {run.name}")
    yield Remedy(f"or undo everything: backfilld rollback {run.name}")


def _failed(facts: Facts) -> Iterator[str | Remedy]:
    run = facts.run
    error = run.errors[0] if run.errors else {"message": "no reason is on record"}
    state = f" (SQLSTATE {error['sqlstate']})" if error.get("sqlstate") else ""
    where = f", in lane {error['lane']}" if error.get("lane") else ""
    on = f" on {error['relation']}" if error.get("relation") else ""
    when = "while it was being rolled back, in phase" if facts.goes_back else "in phase"
    yield f"It failed {duration(run.state_seconds)} ago {when} {run.phase}{where}{on}: {_text(error)}{state}."
    yield "Nothing is lost: what was committed is still in place, and the rest was rolled back."
    yield Remedy(f"fix the cause, then let it continue where it was: backfilld resume {run.name}")
    if not facts.goes_back:
        yield Remedy(f"or undo everything: backfilld rollback {run.name}")
    yield Remedy(f"see what came before: backfilld events {run.name}")


def _ended(facts: Facts) -> Iterator[str | Remedy]:
    run, ago = facts.run, f"{duration(facts.run.state_seconds)} ago"
    match run.state:
        case State.CANCELLED:
            yield f"{_actor(facts)} cancelled it {ago}. What it had already done is still in place."
            yield Remedy(f"undo what it left: backfilld rollback {run.name}")
        case State.ROLLED_BACK:
            yield f"It was rolled back {ago}, as {_actor(facts, 'a person')} asked."
            if facts.rows_left:
                yield f"Everything it had done is undone, but for rows that are no longer its own: {rows_left(facts.rows_left, facts.keys_left)}."
            else:
                yield "Everything it had done is undone."
        case _:
            but = f", but for {counted(run.residual_rows, 'row')} that a person accepted" if run.residual_rows else ""
            yield f"It was completed {ago}, and the data is verified{but}."
            # What a check could not know no longer matters; what got worse does, until somebody does something about it.
            yield from (one for one in _found(run, LASTING) if isinstance(one, str))
            yield Remedy(f"whether it can still be rolled back, and until when: backfilld status {run.name}")


def _text(error: Mapping[str, Any]) -> str:  # Any: JSON
    return str(error["message"]).removesuffix(".")


def _actor(facts: Facts, unknown: str = "A person") -> str:
    return facts.asked_by or unknown


def _left_aside(run: Progress) -> Iterator[str | Remedy]:
    """Rows that a person has to look at, as long as the run lasts."""
    if run.state is State.COMPLETED and run.load is not None and run.quarantined:
        yield f"{counted(run.quarantined, 'line was', 'lines were')} set aside, because they could not be loaded."
        yield Remedy(for_rows_set_aside(run.name, run.state, of_load=True))
    if run.state in ENDED:
        return
    if run.quarantined:
        yield (
            f"{counted(run.quarantined, 'row is', 'rows are')} quarantined, because conversion failed; with more than "
            f"{number(run.max_quarantined)} the run pauses."
        )
        yield Remedy(f"see which rows, and why: backfilld quarantine list {run.name}")
        if run.state in {State.RUNNING, State.FAILED}:
            yield Remedy(f"once they are fixed: backfilld quarantine retry {run.name}")
    if run.rollback_conflicts:
        yield (
            f"{counted(run.rollback_conflicts, 'row does', 'rows do')} not fit the old column; until that is fixed "
            "it cannot be rolled back."
        )
        yield Remedy(f"whether it can be rolled back: backfilld status {run.name}")
