"""If our batch blocks the application, we give way: the batch is cancelled, and comes back with half the rows."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_daemon import until
from fix_runs import expect
from psycopg.rows import dict_row

from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import BatchGaveWay, BatchRetried, SessionWaited
from backfilld.producers import commands, pacing
from backfilld.worker.side_tasks.give_way import BUSY_SECONDS, IDLE_SECONDS, GiveWay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_daemon import Daemon, Record
    from fix_runs import Engine

    from backfilld.migrations.record.model import Lane

ROWS = 64
#: A batch of all rows takes longer than any test waits.
SECONDS_PER_ROW = 2
GIVE_WAY_MS = 150
SLEEPERS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"


@pytest.fixture(autouse=True)
def counters(engine: Engine) -> None:
    engine.execute("CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    engine.execute("INSERT INTO counters (id) SELECT generate_series(1, %s)", ROWS)


def enqueue(engine: Engine, settings: str = f"give_way_ms: {GIVE_WAY_MS}") -> tuple[int, Lane]:
    """A run of one lane that is about to take its first batch, of all rows."""
    run = engine.enqueue(
        'name: inc\noperations: [{backfill: {table: counters, set: {n: "n + 1"}}}]\n'
        f"settings: {{lanes: 1, {settings}}}"
    )
    (lane,) = engine.drive_to_lanes(run)
    engine.execute("UPDATE backfilld.lanes SET batch_rows = %s WHERE lane = %s", ROWS - 4, lane.lane)
    return run, engine.lane(run, lane.lane)


def make_slow(engine: Engine) -> None:
    """From the second row on each takes long, until it is cancelled."""
    engine.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"PERFORM pg_sleep({SECONDS_PER_ROW}); RETURN new; END $$;"
        "CREATE TRIGGER slow BEFORE UPDATE ON counters FOR EACH ROW WHEN (old.id > 1 "
        "AND current_setting('backfilld.batch', true) = 'on') EXECUTE FUNCTION slow()"
    )


def make_fast(engine: Engine) -> None:
    engine.execute("DROP TRIGGER slow ON counters")


@contextmanager
def in_flight(engine: Engine, lane: Lane) -> Iterator[threading.Thread]:
    """The lane's batch is under way, holds its first row, and would go on for minutes."""
    make_slow(engine)
    thread = threading.Thread(target=engine.runner().advance, args=(engine.message(lane.run, lane.lane),))
    thread.start()
    try:
        until("the batch to be under way", lambda: engine.value(SLEEPERS))
        yield thread
    finally:
        engine.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'backfilld run=%' "
            "AND datname = current_database()"
        )
        thread.join(timeout=10)
        assert not thread.is_alive()
        make_fast(engine)


class Waiter(threading.Thread):
    """A session of the application that wants a row, and remembers how long it waited."""

    def __init__(self, engine: Engine, row: int = 1, *, name: str = "shop") -> None:
        super().__init__()
        self.connection = engine.connect()
        self.connection.execute("SELECT set_config('application_name', %s, false)", [name])
        self.pid = self.connection.info.backend_pid
        self.row = row
        self.seconds = 0.0
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        self.connection.execute("UPDATE counters SET n = n + 100 WHERE id = %s", [self.row])
        self.seconds = time.monotonic() - began
        self.connection.close()


def look_until_it_goes(engine: Engine, batch: threading.Thread) -> GiveWay:
    """Look as the loop does, until the batch is cancelled."""
    one = GiveWay(observe=engine.events.append)
    until("the batch to give way", lambda: one.run_once(engine.connection) == 0 and not batch.is_alive())
    return one


# --- who goes ----------------------------------------------------------------------------------------------------------


