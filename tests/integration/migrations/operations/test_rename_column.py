"""`rename_column`: applications that know either name write all the while, nothing they see differs, and every step goes back."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml
from fix_postgres import understood
from fix_runs import PACE_SECONDS, expect
from psycopg import sql

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning.examine import examine
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands, enqueueing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_runs import Engine

    from backfilld.migrations.record.model import Run

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
    commands.approve(engine.connection, run, "contract", actor="ann", yes=True)
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
    commands.approve(engine.connection, run, "contract", actor="ann", yes=True)
    expect(engine.drive(run), State.COMPLETED)
    yield Phase.DONE


def test_what_is_written_under_either_name_is_there_under_both(engine: Engine, jobs: None) -> None:
    for phase in at_each_phase(engine, RENAME):
        for column in ("total", "revenue") if phase is not Phase.DONE else ():
            for name, statement in WRITES.items():
                if name == "MERGE" and engine.version < 15:
                    continue
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
                stop.wait(PACE_SECONDS)

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
    engine.execute("CREATE SEQUENCE s")
    run = engine.enqueue(RENAME % "[switch, contract]")
    by_old = (
        "UPDATE jobs SET total = total + 1 WHERE id = 5",
        "INSERT INTO jobs (id, total) VALUES (1000 + nextval('s') % 50, 3) ON CONFLICT (id) DO NOTHING",
        "DELETE FROM jobs WHERE id = (SELECT 1000 + nextval('s') % 50)",
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
        commands.approve(engine.connection, run, "contract", actor="ann", yes=True)
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
                stop.wait(PACE_SECONDS)
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


def test_a_trigger_that_was_disabled_meanwhile_is_made_again_and_a_person_is_asked(engine: Engine, jobs: None) -> None:
    """As a restore with --disable-triggers does: what was written then is in one of the columns only, and nothing tells in which."""
    run = engine.enqueue(RENAME % "[switch]")
    expect(engine.drive(run), State.WAITING)
    engine.execute(
        "ALTER TABLE jobs DISABLE TRIGGER USER; UPDATE jobs SET revenue = 0 WHERE id < 4; ALTER TABLE jobs ENABLE TRIGGER USER"
    )
    assert engine.run(run).verified_at is None, "nobody may rely on it"
    commands.approve(engine.connection, run, "switch", actor="ann")
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert (now.error["class"], now.error["message"].split()[0]) == ("residual", "3")
    engine.execute("UPDATE jobs SET total = 7, revenue = 7 WHERE id < 4")  # the trigger is there again
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert [row["revenue"] for row in engine.execute("SELECT revenue FROM jobs WHERE id < 5 ORDER BY id")][:3] == [
        7,
        7,
        7,
    ]


def test_what_was_written_without_the_trigger_after_the_switch_is_not_dropped(engine: Engine, jobs: None) -> None:
    run = engine.enqueue(RENAME % "[contract]")
    expect(engine.drive(run), State.WAITING)
    engine.execute("ALTER TABLE jobs DISABLE TRIGGER USER; UPDATE jobs SET total = 0 WHERE id = 3")
    commands.approve(engine.connection, run, "contract", actor="ann", yes=True)
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert now.error["class"] == "residual"
    engine.execute("UPDATE jobs SET total = 0, revenue = 0 WHERE id = 3")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT revenue FROM jobs WHERE id = 3") == 0


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
        commands.approve(engine.connection, run, "contract", actor="ann", yes=True)
        expect(engine.drive(run), State.COMPLETED)
    assert errors == []
    assert engine.value("SELECT count(*) FROM jobs WHERE id >= 1000 AND revenue IS DISTINCT FROM 3") == 0


# Whatever depends on the column.

EVERYTHING = """
CREATE TABLE customers (id bigint PRIMARY KEY);
INSERT INTO customers SELECT generate_series(1, 40);
CREATE TABLE jobs (
    id bigint GENERATED ALWAYS AS IDENTITY,
    total bigint NOT NULL CONSTRAINT positive CHECK (total > 0) REFERENCES customers ON UPDATE CASCADE,
    twice bigint GENERATED ALWAYS AS (total * 2) STORED,
    status text NOT NULL DEFAULT 'open'
);
INSERT INTO jobs (total) SELECT n FROM generate_series(1, 40) n;
CREATE VIEW totals AS SELECT id, total FROM jobs;
CREATE MATERIALIZED VIEW sums AS SELECT sum(total) AS total FROM jobs;
CREATE FUNCTION total_of(n bigint) RETURNS bigint LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT j.total FROM jobs j WHERE j.id = n; END;
CREATE POLICY "all" ON jobs USING (total > 0) WITH CHECK (total > 0 AND total < 1000000);
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER told AFTER UPDATE OF total ON jobs FOR EACH ROW WHEN (old.total <> new.total) EXECUTE FUNCTION told();
CREATE STATISTICS dependent (dependencies) ON total, status FROM jobs;
ALTER TABLE jobs ALTER total SET STATISTICS 77;
GRANT SELECT (total), UPDATE (total) ON jobs TO PUBLIC;
COMMENT ON COLUMN jobs.total IS 'what it''s worth: 100%';
CREATE PUBLICATION thrifty FOR TABLE jobs (id, total) WITH (publish = 'insert');
ALTER TABLE jobs ADD PRIMARY KEY (id);
"""

PICTURE = """
SELECT 'column' AS what, a.attnum || ' ' || attname || ' ' || format_type(atttypid, atttypmod) || attnotnull || attstattarget
    || coalesce(attacl::text, '-') || coalesce(col_description(attrelid, attnum), '-')
    || coalesce(pg_get_expr(adbin, adrelid), '-') || attidentity::text || attgenerated::text AS value
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE attrelid = 'jobs'::regclass AND a.attnum > 0 AND NOT attisdropped
UNION ALL SELECT 'constraint', conname || pg_get_constraintdef(oid) || convalidated FROM pg_constraint
    WHERE conrelid = 'jobs'::regclass OR confrelid = 'jobs'::regclass
