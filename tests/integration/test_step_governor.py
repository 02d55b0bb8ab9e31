"""Under the governor's verdict: a hold holds, a verdict too old holds, and no more lanes work at once than it allows."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import expect

from migrations.events import LaneHeld, PaceSet
from migrations.messages import LaneMessage
from migrations.settings import Limit, Limits
from migrations.states import State
from migrations.store import lanes, pace
from worker.governor import Governor
from worker.throttle import STALE_SECONDS

if TYPE_CHECKING:
    from fix_runs import Engine

ROWS = 80


@pytest.fixture
def run(engine: Engine) -> int:
    engine.execute("CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    engine.execute("INSERT INTO counters (id) SELECT generate_series(1, %s)", ROWS)
    return engine.enqueue(
        'name: inc\noperations: [{backfill: {table: counters, set: {n: "n + 1"}}}]\nsettings: {lanes: 4}'
    )


def untouched(engine: Engine) -> bool:
    return bool(engine.value("SELECT bool_and(n = 0) FROM counters"))


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("sampled_at = clock_timestamp() - interval '20 seconds'", "no load reading for 20 s"),
        ("sampled_at = NULL", "no load reading yet"),
        ("hold_reason = 'replica lag 42 s, limit 30'", "replica lag 42 s, limit 30"),
        ("width = 0", "all 0 permits are taken"),
    ],
)
def test_a_hold_holds_and_says_why(engine: Engine, run: int, statement: str, reason: str) -> None:
    lane = engine.drive_to_lanes(run)[0]
    engine.execute(f"UPDATE backfilld.pace SET {statement}")
    engine.runner(one_step=False).advance(engine.message(run, lane.lane))
    assert untouched(engine)
    (held,) = engine.told(LaneHeld)
    assert held.reason == reason
    after = engine.lane(run, lane.lane)
    assert (after.seq, after.attempts, after.last_error, after.enqueued_at) == (lane.seq, 0, None, None)
    assert after.next_run_at is not None
    assert lane.next_run_at is not None
    assert after.next_run_at > lane.next_run_at
    expect(engine.drive(run), State.COMPLETED)


@pytest.mark.parametrize("statement", ["sampled_at = NULL", "hold_reason = 'busy'"])
def test_a_hold_holds_the_conductor_too(engine: Engine, run: int, statement: str) -> None:
    """DDL is work as well. Permits are for lanes alone."""
    engine.execute(f"UPDATE backfilld.pace SET {statement}")
    engine.runner().advance(engine.message(run))
    expect(engine.run(run), State.QUEUED)
    assert engine.told(LaneHeld)
    engine.set_pace(width=0)
    engine.runner().advance(engine.message(run))
    expect(engine.run(run), State.RUNNING)


def test_a_hold_in_the_middle_of_a_message_ends_it(engine: Engine, run: int) -> None:
    lane = engine.drive_to_lanes(run)[0]
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 5")
    engine.execute(
        "CREATE FUNCTION load() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE backfilld.pace SET hold_reason = 'busy'; RETURN NULL; END $$;"
        "CREATE TRIGGER load AFTER UPDATE ON counters FOR EACH STATEMENT EXECUTE FUNCTION load()"
    )
    engine.runner(one_step=False).advance(engine.message(run, lane.lane))
    assert engine.value("SELECT sum(n) FROM counters") == 5
    assert [event.reason for event in engine.told(LaneHeld)] == ["busy"]


@pytest.mark.parametrize("width", [1, 2])
def test_no_more_batches_at_once_than_the_width(engine: Engine, run: int, width: int) -> None:
    """Each batch writes down how many permits were held beside its own, at its beginning and at its end."""
    engine.drive_to_lanes(run)
    engine.execute(
        "CREATE TABLE seen (at_once bigint);"
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO public.seen SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE l.relation = 'public.counters'::regclass AND l.mode = 'RowExclusiveLock' AND a.application_name LIKE 'backfilld run=%'; "
        "RETURN NULL; END $$;"
        "CREATE TRIGGER look AFTER UPDATE ON counters FOR EACH STATEMENT EXECUTE FUNCTION look()"
    )
    engine.sent.clear()
    engine.set_pace(width=width)
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 3")

    def work(number: int) -> None:
        runner = engine.runner(send=lambda _message: None)
        with engine.connect() as connection:
            while (lane := lanes.read(connection, run, number)) is not None and lane.done_at is None:
                runner.advance(LaneMessage(target="default", run=run, lane=number, seq=lane.seq))

    threads = [threading.Thread(target=work, args=(lane.lane,)) for lane in engine.lanes(run, "backfill")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.value("SELECT max(at_once) FROM seen") <= width
    assert engine.told(LaneHeld), "four lanes wanted to work at once"
    expect(engine.drive(run), State.COMPLETED)
    assert engine.execute("SELECT DISTINCT n FROM counters") == [{"n": 1}]


def test_a_permit_cannot_be_leaked_by_a_crash(engine: Engine, run: int) -> None:
    lane = engine.drive_to_lanes(run)[0]
    with pytest.raises(psycopg.OperationalError), engine.connect() as other, other.transaction():  # noqa: PT012 - it ends at its COMMIT
        other.execute(pace.TAKE_PERMIT)
        engine.set_pace(width=1)
        engine.runner().advance(engine.message(run, lane.lane))
        assert untouched(engine)
        engine.execute("SELECT pg_terminate_backend(%s, 5000)", other.info.backend_pid)
        engine.runner().advance(engine.message(run, lane.lane))
    assert not untouched(engine)


# --- the governor itself -----------------------------------------------------------------------------------------------


def governor(engine: Engine, limits: Limits | None = None) -> Governor:
    return Governor(limits or Limits(), observe=engine.events.append)


def test_the_governor_writes_its_verdict_and_work_may_begin(engine: Engine, run: int) -> None:
    engine.execute("UPDATE backfilld.pace SET sampled_at = NULL, width = 2")
    assert governor(engine).run_once(engine.connection) == 1
    now = pace.read(engine.connection)
    assert now.hold_reason is None
    assert now.age_seconds is not None
    assert now.age_seconds < 5
    assert set(engine.value("SELECT readings FROM backfilld.pace")) == set(Limits.model_fields)
    (told,) = engine.told(PaceSet)
    assert (told.width, told.hold_signal) == (now.width, None)
    expect_progress(engine, run)


def expect_progress(engine: Engine, run: int) -> None:
    engine.runner().advance(engine.message(run))
    expect(engine.run(run), State.RUNNING)


def test_only_one_worker_governs_at_a_time(engine: Engine) -> None:
    with engine.connect() as other, other.transaction():
        assert governor(engine).run_once(other) == 1
        assert governor(engine).run_once(engine.connection) == 0


def test_a_limit_that_is_passed_holds_and_is_written_down_once(engine: Engine) -> None:
    strict = Limits(commit_seconds=Limit(soft=0.0, hard=1e-9))
    one = governor(engine, strict)
    one.run_once(engine.connection)  # its first canary has nothing to tell
    one.run_once(engine.connection)
    one.run_once(engine.connection)
    reason = pace.read(engine.connection).hold_reason
    assert reason is not None
    assert reason.startswith("commit")
    assert engine.value("SELECT count(*) FROM backfilld.events WHERE what = 'hold.began'") == 1
    assert engine.told(PaceSet)[-1].hold_signal == "commit_seconds"

    governor(engine).run_once(engine.connection)
    assert pace.read(engine.connection).hold_reason is None
    assert engine.value("SELECT count(*) FROM backfilld.events WHERE what = 'hold.ended'") == 1


def test_a_reading_that_fails_holds(engine: Engine) -> None:
    """A view it needs is not what it was: here a column is not there for this role."""
    engine.execute("CREATE SCHEMA shadow; CREATE VIEW shadow.pg_locks AS SELECT 1 AS nothing")
    with engine.connect() as odd:
        odd.execute("SET search_path = shadow, pg_catalog")
        governor(engine).run_once(odd)
    reason = pace.read(engine.connection).hold_reason
    assert reason is not None
    assert "cannot be read" in reason


def test_sessions_that_wait_for_our_batch_stop_the_work(engine: Engine, run: int) -> None:
    """A batch holds its rows; four sessions of the application have waited for one of them for a quarter of a second."""
    engine.drive_to_lanes(run)
    ours = engine.connect()
    others = [engine.connect() for _ in range(4)]
    threads = []
    with ours.transaction(force_rollback=True):
        ours.execute("SET LOCAL application_name = 'backfilld run=1 lane=1 seq=0'")
        ours.execute("UPDATE counters SET n = n WHERE id = 1")
        for other in others:
            threads.append(threading.Thread(target=other.execute, args=("UPDATE counters SET n = n WHERE id = 1",)))
            threads[-1].start()
        one, began = governor(engine), time.monotonic()
        while pace.read(engine.connection).hold_reason is None:
            one.run_once(engine.connection)
            assert time.monotonic() - began < 10
    reason = engine.told(PaceSet)[-1]
    assert reason.hold_signal == "blocked_sessions"
    for thread in threads:
        thread.join()
    one.run_once(engine.connection)
    assert pace.read(engine.connection).hold_reason is None
    for connection in (ours, *others):
        connection.close()


def test_a_verdict_lives_long_enough_for_its_successor(engine: Engine) -> None:
    engine.set_pace(age_seconds=STALE_SECONDS - 1)
    age = pace.read(engine.connection).age_seconds
    assert age is not None
    assert age < STALE_SECONDS
