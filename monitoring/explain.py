"""What a run is doing, what it waits for, and what would let it go on, in words.

`explain` decides and is pure; `read` asks the database and does nothing else. A remedy ends in a command wherever there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from backfilld.migrations.holds import Cause
from backfilld.migrations.record import audit, lanes
from backfilld.migrations.record import pace as pace_store
from backfilld.migrations.record.states import ENDED, Phase, State
from backfilld.monitoring import pace as pace_report
from backfilld.monitoring import progress
from backfilld.monitoring.words import duration, figure, number, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backfilld.migrations.holds import Hold
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.lanes import Waiting
    from backfilld.migrations.record.model import Pace, Run
    from backfilld.migrations.settings import Limits
    from backfilld.monitoring.pace import Signal
    from backfilld.monitoring.progress import Progress

#: A lane that is due is taken within a second; the reconciler needs a few more where its message got lost.
UNTAKEN_SECONDS = 10.0
#: A stop takes about a second. After this nobody is there to bring it about.
UNSETTLED_SECONDS = 5.0
#: A batch lasts half a second; a step of DDL that scans may last for hours, but holds a session.
STILL_SECONDS = 60.0

#: What helps against a load signal, by its name.
AGAINST: dict[str, str] = {
    "replica_lag_seconds": "look at the standby: is it up, does a query hold its replay up (pg_stat_replication)",
    "slot_retained_bytes": "look at the slot furthest behind, and drop one that nobody reads (pg_replication_slots)",
    "slot_used_share": "let the slot's consumer catch up before the slot is lost (pg_replication_slots)",
    "archive_backlog_segments": "look why the archiver is behind (pg_stat_archiver)",
    "wal_bytes_per_second": "it falls by itself when whoever writes so much is done",
    "blocked_sessions": "sessions wait for our batches; smaller batches hold less: backfilld pace {name} --batch-seconds 0.1",
    "lock_waiters": "look who holds what others wait for (pg_blocking_pids)",
    "active_connections": "it falls by itself when the application has less to do",
    "connections": "look for sessions that idle (pg_stat_activity), or raise max_connections",
    "commit_seconds": "look at the disk of the WAL, and at synchronous standbys",
    "foreground_latency": "the application is slower than without us; it recovers while we wait",
    "snapshot_age_seconds": "end the oldest transaction, or wait for it; vacuum cannot go on before (pg_stat_activity, backend_xmin)",
    "dead_tuples": "let vacuum catch up: VACUUM the table, or make autovacuum quicker for it",
    "table_growth": "the table has grown more than it should: look what keeps vacuum from giving room back",
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
    #: The event that brought the run into its state: `at`, `actor`, `detail`. Any: columns of the audit.
    since: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One run in words."""

    run: int
    name: str
    #: What holds the run, where it is held.
    cause: Cause | None
    #: What is going on, and why.
    sentences: tuple[str, ...]
    #: What would let it go on, each with its command where there is one.
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
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        pace = pace_store.read(connection)
        facts = Facts(
            run=progress.read_within(connection, [run])[0],
            pace=pace,
            signals=pace_report.signals(pace, limits),
            waiting=lanes.waiting(connection),
            working_sessions=pace_store.working_sessions(connection),
            since=audit.latest(connection, run.run, what=f"run.{run.state}"),
        )
    return explain(facts)


def explain(facts: Facts) -> Explanation:
    """Put the facts into words."""
    run = facts.run
    told = [*_standing(facts), *_set_aside(run)]
    return Explanation(
        run=run.run,
        name=run.name,
        cause=run.hold.cause if run.hold is not None else None,
        # A reason may be a question already.
        sentences=tuple(one.replace("?.", "?") for one in told if not isinstance(one, Remedy)),
        remedies=tuple(dict.fromkeys(str(one) for one in told if isinstance(one, Remedy))),
    )


class Remedy(str):
    """What would let a run go on, told beside the sentences."""

    __slots__ = ()


#: A sentence, or a remedy.
_Told = str


def _standing(facts: Facts) -> Iterator[_Told]:
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
            yield from _failed(run)
        case State.CANCELLED | State.ROLLED_BACK | State.COMPLETED:
            yield from _ended(facts)
        case _:
            assert_never(run.state)


# --- runs that are to move ---------------------------------------------------------------------------------------------


def _going(facts: Facts) -> Iterator[_Told]:
    run = facts.run
    yield _where(run)
    if run.hold is not None:
        yield from _held(facts, run.hold)
        return
    if run.index_work is not None:
        yield f"An index is at work: {run.index_work.in_words}."
    elif facts.waiting.seconds > UNTAKEN_SECONDS and not facts.working_sessions:
        yield f"{number(facts.waiting.lanes)} lanes have been due for up to {duration(facts.waiting.seconds)}, and no worker takes them."
        yield Remedy(
            "look whether the processes for lanes are alive and Redis answers (/ready of each worker names what is not); "
            "a worker that is gone: backfilld worker"
        )
    elif run.progress_age_seconds > STILL_SECONDS and not facts.working_sessions:
        yield f"Nothing holds it, and yet no batch has committed for {duration(run.progress_age_seconds)}."
        yield Remedy(f"look what happened last: backfilld events {run.name}")
    else:
        yield _at_work(run)
    yield from _slowed(facts)