UNION ALL SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'jobs'::regclass AND indisvalid
UNION ALL SELECT 'view', pg_get_viewdef(oid) FROM pg_class WHERE relkind IN ('v', 'm') AND relnamespace = 'public'::regnamespace
UNION ALL SELECT 'function', pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'backfilld'::regnamespace
UNION ALL SELECT 'policy', polname || pg_get_expr(polqual, polrelid) || pg_get_expr(polwithcheck, polrelid) FROM pg_policy
UNION ALL SELECT 'trigger', pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'jobs'::regclass AND NOT tgisinternal
UNION ALL SELECT 'statistics', pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
UNION ALL SELECT 'publication', concat(pubname, to_jsonb(p) -> 'attnames') FROM pg_publication_tables p
ORDER BY 1, 2
"""


def picture(engine: Engine) -> list[dict[str, Any]]:
    """All that the catalog says of the table and of what depends on it, and all of ours that is left."""
    return engine.execute(PICTURE)


def renamed(engine: Engine) -> list[dict[str, Any]]:
    """What a plain ALTER TABLE … RENAME COLUMN makes of it."""
    with engine.connection.transaction(force_rollback=True):
        engine.execute("ALTER TABLE jobs RENAME COLUMN total TO revenue")
        return picture(engine)


def test_everything_that_depends_on_the_column_follows_it(engine: Engine) -> None:
    """In the end the catalog says what a plain RENAME would have made of it: policies on the renamed column included."""
    engine.execute(understood(EVERYTHING, engine.version))
    wanted = renamed(engine)
    for phase in at_each_phase(engine, RENAME):
        engine.execute("UPDATE customers SET id = id + 1000 WHERE id = 7")
        seen = "SELECT revenue, twice, total_of(7), (SELECT v.total FROM totals v WHERE v.id = 7) AS seen FROM jobs WHERE id = 7"
        assert engine.execute(seen) == [{"revenue": 1007, "twice": 2014, "total_of": 1007, "seen": 1007}]
        engine.execute("UPDATE customers SET id = 7 WHERE id = 1007")
        for column in ("total", "revenue") if phase is not Phase.DONE else ():
            assert engine.value("SELECT twice FROM jobs WHERE id = 9") == 18
            engine.execute(f"UPDATE jobs SET {column} = 10 WHERE id = 9")
            assert engine.value("SELECT twice FROM jobs WHERE id = 9") == 20
            engine.execute(f"UPDATE jobs SET {column} = 9 WHERE id = 9")
            for value, error in (
                (-1, psycopg.errors.CheckViolation),
                (None, psycopg.errors.NotNullViolation),
                (41, psycopg.errors.ForeignKeyViolation),
            ):
                with pytest.raises(error):
                    engine.execute(f"UPDATE jobs SET {column} = %s WHERE id = 9", value)
    assert picture(engine) == wanted


def steps_to_the_end(engine: Engine) -> int:
    run = engine.enqueue(RENAME % "[]")
    steps = 0
    while engine.run(run).state is not State.COMPLETED:
        engine.step(batch_rows=25)
        steps += 1
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    return steps


def test_back_from_after_every_other_step(engine: Engine) -> None:
    """Until and after contract: the catalog is as it was, and what was written under either name is kept."""
    engine.execute(understood(EVERYTHING, engine.version))
    before = picture(engine)
    end = steps_to_the_end(engine)
    for number in (*range(0, end, 2), end):
        engine.sent.clear()
        run = engine.enqueue(RENAME % "[]")
        for _ in range(number):
            engine.step(batch_rows=25)
        there = sorted({"total", "revenue"} & columns(engine))
        for column in there:
            engine.execute(f"INSERT INTO jobs ({column}) VALUES (%s)", 30 + len(column))
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
        assert picture(engine) == before, f"after {number} steps"
        kept = engine.execute("DELETE FROM jobs WHERE id > 40 RETURNING total")
        assert sorted(row["total"] for row in kept) == sorted(30 + len(column) for column in there)


def test_after_contract_writers_of_the_new_name_go_on_until_it_is_gone(engine: Engine, jobs: None) -> None:
    """The old name comes back with every value, the switch is turned back, and only then the new name goes."""
    run = engine.enqueue(RENAME % "[]")
    expect(engine.drive(run), State.COMPLETED)
    engine.execute("UPDATE jobs SET revenue = revenue + 1000")
    commands.rollback(engine.connection, run, actor="ann")
    write = "UPDATE jobs SET revenue = revenue + 1 WHERE id = "
    with writing(engine, f"{write} 7", f"{write} 8") as errors:
        expect(engine.drive(run, batch_rows=10), State.ROLLED_BACK)
    assert {type(error) for error in errors} <= {psycopg.errors.UndefinedColumn}
    assert columns(engine) == {"id", "status", "total"}
    assert engine.value("SELECT count(*) FROM jobs WHERE total >= 1000 + id") == ROWS


INDEXED = """
CREATE TABLE jobs (id bigint PRIMARY KEY, status text, total integer, total2 integer DEFAULT 1, UNIQUE (status, total));
CREATE UNIQUE INDEX "To%tal" ON jobs (total) NULLS NOT DISTINCT WHERE total2 > 0;
CREATE INDEX ON jobs USING hash (total);
CREATE INDEX ON jobs ((total + total2), status DESC) INCLUDE (total) WITH (fillfactor = 70) WHERE total IS NOT NULL;
CREATE INDEX ON jobs (total2) WHERE status = 'total';
ALTER TABLE jobs ADD UNIQUE (total) DEFERRABLE;
INSERT INTO jobs SELECT n, 'open', n FROM generate_series(1, 40) n;
"""


def indexes(engine: Engine) -> list[str]:
    """The table's valid indexes as PostgreSQL writes them, without their names."""
    rows = engine.execute(
        "SELECT regexp_replace(pg_get_indexdef(indexrelid), 'INDEX .* ON', 'INDEX ON') AS one FROM pg_index "
        "WHERE indrelid = 'jobs'::regclass AND indisvalid ORDER BY 1"
    )
    return [row["one"] for row in rows]