def test_a_batch_that_a_session_waits_for_is_cancelled_and_comes_back_halved(engine: Engine) -> None:
    run, lane = enqueue(engine)
    with in_flight(engine, lane) as batch:
        waiter = Waiter(engine)
        look_until_it_goes(engine, batch)
        waiter.join(timeout=10)
    # Then the session went on, long before the batch would have been done, and not before its time
    assert GIVE_WAY_MS / 1000 <= waiter.seconds < SECONDS_PER_ROW
    # and the batch left nothing behind
    assert engine.value("SELECT sum(n) FROM counters") == 100
    after = engine.lane(run, lane.lane)
    assert (after.seq, after.batch_rows, after.attempts, after.batches_retried) == (
        lane.seq,
        lane.batch_rows // 2,
        1,
        1,
    )
    assert after.last_error is not None
    assert after.last_error["class"] == "gave_way"
    (gave_way,) = engine.told(BatchGaveWay)
    assert (gave_way.batch_rows, gave_way.delay_seconds < 0.5) == (after.batch_rows, True)
    assert not engine.told(BatchRetried), "it is no error"
    # and it is on record who waited, once
    (told,) = engine.told(SessionWaited)
    (event,) = engine.execute("SELECT run, actor, detail FROM backfilld.events WHERE what = 'batch.gave_way'")
    assert (event["run"], event["actor"]) == (run, "worker")
    assert event["detail"] == {
        "lane": lane.lane,
        "pid": waiter.pid,
        "application_name": "shop",
        "seconds": told.seconds,
    }
    assert told.seconds >= GIVE_WAY_MS / 1000

    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT sum(n) FROM counters") == 100 + ROWS
    assert engine.lane(run, lane.lane).last_error is None


def test_of_many_that_want_one_row_the_first_makes_the_batch_go_and_all_go_on(engine: Engine) -> None:
    """Only one of them waits for us; the others wait for its place in the queue."""
    _, lane = enqueue(engine)
    with in_flight(engine, lane) as batch:
        waiters = [Waiter(engine) for _ in range(4)]
        look_until_it_goes(engine, batch)
        for waiter in waiters:
            waiter.join(timeout=10)
    assert engine.value("SELECT n FROM counters WHERE id = 1") == 400
    assert len(engine.told(SessionWaited)) == 1


def test_nobody_who_waits_less_than_is_allowed_makes_it_go(engine: Engine) -> None:
    _, lane = enqueue(engine, "give_way_ms: 60000")
    with in_flight(engine, lane) as batch:
        waiter = Waiter(engine)
        until("the session to wait", lambda: _waits(engine))
        assert GiveWay(observe=engine.events.append).run_once(engine.connection) == 1
        assert batch.is_alive()
    waiter.join(timeout=10)
    assert not engine.told(SessionWaited)


def test_the_setting_is_read_from_the_record_of_each_run(engine: Engine) -> None:
    """0 never gives way, until it is changed while the batch runs."""
    run, lane = enqueue(engine, "give_way_ms: 0")
    with in_flight(engine, lane) as batch:
        waiter = Waiter(engine)
        one = GiveWay(observe=engine.events.append)
        until("the session to have waited for half a second", lambda: _waits(engine, seconds=0.5))
        one.run_once(engine.connection)
        assert not engine.told(SessionWaited)
        assert batch.is_alive()
        # When
        pacing.tune(engine.connection, run, {"give_way_ms": 10}, width=None, actor="ann")
        # Then
        look_until_it_goes(engine, batch)
    waiter.join(timeout=10)


def test_a_session_that_waits_for_somebody_else_is_none_of_our_business(engine: Engine) -> None:
    _, lane = enqueue(engine)
    with in_flight(engine, lane) as batch, engine.connect() as other, other.transaction():
        other.execute("UPDATE counters SET n = n WHERE id = %s", [ROWS])
        waiter = Waiter(engine, ROWS)
        until("the session to have waited long", lambda: _waits(engine, seconds=2 * GIVE_WAY_MS / 1000))
        assert GiveWay(observe=engine.events.append).run_once(engine.connection) == 1
        assert batch.is_alive()
    waiter.join(timeout=10)
    assert not engine.told(SessionWaited)