def _where(run: Progress) -> str:
    if run.state is State.ROLLING_BACK:
        return f"It is being rolled back, for {duration(run.state_seconds)}; phase {run.phase}."
    if run.state is State.QUEUED:
        return f"It was enqueued {duration(run.state_seconds)} ago, and no worker has taken its first step yet."
    done = f", {run.percent:.1f} % done" if run.rows_total is not None else ""
    return f"It is in phase {run.phase}, for {duration(run.phase_seconds)}{done}."


def _at_work(run: Progress) -> str:
    left = f", about {duration(run.eta_seconds)} left" if run.eta_seconds is not None else ""
    return f"Nothing holds it: {number(run.rows_per_second)} rows/s{left}."


def _held(facts: Facts, hold: Hold) -> Iterator[_Told]:
    name, lasting = facts.run.name, duration(hold.seconds)
    match hold.cause:
        case Cause.APPROVAL:
            yield from _awaiting(facts.run)
        case Cause.STOP:
            yield f"All runs of this database are held: {hold.reason}."
            yield Remedy("let all runs go on: backfilld resume --all")
        case Cause.WINDOW:
            yield f"It is held: {hold.reason}."
            yield Remedy("it goes on by itself when its window opens")
            yield Remedy(f"or let it work at any time: backfilld pace {name} --any-time")
        case Cause.LOAD:
            yield from _held_by_load(facts, hold)
        case Cause.BLIND:
            yield f"It is held: {hold.reason}. Without a reading of the load nothing works."
            yield Remedy(
                "start a worker, or look why the one there is cannot read (its log says loop.failed): backfilld worker"
            )
        case Cause.LOCK:
            yield f"A step of {facts.run.phase} has been {hold.reason} ({lasting} so far)."
            yield Remedy("it goes on by itself when they are done")
            yield from _blockers(facts.run)
        case Cause.INDEX:
            yield f"It is held: {hold.reason}."
            yield Remedy("it goes on by itself when that transaction ends; or end it")
        case Cause.ERROR:
            yield f"A lane met an error and tries again by itself: {hold.reason}."
            yield Remedy(f"if it comes again and again, mend the cause: backfilld events {name}")
        case _:
            assert_never(hold.cause)


def _held_by_load(facts: Facts, hold: Hold) -> Iterator[_Told]:
    yield f"All work has been held for {duration(hold.seconds)} because of the load: {hold.reason}."
    signal = facts.pace.hold_signal or ""
    limit = next((one.hard for one in facts.signals if one.name == signal), None)
    below = f" once it is below {_amount(signal, limit)}" if limit is not None else ""
    yield Remedy(f"it goes on by itself{below}")
    if signal in AGAINST:
        yield Remedy(AGAINST[signal].format(name=facts.run.name))
    for one in facts.signals:
        if one.value is None:
            yield f"{_signal(one.name)} cannot be read: {one.detail or 'no reason given'}."
    yield Remedy("see every signal beside its limits: backfilld pace")


def _slowed(facts: Facts) -> Iterator[_Told]:
    """What makes it slower than it might be."""
    for one in facts.signals:
        if one.value is not None and one.soft is not None and one.hard is not None and one.soft < one.value < one.hard:
            detail = f" ({one.detail})" if one.detail else ""
            value, soft, hard = (_amount(one.name, number) for number in (one.value, one.soft, one.hard))
            yield f"{_signal(one.name)} slows it down: {value}{detail}, slower from {soft}, held from {hard}."
            if one.name in AGAINST:
                yield Remedy(AGAINST[one.name].format(name=facts.run.name))
    if facts.pace.width < min(facts.run.lanes, facts.pace.max_width):
        yield f"{facts.pace.width} lanes may work at once, of the {facts.run.lanes} it would have."


def _amount(signal: str, value: float) -> str:
    return size(value) if "_bytes" in signal else figure(value)