def test_each_index_of_the_column_is_there_for_both_names(engine: Engine) -> None:
    """Unique ones unique, but for a deferrable one; and in the end as before, under the new name."""
    engine.execute(understood(INDEXED, engine.version))
    before = indexes(engine)
    with engine.connection.transaction(force_rollback=True):
        engine.execute("ALTER TABLE jobs RENAME COLUMN total TO revenue")
        wanted = indexes(engine)
    deferred = "CREATE UNIQUE INDEX ON public.jobs USING btree (revenue)"
    of_twin = [one.replace("UNIQUE ", "") if one == deferred else one for one in wanted if one not in before]
    assert len(of_twin) == 5
    for phase in at_each_phase(engine, RENAME):
        if phase is Phase.SWITCH:
            assert indexes(engine) == sorted([*before, *of_twin])
        elif phase is Phase.CONTRACT:
            assert indexes(engine) == sorted([*wanted, *(one.replace("revenue", "total") for one in of_twin)])
        else:
            assert indexes(engine) == wanted
            break
        for column in ("total", "revenue"):
            with engine.connection.transaction(force_rollback=True):
                engine.execute("SET LOCAL enable_seqscan = off")
                plan = engine.execute(f"EXPLAIN SELECT FROM jobs WHERE {column} = 7 AND total2 > 0")
                assert "Index" in str(plan)
                assert "Seq Scan" not in str(plan)
                upsert = (
                    f"INSERT INTO jobs (id, status, {column}) VALUES (100, 'open', 7) ON CONFLICT (status, {column}) "
                )
                engine.execute(upsert + "DO UPDATE SET status = 'met'")
                assert engine.value("SELECT status FROM jobs WHERE id = 7") == "met"
            engine.execute(f"UPDATE jobs SET {column} = {column} + 1000; UPDATE jobs SET {column} = {column} - 1000")
    assert ours(engine) == []