def test_a_session_that_calls_itself_like_us_is_not_cancelled(
    engine: Engine, plain_role: tuple[str, str], plain_role_url: str
) -> None:
    """Only backends of our own role are: the name alone proves nothing."""
    run, _ = enqueue(engine)
    name, _ = plain_role
    engine.execute(f"GRANT SELECT, UPDATE ON counters TO {name}")
    with psycopg.connect(plain_role_url, autocommit=True) as impostor, impostor.transaction():
        impostor.execute("SELECT set_config('application_name', %s, true)", [f"backfilld run={run} lane=1 seq=0"])
        impostor.execute("UPDATE counters SET n = n WHERE id = 1")
        busy = threading.Thread(target=impostor.execute, args=("SELECT pg_sleep(0.5)",))
        busy.start()
        waiter = Waiter(engine)
        until("the session to have waited long", lambda: _waits(engine, seconds=2 * GIVE_WAY_MS / 1000))
        assert GiveWay(observe=engine.events.append).run_once(engine.connection) == 0
        busy.join()
    waiter.join(timeout=10)


def test_a_role_that_does_not_see_who_waits_gives_way_all_the_same(
    engine: Engine, plain_role: tuple[str, str], plain_role_url: str
) -> None:
    """What sessions of other roles do is hidden from a role without pg_monitor; whom they wait for is not."""
    run, lane = enqueue(engine)
    name, _ = plain_role
    engine.execute(
        f"GRANT SELECT, UPDATE ON counters TO {name}; GRANT USAGE ON SCHEMA backfilld TO {name}; "
        f"GRANT SELECT ON backfilld.runs, backfilld.own_sessions TO {name}; GRANT INSERT ON backfilld.events TO {name}"
    )
    with (
        psycopg.connect(plain_role_url, autocommit=True) as batch,
        psycopg.connect(plain_role_url, autocommit=True, row_factory=dict_row) as eyes,
    ):
        with pytest.raises(psycopg.errors.QueryCanceled), batch.transaction():  # noqa: PT012 - the batch has to be under way
            batch.execute(
                "SELECT set_config('application_name', %s, true)", [f"backfilld run={run} lane={lane.lane} seq=0"]
            )
            batch.execute("UPDATE counters SET n = n WHERE id = 1")
            waiter = Waiter(engine)
            one = GiveWay(observe=engine.events.append)
            looking = threading.Thread(target=until, args=("it to go", lambda: one.run_once(eyes) and one._going))
            looking.start()
            batch.execute("SELECT pg_sleep(60)")
        looking.join()
    waiter.join(timeout=10)
    assert [event.pid for event in engine.told(SessionWaited)] == [waiter.pid]


def _waits(engine: Engine, *, seconds: float = 0.0) -> bool:
    return bool(
        engine.value(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid' "
            "AND clock_timestamp() - waitstart >= make_interval(secs => %s)",
            seconds,
        )
    )


# --- and comes back ----------------------------------------------------------------------------------------------------


def test_a_batch_of_one_row_gives_way_too_and_backs_off(engine: Engine) -> None:
    run, lane = enqueue(engine)
    engine.execute(
        "UPDATE backfilld.lanes SET batch_rows = 1, cursor = '[\"1\"]', attempts = 4 WHERE lane = %s", lane.lane
    )
    with in_flight(engine, lane) as batch:
        waiter = Waiter(engine, 2)
        look_until_it_goes(engine, batch)
        waiter.join(timeout=10)
    (gave_way,) = engine.told(BatchGaveWay)
    assert (gave_way.batch_rows, gave_way.delay_seconds >= 2.0) == (1, True)
    assert engine.lane(run, lane.lane).attempts == 5
    expect(engine.drive(run), State.COMPLETED)


def test_a_pause_is_not_taken_for_giving_way(engine: Engine) -> None:
    run, lane = enqueue(engine)
    with in_flight(engine, lane) as batch:
        commands.pause(engine.connection, run, actor="ann")
        engine.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'backfilld run=%' "
            "AND datname = current_database()"
        )
        batch.join(timeout=10)
    assert not engine.told(BatchGaveWay)
    assert engine.lane(run, lane.lane).batch_rows == lane.batch_rows


