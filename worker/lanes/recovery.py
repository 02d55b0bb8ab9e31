"""What an error does to a lane: the lane comes back later and smaller, or its run stops; and nothing of the step is kept.

ended before its time was up       told to stop: it comes back as it was; else it gives way to a session that waited for it
the connection is lost             whether its COMMIT went through is looked up, not guessed; lost again, half of the rows
the role may not, or not see       the run pauses until the role may
transient                          back off; a batch that ran out of time takes a tenth of the rows, another half
anything else                      the run fails, with all there is to know on record
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.sqlstates import classify, in_words, ran_out_of_time
from backfilld.migrations.record import lanes, runs, step_context
from backfilld.migrations.record.model import JournalShare, PageRange, StagePages
from backfilld.migrations.record.states import LaneKind, State, allowed
from backfilld.migrations.telemetry import (
    BatchGaveWay,
    BatchRetried,
    CommitUnknown,
    LaneHeld,
    MessageDropped,
    StateChanged,
)
from backfilld.migrations.walks.sizing import smaller
from backfilld.worker.backoff import Backoff
from backfilld.worker.lanes import claim
from backfilld.worker.phases import lock_policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.postgres.connect import Connection, Pool
    from backfilld.migrations.record.model import Lane
    from backfilld.migrations.record.step_context import StepContext
    from backfilld.migrations.telemetry import ErrorClass, Observer
    from backfilld.worker.lanes.batch import TooManyQuarantined
    from backfilld.worker.phases.lock_watch import Blocked

#: Of PostgreSQL's source: says, in whatever language its messages are, that it is row security that an error is about.
_CHECKS_ROW_SECURITY = "check_enable_rls"

#: Long enough that an application's transaction is over, short enough that a lane is back soon after; lanes that met the same
#: lock do not meet it together again.
BACKOFF = Backoff(first_seconds=0.2, longest_seconds=12.0, jitter=1 / 3)


class Recovery:
    """Puts on record what went wrong with a step, and when its lane comes back. The step's transaction is rolled back by then."""

    def __init__(self, pool: Pool, *, observe: Observer) -> None:
        self._pool = pool
        self._observe = observe

    def after_error(
        self, connection: Connection, lane: Lane, context: StepContext, exc: psycopg.Error, *, seconds: float
    ) -> None:
        """An error of PostgreSQL ended the step after so many seconds; nothing of it was kept, unless its COMMIT was on its way."""
        error_class = classify(exc)
        if error_class == "connection":
            self._look_what_became_of(lane, context, exc, seconds=seconds)
        elif isinstance(exc, psycopg.errors.InsufficientPrivilege):
            self._pause_without_privilege(connection, lane, exc)
        elif error_class == "fatal" or (error_class == "data" and lane.kind is LaneKind.COORDINATOR):
            self.fail(connection, lane, in_words(exc) + _in_function(exc), sqlstate=exc.sqlstate)
        elif ran_out_of_time(exc) and step_context.read(connection, lane.run).why_stop is not None:
            self.postpone(connection, lane, delay_seconds=0.0)  # not for what it did: it comes back as it was
        elif ran_out_of_time(exc) and seconds < claim.statement_timeout_seconds(lane, context):
            self._give_way(connection, lane, context)
        else:
            self._retry(connection, lane, context, exc, error_class)

    def _retry(
        self, connection: Connection, lane: Lane, context: StepContext, exc: psycopg.Error, error_class: ErrorClass
    ) -> None:
        delay = BACKOFF.seconds(lane.attempts, chance=_chance())
        message = in_words(exc)
        error = {"class": error_class, "sqlstate": exc.sqlstate, "message": message}
        rows = smaller(_real_size(lane), timed_out=ran_out_of_time(exc))
        self.postpone(connection, lane, delay_seconds=delay, batch_rows=rows, error=error)
        self._tell_retried(lane, context, error_class, exc.sqlstate, message, delay_seconds=delay)

    def _give_way(self, connection: Connection, lane: Lane, context: StepContext) -> None:
        """The step was cancelled before its time was up: a session waited for what it held (`give_way.py`).

        Half as many rows are held half as long; a step that cannot be made smaller is tried later and later instead.
        """
        can_be_halved = lane.kind is not LaneKind.COORDINATOR and lane.batch_rows > 1
        delay = BACKOFF.seconds(0 if can_be_halved else lane.attempts, chance=_chance())
        rows = smaller(_real_size(lane), timed_out=False)
        error = {
            "class": "gave_way",
            "sqlstate": "57014",
            "message": "gave way to a session that waited for a lock of the batch",
        }
        self.postpone(connection, lane, delay_seconds=delay, batch_rows=rows, error=error)
        self._observe(
            BatchGaveWay(run=lane.run, name=context.name, lane=lane.lane, batch_rows=rows, delay_seconds=delay)
        )

    def _look_what_became_of(self, lane: Lane, context: StepContext, exc: psycopg.Error, *, seconds: float) -> None:
        """The connection is gone. Whether a COMMIT went through is not guessed and not retried: `seq` tells.

        The reconciler wakes the lane in either case. Should the server be about to commit still, the fence catches it:
        the next step waits for the lane's lock and then finds another `seq`.
        """
        # Why is in the server's log: it closes a connection on which statements are unread without its last message being heard.
        message = f"the connection was lost {seconds:.1f} s into the step: {' '.join(in_words(exc).split())}"
        self._tell_retried(lane, context, "connection", exc.sqlstate, message, delay_seconds=0.0)
        with self._pool.connection() as connection:
            now = lanes.read(connection, lane.run, lane.lane)
            committed = now is not None and now.seq > lane.seq
            if not committed:
                # A batch that is cut off again and again, by a limit of time of the server's or a pooler's, fits in the end.
                rows = smaller(_real_size(lane), timed_out=False) if lane.attempts else None
                error = {"class": "connection", "sqlstate": exc.sqlstate, "message": message}
                delay = BACKOFF.seconds(lane.attempts, chance=_chance())
                self.postpone(connection, lane, delay_seconds=delay, batch_rows=rows, error=error)
        self._observe(CommitUnknown(run=lane.run, lane=lane.lane, committed=committed))

    def wait_for_lock(self, connection: Connection, lane: Lane, blocked: Blocked) -> None:
        """The coordinator did not get the lock of its DDL: record the blockers, and look again soon.

        After `lock_deadline_seconds` the run pauses; one that is rolled back fails, because it cannot pause.
        """
        lock_watch = blocked.lock_watch
        lock_watch.put_on_record(connection, committed=False)
        context, wait, message = lock_watch.context, lock_watch.wait, lock_watch.in_words
        settings = context.settings
        blockers = [blocker.to_json() for blocker in lock_watch.blockers]
        error = {"class": "blocked", "sqlstate": blocked.sqlstate, "message": message, "blockers": blockers}
        if wait.seconds >= settings.lock_deadline_seconds:
            late = (
                f"{message}. Gave up after {wait.seconds:.0f} s; end the sessions that block it, or let the run "
                "wait longer, then resume"
            )
            state = State.PAUSED if allowed(context.state, State.PAUSED) else State.FAILED
            self._stop(connection, lane, state, {**error, "message": late, "lane": lane.lane})
            return
        pause = lock_policy.pause_seconds(wait, lock_watch.blockers, settings)
        delay = lock_policy.next_look_seconds(pause, scans=lock_watch.again_scans, chance=_chance())
        tried = blocked.sqlstate is not None
        self.postpone(connection, lane, delay_seconds=delay, error=error, lock_wait=wait.to_json(), retried=tried)
        if tried:
            self._tell_retried(lane, context, "transient", blocked.sqlstate, message, delay_seconds=delay)
        else:
            self._observe(LaneHeld(run=lane.run, name=context.name, lane=lane.lane, reason=message))

    def fail(self, connection: Connection, lane: Lane, message: str, *, sqlstate: str | None) -> None:
        """An error that will not go away: the run stops, with all there is to know on record, and nothing lost."""
        error = {
            "class": "fatal",
            "sqlstate": sqlstate,
            "message": message,
            "lane": lane.lane,
            "relation": lane.relation,
            **_whereabouts(lane),
        }
        self._stop(connection, lane, State.FAILED, error)

    def _pause_without_privilege(self, connection: Connection, lane: Lane, exc: psycopg.Error) -> None:
        """Row security or a privilege was changed under the run: whoever did that can give the role what it needs."""
        problem = in_words(exc)
        if exc.diag.source_function == _CHECKS_ROW_SECURITY:
            role = catalog.backend(connection).role
            remedy = (
                f"Row security hides rows from the role {role}: ALTER ROLE {role} BYPASSRLS, or as the table's owner "
                "ALTER TABLE … NO FORCE ROW LEVEL SECURITY; then resume"
            )
        else:
            remedy = "Grant the role what it lacks, then resume"
        error = {
            "class": "privilege",
            "sqlstate": exc.sqlstate,
            "message": f"{problem}. {remedy}",
            "lane": lane.lane,
            "relation": lane.relation,
            **_whereabouts(lane),
        }
        self._stop(connection, lane, State.PAUSED, error)

    def pause(self, connection: Connection, lane: Lane, exc: TooManyQuarantined) -> None:
        """Too many rows cannot be converted: a person should look before there are more."""
        error = {
            "class": "quarantine",
            "sqlstate": exc.sqlstate,
            "message": str(exc),
            "key": list(exc.key),
            "examples": [one.to_json() for one in exc.examples],
        }
        self._stop(connection, lane, State.PAUSED, error)

    def postpone(  # noqa: PLR0913 - one row; each column is named where it is called
        self,
        connection: Connection,
        lane: Lane,
        *,
        delay_seconds: float,
        batch_rows: int | None = None,
        error: Mapping[str, object] | None = None,
        lock_wait: Mapping[str, object] | None = None,
        retried: bool = True,
    ) -> None:
        """Write down when the lane comes back. When another session holds the lane, it takes the step, and nothing is written."""
        try:
            with connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '100ms'")
                lanes.postpone(
                    connection,
                    lane,
                    delay_seconds=delay_seconds,
                    attempts=lane.attempts + 1 if error and retried else lane.attempts,
                    batch_rows=batch_rows,
                    error=error,
                    lock_wait=lock_wait,
                    retried=error is not None and retried,
                )
        except psycopg.errors.LockNotAvailable:
            self._observe(MessageDropped(run=lane.run, lane=lane.lane, seq=lane.seq))

    def _stop(self, connection: Connection, lane: Lane, state: State, error: Mapping[str, object]) -> None:
        with connection.transaction():
            locked = runs.lock(connection, lane.run)
            # A person may have stopped the run meanwhile; then that is what it is.
            if locked is not None and state is State.PAUSED and locked.state is State.ROLLING_BACK:
                state = State.FAILED  # there is no pause on the way back; `rollback` or `resume` continues it
            if locked is None or not allowed(locked.state, state):
                return
            reason = str(error["message"])
            runs.set_state(connection, locked, state, actor=runs.WORKER, reason=reason, error=error)
        self._observe(StateChanged(run=lane.run, name=locked.name, state=state, reason=reason))

    def _tell_retried(  # noqa: PLR0913 - one event; each part is named where it stands
        self,
        lane: Lane,
        context: StepContext,
        error_class: ErrorClass,
        sqlstate: str | None,
        message: str,
        *,
        delay_seconds: float,
    ) -> None:
        self._observe(
            BatchRetried(
                run=lane.run,
                name=context.name,
                lane=lane.lane,
                error_class=error_class,
                sqlstate=sqlstate,
                message=message,
                delay_seconds=delay_seconds,
            )
        )


