"""One lane, step by step: the file to read first.

    read the lane; a message for another step is stale, so drop it
    take the lane, with a permit, in a transaction        told to stop? leave. held? come back later.
    walk one batch, or let the coordinator do its step
    write the checkpoint, and commit with the rows
    send the next message; if that fails, the reconciler finds the lane

A message is good for several steps, so that the queue is out of the way of a busy lane.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import psycopg

from backfilld.migrations.errors import Refused
from backfilld.migrations.operations import bind, walks
from backfilld.migrations.postgres.sqlstates import classify, in_words, ran_out_of_time
from backfilld.migrations.record import audit, lanes, runs
from backfilld.migrations.record.model import Bounds, Lane, PageRange, Timing
from backfilld.migrations.record.states import State, allowed
from backfilld.migrations.telemetry import (
    BatchCommitted,
    BatchGaveWay,
    BatchRetried,
    CommitUnknown,
    LaneHeld,
    MessageDropped,
    RowQuarantined,
    SendFailed,
    StateChanged,
)
from backfilld.migrations.walks import next_batch
from backfilld.migrations.walks.sizing import REMEMBERED, next_rows, smaller
from backfilld.worker.lanes import balance, claim
from backfilld.worker.lanes.batch import Batch, Tally, TooManyQuarantined, Work, transaction
from backfilld.worker.phases import ddl, lock_policy
from backfilld.worker.phases.coordinator import Coordinator, breaks_rule
from backfilld.worker.phases.index_build import IndexBuilds
from backfilld.worker.phases.lock_watch import Blocked, LockWatch

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.operations import Action, Operation
    from backfilld.migrations.postgres.connect import Connection, Pool
    from backfilld.migrations.record.lanes import Statement
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.record.runs import StepContext
    from backfilld.migrations.telemetry import Observer
    from backfilld.migrations.walks.next_batch import NextBatch
    from backfilld.migrations.wire.messages import LaneMessage
    from backfilld.worker.lanes.claim import Claimed

#: A message's worth of work. Long enough that the queue costs nothing, short enough that lanes take turns on few threads and
#: that a drain ends soon. The reconciler's grace must be longer.
SLICE_SECONDS = 2.0
#: The first wait after an error, doubled each time; see `_backoff_seconds`.
FIRST_BACKOFF_SECONDS = 0.25
LONGEST_BACKOFF_SECONDS = 15.0
#: `nice` and the pace's rest are waited for in the thread, between two transactions; longer than this and the lane would look forgotten.
LONGEST_PAUSE_SECONDS = 2.0


class Sender(Protocol):
    """Puts a message on the queue. Raises whatever the broker raises when it cannot."""

    def __call__(self, message: LaneMessage, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Advanced:
    """The step committed; there is more to do in this lane."""

    lane: Lane
    standing: StepContext
    pause_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The step committed, and these messages are what follows it."""

    messages: tuple[LaneMessage, ...]


class Left:
    """Nothing was done: the message was stale, the run is told to stop, or the lane comes back by itself."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What never changes in the life of a run, kept by this process."""

    run: Run
    operations: tuple[Operation, ...]
    #: What the lanes of the backfill and verify phases do, by the operation's number.
    works: Mapping[int, Work]
    #: What the lanes of walks between two steps do, by kind and operation.
    walks: Mapping[tuple[str, int], Work]
    index_builds: IndexBuilds

    def work_of(self, lane: Lane) -> Work | None:
        """What the lane's batches do; None for the coordinator."""
        if lane.operation is None:
            return None
        return self.walks.get((lane.kind, lane.operation)) or self.works[lane.operation]

    def coordinator(self, connection: Connection, lock_watch: LockWatch) -> Coordinator:
        """The coordinator of the run, for one step of its lane."""
        works = tuple(self.works.values())
        return Coordinator(connection, self.run, self.operations, works, lock_watch, index_builds=self.index_builds)


