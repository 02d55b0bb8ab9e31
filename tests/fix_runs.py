"""Runs driven by hand: the worker's own runner, without Redis, threads or waiting.

`engine.drive(run)` takes one step at a time of whatever is due until the run rests. Nobody waits for a backoff: what would
come back later comes back at once, as if the clock had been moved.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import pytest
from psycopg.rows import dict_row

from backfilld.migrations.file import migration as definition
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import lanes, quarantine, runs
from backfilld.migrations.record.states import RESTING, STOPPING, State
from backfilld.migrations.wire.messages import LaneMessage
from backfilld.producers import enqueueing, staging
from backfilld.worker.lanes.runner import Runner
from backfilld.worker.side_tasks.control import Control

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.postgres.connect import Connection, Pool
    from backfilld.migrations.record.model import Lane, Quarantined, Run
    from backfilld.migrations.telemetry import Event
    from backfilld.monitoring.checks.targets import Targets

#: A run of the tests that has not come to rest after this many steps never will.
MOST_STEPS = 5000
#: Between two statements of a session that plays an application: some hundreds a second. At full speed it would take the processor
#: that the run beside it needs, and see no more of it.
PACE_SECONDS = 0.002

E = TypeVar("E")


@dataclass
class Engine:
    """A database, and the parts of a worker that a test moves by hand."""

    url: str
    connection: Connection
    pool: Pool
    #: What the runner told its observer.
    events: list[Event] = field(default_factory=list)
    #: What was sent and nobody has taken up: the queue.
    sent: list[LaneMessage] = field(default_factory=list)
    #: The runner of `step` and `drive`: one for all of them, as a worker has it, who composes the steps of a run once.
    own: Runner = field(init=False)

    def __post_init__(self) -> None:
        self.own = self.runner()

    @property
    def version(self) -> int:
        """The major version of the server."""
        return self.connection.info.server_version // 10_000

    def hand_in_counts(self) -> None:
        """Have the server's statistics know what this session has counted; before 15 it tells them twice a second by itself."""
        self.execute("SELECT pg_stat_force_next_flush()" if self.version >= 15 else "SELECT pg_sleep(0.6)")

    def execute(self, query: str, *parameters: Any) -> list[dict[str, Any]]:  # Any: values of the test's own tables
        cursor = self.connection.execute(query.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *parameters: Any) -> Any:  # Any: whatever the query gives
        (row,) = self.execute(query, *parameters)
        (value,) = row.values()
        return value

    def enqueue(self, file: str | Path) -> int:
        """A run of the migration in this file, or in this text of one; returns its id."""
        migration = definition.parse(file) if isinstance(file, str) else definition.load(file)
        found = enqueueing.enqueue(self.connection, migration, actor="test").run
        staging.send_files(self.connection, found)
        run = found.run
        self.sent.append(LaneMessage(target="default", run=run, lane=0, seq=0))
        return run

    def run(self, run: int) -> Run:
        found = runs.get(self.connection, run)
        assert found is not None
        return found

    def lanes(self, run: int, *kinds: str) -> list[Lane]:
        return [lane for lane in lanes.of_run(self.connection, run) if not kinds or lane.kind in kinds]

    def lane(self, run: int, lane: int) -> Lane:
        found = lanes.read(self.connection, run, lane)
        assert found is not None
        return found

    def quarantined(self, run: int) -> list[Quarantined]:
        return quarantine.listed(self.connection, run)

    def told(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def message(self, run: int, lane: int = 0) -> LaneMessage:
        """The message that the lane waits for."""
        return LaneMessage(target="default", run=run, lane=lane, seq=self.lane(run, lane).seq)

    def runner(
        self,
        *,
        pool: Pool | None = None,
        send: Callable[[LaneMessage], None] | None = None,
        one_step: bool = True,
        transforms: Sequence[str] = (),
        backups: Place | None = None,
        targets: Targets | None = None,
        replica_url: str | None = None,
    ) -> Runner:
        """A worker's runner. With `one_step` it behaves as if told to stop, which ends a message after one step."""
        stopping = threading.Event()
        if one_step:
            stopping.set()
        return Runner(
            pool or self.pool,
            send=send or self.sent.append,
            observe=self.events.append,
            stopping=stopping,
            transforms=transforms,
            backups=backups,
            targets=targets,
            replica_url=replica_url,
        )

    def set_pace(self, *, width: int = 8, age_seconds: float = 0.0, hold_reason: str | None = None) -> None:
        self.execute(
            "UPDATE backfilld.pace SET sampled_at = clock_timestamp() - make_interval(secs => %s), width = %s, hold_reason = %s",
            age_seconds,
            width,
            hold_reason,
        )

    def hurry(self) -> None:
        """Move the clock: whatever would come back later comes back now, and no message is on its way any more."""
        self.execute(
            "UPDATE backfilld.lanes SET next_run_at = least(next_run_at, clock_timestamp()), enqueued_at = NULL "
            "WHERE done_at IS NULL AND next_run_at IS NOT NULL"
        )

    def due(self) -> list[LaneMessage]:
        """What the reconciler would send at this moment, had every message been lost."""
        self.hurry()
        return lanes.due(self.connection, grace_seconds=0)

    def step(self, *, batch_rows: int | None = None, runner: Runner | None = None) -> LaneMessage:
        """Take up one message, sent or due. Fails when nothing moves the run any more."""
        statements = "UPDATE backfilld.pace SET sampled_at = clock_timestamp(), width = 8, hold_reason = NULL"
        if batch_rows is not None:
            statements += f"; UPDATE backfilld.lanes SET batch_rows = {batch_rows} WHERE done_at IS NULL"
        self.execute(statements)
        if not self.sent:
            self.sent += self.due()
        assert self.sent, "nothing was sent and nothing is due: the run is lost"
        message = self.sent.pop(0)
        (runner or self.own).advance(message)
        return message

    def drive(
        self,
        run: int,
        *,
        batch_rows: int | None = None,
        until: Callable[[Run], bool] | None = None,
        shuffle: random.Random | None = None,
        runner: Runner | None = None,
    ) -> Run:
        """Take steps until the run rests, or until `until` says so. `batch_rows` keeps batches at that size."""
        runner = runner or self.own
        for _ in range(MOST_STEPS):
            state = State(self.value("SELECT state FROM backfilld.runs WHERE run = %s", run))
            if state in RESTING or (until is not None and until(self.run(run))):
                return self.run(run)
            if state in STOPPING:
                Control(observe=self.events.append).run_once(self.connection)
                continue
            if shuffle is not None:
                shuffle.shuffle(self.sent)
            self.step(batch_rows=batch_rows, runner=runner)
        pytest.fail(f"run {run} does not come to rest: {self.run(run)}\n{self.lanes(run)}")

    def drive_to_lanes(self, run: int, kind: str = "backfill") -> list[Lane]:
        """Drive the coordinator until the lanes of this kind are there and none has moved."""
        self.drive(run, until=lambda _run: bool(self.lanes(run, kind)))
        return self.lanes(run, kind)

    def connect(self) -> Connection:
        """One more connection, as the application would have it."""
        return psycopg.connect(self.url, autocommit=True, row_factory=dict_row)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine for a fresh database, with a fresh pace reading."""
    with (
        psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection,
        open_pool(database_url, size=8) as pool,
    ):
        one = Engine(url=database_url, connection=connection, pool=pool)
        one.set_pace()
        yield one


def expect(run: Run, state: State) -> None:
    """The run is in this state; otherwise the test says why it is not."""
    assert run.state is state, f"{run.state} in {run.phase}: {run.error}"