def test_back_with_indexes(engine: Engine) -> None:
    """From the middle of verify, and from after contract: no index of ours is left."""
    engine.execute(understood(INDEXED, engine.version))
    before = indexes(engine)
    for stop in ("after one index", "at the switch", "at the contract", "at the end"):
        engine.sent.clear()
        run = engine.enqueue(RENAME % {"at the switch": "[switch]", "at the contract": "[contract]"}.get(stop, "[]"))
        if stop == "after one index":
            engine.drive(run, until=lambda _run: len(indexes(engine)) > len(before))
        else:
            engine.drive(run)
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
        assert indexes(engine) == before, stop
        assert ours(engine) == []
        assert engine.value("SELECT sum(total) FROM jobs") == 820


def test_a_renamed_primary_key_that_others_refer_to(engine: Engine) -> None:
    """An identity, with inbound foreign keys; it is also the key by which the table is walked."""
    engine.execute(
        "CREATE TABLE jobs (total bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n int);"
        "INSERT INTO jobs (n) SELECT generate_series(1, 40);"
        "CREATE TABLE steps (job bigint REFERENCES jobs ON UPDATE CASCADE ON DELETE CASCADE);"
        "INSERT INTO steps SELECT total FROM jobs"
    )
    for number, phase in enumerate(at_each_phase(engine, RENAME)):
        for offset, column in enumerate(("total", "revenue") if phase is not Phase.DONE else ("revenue",)):
            key = 2 * number + offset + 1
            engine.execute(f"UPDATE jobs SET {column} = 1000 + {key} WHERE {column} = {key}")
            engine.execute("INSERT INTO jobs (n) VALUES (-1)")
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                engine.execute("INSERT INTO steps VALUES (-1)")
            assert engine.value(f"SELECT count(*) FROM jobs j JOIN steps s ON s.job = j.{column}") == 40
    run = engine.value("SELECT run FROM backfilld.runs")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=10), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM jobs j JOIN steps s ON s.job = j.total") == 40
    assert engine.value("SELECT count(*) FROM pg_index WHERE indrelid = 'jobs'::regclass") == 1


