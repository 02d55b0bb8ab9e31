"""What a forked worker does: it asks something of a run, and then takes steps of whatever is due until the run rests.

The parts are the worker's own: its runner, its reconciler, its control. Only the clock is the harness's: what would come
back later comes back at once, and the load is always read as light.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Self

import psycopg
from psycopg.rows import dict_row

from backfilld.migrations.file import migration as definition
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record.states import RESTING, STOPPING, State
from backfilld.migrations.wire.messages import LaneMessage
from backfilld.producers import commands, enqueueing, staging
from backfilld.worker.lanes.runner import Runner
from backfilld.worker.side_tasks.control import Control
from backfilld.worker.side_tasks.reconciler import Reconciler
from proof import sabotage
from proof.kills import Counter, Kill

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.postgres.connect import Connection

#: A child that has not come to its end by then hangs; SIGALRM ends it, and the test says what it did last.
LONGEST_LIFE_SECONDS = 120
#: A run that nothing moves for so long is lost.
PATIENCE_SECONDS = 30.0
#: What each session of ours is called, so that the test can wait for its end.
APPLICATION_NAME = "backfilld"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a child is to do, and when it is to die."""

    url: str
    #: The migration, as text of a file.
    migration: str
    #: What is asked of the run first: enqueue, rollback, or approve:PHASE.
    asks: tuple[str, ...] = ()
    kill: Kill | None = None
    #: Batches are kept at this size.
    batch_rows: int = 6
    #: Messages that are still in the queue: as (run, lane, seq).
    queue: tuple[tuple[int, int, int], ...] = ()
    #: Decides the order in which messages are taken; None for the order in which they were sent.
    seed: int | None = None
    #: Each message is good for one step; otherwise for as many as the worker makes of it.
    one_step: bool = True
    #: The run is let go once it is in this phase.
    until: str | None = None
    #: What is broken in this worker; see sabotage.py.
    sabotage: str | None = None
    #: Tell every statement.
    tell_all: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:  # Any: JSON
        kill = Kill(**value["kill"]) if value["kill"] else None
        lists = {name: tuple(map(_tuples, value[name])) for name in ("asks", "queue")}
        return cls(**{**value, **lists, "kill": kill})


def live(job: Job, write: int) -> NoReturn:
    """Do the job, telling of it on the file descriptor, and end the process."""
    signal.alarm(LONGEST_LIFE_SECONDS)
    try:
        _Worker(job, write).work()
    except BaseException:  # noqa: BLE001 - whatever it is, the test is to read it
        _tell(write, "ended", {"state": None, "phase": None, "error": traceback.format_exc()})
    finally:
        os._exit(0)


@dataclass
class _Worker:
    job: Job
    write: int
    queue: list[LaneMessage] = field(default_factory=list)

    def work(self) -> None:
        job = self.job
        if job.sabotage is not None:
            sabotage.WAYS[job.sabotage]()
        counter = Counter(job.kill, self._told)
        with _connect(job.url) as own, _connect(job.url) as connection:
            counter.own.add(id(own))
            counter.begin()
            for ask in job.asks:
                self._ask(connection, ask)
            self.queue += [LaneMessage(target="default", run=run, lane=lane, seq=seq) for run, lane, seq in job.queue]
            with open_pool(job.url, size=2) as pool:
                stopping = threading.Event()
                if job.one_step:
                    stopping.set()
                runner = Runner(pool, send=self._send, observe=_ignore, stopping=stopping)
                self._drive(own, connection, runner)

    def _ask(self, connection: Connection, ask: str) -> None:
        migration = definition.parse(self.job.migration)
        match ask.split(":"):
            case ["enqueue"]:
                found = enqueueing.enqueue(connection, migration, actor="the proof").run
                staging.send_files(connection, found)
                run = found.run
                self._send(LaneMessage(target="default", run=run, lane=0, seq=0))
            case ["approve", phase]:
                commands.approve(connection, migration.name, phase, actor="the proof", yes=True)
            case ["rollback"]:
                commands.rollback(connection, migration.name, actor="the proof")
            case _:
                raise ValueError(ask)

    def _drive(self, own: Connection, connection: Connection, runner: Runner) -> None:
        name = definition.parse(self.job.migration).name
        chance = random.Random(self.job.seed) if self.job.seed is not None else None
        reconciler = Reconciler(send=self._send, observe=_ignore)
        control = Control(observe=_ignore)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            run = own.execute(_RUN, [name]).fetchone()
            assert run is not None
            state = State(run["state"])
            if state in RESTING or run["phase"] == self.job.until or time.monotonic() > deadline:
                late = {"error": "nothing moves the run any more"} if time.monotonic() > deadline else {}
                _tell(self.write, "ended", {**run, **late})
                return
            own.execute(_LIGHT_LOAD, [self.job.batch_rows])
            if state in STOPPING:
                control.run_once(connection)
            if not self.queue:
                reconciler.run_once(connection)
            if not self.queue:
                threading.Event().wait(0.002)  # another worker, alive or just dead, holds what is due
                continue
            deadline = time.monotonic() + PATIENCE_SECONDS
            if chance is not None:
                chance.shuffle(self.queue)
            runner.advance(self.queue.pop(0))

    def _send(self, message: LaneMessage) -> None:
        self.queue.append(message)
        _tell(self.write, "sent", message.run, message.lane, message.seq)

    def _told(self, number: int, statement: str, effective: bool) -> None:  # noqa: FBT001 - called by position
        _tell(self.write, "statement", number, statement[:300], effective)
        if self.job.tell_all:
            _tell(self.write, "all", statement[:300])


#: The newest run of the migration's name.
_RUN = """
SELECT state, phase, pass, error, verified_at IS NOT NULL AS verified FROM backfilld.runs
WHERE name = %s ORDER BY run DESC LIMIT 1
"""

#: Nobody waits for a backoff or a reading, and batches stay small. Lanes that somebody holds are left alone.
_LIGHT_LOAD = """
WITH free AS (SELECT run, lane FROM backfilld.lanes WHERE done_at IS NULL FOR UPDATE SKIP LOCKED),
     light AS (UPDATE backfilld.pace SET sampled_at = clock_timestamp(), width = 8, hold_reason = NULL)
UPDATE backfilld.lanes l SET batch_rows = %s, enqueued_at = NULL, next_run_at = least(l.next_run_at, clock_timestamp())
FROM free WHERE l.run = free.run AND l.lane = free.lane
"""


def _connect(url: str) -> Connection:
    return psycopg.connect(url, autocommit=True, row_factory=dict_row, application_name=APPLICATION_NAME)


def _tell(write: int, *what: object) -> None:
    os.write(write, json.dumps(what, default=str).encode() + b"\n")


def _ignore(_event: object) -> None:
    """Nobody watches."""


def _tuples(value: Any) -> Any:  # Any: JSON
    return tuple(value) if isinstance(value, list) else value
