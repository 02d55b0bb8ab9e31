"""A server all of whose processes are killed at once, again and again, and workers that outlive it with what they remember.

What has committed and is not on disk is in shared memory, and goes with the processes; the settings keep it there for as long as
they can. Whatever was seen of a run's phase, its gate and its orders before must still be so afterwards.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from fix_daemon import _lives as lives
from fix_daemon import until
from psycopg.rows import dict_row
from psycopg_pool import PoolTimeout

from backfilld.migrations.errors import Unreachable
from backfilld.migrations.postgres.connect import connect, open_pool
from backfilld.migrations.record.states import RESTING
from backfilld.worker.lanes.runner import Runner
from backfilld.worker.side_tasks.control import Control
from backfilld.worker.side_tasks.reconciler import Reconciler
from proof.trial import Wrong

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from backfilld.migrations.wire.messages import LaneMessage
    from backfilld.producers.demo.servers import EmbeddedPostgres

#: What the WAL writer and evicted pages would bring to the disk stays in memory, so that it is lost.
SETTINGS = {
    "fsync": "on",
    "wal_buffers": "64MB",
    "wal_writer_delay": "10s",
    "wal_writer_flush_after": "1GB",
    "bgwriter_lru_maxpages": "0",
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
}
#: The longest time from when work was seen to the next death.
LONGEST_LIFE_SECONDS = 0.3
LOOK_SECONDS = 0.002
#: A run that has not come to rest by then never will.
PATIENCE_SECONDS = 180.0
#: What batches put on record goes with them.
_OF_BATCHES = ("lane.split", "table.rewritten", "batch.undone")

#: Nobody waits for a backoff, a message or a reading, and batches stay small. Lanes that somebody holds are left alone.
_LIGHT_LOAD = """
WITH free AS (SELECT run, lane FROM backfilld.lanes WHERE done_at IS NULL FOR UPDATE SKIP LOCKED),
     light AS (UPDATE backfilld.pace SET sampled_at = clock_timestamp(), width = 8, hold_reason = NULL)
UPDATE backfilld.lanes l SET batch_rows = least(batch_rows, 100), enqueued_at = NULL, next_run_at = least(l.next_run_at, clock_timestamp())
FROM free WHERE l.run = free.run AND l.lane = free.lane
"""

_SEEN = """
SELECT r.run, r.state, r.phase, r.verified_at, r.error,
       (SELECT coalesce(sum(l.seq), 0)::bigint FROM backfilld.lanes l WHERE l.run = r.run AND l.lane > 0) AS batches,
       (SELECT coalesce(array_agg(e.event || ' ' || e.what ORDER BY e.event), '{}') FROM backfilld.events e
        WHERE e.run = r.run AND e.what <> ALL (%s)) AS events
FROM backfilld.runs r ORDER BY r.run DESC LIMIT 1
"""


def kill(server: EmbeddedPostgres) -> None:
    """SIGKILL of every process of the server. Its postmaster is stopped first, or it would tidy up after the others."""
    os.kill(server.pid, signal.SIGSTOP)
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii").split()
    pids = [*map(int, children), server.pid]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until("the server to be gone", lambda: not any(map(lives, pids)))


@dataclass
class Workers:
    """Threads that take messages for as long as the context lasts, whatever becomes of the server: one process's worth of memory."""

    url: str
    threads: int = 2
    messages: queue.SimpleQueue[LaneMessage] = field(default_factory=queue.SimpleQueue)
    _done: threading.Event = field(default_factory=threading.Event)
    #: Mistakes of a thread; the loss of the server is none.
    errors: list[BaseException] = field(default_factory=list)

    @contextmanager
    def working(self) -> Iterator[None]:
        with open_pool(self.url, size=2 * self.threads) as pool:
            runner = Runner(pool, send=self.messages.put, observe=_ignore, stopping=self._done)
            threads = [threading.Thread(target=self._kept, args=(self._work, runner)) for _ in range(self.threads)]
            threads.append(threading.Thread(target=self._kept, args=(self._wake, None)))
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                self._done.set()
                for thread in threads:
                    thread.join()

    def _kept(self, target: Callable[[Runner | None], None], runner: Runner | None) -> None:
        while not self._done.is_set():
            try:
                target(runner)
            except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, Unreachable):
                self._done.wait(0.02)
            except BaseException as exc:  # noqa: BLE001 - a thread's edge: the test reads it
                self.errors.append(exc)
                return

    def _work(self, runner: Runner | None) -> None:
        assert runner is not None
        message = self.messages.get(timeout=0.05) if not self.messages.empty() else None
        if message is None:
            self._done.wait(0.005)
            return
        try:
            runner.advance(message)
        except (psycopg.Error, PoolTimeout):
            self.messages.put(message)  # it is delivered again, to a server that may not know of it any more
            raise

    def _wake(self, _runner: Runner | None) -> None:
        """The side tasks; the clock's own commits are not to bring those of the batches to the disk."""
        with (
            psycopg.connect(self.url, autocommit=True, row_factory=dict_row, application_name="the clock") as clock,
            connect(self.url) as connection,
        ):
            clock.execute("SET synchronous_commit = off")
            control, reconciler = Control(observe=_ignore), Reconciler(send=self.messages.put, observe=_ignore)
            while not self._done.is_set():
                clock.execute(_LIGHT_LOAD)
                control.run_once(connection)
                if self.messages.empty():
                    reconciler.run_once(clock)
                self._done.wait(0.05)


