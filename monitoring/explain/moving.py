"""What is said of a run that should move: where it is, what holds it, and who is in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from backfilld.migrations.holds import Cause
from backfilld.migrations.record.states import State
from backfilld.monitoring.explain import approval, load
from backfilld.monitoring.explain.explanation import Remedy
from backfilld.monitoring.words import counted, duration, number, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.holds import Hold
    from backfilld.monitoring.explain.explanation import Told
    from backfilld.monitoring.explain.facts import Facts
    from backfilld.monitoring.progress import Progress

#: A lane that is due is taken within a second; the reconciler needs a few more where its message got lost.
UNTAKEN_SECONDS = 10.0
#: A batch lasts half a second; a step of DDL that scans may last for hours, but holds a session.
STILL_SECONDS = 60.0


def going(facts: Facts) -> Told:
    """Where it is, and what holds or slows it."""
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
    yield from load.slowed(facts)


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


def _held(facts: Facts, hold: Hold) -> Told:  # noqa: C901, PLR0912 - a table, one case a cause
    name, lasting = facts.run.name, duration(hold.seconds)
    match hold.cause:
        case Cause.APPROVAL:
            yield from approval.awaiting(facts.run)
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
            yield from load.held(facts, hold)
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
            yield from blockers(facts.run)
        case Cause.INDEX:
            yield sentence(f"It is held: {hold.reason}")
            yield Remedy("it continues by itself when that transaction ends; or end it")
        case Cause.BACKUP:
            yield f"It has not begun, {lasting} so far: it {hold.reason}."
            yield Remedy("it begins by itself once that is done; what is known of each backup: backfilld backup list")
        case Cause.APPLICATION:
            yield sentence(f"Contract is held for what a check of the application found: {hold.reason}")
            yield from approval.found(facts.run)
            yield Remedy("it continues by itself once a check finds nothing of that any more")
            yield Remedy(f"or let it begin all the same: backfilld approve {name} --phase contract --yes")
            yield Remedy(f"or switch back, which loses nothing: backfilld rollback {name}")
        case Cause.ERROR:
            yield from _met_an_error(facts.run, hold)
        case _:
            assert_never(hold.cause)


def _met_an_error(run: Progress, hold: Hold) -> Told:
    yield sentence(f"A lane met an error and will retry by itself: {hold.reason}")
    if any(error.get("class") == "connection" for error in run.errors):
        yield Remedy(
            "if it comes back, look into the log of the server and of a pooler in between for what ends the session: "
            "a restart, memory, or a limit of time such as transaction_timeout or PgBouncer's query_timeout"
        )
    yield Remedy(f"if it comes back, fix the cause: backfilld events {run.name}")


def blockers(run: Progress) -> Iterator[Remedy]:
    """The sessions that block a lock, and how to end them."""
    blockers = [one for error in run.errors for one in error.get("blockers", [])]
    for one in blockers:
        if one.get("pid") is not None:
            yield Remedy(f"or end pid {one['pid']}: SELECT pg_terminate_backend({one['pid']})")
        elif one.get("application_name"):
            yield Remedy(f"or end the prepared transaction: ROLLBACK PREPARED '{one['application_name']}'")
    if blockers:
        yield Remedy(f"or let it end idle sessions: backfilld pace {run.name} --cancel-blockers idle")
