"""`rename_column`: applications that know either name write all the while, nothing they see differs, and every step goes back."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_runs import expect
from psycopg import sql

from migrations import definition
from migrations.errors import Refused
from migrations.postgres.connect import connected
from migrations.preflight import examine
from migrations.states import Phase, State
from producers import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_runs import Engine

    from migrations.model import Run

RENAME = """
name: revenue
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
settings: {lanes: 2, approve: %s}
"""
ROWS = 40


@pytest.fixture
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text, total numeric(12, 2))")
    engine.execute("INSERT INTO jobs SELECT n, 'open', n FROM generate_series(1, %s) n", ROWS)


def during(phase: Phase) -> Callable[[Run], bool]:
    return lambda run: run.phase is phase


def columns(engine: Engine, table: str = "jobs") -> set[str]:
    rows = engine.execute(
        "SELECT attname AS name FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        table,
    )
    return {row["name"] for row in rows}


def ours(engine: Engine) -> list[str]:
    """What the change itself needed and must not stay."""
    rows = engine.execute(
        "SELECT tgname AS name FROM pg_trigger WHERE tgname LIKE '%backfilld%' "
        "UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'backfilld'::regnamespace AND proname LIKE 'sync%' "
        "UNION ALL SELECT relname FROM pg_class WHERE relname LIKE 'backfilld%' AND relnamespace = 'public'::regnamespace"
    )
    return [row["name"] for row in rows]


def apart(engine: Engine) -> int:
    """Rows in which the two columns differ, in one snapshot; NULL counts as a value."""
    return int(engine.value("SELECT count(*) FROM jobs WHERE total IS DISTINCT FROM revenue"))


def test_to_the_end(engine: Engine, jobs: None) -> None:
    before = engine.value("SELECT sum(total) FROM jobs")
    run = engine.enqueue(RENAME % "[contract]")
    expect(engine.drive(run, batch_rows=15), State.WAITING)
    assert columns(engine) == {"id", "status", "total", "revenue"}
    assert apart(engine) == 0
    commands.approve(engine.connection, run, "contract", actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert columns(engine) == {"id", "status", "revenue"}
    assert engine.value("SELECT sum(revenue) FROM jobs") == before
    assert ours(engine) == []


#: What an application may do under either name, {c}; both columns must say the same after each.
WRITES = {
    "INSERT": "INSERT INTO jobs (id, {c}) VALUES (100, 5)",
    "INSERT without it": "INSERT INTO jobs (id) VALUES (100)",
    "INSERT of NULL": "INSERT INTO jobs (id, {c}) VALUES (100, NULL)",
    "INSERT of both": "INSERT INTO jobs (id, total, revenue) VALUES (100, 5, 6)",
    "UPDATE": "UPDATE jobs SET {c} = 5 WHERE id = 7",
    "UPDATE by what it is": "UPDATE jobs SET {c} = {c} + 1 WHERE id > 20",
    "UPDATE of the key": "UPDATE jobs SET id = id + 1000, {c} = 5 WHERE id = 7",
    "UPDATE of both": "UPDATE jobs SET total = 5, revenue = 6 WHERE id = 7",
    "UPDATE of another": "UPDATE jobs SET status = 'x' WHERE id = 7",
    "ON CONFLICT DO UPDATE": "INSERT INTO jobs (id, {c}) VALUES (7, 5), (101, 6) "
    "ON CONFLICT (id) DO UPDATE SET {c} = excluded.{c} + jobs.{c}",
    "MERGE": "MERGE INTO jobs USING (VALUES (7, 5), (101, 6)) v (id, n) ON v.id = jobs.id "
    "WHEN MATCHED THEN UPDATE SET {c} = v.n WHEN NOT MATCHED THEN INSERT (id, {c}) VALUES (v.id, v.n)",
    "as a replica does": "SET session_replication_role = replica; UPDATE jobs SET {c} = 5 WHERE id = 7; "
    "INSERT INTO jobs (id, {c}) VALUES (102, 6); RESET session_replication_role",
    "DELETE": "DELETE FROM jobs WHERE {c} = 7",
}


def at_each_phase(engine: Engine, text: str, **how: Any) -> Iterator[Phase]:
    """A run of `text`, paused for the test where both columns are there and every row is filled, before and after the switch."""
    run = engine.enqueue(text % "[switch, contract]")
    expect(engine.drive(run, batch_rows=15, **how), State.WAITING)
    yield Phase.SWITCH
    commands.approve(engine.connection, run, "switch", actor="ann")
    expect(engine.drive(run), State.WAITING)
    yield Phase.CONTRACT
    commands.approve(engine.connection, run, "contract", actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    yield Phase.DONE


def test_what_is_written_under_either_name_is_there_under_both(engine: Engine, jobs: None) -> None:
    for phase in at_each_phase(engine, RENAME):
        for column in ("total", "revenue") if phase is not Phase.DONE else ():
            for name, statement in WRITES.items():
                with engine.connect() as application, application.transaction(force_rollback=True):
                    for part in statement.format(c=column).split("; "):
                        application.execute(part.encode())
                    written = application.execute("SELECT FROM jobs WHERE total IS DISTINCT FROM revenue")
                    assert written.rowcount == 0, (phase, column, name)
                    fives = application.execute("SELECT FROM jobs WHERE id IN (7, 1007, 100) AND revenue = 5").rowcount
                    if name in {"INSERT", "UPDATE", "MERGE", "UPDATE of the key", "as a replica does"}:
                        assert fives == 1, (phase, column, name)
            with engine.connect() as application, application.transaction(force_rollback=True):
                with application.cursor().copy(f"COPY jobs (id, {column}) FROM STDIN".encode()) as copy:
                    copy.write_row((103, 5))
                    copy.write_row((104, None))
                found = application.execute("SELECT total, revenue FROM jobs WHERE id > 102 ORDER BY id").fetchall()
            assert [tuple(row.values()) for row in found] == [(5, 5), (None, None)]


@contextmanager
def writing(engine: Engine, *statements: str) -> Iterator[list[psycopg.Error]]:
    """Applications that go on with these statements, one each, until the block ends; the errors they met."""
    stop, errors = threading.Event(), list[psycopg.Error]()

    def write(statement: str) -> None:
        with engine.connect() as application:
            while not stop.is_set():
                try:
                    application.execute(statement.encode())
                except psycopg.Error as exc:
                    errors.append(exc)
                    return

    threads = [threading.Thread(target=write, args=(statement,)) for statement in statements]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_writers_of_either_name_over_the_whole_run(engine: Engine, jobs: None) -> None:
    """No statement fails, and in no snapshot do the two columns differ once the name may be used."""
    engine.execute("CREATE SEQUENCE s START 1000")
    run = engine.enqueue(RENAME % "[switch, contract]")
    by_old = (
        "UPDATE jobs SET total = total + 1 WHERE id % 5 = 0",
        "WITH gone AS (DELETE FROM jobs WHERE id < nextval('s') - 10 AND id >= 1000) "
        "INSERT INTO jobs (id, total) VALUES (nextval('s'), 3)",
        "INSERT INTO jobs (id, total) VALUES (7, 1) ON CONFLICT (id) DO UPDATE SET total = excluded.total + jobs.total",
    )
    by_new = tuple(statement.replace("total", "revenue") for statement in by_old)
    with writing(engine, *by_old) as errors:
        expect(engine.drive(run), State.WAITING)
        with writing(engine, *by_new) as errors_of_new:
            for _ in range(5):
                assert apart(engine) == 0
            commands.approve(engine.connection, run, "switch", actor="ann")
            expect(engine.drive(run), State.WAITING)
            for _ in range(5):
                assert apart(engine) == 0
        assert errors_of_new == []
    assert errors == []
    with writing(engine, *by_new) as errors:
        commands.approve(engine.connection, run, "contract", actor="ann")
        expect(engine.drive(run), State.COMPLETED)
    assert errors == []
    assert ours(engine) == []


def test_the_switch_loses_no_write(engine: Engine, jobs: None) -> None:
    """Counters that are counted up under both names while the columns swap them, there and back."""
    run = engine.enqueue(RENAME % "[switch, contract]")
    expect(engine.drive(run), State.WAITING)
    before = engine.value("SELECT total FROM jobs WHERE id = 7")
    counted: list[int] = []
    stop = threading.Event()

    def count(column: str) -> None:
        done = 0
        with engine.connect() as application:
            while not stop.is_set():
                application.execute(f"UPDATE jobs SET {column} = {column} + 1 WHERE id = 7".encode())
                done += 1
        counted.append(done)

    threads = [threading.Thread(target=count, args=(column,)) for column in ("total", "revenue")]
    for thread in threads:
        thread.start()
    try:
        commands.approve(engine.connection, run, "switch", actor="ann")
        expect(engine.drive(run), State.WAITING)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(counted) == 2
    assert engine.execute("SELECT total, revenue FROM jobs WHERE id = 7") == [
        {"total": before + sum(counted), "revenue": before + sum(counted)}
    ]


# What other tools lose data by, each by its name.


@pytest.mark.parametrize(
    "path", ["''", "public_02_x, public", "pg_temp, public", '"$user", public, extensions', "evil, pg_catalog"]
)
def test_search_path_with_extra_entries(engine: Engine, jobs: None, path: str) -> None:
    """Which column was written tells the direction, not who asks; and no operator of the application's is looked up."""
    engine.execute(
        "CREATE SCHEMA evil; CREATE FUNCTION evil.ne(numeric, numeric) RETURNS boolean LANGUAGE sql AS 'SELECT false';"
        "CREATE OPERATOR evil.<> (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = evil.ne);"
        "CREATE OPERATOR evil.= (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = evil.ne)"
    )
    for phase in at_each_phase(engine, RENAME):
        for column in ("total", "revenue") if phase is not Phase.DONE else ():
            with engine.connect() as application:
                application.execute(f"SET search_path = {path}".encode())
                for value in (500, None, 501):
                    application.execute(f"UPDATE public.jobs SET {column} = %s WHERE id = 7".encode(), [value])
                    assert engine.execute("SELECT total, revenue FROM jobs WHERE id = 7") == [
                        {"total": value, "revenue": value}
                    ]
                application.execute(f"INSERT INTO public.jobs (id, {column}) VALUES (100, 9)".encode())
            assert engine.value("SELECT total + revenue FROM jobs WHERE id = 100") == 18
            engine.execute("DELETE FROM jobs WHERE id = 100")