#: DEFAULTs; and what a row holds that was inserted without either name, with NULL for the new one, and with a value for it.
DEFAULTS: dict[str, tuple[str, object, object]] = {
    "a constant": ("integer DEFAULT 7", 7, None),
    "none": ("integer", None, None),
    "a sequence": ("serial", 41, 41),
    "an identity": ("integer GENERATED BY DEFAULT AS IDENTITY (START 41)", 41, 41),
    "of its domain": ("sevens", 7, None),
    "random": ("integer DEFAULT 5 + random() * 0", 5, 5),
    "the clock": ("integer DEFAULT extract(year FROM now() + interval '5000 years') / 1000", 7, 7),
}


@pytest.mark.parametrize("case", DEFAULTS)
def test_defaults(engine: Engine, case: str) -> None:
    type_, by_default, by_null = DEFAULTS[case]
    engine.execute("CREATE DOMAIN sevens AS integer DEFAULT 7")
    engine.execute(f"CREATE TABLE jobs (id bigint PRIMARY KEY, total {type_})")
    if case == "a sequence":
        engine.execute("SELECT setval('jobs_total_seq', 40)")
    for phase in at_each_phase(engine, RENAME):
        if phase is Phase.DONE:
            break
        for column in ("total", "revenue"):
            engine.execute("DELETE FROM jobs")
            engine.execute("INSERT INTO jobs (id) VALUES (1)")
            engine.execute(f"INSERT INTO jobs (id, {column}) VALUES (2, 99)")
            itself = column == ("total" if phase is Phase.SWITCH else "revenue")
            if "sequence" not in case and "identity" not in case:
                engine.execute(f"INSERT INTO jobs (id, {column}) VALUES (3, NULL)")
                assert engine.value("SELECT total FROM jobs WHERE id = 3") == (None if itself else by_null), column
                assert engine.value("SELECT total FROM jobs WHERE id = 1") == by_default
            assert engine.value("SELECT total FROM jobs WHERE id = 2") == 99
            assert apart(engine) == 0
    engine.execute("DELETE FROM jobs")
    engine.execute("INSERT INTO jobs (id) VALUES (1)")
    assert (engine.value("SELECT revenue FROM jobs") is None) == (by_default is None)


TYPES = {
    "json": ("json", '{"a":1}', '{"a": 1}'),
    "a composite": ("pair", "(1,)", "(,)"),
    "a collation of its own": ('text COLLATE "C"', "a", "A"),
    "a domain with a rule": ("positive", "1.0", "1.00"),
    "a length": ("varchar(3)[]", "{a,NULL}", "{}"),
    "an enum": ('"Odd Mood"', "sad", "ok"),
}


@pytest.mark.parametrize("case", TYPES)
def test_types(engine: Engine, case: str) -> None:
    """The second column has the type and the collation of the first; a domain's rule holds for what comes through either."""
    type_, first, second = TYPES[case]
    engine.execute("CREATE TYPE pair AS (a int, b text); CREATE DOMAIN positive AS numeric NOT NULL CHECK (VALUE > 0)")
    engine.execute("CREATE TYPE \"Odd Mood\" AS ENUM ('sad', 'ok')")
    engine.execute(f"CREATE TABLE jobs (id bigint PRIMARY KEY, total {type_})")
    engine.execute("INSERT INTO jobs VALUES (1, %s), (2, %s)", first, first)
    for phase in at_each_phase(engine, RENAME):
        if phase is Phase.DONE:
            break
        engine.execute("UPDATE jobs SET total = %s WHERE id = 1", second)
        engine.execute("UPDATE jobs SET revenue = %s WHERE id = 2", second)
        found = engine.execute("SELECT total::text, revenue::text FROM jobs")
        assert found == [{"total": second, "revenue": second}] * 2
        assert (
            engine.value("SELECT count(DISTINCT attcollation) FROM pg_attribute WHERE attname IN ('total', 'revenue')")
            == 1
        )
        if case == "a domain with a rule":
            with pytest.raises(psycopg.errors.CheckViolation):
                engine.execute("UPDATE jobs SET revenue = -1, total = -1")
            with pytest.raises(psycopg.errors.IntegrityError):
                engine.execute(f"UPDATE jobs SET {'revenue' if phase is Phase.SWITCH else 'total'} = NULL")
        engine.execute("UPDATE jobs SET total = %s", first)
    assert engine.execute("SELECT DISTINCT revenue::text AS one FROM jobs") == [{"one": first}]