class Runner:
    """Takes steps of lanes, one message at a time; each thread of a worker may call `advance`."""

    def __init__(
        self,
        pool: Pool,
        *,
        send: Sender,
        observe: Observer,
        stopping: threading.Event,
        transforms: Sequence[str] = (),
    ) -> None:
        self._pool = pool
        self._send = send
        self._observe = observe
        self._stopping = stopping
        self._transforms = transforms
        self._index_builds = IndexBuilds(pool=pool, stopping=stopping)
        self._known: dict[int, _Known] = {}

    def advance(self, message: LaneMessage) -> None:
        """Take steps of a lane until its slice of time is over, its run is told to stop, or there is nothing left.

        Errors of PostgreSQL are dealt with here. Raises only when the database cannot be reached at all.
        """
        deadline = time.monotonic() + SLICE_SECONDS
        with self._pool.connection() as connection:
            lane = lanes.read(connection, message.run, message.lane)
            if lane is None or lane.seq != message.seq or lane.done_at is not None:
                self._observe(MessageDropped(run=message.run, lane=message.lane, seq=message.seq))
                return
            standing = runs.standing(connection, message.run)
            while True:
                outcome = self._step(connection, lane, standing)
                match outcome:
                    case Left():
                        return
                    case Ended(messages=messages):
                        self._send_all(messages)
                        return
                    case Advanced(lane=lane, standing=standing, pause_seconds=pause_seconds):
                        if pause_seconds:
                            # `nice` or the pace's rest, at most a few seconds, holding nothing; a stop ends it.
                            self._stopping.wait(pause_seconds)
                if self._stopping.is_set() or time.monotonic() > deadline:
                    self._send_all([replace(message, seq=lane.seq)])
                    return

    def _step(  # noqa: PLR0911 - one for each way a step can end
        self, connection: Connection, lane: Lane, standing: StepContext
    ) -> Advanced | Ended | Left:
        """One transaction. Whatever goes wrong is put on record here, and nothing of it is kept."""
        began = time.monotonic()
        try:
            return self._try_twice(connection, lane, standing)
        except psycopg.Error as exc:
            if ran_out_of_time(exc) and time.monotonic() - began < claim.statement_timeout_seconds(lane, standing):
                return self._give_way(connection, lane)
            return self._recover(connection, lane, exc)
        except TooManyQuarantined as exc:
            return self._pause(connection, lane, exc)
        except Blocked as exc:
            return self._wait_for_lock(connection, lane, exc)
        except runs.ChangedMeanwhile:
            self._postpone(connection, lane, delay_seconds=0.0)
            return Left()
        except Refused as exc:
            return self._fail(connection, lane, str(exc), sqlstate=None)
        except Exception as exc:
            # A mistake of ours would be made again at each wake-up. Stopping the run loses nothing and shows it.
            self._fail(connection, lane, f"{type(exc).__name__}: {exc}", sqlstate=None)
            raise

    def _try_twice(self, connection: Connection, lane: Lane, standing: StepContext) -> Advanced | Ended | Left:
        """When some row of a batch cannot be converted, the batch is gone over again with care for each row."""
        try:
            return self._try_step(connection, lane, standing, carefully=False)
        except psycopg.Error as exc:
            if classify(exc) != "data" or lane.kind == "coordinator":
                raise
        return self._try_step(connection, lane, standing, carefully=True)

    def _try_step(
        self, connection: Connection, lane: Lane, standing: StepContext, *, carefully: bool
    ) -> Advanced | Ended | Left:
        known = self._know(connection, lane.run)
        work = known.work_of(lane)
        look = next_batch.look(work.walk_of(lane), lane) if work and lane.kind != "retry" else None
        began = time.monotonic()
        with transaction(connection):
            claimed = claim.take(connection, lane, standing, look=look, writes=work.rewrite.writes if work else "")
            match claimed:
                case claim.Drop(stale=stale):
                    if stale:
                        self._observe(MessageDropped(run=lane.run, lane=lane.lane, seq=lane.seq))
                    return Left()
                case claim.Wait(reason=reason, seconds=seconds):
                    connection.rollback()
                    self._postpone(connection, lane, delay_seconds=seconds)
                    self._observe(LaneHeld(run=lane.run, name=standing.name, lane=lane.lane, reason=reason))
                    return Left()
                case claim.Claimed():
                    waited = time.monotonic() - began
                    if work is None:
                        return self._conduct(connection, known, claimed)
                    return self._walk(connection, work, claimed, waited_seconds=waited, carefully=carefully)

    def _walk(
        self, connection: Connection, work: Work, claimed: Claimed, *, waited_seconds: float, carefully: bool
    ) -> Advanced | Ended:
        """One batch: its rows, its checkpoint, its commit."""
        lane, standing = claimed.lane, claimed.standing
        batch = Batch(connection, work, lane, cap=standing.settings.max_quarantined)
        began = time.monotonic()
        if lane.kind == "retry":
            done, cursor, tally = _retried(batch.retry_one())
        else:
            step = next_batch.stride(lane, claimed.seen, politely=standing.batch_seconds is not None)
            tally = self._cover(connection, batch, lane, step, carefully=carefully)
            cursor, done = step.cursor_after(changed=tally.changed, hot=tally.hot or 0)
        seconds = time.monotonic() - began
        # What the rows cost decides the next batch; a repeated, halved one says nothing about it.
        recent = (*lane.recent, Timing(rows=tally.walked, seconds=seconds, at=time.time()))[-REMEMBERED:]
        rows = next_rows(lane.batch_rows, recent, target_seconds=standing.target_seconds)
        retires = not done and balance.steps_back(lane, standing)
        shares = not (done or retires or carefully) and balance.gives(lane, standing)
        began = time.monotonic()
        with connection.pipeline():
            advanced = connection.execute(
                *lanes.advance_query(
                    lane,
                    cursor=cursor,
                    walked=tally.walked,
                    changed=tally.changed,
                    residual=tally.residual,
                    hot=tally.hot if lane.kind == "backfill" else None,
                    batch_rows=lane.batch_rows if carefully else rows,
                    recent=recent,
                    done=done,
                    sleeps=retires,
                )
            )
            woken = [connection.execute(*query) for query in (_at_end(lane, standing) if done else ())]
            if not shares:
                connection.execute("COMMIT")
        row = advanced.fetchone()
        if row is None:
            msg = f"lane {lane.lane} of run {lane.run} was held and is gone"
            raise LookupError(msg)
        after = Lane.from_row(row)
        messages = lanes.messages(found for one in woken if (found := one.fetchone()))
        if shares:
            after, messages = self._share(connection, work, after, standing)
        committed = time.monotonic() - began
        self._tell(standing.name, lane, tally, waits=(waited_seconds, seconds, committed))
        if done or retires:
            return Ended(messages=tuple(messages))
        self._send_all(messages)
        pause = min(standing.rest_ratio * (seconds + committed), LONGEST_PAUSE_SECONDS)
        return Advanced(lane=after, standing=standing, pause_seconds=pause)

    def _cover(self, connection: Connection, batch: Batch, lane: Lane, step: NextBatch, *, carefully: bool) -> Tally:
        """Do the work on what the stride covers, and say how many rows that was."""
        reach = step.reach
        if reach is None:
            audit.record(connection, lane.run, actor=runs.WORKER, what="table.rewritten", lane=lane.lane)
            return Tally()
        tally = batch.run(reach, carefully=carefully)
        if lane.kind == "verify":
            if tally.residual:
                batch.add_residual_lane(reach)
            return tally
        walked = step.rows if step.rows is not None or not isinstance(reach, Bounds) else batch.count(reach)
        return replace(tally, walked=walked or 0)

    def _share(
        self, connection: Connection, work: Work, lane: Lane, standing: StepContext
    ) -> tuple[Lane, list[LaneMessage]]:
        """Give half of the lane's rest away, and commit."""
        message = balance.share(connection, work, lane, standing)
        with connection.pipeline():
            now = connection.execute(*lanes.read_query(lane.run, lane.lane))
            connection.execute("COMMIT")
        row = now.fetchone()
        return (Lane.from_row(row) if row else lane), ([message] if message else [])

    def _conduct(self, connection: Connection, known: _Known, claimed: Claimed) -> Ended:
        lane, standing = claimed.lane, claimed.standing
        lock_watch = LockWatch(self._pool, lane, standing, observe=self._observe)
        coordinator = known.coordinator(connection, lock_watch)
        try:
            with lock_watch.watching(), ddl.together(connection, coordinator.pending(standing)):
                messages = coordinator.step(standing)
                connection.execute("COMMIT")
        except psycopg.Error as exc:
            rule = coordinator.rule(standing)
            if rule is None or not breaks_rule(exc):
                raise
            connection.rollback()
            return self._take_back(connection, known, claimed, rule, problem=in_words(exc))
        return self._conducted(connection, coordinator, lock_watch, messages)

    def _take_back(
        self, connection: Connection, known: _Known, claimed: Claimed, rule: Action, *, problem: str
    ) -> Ended:
        """A row breaks a rule that was to be proved, so the rule does not stand any longer.

        Which rows do is asked before that and in a transaction of its own: the question may take as long as the scan did, and
        taking the rule back needs a lock that stops the application.
        """
        lane, standing = claimed.lane, claimed.standing
        offenders = None
        lock_watch = LockWatch(self._pool, lane, standing, observe=self._observe)
        if known.coordinator(connection, lock_watch).gives_up(standing, rule):
            with transaction(connection):
                if not isinstance(claim.take(connection, lane, standing, look=None, writes=""), claim.Claimed):
                    return Ended(messages=())
                offenders = ddl.offenders(connection, rule)
        with transaction(connection):
            taken = claim.take(connection, lane, standing, look=None, writes="")
            if not isinstance(taken, claim.Claimed):
                return Ended(messages=())
            lock_watch = LockWatch(self._pool, taken.lane, taken.standing, observe=self._observe, again_scans=True)
            coordinator = known.coordinator(connection, lock_watch)
            with lock_watch.watching():
                messages = coordinator.take_back(taken.standing, rule, problem=problem, offenders=offenders)
                connection.execute("COMMIT")
        return self._conducted(connection, coordinator, lock_watch, messages)

    def _conducted(
        self, connection: Connection, coordinator: Coordinator, lock_watch: LockWatch, messages: list[LaneMessage]
    ) -> Ended:
        """A step of the coordinator has committed: tell what happened in it."""
        lock_watch.put_on_record(connection, committed=True)
        for event in coordinator.events:
            self._observe(event)
        return Ended(messages=tuple(messages))

    def _recover(self, connection: Connection, lane: Lane, exc: psycopg.Error) -> Advanced | Ended | Left:
        """An error of PostgreSQL ended the step; nothing of it was kept, unless its COMMIT was on its way."""
        error_class = classify(exc)
        if error_class == "connection":
            return self._look_what_became_of(lane, exc)
        if error_class == "fatal" or (error_class == "data" and lane.kind == "coordinator"):
            return self._fail(connection, lane, in_words(exc), sqlstate=exc.sqlstate)
        if ran_out_of_time(exc) and self._told_to_stop(connection, lane):
            return Left()
        delay = _backoff_seconds(lane.attempts)
        message = in_words(exc)
        error = {"class": error_class, "sqlstate": exc.sqlstate, "message": message}
        rows = smaller(_real_size(lane), timed_out=ran_out_of_time(exc))
        self._postpone(connection, lane, delay_seconds=delay, batch_rows=rows, error=error)
        self._observe(
            BatchRetried(
                run=lane.run,
                name=self._name(lane.run),
                lane=lane.lane,
                error_class=error_class,
                sqlstate=exc.sqlstate,
                message=message,
                delay_seconds=delay,
            )
        )
        return Left()

    def _wait_for_lock(self, connection: Connection, lane: Lane, blocked: Blocked) -> Left:
        """The coordinator did not get the lock of its DDL: who is in the way is told, and the way is looked at again soon.

        When it has waited too long, the run pauses; one that is rolled back fails, as nothing else is between that and its end.
        """
        lock_watch = blocked.lock_watch
        lock_watch.put_on_record(connection, committed=False)
        settings, wait, message = lock_watch.standing.settings, lock_watch.wait, lock_watch.in_words
        blockers = [blocker.to_json() for blocker in lock_watch.blockers]
        error = {"class": "blocked", "sqlstate": blocked.sqlstate, "message": message, "blockers": blockers}
        if wait.seconds >= settings.lock_deadline_seconds:
            late = f"{message}. Waited {wait.seconds:.0f} s; end what is in the way, or let the run wait longer, then resume"
            state = State.PAUSED if allowed(lock_watch.standing.state, State.PAUSED) else State.FAILED
            self._stop(connection, lane, state, {**error, "message": late, "lane": lane.lane})
            return Left()
        pause = lock_policy.pause_seconds(wait, lock_watch.blockers, settings)
        delay = lock_policy.next_look_seconds(pause, scans=lock_watch.again_scans, chance=random.random())  # noqa: S311 - spreading load, not guarding secrets
        tried = blocked.sqlstate is not None
        self._postpone(connection, lane, delay_seconds=delay, error={**error, "wait": wait.to_json()}, retried=tried)
        if tried:
            self._observe(
                BatchRetried(
                    run=lane.run,
                    name=self._name(lane.run),
                    lane=lane.lane,
                    error_class="transient",
                    sqlstate=blocked.sqlstate,
                    message=message,
                    delay_seconds=delay,
                )
            )
        else:
            self._observe(LaneHeld(run=lane.run, name=self._name(lane.run), lane=lane.lane, reason=message))
        return Left()

    def _give_way(self, connection: Connection, lane: Lane) -> Left:
        """The step was cancelled before its time was up: somebody said stop, or waited for what it held (`give_way.py`).

        Half as many rows are held half as long; a step that cannot be made smaller comes later and later instead.
        """
        if self._told_to_stop(connection, lane):
            return Left()
        can_be_halved = lane.kind != "coordinator" and lane.batch_rows > 1
        delay = _backoff_seconds(0 if can_be_halved else lane.attempts)
        rows = smaller(_real_size(lane), timed_out=False)
        error = {"class": "gave_way", "sqlstate": "57014", "message": "gave way to a session that waited for it"}
        self._postpone(connection, lane, delay_seconds=delay, batch_rows=rows, error=error)
        self._observe(
            BatchGaveWay(run=lane.run, name=self._name(lane.run), lane=lane.lane, batch_rows=rows, delay_seconds=delay)
        )
        return Left()

    def _told_to_stop(self, connection: Connection, lane: Lane) -> bool:
        """Whether a step was cancelled because somebody said stop, and not for what it did. It comes back as it was."""
        if runs.standing(connection, lane.run).why_stop is None:
            return False
        self._postpone(connection, lane, delay_seconds=0.0)
        return True

    def _look_what_became_of(self, lane: Lane, exc: psycopg.Error) -> Advanced | Ended | Left:
        """The connection is gone. Whether a COMMIT went through is not guessed and not retried: `seq` tells.

        The reconciler wakes the lane in either case. Should the server be about to commit still, the fence catches it:
        the next step waits for the lane's lock and then finds another `seq`.
        """
        self._observe(
            BatchRetried(
                run=lane.run,
                name=self._name(lane.run),
                lane=lane.lane,
                error_class="connection",
                sqlstate=exc.sqlstate,
                message=in_words(exc),
                delay_seconds=0.0,
            )
        )
        with self._pool.connection() as connection:
            now = lanes.read(connection, lane.run, lane.lane)
        committed = now is not None and now.seq > lane.seq
        self._observe(CommitUnknown(run=lane.run, lane=lane.lane, committed=committed))
        return Left()

    def _fail(self, connection: Connection, lane: Lane, message: str, *, sqlstate: str | None) -> Left:
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
        return Left()

    def _pause(self, connection: Connection, lane: Lane, exc: TooManyQuarantined) -> Left:
        """Too many rows cannot be converted: a person should look before there are more."""
        error = {"class": "quarantine", "sqlstate": exc.sqlstate, "message": str(exc), "key": list(exc.key)}
        self._stop(connection, lane, State.PAUSED, error)
        return Left()

    def _stop(self, connection: Connection, lane: Lane, state: State, error: Mapping[str, object]) -> None:
        with connection.transaction():
            held = runs.lock(connection, lane.run)
            # A person may have stopped the run meanwhile; then that is what it is.
            if held is not None and state is State.PAUSED and held.state is State.ROLLING_BACK:
                state = State.FAILED  # there is no pause on the way back; `rollback` or `resume` goes on
            if held is None or not allowed(held.state, state):
                return
            reason = str(error["message"])
            runs.set_state(connection, held, state, actor=runs.WORKER, reason=reason, error=error)
        self._observe(StateChanged(run=lane.run, name=held.name, state=state, reason=reason))

    def _postpone(  # noqa: PLR0913 - one row; each column is named where it is called
        self,
        connection: Connection,
        lane: Lane,
        *,
        delay_seconds: float,
        batch_rows: int | None = None,
        error: Mapping[str, object] | None = None,
        retried: bool = True,
    ) -> None:
        """Write down when the lane comes back. If somebody holds it, it is theirs, and there is nothing to write."""
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
                    retried=error is not None and retried,
                )
        except psycopg.errors.LockNotAvailable:
            self._observe(MessageDropped(run=lane.run, lane=lane.lane, seq=lane.seq))

    def _know(self, connection: Connection, run: int) -> _Known:
        known = self._known.get(run)
        if known is None:
            found = runs.get(connection, run)
            if found is None:
                msg = f"there is no run {run}"
                raise LookupError(msg)
            operations = bind(found.migration, found.facts)
            works = {
                number: work
                for number, one in enumerate(operations)
                if (work := Work.of(one, number, run=run, journals=found.settings.journal, transforms=self._transforms))
                is not None
            }
            between = {
                (kind, number): Work.of_walk(operations[number], walk, run=run)
                for (kind, number), walk in walks(operations).items()
            }
            known = self._known[run] = _Known(
                run=found, operations=operations, works=works, walks=between, index_builds=self._index_builds
            )
        return known

    def _name(self, run: int) -> str:
        known = self._known.get(run)
        return known.run.name if known else str(run)

    def _tell(self, name: str, lane: Lane, tally: Tally, *, waits: tuple[float, float, float]) -> None:
        wait, statement, commit = waits
        self._observe(
            BatchCommitted(
                run=lane.run,
                name=name,
                lane=lane.lane,
                kind=lane.kind,
                rows_walked=tally.walked,
                rows_changed=tally.changed,
                rows_residual=tally.residual,
                rows_quarantined=tally.quarantined,
                wait_seconds=wait,
                statement_seconds=statement,
                commit_seconds=commit,
            )
        )
        for sqlstate in tally.sqlstates:
            self._observe(RowQuarantined(run=lane.run, name=name, lane=lane.lane, sqlstate=sqlstate))

    def _send_all(self, messages: tuple[LaneMessage, ...] | list[LaneMessage]) -> None:
        for message in messages:
            try:
                self._send(message)
            except Exception as exc:  # noqa: BLE001 - whatever the broker raises, the reconciler will find the lane
                self._observe(SendFailed(run=message.run, lane=message.lane, message=str(exc)))


