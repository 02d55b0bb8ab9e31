"""The application comes first: what it holds we wait for briefly and give way, and what waits behind us waits briefly."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

import psycopg
import pytest
from fix_runs import PACE_SECONDS, expect

from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import BatchRetried, SessionFrozen
from backfilld.worker.lanes import claim
from backfilld.worker.lanes.claim import LOCK_TIMEOUT_SECONDS
from backfilld.worker.side_tasks.reconciler import Reconciler

if TYPE_CHECKING:
    from fix_runs import Engine

ADD = """
name: shout
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}
settings: {lanes: 1, walk: keys, approve: []}
"""
ROWS = 40


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, %s) n", ROWS)


class Application(threading.Thread):
    """Reads the table again and again, and remembers its longest wait."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._connection = engine.connect()
        self._stopping = threading.Event()
        self.longest_seconds = 0.0
        self.statements = 0

    def run(self) -> None:
        with self._connection as connection:
            while not self._stopping.is_set():
                began = time.monotonic()
                connection.execute("SELECT count(*) FROM jobs")
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                self.statements += 1
                self._stopping.wait(PACE_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()


@pytest.mark.parametrize("phase", [Phase.EXPAND, Phase.SWITCH, Phase.CONTRACT])
def test_ddl_behind_a_long_reader_gives_way_to_the_application(engine: Engine, phase: Phase) -> None:
    run = engine.enqueue(ADD)
    if phase is not Phase.EXPAND:
        engine.drive(run, until=lambda run: run.phase is phase)
    if phase is Phase.CONTRACT:
        engine.step()  # the function's body, which takes no lock on the table
    # Given somebody who has read the table and not ended the transaction
    with engine.connect() as reader, Application(engine) as application:
        with reader.transaction():
            reader.execute("SELECT count(*) FROM jobs")
            # When
            for _ in range(6):
                engine.step()
            # Then the DDL has not happened, others were served, and the reader is named
            assert engine.run(run).phase is phase
            error = engine.lane(run, 0).last_error
            assert error is not None
            assert error["class"] == "blocked"
            assert f"held by pid {reader.info.backend_pid} " in error["message"]
            assert "SELECT count(*) FROM jobs" in error["message"]
            assert {event.sqlstate for event in engine.told(BatchRetried)} == {"55P03"}
            served = application.statements
        expect(engine.drive(run), State.COMPLETED)
        assert application.statements > served > 0
    assert application.longest_seconds < 5.0, f"on a busy machine; our lock_timeout is at most {LOCK_TIMEOUT_SECONDS} s"


def test_a_row_the_application_holds_makes_the_batch_smaller_and_it_goes_on_later(engine: Engine) -> None:
    run = engine.enqueue(ADD)
    (lane,) = engine.drive_to_lanes(run)
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 16 WHERE lane = %s", lane.lane)
    with engine.connect() as application, application.transaction():
        application.execute("SELECT FROM jobs WHERE id = 9 FOR UPDATE")
        engine.sent[:] = [engine.message(run, lane.lane)]
        began = time.monotonic()
        engine.step()
        assert LOCK_TIMEOUT_SECONDS - 0.02 < time.monotonic() - began < 1.0
        (retried,) = engine.told(BatchRetried)
        assert (retried.sqlstate, retried.error_class) == ("55P03", "transient")
        after = engine.lane(run, lane.lane)
        assert (after.batch_rows, after.attempts, after.batches_retried, after.seq) == (8, 1, 1, lane.seq)
        assert engine.value("SELECT count(*) FROM jobs WHERE shout IS NOT NULL") == 0
        # Rows before the one that is held are done meanwhile.
        engine.step()
        assert engine.value("SELECT count(*) FROM jobs WHERE shout IS NOT NULL") == 8
    expect(engine.drive(run), State.COMPLETED)
    assert engine.lane(run, lane.lane).last_error is None


def test_in_a_deadlock_with_the_application_it_is_always_us_who_go(engine: Engine) -> None:
    run = engine.enqueue(ADD)
    (lane,) = engine.drive_to_lanes(run)
    with engine.connect() as application, application.transaction():
        application.execute("UPDATE jobs SET status = 'mine' WHERE id = 9")
        step = threading.Thread(target=engine.runner().advance, args=(engine.message(run, lane.lane),))
        step.start()
        while not engine.value("SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"):
            assert step.is_alive()
        application.execute("UPDATE jobs SET status = 'mine too' WHERE id = 4")
        step.join()
    (retried,) = engine.told(BatchRetried)
    assert retried.sqlstate == "55P03"
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM jobs WHERE shout = upper(status)") == ROWS


def test_a_batch_that_takes_too_long_becomes_a_tenth(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "LEAST_STATEMENT_TIMEOUT_SECONDS", 0.2)
    run = engine.enqueue(ADD.replace("lanes: 1", "lanes: 1, batch_seconds: 0.01"))
    (lane,) = engine.drive_to_lanes(run)
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 30 WHERE lane = %s", lane.lane)
    engine.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); END $$;"
        "CREATE TRIGGER slow BEFORE UPDATE ON jobs FOR EACH ROW WHEN (old.id = 20) EXECUTE FUNCTION slow()"
    )
    engine.sent[:] = [engine.message(run, lane.lane)]
    engine.step()
    assert engine.lane(run, lane.lane).batch_rows == 3
    assert engine.told(BatchRetried)[0].sqlstate == "57014"