def test_composite_key(engine: Engine) -> None:
    """The table is walked by the very columns of which one is renamed, and its key is changed while that goes on."""
    engine.execute("CREATE TABLE jobs (total bigint, b text, c text, PRIMARY KEY (b, total))")
    engine.execute("INSERT INTO jobs SELECT n, n % 3, n FROM generate_series(1, 40) n")
    run = engine.enqueue(RENAME.replace("lanes: 2", "lanes: 2, walk: keys") % "[contract]")
    expect(engine.drive(run, batch_rows=7), State.WAITING)
    engine.execute(
        "UPDATE jobs SET revenue = revenue + 100 WHERE b = '1'; UPDATE jobs SET total = total + 100 WHERE b = '2'"
    )
    assert apart(engine) == 0
    commands.approve(engine.connection, run, "contract", actor="ann", yes=True)
    expect(engine.drive(run), State.COMPLETED)
    assert (
        engine.value("SELECT count(*) FROM jobs WHERE revenue = c::bigint + CASE b WHEN '0' THEN 0 ELSE 100 END") == 40
    )
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=7), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM jobs WHERE total = c::bigint + CASE b WHEN '0' THEN 0 ELSE 100 END") == 40


def test_partitions(engine: Engine) -> None:
    """One of which has its columns in another order; rows are written through the parent and past it, and move."""
    engine.execute(
        "CREATE TABLE jobs (id bigint, region text, total numeric, PRIMARY KEY (id, region)) PARTITION BY LIST (region);"
        "CREATE TABLE jobs_a PARTITION OF jobs FOR VALUES IN ('a');"
        "CREATE TABLE jobs_b (total numeric, region text NOT NULL, gone int, id bigint NOT NULL);"
        "ALTER TABLE jobs_b DROP gone; ALTER TABLE jobs ATTACH PARTITION jobs_b FOR VALUES IN ('b');"
        "INSERT INTO jobs SELECT n, CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END, n FROM generate_series(1, 40) n"
    )
    for phase in at_each_phase(engine, RENAME):
        for number, column in enumerate(("total", "revenue") if phase is not Phase.DONE else ()):
            with engine.connect() as application:
                application.execute("SET session_replication_role = replica")
                application.execute(f"UPDATE jobs_b SET {column} = {column} + 1 WHERE id < 20".encode())
                application.execute(f"UPDATE jobs SET region = 'b', {column} = 5 WHERE id = {2 + 2 * number}".encode())
            with engine.connection.transaction(force_rollback=True):
                engine.execute("CREATE TABLE jobs_c PARTITION OF jobs FOR VALUES IN ('c')")
                engine.execute(f"INSERT INTO jobs (id, region, {column}) VALUES (100, 'c', 5)")
                engine.execute(f"INSERT INTO jobs_c (id, region, {column}) VALUES (101, 'c', 5)")
                assert engine.value("SELECT count(*) FROM jobs WHERE revenue = 5 AND total = 5 AND region = 'c'") == 2
            assert apart(engine) == 0
            engine.execute("UPDATE jobs SET region = 'a' WHERE id % 2 = 0")
    assert columns(engine, "jobs_b") == {"id", "region", "revenue"}