@dataclass
class Crashes:
    """Deaths of a server, at moments that chance decides, with what was seen before compared with what is there afterwards."""

    url: str
    chance: random.Random
    workers: Workers
    #: Brings the server back; another than it was where that is a standby's promotion.
    revive: Callable[[], None]
    #: Batches that were seen to be committed and were gone after a death, one number a death.
    lost: list[int] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def ask(self, command: Callable[..., object], *arguments: object) -> None:
        """A command of a person's, which is acknowledged when this returns."""
        with connect(self.url) as connection:
            command(connection, "crashes", *arguments, actor="the proof")

    def die_often(self, times: int) -> None:
        """Let the workers work, and the server die so many times."""
        for _ in range(times):
            self._live((), dies=True)
            self._die()

    def die_at_batch(self, batches: int) -> None:
        """Let the workers work until so many batches were seen, and the server die."""
        with self._connect() as connection:
            while (seen := self._look(connection))["batches"] < batches and not self.workers.errors:
                time.sleep(LOOK_SECONDS)  # as below: the server that is about to die tells nobody of a batch
            self._seen = seen
        self._die()

    def until_rest(self, state: str) -> None:
        """Let the workers work until the run is in this state."""
        self._live((state,), dies=False)

    def die(self) -> None:
        """Now, and look whether everything that was there is there still."""
        with self._connect() as connection:
            self._seen = self._look(connection)
        self._die()

    def _live(self, states: tuple[str, ...], *, dies: bool) -> None:
        """Look at the run until it is in one of these states, or its moment has come: often that is when something new was seen."""
        at_news, life = self.chance.random() < 0.3, self.chance.uniform(0, LONGEST_LIFE_SECONDS)
        deadline, at_work = time.monotonic() + PATIENCE_SECONDS, None
        with self._connect() as connection:
            first = self._seen = self._look(connection)
            while self._seen["state"] not in states:
                now = time.monotonic()
                if self.workers.errors:
                    raise self.wrong("a worker failed") from self.workers.errors[0]
                if self._seen["state"] == "failed" or now > deadline:
                    raise self.wrong(
                        f"the run is {self._seen['state']} in {self._seen['phase']}: {self._seen['error']}"
                    )
                news = self._seen["events"] != first["events"] or self._seen["verified_at"] != first["verified_at"]
                if at_work is None and (news or self._seen["batches"] > first["batches"]):
                    at_work = now
                rests = self._seen["state"] in RESTING
                if dies and ((at_news and news) or rests or (at_work is not None and now > at_work + life)):
                    return
                time.sleep(LOOK_SECONDS)  # the grain of looking
                self._seen = self._look(connection)

    def _die(self) -> None:
        before = self._seen
        self.revive()
        with self._connect() as connection:
            after = self._look(connection)
        self.lost.append(max(before["batches"] - after["batches"], 0))
        self.log.append(
            f"died in {before['phase']}, {before['state']}, {before['batches']} batches; {self.lost[-1]} lost"
        )
        forgotten = [event for event in before["events"] if event not in after["events"]]
        if forgotten:
            raise self.wrong(f"it was on record, and is not any more: {forgotten}")
        if before["verified_at"] is not None and before["verified_at"] != after["verified_at"]:
            raise self.wrong(f"the gate was open since {before['verified_at']}, and now {after['verified_at']}")

    def _look(self, connection: psycopg.Connection[dict[str, Any]]) -> dict[str, Any]:  # Any: a row
        row = connection.execute(_SEEN, [list(_OF_BATCHES)]).fetchone()
        if row is None:
            raise self.wrong("the run is gone")
        return row

    def _connect(self) -> psycopg.Connection[dict[str, Any]]:
        return psycopg.connect(self.url, autocommit=True, row_factory=dict_row, application_name="the crashes")

    def wrong(self, problem: str) -> Wrong:
        return Wrong("\n".join([problem, "What happened:", *self.log]))

    _seen: dict[str, Any] = field(default_factory=dict)


def _ignore(_event: object) -> None:
    """Nobody watches."""