def _real_size(lane: Lane) -> int:
    """How many rows a batch of the lane takes: less than its size says where a group of pages ends before."""
    walked = [timing.rows for timing in lane.recent if timing.rows > 0]
    return min(lane.batch_rows, max(walked)) if walked else lane.batch_rows


def _whereabouts(lane: Lane) -> dict[str, object]:
    """Where in its table a lane is, for people."""
    if lane.kind == "coordinator":
        return {}
    if isinstance(lane.bounds, PageRange):
        return {"from_page": lane.cursor["page"] if lane.cursor is not None else lane.bounds.first}
    return {"after_key": lane.cursor}


def _retried(tally: Tally | None) -> tuple[bool, None, Tally]:
    """(whether that was all, the cursor, what was done) of a step of a retrying lane."""
    return tally is None, None, tally or Tally()


def _at_end(lane: Lane, standing: StepContext) -> list[Statement]:
    """A lane has ended: the coordinator looks whether all have, and the next one that waits for its turn begins."""
    coordinator = lanes.wake_conductor_query(lane.run)
    wanted = lane.kind != "retry" and standing.lanes_awake <= standing.settings.lanes
    return [coordinator, lanes.wake_sleeper_query(lane.run)] if wanted else [coordinator]


def _backoff_seconds(attempts: int) -> float:
    # Jitter, so that lanes that met the same lock do not meet it together again.
    longest: float = min(FIRST_BACKOFF_SECONDS * 2 ** min(attempts, 10), LONGEST_BACKOFF_SECONDS)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreading load, not guarding secrets