def test_the_settings_of_a_batch_are_its_own(engine: Engine) -> None:
    """Every limit is there while a batch runs, and none is left on the connection afterwards."""
    name = engine.value("SELECT current_database()")
    engine.execute(f"ALTER DATABASE \"{name}\" SET TimeZone = 'Asia/Tokyo'")
    engine.execute(
        "CREATE TABLE seen (name text, value text);"
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO public.seen SELECT s.name, s.setting FROM pg_settings s WHERE s.name IN "
        "('lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout', 'row_security', 'search_path', "
        "'application_name', 'TimeZone'); "
        "INSERT INTO public.seen VALUES ('backfilld.batch', current_setting('backfilld.batch')); RETURN NULL; END $$;"
        "CREATE TRIGGER look AFTER UPDATE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION look()"
    )
    run = engine.enqueue(ADD)
    (lane,) = engine.drive_to_lanes(run)
    engine.sent[:] = [engine.message(run, lane.lane)]
    engine.step()
    assert {row["name"]: row["value"] for row in engine.execute("SELECT DISTINCT name, value FROM seen")} == {
        "lock_timeout": "200",
        "statement_timeout": "5000",
        "idle_in_transaction_session_timeout": "10000",
        # In which a trigger sees what it sees in the application's statements.
        "row_security": "on",
        "search_path": '"$user", public',
        "application_name": f"backfilld run={run} lane={lane.lane} seq={lane.seq}",
        "TimeZone": "Asia/Tokyo",
        "backfilld.batch": "on",
    }
    with engine.pool.connection() as connection:
        row = connection.execute(
            "SELECT current_setting('lock_timeout') AS a, current_setting('statement_timeout') AS b, "
            "current_setting('backfilld.batch', true) AS c, current_setting('application_name') AS d"
        ).fetchone()
    assert row == {"a": "0", "b": "0", "c": "", "d": "backfilld"}


def test_a_worker_that_freezes_in_a_transaction_loses_its_lease(engine: Engine) -> None:
    """The server ends the transaction; here the test plays the server."""
    run = engine.enqueue(ADD)
    (lane,) = engine.drive_to_lanes(run)
    frozen = engine.connect()
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout), frozen.transaction():  # noqa: PT012 - both must be inside
        frozen.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
        frozen.execute("SELECT FROM backfilld.lanes WHERE run = %s AND lane = %s FOR UPDATE", [run, lane.lane])
        engine.value("SELECT pg_sleep(0.2)::text")
        frozen.execute("SELECT")
    frozen.close()
    expect(engine.drive(run), State.COMPLETED)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [("backfilld run=1 lane=1 seq=3", "ended"), ("backfilld run=1 lane=1 seq=3 python", "left"), ("app", "left")],
)
def test_a_session_that_holds_a_lane_and_does_nothing_is_ended(engine: Engine, name: str, outcome: str) -> None:
    """Also where no limit of the server's is set: see `end_frozen` in lanes.sql."""
    frozen = engine.connect()
    with frozen.pipeline():
        frozen.execute("BEGIN")
        frozen.execute("SELECT set_config('application_name', %s, true)", [name])
    engine.value("SELECT pg_sleep(0.05)::text")
    Reconciler(send=engine.sent.append, observe=engine.events.append, frozen_seconds=0.0).run_once(engine.connection)
    assert [event.application_name for event in engine.told(SessionFrozen)] == ([name] if outcome == "ended" else [])
    if outcome == "ended":
        with pytest.raises(psycopg.OperationalError):
            frozen.execute("SELECT")
    frozen.close()