def test_odd_names(engine: Engine) -> None:
    """Quotes, percent signs, dollars, and 63 bytes."""
    old, new = 'To"tal %s $body$', "%" + "é" * 31
    table = sql.Identifier("Odd Schema", 'a%b"c')
    engine.connection.execute(
        sql.SQL('CREATE SCHEMA "Odd Schema"; CREATE TABLE {} ("Id %" bigint PRIMARY KEY, {} text DEFAULT {})').format(
            table, sql.Identifier(old), sql.Literal("it's 100%s")
        )
    )
    engine.connection.execute(sql.SQL('INSERT INTO {} ("Id %") SELECT generate_series(1, 40)').format(table))
    text = definition.parse(
        yaml.safe_dump(
            {
                "name": "odd",
                "operations": [{"rename_column": {"table": 'Odd Schema."a%b""c"', "from": old, "to": new}}],
                "settings": {"approve": ["contract"]},
            }
        )
    )
    run = enqueueing.enqueue(engine.connection, text, actor="test").run.run
    expect(engine.drive(run, batch_rows=15), State.WAITING)
    for number, column in enumerate((old, new)):
        engine.connection.execute(
            sql.SQL('INSERT INTO {} ("Id %", {}) VALUES ({}, {})').format(
                table, sql.Identifier(column), sql.Literal(100 + number), sql.Literal("50%")
            )
        )
    both = sql.SQL("SELECT {} AS a, {} AS b, count(*) AS n FROM {} GROUP BY 1, 2 ORDER BY 3").format(
        sql.Identifier(old), sql.Identifier(new), table
    )
    wanted = [{"a": "50%", "b": "50%", "n": 2}, {"a": "it's 100%s", "b": "it's 100%s", "n": 40}]
    assert engine.connection.execute(both).fetchall() == wanted
    commands.approve(engine.connection, run, "contract", actor="ann", yes=True)
    expect(engine.drive(run), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)


def test_a_role_with_rights_on_the_column_alone_has_them_under_both_names(
    engine: Engine, plain_role_url: str, jobs: None
) -> None:
    role = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(plain_role_url)["user"]))
    engine.connection.execute(
        sql.SQL("GRANT SELECT (id, total), INSERT (id, total), UPDATE (total) ON jobs TO {}").format(role)
    )
    for phase in at_each_phase(engine, RENAME):
        with psycopg.connect(plain_role_url, autocommit=True) as application:
            for column in ("total", "revenue") if phase is not Phase.DONE else ("revenue",):
                application.execute(f"UPDATE jobs SET {column} = 5 WHERE id = 7".encode())
                application.execute(f"INSERT INTO jobs (id, {column}) VALUES (100, 5)".encode())
                found = application.execute(f"SELECT {column} FROM jobs WHERE id IN (7, 100)".encode()).fetchall()
                assert found == [(5,), (5,)]
                engine.execute("DELETE FROM jobs WHERE id = 100")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                application.execute("SELECT status FROM jobs")
    engine.connection.execute(sql.SQL("DROP OWNED BY {}").format(role))


def examined(engine: Engine, text: str = RENAME % "[]") -> tuple[str, str]:
    """What preflight has to say: reasons for refusal, and warnings."""
    with connected(engine.url) as connection:
        found = examine(connection, definition.parse(text))
    return "\n".join(map(str, found.findings)), "\n".join(found.warnings)