@pytest.mark.parametrize("name", ["~~late", "~zzz"])
def test_trigger_order_a_trigger_that_would_fire_after_ours_is_refused(engine: Engine, jobs: None, name: str) -> None:
    engine.execute("CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$")
    engine.execute(f'CREATE TRIGGER "{name}" BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION late()')
    run = engine.enqueue(RENAME % "[]")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert name in now.error["message"]
    assert columns(engine) == {"id", "status", "total"}
    assert ours(engine) == []


def test_trigger_order_what_an_earlier_trigger_makes_of_the_value_is_seen(engine: Engine, jobs: None) -> None:
    """Lower-case names sort after capitals and underscores, and before a tilde."""
    engine.execute(
        "CREATE FUNCTION rounded() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.total := round(new.total); RETURN new; END $$;"
        "CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION rounded()"
    )
    run = engine.enqueue(RENAME % "[switch, contract]")
    for _ in range(2):
        expect(engine.drive(run), State.WAITING)
        engine.execute("UPDATE jobs SET total = 7.6 WHERE id = 7")
        engine.execute("INSERT INTO jobs (id, total) VALUES (100, 2.2)")
        found = engine.execute("SELECT total, revenue FROM jobs WHERE id IN (7, 100) ORDER BY id")
        assert found == [{"total": 8, "revenue": 8}, {"total": 2, "revenue": 2}]
        engine.execute("DELETE FROM jobs WHERE id = 100; UPDATE jobs SET total = 1 WHERE id = 7")
        commands.approve(engine.connection, run, "switch", actor="ann")


