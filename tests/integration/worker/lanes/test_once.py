"""Exactly once: every row of a walk that cannot be repeated is visited once, whatever is lost, doubled or killed on the way.

The expression `n + 1` reads what it sets, so a batch done twice shows as a 2, and one that was lost as a 0.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import expect
from paths import ROOT

from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import (
    BatchCommitted,
    BatchRetried,
    CommitUnknown,
    LanesWoken,
    MessageDropped,
    SendFailed,
)
from backfilld.worker.side_tasks.reconciler import GRACE_SECONDS, Reconciler

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_proxy import Proxy
    from fix_runs import Engine

    from backfilld.migrations.wire.messages import LaneMessage

INCREMENT = """
name: increment
operations:
  - backfill: {table: counters, set: {n: "n + 1"}}
settings: {lanes: %d}
"""
ROWS = 60


def start(engine: Engine, *, lanes: int = 2) -> int:
    engine.execute("CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    engine.execute("INSERT INTO counters (id) SELECT generate_series(1, %s)", ROWS)
    return engine.enqueue(INCREMENT % lanes)


def counted(engine: Engine) -> dict[int, int]:
    """How many rows were incremented how often."""
    return {row["n"]: row["rows"] for row in engine.execute("SELECT n, count(*) AS rows FROM counters GROUP BY n")}


def assert_once(engine: Engine, run: int) -> None:
    expect(engine.run(run), State.COMPLETED)
    assert counted(engine) == {1: ROWS}
    lanes = engine.lanes(run, "backfill")
    assert sum(lane.rows_walked for lane in lanes) == ROWS
    assert sum(lane.rows_changed for lane in lanes) == ROWS


def test_every_row_is_visited_once(engine: Engine) -> None:
    run = start(engine)
    assert_once(engine, engine.drive(run, batch_rows=7).run)


@pytest.mark.parametrize("seed", range(2))
def test_messages_that_are_lost_doubled_and_late_change_nothing(engine: Engine, seed: int) -> None:
    run = start(engine, lanes=3)
    chance = random.Random(seed)
    late: list[LaneMessage] = []
    for _ in range(1000):
        if engine.run(run).state is State.COMPLETED:
            break
        match chance.choice(["deliver", "lose", "double", "late"]):
            case "lose" if engine.sent:
                engine.sent.pop(0)
            case "double" if engine.sent:
                engine.sent.append(engine.sent[0])
            case "late" if late:
                engine.sent.insert(0, chance.choice(late))
        late.append(engine.step(batch_rows=5))
    assert engine.told(MessageDropped)
    assert_once(engine, run)


def test_a_stale_message_does_nothing(engine: Engine) -> None:
    run = start(engine, lanes=1)
    (lane,) = engine.drive_to_lanes(run)
    first = engine.message(run, lane.lane)
    engine.sent[:] = [first]
    engine.step(batch_rows=10)
    before = engine.lane(run, lane.lane)

    engine.sent[:] = [first, replace(first, seq=99), replace(first, lane=99)]
    for _ in range(3):
        engine.step(batch_rows=10)

    assert engine.lane(run, lane.lane) == replace(before, batch_rows=10)
    assert len(engine.told(MessageDropped)) == 3
    assert counted(engine) == {0: ROWS - 10, 1: 10}


def test_the_same_message_in_two_threads_at_once_is_done_once(engine: Engine) -> None:
    run = start(engine, lanes=1)
    (lane,) = engine.drive_to_lanes(run)
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 10 WHERE lane = %s", lane.lane)
    message = engine.message(run, lane.lane)
    both = threading.Barrier(2)

    def advance() -> None:
        both.wait()
        engine.runner().advance(message)

    for _ in range(5):
        engine.set_pace()
        threads = [threading.Thread(target=advance) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        message = engine.message(run, lane.lane)
        assert counted(engine).keys() <= {0, 1}
    assert engine.told(MessageDropped)
    assert_once(engine, engine.drive(run).run)


def test_a_stale_message_does_not_end_the_lane_it_meets_locked(engine: Engine) -> None:
    """What `SKIP LOCKED` would do: the true message finds the lane locked by a stale one, and is dropped for good."""
    run = start(engine, lanes=1)
    (lane,) = engine.drive_to_lanes(run)
    message = engine.message(run, lane.lane)
    engine.set_pace()
    with engine.connect() as other, other.transaction():
        other.execute("SELECT FROM backfilld.lanes WHERE run = %s AND lane = %s FOR UPDATE", [run, lane.lane])
        engine.runner().advance(message)
    assert counted(engine) == {0: ROWS}
    engine.sent.clear()
    assert [due.lane for due in engine.due()] == [lane.lane]
    assert_once(engine, engine.drive(run).run)


def test_the_reconciler_finds_a_lane_whose_message_was_lost_after_its_grace(engine: Engine) -> None:
    run = start(engine, lanes=1)
    (lane,) = engine.drive_to_lanes(run)
    engine.sent.clear()
    reconciler = Reconciler(send=engine.sent.append, observe=engine.events.append)
    assert reconciler.run_once(engine.connection) == 0, "it may still be on its way"

    engine.execute(
        "UPDATE backfilld.lanes SET enqueued_at = enqueued_at - make_interval(secs => %s) WHERE lane = %s",
        GRACE_SECONDS,
        lane.lane,
    )
    assert reconciler.run_once(engine.connection) == 1
    assert engine.sent == [engine.message(run, lane.lane)]
    assert engine.told(LanesWoken) == [LanesWoken(lanes=1)]
    assert reconciler.run_once(engine.connection) == 0, "it was sent just now"


def test_a_lane_that_is_being_worked_on_is_not_woken(engine: Engine) -> None:
    run = start(engine, lanes=1)
    (lane,) = engine.drive_to_lanes(run)
    engine.hurry()
    with engine.connect() as other, other.transaction():
        other.execute("SELECT FROM backfilld.lanes WHERE run = %s AND lane = %s FOR UPDATE", [run, lane.lane])
        assert Reconciler(send=engine.sent.append, observe=engine.events.append).run_once(engine.connection) == 0


def test_two_reconcilers_do_not_wake_a_lane_twice(engine: Engine) -> None:
    start(engine)
    engine.hurry()
    engine.sent.clear()
    with engine.connect() as other, other.transaction():
        reconciler = Reconciler(send=engine.sent.append, observe=engine.events.append)
        assert reconciler.run_once(other) == 1
        assert reconciler.run_once(engine.connection) == 0


def test_a_message_that_cannot_be_sent_stops_nothing(engine: Engine) -> None:
    run = start(engine)

    def fail(_message: LaneMessage) -> None:
        msg = "no route to Redis"
        raise ConnectionError(msg)

    runner = engine.runner(send=fail)
    for _ in range(200):
        if engine.run(run).state is State.COMPLETED:
            break
        engine.step(batch_rows=20, runner=runner)
    assert engine.told(SendFailed)
    assert_once(engine, run)


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_whose_answer_was_lost_is_looked_up(
    engine: Engine, proxy: Callable[[str], Proxy], *, committed: bool
) -> None:
    run = start(engine, lanes=1)
    (lane,) = engine.drive_to_lanes(run)
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 10 WHERE lane = %s", lane.lane)
    message = engine.message(run, lane.lane)
    engine.sent.clear()
    between = proxy(engine.url)
    with open_pool(between.url(engine.url), size=2) as pool:
        happened = between.drop_reply(b"COMMIT") if committed else between.drop_request(b"COMMIT")
        engine.runner(pool=pool).advance(message)
        assert happened.is_set()

    assert engine.told(CommitUnknown) == [CommitUnknown(run=run, lane=lane.lane, committed=committed)]
    assert not engine.told(BatchCommitted), "nobody knew that it had"
    assert counted(engine) == ({0: ROWS - 10, 1: 10} if committed else {0: ROWS})
    assert engine.lane(run, lane.lane).seq == lane.seq + committed
    assert_once(engine, engine.drive(run, batch_rows=10).run)


@pytest.mark.parametrize("statement", [b"BEGIN", b"FOR UPDATE", b"UPDATE", b"advance", b"COMMIT"])
@pytest.mark.parametrize("heard", [True, False])
def test_a_connection_cut_at_any_statement_of_any_step(
    engine: Engine, proxy: Callable[[str], Proxy], statement: bytes, *, heard: bool
) -> None:
    """The network goes at the first such statement of each step in turn, before the server hears of it or after."""
    run = start(engine)
    between = proxy(engine.url)
    needle = b"SET cursor" if statement == b"advance" else statement
    with open_pool(between.url(engine.url), size=2) as pool:
        runner = engine.runner(pool=pool)
        for step in range(500):
            if engine.run(run).state is State.COMPLETED:
                break
            if step % 2 and not heard:
                between.drop_request(needle)
            elif step % 2 and needle in {b"BEGIN", b"COMMIT"}:
                between.drop_reply(needle)
            elif step % 2:
                between.drop_reply(b"UPDATE" if needle == b"UPDATE" else b"SELECT")
            with suppress(psycopg.OperationalError):  # cut before the step began: the actor's to log
                engine.step(batch_rows=15, runner=runner)
    assert_once(engine, run)


@pytest.mark.parametrize("point", ["begun", "in the batch", "before commit"])
def test_a_server_process_that_is_killed_takes_nothing_with_it(engine: Engine, point: str) -> None:
    run = start(engine, lanes=1)
    (lane,) = engine.drive_to_lanes(run)
    when = {"begun": "BEFORE UPDATE ON backfilld.lanes", "in the batch": "AFTER UPDATE ON counters"}
    if point == "before commit":
        engine.execute(_DIE)
        engine.execute(
            "CREATE CONSTRAINT TRIGGER die AFTER UPDATE ON counters DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION die()"
        )
    else:
        engine.execute(_DIE)
        engine.execute(f"CREATE TRIGGER die {when[point]} FOR EACH STATEMENT EXECUTE FUNCTION die()")
    engine.sent[:] = [engine.message(run, lane.lane)]
    engine.step(batch_rows=10)
    assert engine.told(BatchRetried)[0].error_class == "connection"
    assert engine.told(CommitUnknown) == [CommitUnknown(run=run, lane=lane.lane, committed=False)]
    assert counted(engine) == {0: ROWS}
    assert_once(engine, engine.drive(run, batch_rows=10).run)


#: Ends its own server process, the first time it is called by a batch of ours.
_DIE = """
CREATE SEQUENCE deaths;
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF coalesce(current_setting('backfilld.batch', true), '') = 'on' AND nextval('public.deaths') = 1 THEN
    PERFORM pg_terminate_backend(pg_backend_pid());
  END IF;
  RETURN NULL;