#: Tables, operations beside the rename, and what preflight says to them.
REFUSED = {
    "no such column": ("totl int", "", "has no column total. Did you mean totl?"),
    "the name is taken": ("total int, revenue int", "", "already has a column revenue"),
    "a generated column": ("n int, total int GENERATED ALWAYS AS (n * 2) STORED", "", "is a generated column"),
    "another operation reads it": (
        "total int, name text",
        "- add_column: {table: jobs, column: {name: x, type: int}, backfill: 'Total + 1'}",
        "operations[1].add_column also names total",
    ),
    "another operation writes it": ("total int", "- backfill: {table: jobs, set: {id: 'total'}}", "also names total"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(engine: Engine, case: str) -> None:
    columns_, beside, wanted = REFUSED[case]
    engine.execute(f"CREATE TABLE jobs (id bigint PRIMARY KEY, {columns_})")
    text = (RENAME % "[]").replace("settings:", f"  {beside}\nsettings:") if beside else RENAME % "[]"
    assert wanted in examined(engine, text)[0]


def test_what_is_refused_of_partitions_parents_and_system_columns(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint, total int, PRIMARY KEY (id, total)) PARTITION BY LIST (total)")
    assert "total decides in which partition of jobs a row is" in examined(engine)[0]
    engine.execute(
        "DROP TABLE jobs; CREATE TABLE parents (total int); CREATE TABLE jobs (id bigint PRIMARY KEY) INHERITS (parents)"
    )
    assert "total is inherited from the parent" in examined(engine)[0]
    assert "the name of a system column" in examined(engine, (RENAME % "[]").replace("revenue}", "xmin}"))[0]
    engine.execute("DROP TABLE jobs; CREATE TABLE jobs (id bigint PRIMARY KEY, total int) PARTITION BY LIST (id)")
    engine.execute("CREATE TABLE jobs_a PARTITION OF jobs DEFAULT; CREATE INDEX ON jobs (total)")
    assert "an index of a partitioned table cannot be built" in examined(engine)[0]


def test_what_is_left_by_a_cancelled_run_is_to_be_taken_back_first(engine: Engine, jobs: None) -> None:
    run = engine.enqueue(RENAME % "[]")
    engine.drive(run, until=during(Phase.BACKFILL))
    commands.cancel(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.CANCELLED)
    with pytest.raises(Refused, match="roll that run back first: backfilld rollback revenue"):
        engine.enqueue(RENAME % "[]")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    expect(engine.drive(engine.enqueue(RENAME % "[]")), State.COMPLETED)


def test_what_a_careful_person_should_know(engine: Engine, jobs: None) -> None:
    engine.execute(
        "ALTER TABLE jobs ALTER total SET DEFAULT random();"
        "CREATE FUNCTION summed() RETURNS numeric LANGUAGE sql AS 'SELECT sum(Total) FROM jobs';"
        "CREATE FUNCTION other() RETURNS int LANGUAGE sql AS 'SELECT 1 AS totals /* jobs */';"
        "CREATE FUNCTION elsewhere() RETURNS int LANGUAGE sql AS 'SELECT 1 AS total';"  # names no table
        "CREATE FUNCTION called() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.total := 1; RETURN new; END $$;"
        "CREATE TRIGGER called BEFORE UPDATE OF total ON jobs FOR EACH ROW EXECUTE FUNCTION called();"
        "CREATE PUBLICATION p FOR TABLE jobs"
    )
    refused, warned = examined(engine)
    assert refused == ""
    assert "a prepared SELECT * fails (0A000)" in warned
    assert "functions name total in their text: public.called(), public.summed()." in warned
    assert "the trigger called fires for UPDATE OF total" in warned
    assert "the DEFAULT of total is not constant" in warned
    assert "replication stops at a subscriber without a column revenue" in warned


def test_somebody_who_made_something_of_the_old_name_keeps_it(engine: Engine, jobs: None) -> None:
    """PostgreSQL refuses the drop in its own words, and the run fails with all as it was."""
    run = engine.enqueue(RENAME % "[contract]")
    expect(engine.drive(run), State.WAITING)
    engine.execute("CREATE VIEW late AS SELECT total FROM jobs")
    commands.approve(engine.connection, run, "contract", actor="ann", yes=True)
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "other objects depend on it" in now.error["message"]
    engine.execute("UPDATE jobs SET total = 5 WHERE id = 7")
    assert apart(engine) == 0
    engine.execute("DROP VIEW late")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