def test_update_to_null(engine: Engine, jobs: None) -> None:
    for phase in at_each_phase(engine, RENAME):
        if phase is Phase.DONE:
            break
        for number, column in enumerate(("total", "revenue")):
            engine.execute(f"UPDATE jobs SET {column} = NULL WHERE id = %s", number + 7)
            assert engine.value("SELECT revenue IS NULL AND total IS NULL FROM jobs WHERE id = %s", number + 7)
            engine.execute(f"UPDATE jobs SET {column} = 1 WHERE id = %s", number + 7)
            assert apart(engine) == 0


def test_insert_between_drop_column_and_drop_trigger(engine: Engine, jobs: None) -> None:
    """There is no between: statements go on all through contract, and through the way back from it."""
    engine.execute("CREATE SEQUENCE s START 1000")
    run = engine.enqueue(RENAME % "[contract]")
    expect(engine.drive(run), State.WAITING)
    insert = "INSERT INTO jobs (id, revenue) VALUES (nextval('s'), 3)"
    with writing(engine, insert, insert, "UPDATE jobs SET revenue = revenue + 1 WHERE id = 7") as errors:
        commands.approve(engine.connection, run, "contract", actor="ann")
        expect(engine.drive(run), State.COMPLETED)
    assert errors == []
    assert engine.value("SELECT count(*) FROM jobs WHERE id >= 1000 AND revenue IS DISTINCT FROM 3") == 0
