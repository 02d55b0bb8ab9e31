"""Watches one DDL step acquire its lock: checks for blockers first, records them while it waits, and cancels those that
`cancel_blockers` allows. The decisions are in `lock_policy.py`.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg_pool import PoolTimeout

from backfilld.migrations.postgres import locks
from backfilld.migrations.record import audit, runs
from backfilld.migrations.telemetry import BlockerSentAway, LockTried
from backfilld.worker.phases import lock_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.operations import Action
    from backfilld.migrations.postgres.connect import Connection, Pool
    from backfilld.migrations.postgres.locks import Blocker, Needed, Queue
    from backfilld.migrations.record.model import Lane
    from backfilld.migrations.record.step_context import StepContext
    from backfilld.migrations.telemetry import Observer

#: The first look from another connection, as a share of `lock_timeout`: most tries need none.
FIRST_LOOK = 0.3
#: How much rarer looks become while no session blocks it, up to once a second: a VALIDATE may take an hour.
RARER = 2.0
LONGEST_SECONDS = 1.0


class Blocked(Exception):
    """A lock was not acquired, or not asked for, because of the sessions that hold it; the step is tried again later."""

    def __init__(self, lock_watch: LockWatch, *, sqlstate: str | None) -> None:
        super().__init__(lock_watch.in_words)
        self.lock_watch = lock_watch
        #: None: it was only looked at.
        self.sqlstate = sqlstate


class LockWatch:
    """One for each step of a coordinator."""

    def __init__(
        self, pool: Pool, lane: Lane, context: StepContext, *, observe: Observer, again_scans: bool = False
    ) -> None:
        self._pool = pool
        #: Whether the table is scanned once more when the step is tried again.
        self.again_scans = again_scans
        self.lane = lane
        self.context = context
        self._observe = observe
        self.wait = lock_policy.Wait.of(lane.lock_wait, context.now.timestamp())
        self.lock: Needed | None = None
        #: Whether a lock was asked for that others might hold.
        self._asks = False
        #: Who was in the way when last looked at.
        self.blockers: tuple[Blocker, ...] = ()
        self.queue: Queue | None = None
        self.sent_away: list[BlockerSentAway] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def before(self, connection: Connection, action: Action) -> None:
        """Check for blockers before an action's first statement. Raises Blocked when the lock policy says not to try now."""
        self.lock = locks.needed(action)
        if self.lock is not None:
            self.blockers = tuple(locks.holders(connection, self.lock))
            if lock_policy.pause_seconds(self.wait, self.blockers, self.context.settings) != 0.0:
                self._tell("put_off")
                raise Blocked(self, sqlstate=None)
            self._asks = True
        if self._thread is None and action.index is None:
            pid = locks.prepare(connection, lock_timeout_ms=self.context.settings.lock_timeout_ms)
            self._thread = threading.Thread(target=self._watch, args=(pid,), name=f"lock_watch {pid}", daemon=True)
            self._thread.start()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the statements within, up to their COMMIT. Raises Blocked when an action did not get its lock."""
        try:
            yield
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as exc:
            self._end()
            if self._thread is None:  # it was no action, but a row of the record
                raise
            self.wait = self.wait.tried()
            self._tell("timed_out")
            if self.queue is not None:
                self.blockers = self.queue.blockers
            raise Blocked(self, sqlstate=exc.sqlstate) from exc
        finally:
            self._end()

    @property
    def in_words(self) -> str:
        awaited = self.queue.awaited if self.queue else str(self.lock or "a table")
        return lock_policy.in_words(awaited, self.blockers, self.context.settings)

    def put_on_record(self, connection: Connection, *, committed: bool) -> None:
        """Record the cancelled blockers, the present ones, or that the lock was acquired after a wait.

        Called after the step, not within it: the step's transaction may hold rows that the record needs.
        """
        run = self.lane.run
        if committed and self._asks:
            self._tell("had")
        for event in self.sent_away:
            detail = {name: value for name, value in vars(event).items() if name not in {"run", "name", "how"}}
            audit.record(connection, run, actor=runs.WORKER, what=f"blocker.{event.how}", **detail)
        if committed and self._thread is not None and self.wait.told_at is not None:
            audit.record(connection, run, actor=runs.WORKER, what="lock.had", seconds=round(self.wait.seconds, 1))
        if not committed:
            if not self.blockers and self.lock is not None:
                self.blockers = tuple(locks.holders(connection, self.lock))
            if self.wait.is_news(self.blockers):
                self.wait = self.wait.told(self.blockers)
                detail = {"message": self.in_words, "blockers": [one.to_json() for one in self.blockers]}
                audit.record(connection, run, actor=runs.WORKER, what="lock.waiting", **detail)

    def _tell(self, outcome: Literal["had", "timed_out", "put_off"]) -> None:
        self._observe(LockTried(run=self.lane.run, outcome=outcome, seconds=self.wait.seconds))

    def _end(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, pid: int) -> None:
        """Look for blockers from another connection, again and again, for as long as the step lasts."""
        timeout = self.context.settings.lock_timeout_ms / 1000
        every = FIRST_LOOK * timeout
        try:
            while not self._over.wait(every):
                # Given back between two looks: a VALIDATE of an hour must not keep a connection that others may need.
                with self._pool.connection(timeout=timeout) as connection:
                    queue = locks.queue(connection, pid, self.lock)
                    if queue is not None:
                        self.queue = queue
                        self._send_away(connection, queue, pid)
                if queue is None:
                    every = min(every * RARER, LONGEST_SECONDS)
        except (psycopg.Error, PoolTimeout):
            return  # who was in the way is looked up once more afterwards; nothing else depends on it

    def _send_away(self, connection: Connection, queue: Queue, pid: int) -> None:
        gone = {event.pid for event in self.sent_away}
        for blocker in queue.blockers:
            how = lock_policy.way_out(blocker, self.context.settings)
            if how is None or blocker.pid is None or blocker.pid in gone:
                continue
            if locks.send_away(connection, blocker, waiting=pid, ends=how == "end"):
                event = BlockerSentAway(
                    run=self.lane.run,
                    name=self.context.name,
                    how="ended" if how == "end" else "cancelled",
                    pid=blocker.pid,
                    application_name=blocker.application_name,
                    role=blocker.role,
                    state=blocker.state,
                    query=blocker.query,
                    seconds=round(blocker.transaction_seconds or 0.0, 1),
                )
                self.sent_away.append(event)
                self._observe(event)