def _in_function(exc: psycopg.Error) -> str:
    """Where the error arose, if that is in a function: a trigger's, an event trigger's."""
    where = next((line for line in (exc.diag.context or "").splitlines() if " function " in line), None)
    return f", in {where}" if where else ""


def _chance() -> float:
    return random.random()  # noqa: S311 - spreading load, not guarding secrets


def _real_size(lane: Lane) -> int:
    """How many rows a batch of the lane takes: less than its size says where a group of pages ends before."""
    walked = [timing.rows for timing in lane.recent if timing.rows > 0]
    return min(lane.batch_rows, max(walked)) if walked else lane.batch_rows


def _whereabouts(lane: Lane) -> dict[str, object]:
    """Where in its table a lane is, for people."""
    if lane.kind is LaneKind.COORDINATOR:
        return {}
    if isinstance(lane.bounds, PageRange):
        return {"from_page": lane.cursor["page"] if lane.cursor is not None else lane.bounds.first}
    if isinstance(lane.bounds, JournalShare):
        return {"from_batch": lane.cursor["batch"] if lane.cursor is not None else None}
    if isinstance(lane.bounds, StagePages):
        return {"from_page": lane.cursor["page"] if lane.cursor is not None else lane.bounds.first_page}
    return {"after_key": lane.cursor}