def test_a_validate_that_others_wait_for_gives_way_and_is_made_later(engine: Engine) -> None:
    """The coordinator's own long statement; what waits for it is a schema change of somebody else."""
    run = engine.enqueue(
        "name: add\noperations: [{add_column: {table: counters, column: {name: shout, type: text}, "
        f'backfill: "id::text", not_null: true}}}}]\nsettings: {{approve: [], give_way_ms: {GIVE_WAY_MS}}}'
    )
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY and engine.lane(run.run, 0).cursor == 3)
    engine.execute(
        "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF current_setting('backfilld.batch', true) = 'on' THEN PERFORM pg_sleep(60); END IF; END $$;"
        "CREATE EVENT TRIGGER slow ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION slow()"
    )
    thread = threading.Thread(target=engine.runner().advance, args=(engine.message(run),))
    thread.start()
    until("the scan to be under way", lambda: engine.value(SLEEPERS))
    with engine.connect() as other:
        change = threading.Thread(target=other.execute, args=("ALTER TABLE counters ALTER n SET STATISTICS 10",))
        change.start()
        look_until_it_goes(engine, thread)
        change.join(timeout=10)
        assert not change.is_alive()
    engine.execute("DROP EVENT TRIGGER slow")
    expect(engine.run(run), State.RUNNING)
    assert engine.told(BatchGaveWay)
    expect(engine.drive(run), State.COMPLETED)


# --- the loop, and a daemon --------------------------------------------------------------------------------------------


def test_it_looks_often_while_batches_run_and_seldom_otherwise(engine: Engine) -> None:
    one, waits = GiveWay(observe=engine.events.append), list[float]()

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return True

    one.wait(one.run_once(engine.connection), Clock())
    _, lane = enqueue(engine)
    with in_flight(engine, lane):
        one.wait(one.run_once(engine.connection), Clock())
    one.wait(0, Clock())
    assert waits == [IDLE_SECONDS, BUSY_SECONDS, BUSY_SECONDS], "just after a batch there may be another"


@pytest.mark.soak  # the parts of it are above
def test_a_daemon_gives_way_to_the_application_and_finishes(engine: Engine, daemon: Daemon, record: Record) -> None:
    """A batch that would take many seconds, and a row of it that the application wants."""
    engine.execute(
        f"CREATE TABLE tempo AS SELECT {SECONDS_PER_ROW}::float8 AS seconds;"
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_sleep((SELECT seconds FROM public.tempo)); RETURN new; END $$;"
        "CREATE TRIGGER slow BEFORE UPDATE ON counters FOR EACH ROW WHEN (old.id > 1 "
        "AND current_setting('backfilld.batch', true) = 'on') EXECUTE FUNCTION slow()"
    )
    # Given a batch under way that holds the row
    engine.enqueue(
        'name: inc\noperations: [{backfill: {table: counters, set: {n: "n + 1"}}}]\n'
        "settings: {lanes: 1, batch_seconds: 30}"
    )
    until("a batch to be under way", lambda: record.one(SLEEPERS))
    # When
    Waiter(engine).join(timeout=30)
    # Then the application has its row, and the batch has not been
    assert record.one("SELECT n FROM counters WHERE id = 1") == 100
    assert record.walked() == 0
    # It is put down after the cancel, not before it: the one who waits comes first
    until("it to be on record", lambda: record.one("SELECT true FROM backfilld.events WHERE what = 'batch.gave_way'"))
    until("the batch to be counted", lambda: daemon.metric("backfilld_give_way_total") >= 1)
    assert daemon.lines("session.waited")[0]["application_name"] == "shop"

    engine.execute("UPDATE tempo SET seconds = 0")
    engine.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    until("the run to be completed", lambda: record.state("inc") == "completed")
    assert record.one("SELECT sum(n) FROM counters") == 100 + ROWS