END $$
"""

#: A worker of one thread: takes what is due, as the reconciler and a message would, until the run rests.
_WORKER = """
import sys, threading
import psycopg
from psycopg.rows import dict_row
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import lanes
from backfilld.worker.lanes.runner import Runner
url = sys.argv[1]
stopping = threading.Event()
stopping.set()
with open_pool(url, size=2) as pool, psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
    runner = Runner(pool, send=lambda message: None, observe=lambda event: None, stopping=stopping)
    while True:
        connection.execute("UPDATE backfilld.pace SET sampled_at = clock_timestamp()")
        connection.execute("UPDATE backfilld.lanes SET enqueued_at = NULL, batch_rows = 10 WHERE done_at IS NULL")
        for message in lanes.due(connection, grace_seconds=0):
            runner.advance(message)
"""

#: Waits for a lock that the test holds, at every point of a step that a trigger can mark.
_BLOCK = """
CREATE FUNCTION block() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
BEGIN
  IF current_setting('backfilld.batch', true) = 'on' THEN
    PERFORM pg_advisory_xact_lock_shared(1);
  END IF;
  RETURN NEW;
END $$
"""


@pytest.mark.parametrize(
    "trigger",
    [
        "CREATE TRIGGER block BEFORE UPDATE ON counters FOR EACH ROW WHEN (old.id %% 25 = 0) EXECUTE FUNCTION block()",
        "CREATE TRIGGER block AFTER UPDATE ON backfilld.lanes FOR EACH ROW WHEN (new.seq > old.seq) EXECUTE FUNCTION block()",
        "CREATE CONSTRAINT TRIGGER block AFTER UPDATE ON counters DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION block()",
    ],
    ids=["in the batch", "at the checkpoint", "in the commit"],
)
def test_a_worker_killed_with_sigkill_loses_nothing(engine: Engine, trigger: str) -> None:
    run = start(engine)
    engine.drive_to_lanes(run)
    engine.execute(_BLOCK)
    engine.execute(trigger.replace("%%", "%"))
    with engine.connect() as gate:
        for _ in range(2):
            gate.execute("SELECT pg_advisory_lock(1)")
            worker = subprocess.Popen(
                [sys.executable, "-c", _WORKER, engine.url],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            try:
                _wait_until_blocked(gate, worker)
            finally:
                worker.send_signal(signal.SIGKILL)
                worker.wait()
            with suppress(psycopg.Error):
                gate.execute("SELECT pg_advisory_unlock(1)")
            engine.step(batch_rows=10)
    engine.execute("DROP FUNCTION block() CASCADE")
    engine.sent.clear()
    assert_once(engine, engine.drive(run, batch_rows=10).run)


def _wait_until_blocked(gate: psycopg.Connection[dict[str, object]], worker: subprocess.Popen[bytes]) -> None:
    """Until somebody waits for the advisory lock; asked again and again, each time of the server."""
    for _ in range(2000):
        assert worker.poll() is None, "the worker ended by itself"
        row = gate.execute(
            "SELECT count(*) AS waiting, pg_sleep(0.01) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
        if row and row["waiting"]:
            return
    pytest.fail("the worker never came to the point where it is to be killed")


def test_a_walk_that_cannot_be_repeated_is_not_judged_by_looking(engine: Engine) -> None:
    run = start(engine)
    engine.drive(run)
    assert not engine.lanes(run, "verify")
    assert engine.run(run).phase is Phase.DONE
    assert engine.run(run).verified_at is not None