def _signal(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _blockers(run: Progress) -> Iterator[_Told]:
    """Who is in the way of a lock, and how to be rid of them."""
    blockers = [one for error in run.errors for one in error.get("blockers", [])]
    for one in blockers:
        if one.get("pid") is not None:
            yield Remedy(f"or end pid {one['pid']}: SELECT pg_terminate_backend({one['pid']})")
        elif one.get("application_name"):
            yield Remedy(f"or end the prepared transaction: ROLLBACK PREPARED '{one['application_name']}'")
    if blockers:
        yield Remedy(f"or have idle sessions sent away: backfilld pace {run.name} --cancel-blockers idle")


# --- runs that a person has to do with ---------------------------------------------------------------------------------


def _awaiting(run: Progress) -> Iterator[_Told]:
    proved = " The data is verified, and the new structure can be used." if run.verified else ""
    yield f"{str(run.phase).capitalize()} waits for a person's approval, for {duration(run.state_seconds)}.{proved}"
    yield Remedy(f"let it begin: backfilld approve {run.name} --phase {run.phase}")
    yield Remedy(f"or take everything back: backfilld rollback {run.name}")


def _stopping(facts: Facts) -> Iterator[_Told]:
    run = facts.run
    what = "pausing" if run.state is State.PAUSING else "being cancelled"
    in_hand = (
        f"{facts.working_sessions} batches or steps are in flight" if facts.working_sessions else "nothing is in flight"
    )
    yield f"It is {what}, for {duration(run.state_seconds)}{_by(facts)}; {in_hand}."
    if run.state_seconds > UNSETTLED_SECONDS:
        yield "Only a worker can bring that to its end, within about a second."
        yield Remedy("start a worker: backfilld worker")


def _paused(facts: Facts) -> Iterator[_Told]:
    run = facts.run
    if not run.errors:
        yield f"It was paused{_by(facts)}, {duration(run.state_seconds)} ago."
        yield Remedy(f"let it go on: backfilld resume {run.name}")
        return
    error = run.errors[0]
    yield f"It paused itself {duration(run.state_seconds)} ago: {_text(error)}."
    match error["class"]:
        case "quarantine":
            yield Remedy(f"see which rows, and why: backfilld quarantine list {run.name}")
            yield Remedy(f"mend them and try them again, which lets it go on: backfilld quarantine retry {run.name}")
            if run.phase is not Phase.VERIFY:  # there nothing else is left to do, and more would not help
                more = 2 * run.max_quarantined or 100
                yield Remedy(f"or allow more of them: backfilld pace {run.name} --max-quarantined {more}")
                yield Remedy(f"and then let it go on: backfilld resume {run.name}")
        case "violated":
            yield Remedy(f"mend the rows that are named, then let it go on: backfilld resume {run.name}")
        case "blocked":
            yield from _blockers(run)
            yield Remedy(f"then let it go on: backfilld resume {run.name}")
        case _:
            yield Remedy(f"mend the cause, then let it go on: backfilld resume {run.name}")
    yield Remedy(f"or take everything back: backfilld rollback {run.name}")


def _failed(run: Progress) -> Iterator[_Told]:
    error = run.errors[0] if run.errors else {"message": "no reason is on record"}
    state = f" (SQLSTATE {error['sqlstate']})" if error.get("sqlstate") else ""
    where = f", in lane {error['lane']}" if error.get("lane") else ""
    on = f" on {error['relation']}" if error.get("relation") else ""
    yield (
        f"It failed {duration(run.state_seconds)} ago in phase {run.phase}{where}{on}: {_text(error)}{state}. "
        "Nothing is lost: what was committed stands, and the rest was rolled back."
    )
    yield Remedy(f"mend the cause, then let it go on where it was: backfilld resume {run.name}")
    yield Remedy(f"or take everything back: backfilld rollback {run.name}")
    yield Remedy(f"what came before: backfilld events {run.name}")


def _ended(facts: Facts) -> Iterator[_Told]:
    run = facts.run
    what = {
        State.COMPLETED: "It is completed, and the data is verified",
        State.CANCELLED: "It was cancelled; what it had done stays",
        State.ROLLED_BACK: "It was rolled back; what it had done is taken back",
    }[run.state]
    yield f"{what}{_by(facts) if run.state is not State.COMPLETED else ''}, {duration(run.state_seconds)} ago."
    if run.state is State.COMPLETED:
        yield Remedy(f"whether it can still be rolled back, and until when: backfilld status {run.name}")
    elif run.state is State.CANCELLED:
        yield Remedy(f"take back what it left: backfilld rollback {run.name}")


def _text(error: Mapping[str, Any]) -> str:  # Any: JSON
    return str(error["message"]).removesuffix(".")


def _by(facts: Facts) -> str:
    return f" by {facts.since['actor']}" if facts.since is not None else ""


def _set_aside(run: Progress) -> Iterator[_Told]:
    if run.quarantined and run.state not in ENDED:
        rows = "row is" if run.quarantined == 1 else "rows are"
        yield (
            f"{number(run.quarantined)} {rows} set aside, because they cannot be converted; at more than "
            f"{number(run.max_quarantined)} the run pauses."
        )
        yield Remedy(f"see which rows, and why: backfilld quarantine list {run.name}")
        if run.state in {State.RUNNING, State.FAILED}:
            yield Remedy(f"once they are mended: backfilld quarantine retry {run.name}")
    if run.rollback_conflicts and run.state not in ENDED:
        rows = "row does" if run.rollback_conflicts == 1 else "rows do"
        yield f"{number(run.rollback_conflicts)} {rows} not fit the old column; a rollback would wait for them to be mended."
        yield Remedy(f"whether it can be rolled back: backfilld status {run.name}")
