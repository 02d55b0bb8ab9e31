"""`change_type`: a column gets another type with everything that hangs on it, and goes back from every step."""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest
from fix_postgres import understood
from fix_runs import PACE_SECONDS, expect
from paths import ROOT
from psycopg.rows import dict_row

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import schema
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.record.model import Run

EXAMPLES = ROOT / "examples"

#: What hangs on columns of the test's tables, each kind with its name and its definition.
PICTURE = """
SELECT 'column' AS kind, c.relname || '.' || a.attname AS name,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END, pg_get_expr(d.adbin, d.adrelid),
                 a.attacl, col_description(c.oid, a.attnum), nullif(to_jsonb(a) ->> 'attstattarget', '-1'),
                 nullif(ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg\\_%'), '{}')) AS what
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'index', x.relname, concat_ws(' ', pg_get_indexdef(x.oid), i.indisvalid, i.indisclustered, obj_description(x.oid, 'pg_class'))
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE x.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'constraint', conname, concat_ws(' ', pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint'))
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
UNION ALL
SELECT 'view', c.oid::regclass::text, concat_ws(' ', pg_get_viewdef(c.oid), c.reloptions, pg_get_userbyid(c.relowner),
       (SELECT array_agg(x::text ORDER BY x::text) FROM unnest(coalesce(c.relacl, acldefault('r', c.relowner))) x),
       obj_description(c.oid, 'pg_class'))
FROM pg_class c WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'policy', polname, concat_ws(' / ', pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) FROM pg_policy
UNION ALL
SELECT 'trigger', tgname, concat(pg_get_triggerdef(oid), tgenabled) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'function', oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc
WHERE pronamespace IN ('public'::regnamespace, 'backfilld'::regnamespace) AND (prorettype = 'trigger'::regtype OR pronamespace <> 'backfilld'::regnamespace)
UNION ALL
SELECT 'statistics', s.stxname, concat_ws(' ', s.stxkind, (SELECT array_agg(a.attname ORDER BY a.attname) FROM pg_attribute a
       WHERE a.attrelid = s.stxrelid AND a.attnum = ANY (s.stxkeys::smallint[]))) FROM pg_statistic_ext s
UNION ALL
SELECT 'sequence', c.relname, concat_ws(' ', a.attrelid::regclass, a.attname)
FROM pg_class c LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'a'
LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE c.relkind = 'S' AND c.relnamespace = 'public'::regnamespace
"""


def picture(engine: Engine) -> dict[tuple[str, str], str]:
    with engine.connect() as connection:
        rows = connection.execute(PICTURE.encode()).fetchall()
    return {(row["kind"], row["name"]): row["what"] for row in rows}


def names(seen: dict[tuple[str, str], str]) -> set[tuple[str, str]]:
    return {(kind, name) for kind, name in seen if "backfilld" not in name}


def change(column: str, type_: str, *, name: str = "change", more: str = "", approve: str = "[contract]") -> str:
    return (
        f'name: {name}\noperations:\n  - change_type: {{table: jobs, column: {column}, type: "{type_}"{more}}}\n'
        f"settings: {{lanes: 2, approve: {approve}}}\n"
    )


def in_phase(phase: Phase) -> Any:
    return lambda run: run.phase is phase


def approved(engine: Engine, run: int, phase: str = "contract") -> Run:
    commands.approve(engine.connection, run, phase, actor="ann")
    return engine.drive(run)


def rolled_back(engine: Engine, run: int) -> None:
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)


JOBS = """
CREATE TABLE devices (code integer PRIMARY KEY, kind text);
INSERT INTO devices SELECT n FROM generate_series(1, 100) n;
CREATE TABLE jobs (
    id bigint PRIMARY KEY,
    number serial CONSTRAINT jobs_number_positive CHECK (number > 0) CONSTRAINT jobs_number_key UNIQUE,
    device integer NOT NULL DEFAULT 7 CONSTRAINT jobs_device_fk REFERENCES devices ON DELETE CASCADE,
    info text DEFAULT '{}',
    -- As PostgreSQL writes status IN ('open', 'done') when it reads its own text of that.
    status varchar(20) DEFAULT 'open' NOT NULL CHECK (status::text = ANY (ARRAY['open'::varchar::text, 'done'::varchar::text])),
    at timestamp DEFAULT '2026-01-01',
    owner text DEFAULT 'postgres'
);
CREATE INDEX jobs_device_status ON jobs (device, status) INCLUDE (id) WHERE device > 3;
CREATE UNIQUE INDEX jobs_number_at ON jobs (number, at DESC NULLS LAST);
ALTER TABLE jobs CLUSTER ON jobs_number_at;
CREATE INDEX jobs_next ON jobs ((number + 1), at);
CREATE INDEX jobs_info ON jobs (info);
CREATE INDEX jobs_status ON jobs (status);
CREATE STATISTICS jobs_together (dependencies, mcv) ON device, status FROM jobs;
CREATE STATISTICS jobs_more ON number, at FROM jobs;
COMMENT ON COLUMN jobs.number IS 'counted';
COMMENT ON COLUMN jobs.info IS 'of the device';
COMMENT ON INDEX jobs_info IS 'for search';
COMMENT ON CONSTRAINT jobs_number_key ON jobs IS 'one each';
ALTER TABLE jobs ALTER COLUMN number SET STATISTICS 250;
CREATE ROLE %(reader)s;
GRANT SELECT (number, info, status), UPDATE (at) ON jobs TO %(reader)s;
CREATE VIEW jobs_view WITH (security_invoker = true) AS SELECT id, number, device, info, status AS state, at FROM jobs;
CREATE VIEW jobs_of_view AS SELECT * FROM jobs_view WHERE number IS NOT NULL AND at IS NOT NULL AND info IS NOT NULL;
GRANT SELECT ON jobs_of_view TO %(reader)s WITH GRANT OPTION;
COMMENT ON VIEW jobs_view IS 'for reports';
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY jobs_mine ON jobs USING (number > 0 AND owner = current_user AND status <> 'done') WITH CHECK (device > 0);
ALTER TABLE devices ENABLE ROW LEVEL SECURITY;
CREATE POLICY devices_used ON devices USING (EXISTS (SELECT FROM jobs WHERE jobs.device = devices.code AND jobs.at > '2020-01-01'));
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER jobs_noted AFTER UPDATE OF number, info, at ON jobs FOR EACH ROW WHEN (new.status IS DISTINCT FROM old.status)
    EXECUTE FUNCTION noted();
ALTER TABLE jobs ENABLE ALWAYS TRIGGER jobs_noted;
CREATE FUNCTION most() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT concat(max(number), max(device), min(at)) FROM jobs; END;
CREATE FUNCTION infos() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(info) + count(status) FROM jobs; END;
INSERT INTO jobs (id, device, info, status, at)
SELECT n, n %% 90 + 1, json_build_object('n', n)::text, CASE WHEN n %% 3 = 0 THEN 'done' ELSE 'open' END,
       timestamp '2026-02-01' + n * interval '1 hour' FROM generate_series(1, 60) n;
"""


@pytest.fixture
def jobs(engine: Engine) -> Any:
    """A table on whose columns hangs everything that can."""
    reader = "reader_" + engine.value("SELECT md5(current_database())")[:8]
    engine.execute(understood(JOBS % {"reader": reader}, engine.version))
    engine.execute("CREATE TYPE status AS ENUM ('open', 'done', 'late')")
    yield
    engine.execute(f"DROP OWNED BY {reader} CASCADE; DROP ROLE {reader}")


#: The column, its new type, a value that only the new type can have (and what the old one makes of it), and one for both.
PAIRS = {
    "int to bigint": ("number", "bigint", "70", "70"),
    "int to bigint, a foreign key": ("device", "bigint", "50", "50"),
    "text to jsonb": ("info", "jsonb", "'{\"b\":  1}'", '{"b": 1}'),
    "varchar to enum": ("status", "public.status", "'done'", "done"),
    "timestamp to timestamptz": ("at", "timestamptz", "'2026-03-01 12:00+02'", "2026-03-01 10:00:00"),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_everything_on_the_column_goes_with_it_and_comes_back(engine: Engine, jobs: None, pair: str) -> None:
    """Indexes, constraints, default, NOT NULL, privileges, comments, statistics, views, policies, functions and triggers."""
    column, type_, given, old_value = PAIRS[pair]
    before = picture(engine)
    values = engine.execute(f"SELECT id, {column}::text AS value FROM jobs ORDER BY id")
    run = engine.enqueue(change(column, type_))
    now = engine.drive(run, batch_rows=10)
    expect(now, State.WAITING)
    assert now.phase is Phase.CONTRACT

    # Given the switch is done, everything is there again under its name, and what names a type names the new one.
    switched = picture(engine)
    assert names(switched) == names(before)
    assert type_.removeprefix("public.") in switched["column", f"jobs.{column}"].replace(
        "timestamp with time zone", "timestamptz"
    )
    different = {name for name in names(before) if switched[name] != before[name]}
    assert {kind for kind, _ in different} <= {
        "column",
        "view",
        "constraint",
        "policy",
        "index",
        "trigger",
        "statistics",
    }, different
    for kind, name in different:  # the same but for casts to the type
        if kind in {"index", "constraint"}:
            assert before[kind, name].split("(")[0] == switched[kind, name].split("(")[0]
    converted = engine.value(f"SELECT count(*) FROM jobs WHERE {column}::text IS NOT NULL")
    assert converted == 60

    # When a value is written through the new type and the run is rolled back, it is there in the old one.
    engine.execute(f"UPDATE jobs SET {column} = {given} WHERE id = 60")
    engine.execute(
        f"INSERT INTO jobs (id, number, {column}) VALUES (61, 61, {given})"
        if column != "number"
        else "INSERT INTO jobs (id, number) VALUES (61, 71)"
    )
    engine.execute(
        "INSERT INTO jobs (id, number) VALUES (62, 1000)" if column != "number" else "INSERT INTO jobs (id) VALUES (62)"
    )
    rolled_back(engine, run)
    assert picture(engine) == before
    after = {row["id"]: row["value"] for row in engine.execute(f"SELECT id, {column}::text AS value FROM jobs")}
    assert all(after[row["id"]] == row["value"] for row in values if row["id"] != 60)
    assert after[60] == old_value
    assert len(after) == 62


@pytest.mark.parametrize("pair", PAIRS)
def test_after_contract_the_archive_brings_the_old_column_back(engine: Engine, jobs: None, pair: str) -> None:
    """Old values are exactly what they were where the new ones are; rows written since come through `down`."""
    column, type_, given, old_value = PAIRS[pair]
    before = picture(engine)
    if column == "info":
        engine.execute("UPDATE jobs SET info = '{\"spaced\" :   1}' WHERE id = 5")
    values = engine.execute(f"SELECT id, {column}::text AS value FROM jobs ORDER BY id")
    run = engine.enqueue(change(column, type_))
    engine.drive(run)
    expect(approved(engine, run), State.COMPLETED)
    assert names(picture(engine)) == set(picture(engine))
    engine.execute(f"UPDATE jobs SET {column} = {given} WHERE id = 60")
    rolled_back(engine, run)
    assert picture(engine) == before
    after = {row["id"]: row["value"] for row in engine.execute(f"SELECT id, {column}::text AS value FROM jobs")}
    assert all(after[row["id"]] == row["value"] for row in values if row["id"] != 60)
    assert after[60] == old_value


class Application:
    """Somebody who writes all the time, by the column's name, and counts what fails."""

    def __init__(self, engine: Engine) -> None:
        self.errors: list[str] = []
        self.written = 0
        self._stop = threading.Event()
        self._engine = engine
        self._threads = [threading.Thread(target=self._write, args=(seed,)) for seed in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, seed: int) -> None:
        with self._engine.connect() as connection:
            # A prepared statement that gives the column back fails once when its type changes, whoever changes it.
            connection.prepare_threshold = None
            number = 1000 * (seed + 1)
            while not self._stop.is_set():
                number += 1
                for statement in (
                    "INSERT INTO jobs (id, device, number) VALUES (%(n)s, %(n)s %% 90 + 1, %(n)s)",
                    "UPDATE jobs SET device = (device + 1) %% 90 + 1 WHERE id = %(n)s %% 50 + 1",
                    "UPDATE jobs SET info = '{}' WHERE id = %(n)s",
                    "INSERT INTO jobs (id, number) VALUES (%(n)s, %(n)s) ON CONFLICT (number) DO UPDATE SET device = 9",
                    "SELECT device FROM jobs_view WHERE number = %(n)s",
                    "DELETE FROM jobs WHERE id = %(n)s - 2 AND %(n)s %% 7 = 0",
                ):
                    try:
                        connection.execute(statement, {"n": number})
                        self.written += 1
                    except psycopg.Error as exc:
                        self.errors.append(f"{statement}: {exc}")
                self._stop.wait(PACE_SECONDS)


def test_writers_notice_nothing_from_expand_to_contract_and_back(engine: Engine, jobs: None) -> None:
    """No statement of an application fails over the whole run, and at its end every value is right on either side."""
    engine.execute("DROP POLICY devices_used ON devices")
    before = picture(engine)
    with Application(engine) as application:
        run = engine.enqueue(change("device", "bigint"))
        expect(engine.drive(run, batch_rows=20), State.WAITING)
        expect(approved(engine, run), State.COMPLETED)
        written = application.written
        rolled_back(engine, run)
    assert application.errors == []
    assert application.written > written > 0
    assert picture(engine) == before


def test_up_to_contract_both_columns_say_the_same(engine: Engine, jobs: None) -> None:
    run = engine.enqueue(change("device", "bigint", approve="[switch, contract]"))
    with Application(engine) as application:
        expect(engine.drive(run), State.WAITING)
        assert engine.value("SELECT count(*) FROM jobs WHERE device IS DISTINCT FROM device_backfilld_new") == 0
        approved(engine, run, "switch")
        assert engine.run(run).phase is Phase.CONTRACT
        assert engine.value("SELECT count(*) FROM jobs WHERE device IS DISTINCT FROM device_backfilld_old") == 0
    assert application.errors == []


def test_a_policy_on_the_altered_column(engine: Engine, jobs: None) -> None:
    """The policy goes on to hide what it hid, at every step, and the old column can be dropped for all that."""
    role = "policed_" + engine.value("SELECT md5(current_database())")[:8]
    engine.execute(
        f"CREATE ROLE {role}; GRANT SELECT, INSERT ON jobs TO {role}; CREATE POLICY few ON jobs TO {role} USING (device < 5)"
    )

    def seen() -> int:
        with engine.connect() as connection, connection.transaction():
            connection.execute(f"SET LOCAL ROLE {role}".encode())
            row = connection.execute("SELECT count(*) AS n FROM jobs").fetchone()
        return int((row or {})["n"])

    try:
        engine.execute("DROP POLICY jobs_mine ON jobs")
        few = seen()
        assert 0 < few < 60
        run = engine.enqueue(change("device", "bigint"))
        while engine.run(run).state is not State.COMPLETED:
            if engine.run(run).state is State.WAITING:
                commands.approve(engine.connection, run, "contract", actor="ann")
            engine.step()
            assert seen() == few
        with engine.connect() as connection:
            connection.execute(f"SET ROLE {role}".encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("INSERT INTO jobs (id, device) VALUES (99, 80)")
        rolled_back(engine, run)
        assert seen() == few
    finally:
        engine.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_rows_that_do_not_fit_block_the_way_back_and_are_named(engine: Engine, jobs: None) -> None:
    """Before it begins, and when such a row is written while it is under way."""
    run = engine.enqueue(change("number", "bigint"))
    engine.drive(run)
    engine.execute("UPDATE jobs SET number = 3000000000 + id WHERE id IN (5, 6)")
    with pytest.raises(Refused, match=r"does not fit the old type \(integer\), with their keys: 2 \(5; 6\)"):
        commands.rollback(engine.connection, run, actor="ann")
    expect(engine.run(run), State.WAITING)

    engine.execute("UPDATE jobs SET number = 1000 + id WHERE id IN (5, 6)")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value("SELECT array_agg(number ORDER BY id) FROM jobs WHERE id IN (5, 6)") == [1005, 1006]


def test_a_row_that_comes_after_the_rollback_was_asked_for_blocks_it_too(engine: Engine, jobs: None) -> None:
    """The table is locked when the question is asked again, so none can slip through."""
    run = engine.enqueue(change("number", "bigint"))
    engine.drive(run)
    commands.rollback(engine.connection, run, actor="ann")
    engine.execute("UPDATE jobs SET number = 3000000000 + id WHERE id IN (5, 6)")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "does not fit the old type (integer), with its key: 5" in now.error["message"]

    engine.execute("UPDATE jobs SET number = 1000 + id WHERE id IN (5, 6)")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value("SELECT array_agg(number ORDER BY id) FROM jobs WHERE id IN (5, 6)") == [1005, 1006]


def test_a_row_that_does_not_fit_is_found_under_another_key_too(engine: Engine, jobs: None) -> None:
    run = engine.enqueue(change("number", "bigint"))
    engine.drive(run)
    engine.execute("UPDATE jobs SET number = 3000000000 WHERE id = 5")
    engine.execute("UPDATE jobs SET id = 500 WHERE id = 5")
    commands.rollback(engine.connection, run, actor="ann")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "does not fit the old type (integer), with its key: 500" in now.error["message"]
    engine.execute("UPDATE jobs SET number = 1005 WHERE id = 500")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)


def test_after_contract_too_a_row_that_does_not_fit_is_named(engine: Engine, jobs: None) -> None:
    """The old column is restored, but for a row that cannot be: going on would lose its value."""
    run = engine.enqueue(change("number", "bigint", approve="[]"))
    expect(engine.drive(run), State.COMPLETED)
    engine.execute("UPDATE jobs SET number = 3000000000 WHERE id = 5")
    commands.rollback(engine.connection, run, actor="ann")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "does not fit the old type (integer), with its key: 5" in now.error["message"]

    engine.execute("UPDATE jobs SET number = 1005 WHERE id = 5")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value("SELECT number FROM jobs WHERE id = 5") == 1005


def test_a_row_that_moves_past_the_walk_which_restores_has_its_value(engine: Engine, jobs: None) -> None:
    """Its new key lies behind the lanes, which know it by no other; the sync trigger gives it what `down` makes of its value."""
    before = picture(engine)
    run = engine.enqueue(change("number", "bigint", approve="[]").replace("lanes: 2", "lanes: 1"))
    expect(engine.drive(run), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    engine.drive(run, batch_rows=5, until=lambda _run: any(one.rows_walked for one in engine.lanes(run, "restore")))
    engine.execute("UPDATE jobs SET id = -id WHERE id > 50")
    expect(engine.drive(run, batch_rows=5), State.ROLLED_BACK)
    assert picture(engine) == before
    assert engine.value("SELECT count(*) FROM jobs WHERE number = abs(id)") == 60


def test_the_founding_case(engine: Engine) -> None:
    """Rows that are not JSON are set aside with key and error, and the run is not done until they are fixed and retried."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, device_info text)")
    engine.execute("""INSERT INTO jobs SELECT n, CASE WHEN n % 100 = 0 THEN 'not json ' || n ELSE '{"n": ' || n || '}' END
                      FROM generate_series(1, 1000) n""")
    engine.execute("INSERT INTO jobs VALUES (5000, NULL)")
    run = engine.enqueue((EXAMPLES / "jobs_device_info_jsonb.yaml").read_text())
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.phase is Phase.VERIFY
    aside = engine.quarantined(run)
    assert {row.key for row in aside} == {(str(n),) for n in range(100, 1001, 100)}
    assert {row.sqlstate for row in aside} == {"22P02"}
    assert "invalid input syntax for type json" in aside[0].error

    engine.execute("UPDATE jobs SET device_info = to_json(device_info)::text WHERE id % 100 = 0 AND id <= 1000")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.WAITING)
    expect(approved(engine, run, "switch"), State.WAITING)
    expect(approved(engine, run), State.COMPLETED)
    assert engine.value("SELECT device_info FROM jobs WHERE id = 100") == "not json 100"
    assert engine.value("SELECT count(*) FROM jobs WHERE device_info -> 'n' = to_jsonb(id)") == 990


def test_balances_become_bigint_go_back_and_come_again(engine: Engine) -> None:
    """Switched, rolled back, done again and contracted, restored from the archive: the sum is right at each stop."""
    engine.execute(
        "CREATE TABLE pgbench_accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler char(84))"
    )
    engine.execute("INSERT INTO pgbench_accounts SELECT n, 1, n - 100, '' FROM generate_series(1, 300) n")
    text = (EXAMPLES / "pgbench_abalance_bigint.yaml").read_text()
    total = engine.value("SELECT sum(abalance)::numeric FROM pgbench_accounts")

    def moved() -> bool:
        """Some money changes hands; nothing is lost by it."""
        engine.execute(
            "UPDATE pgbench_accounts SET abalance = abalance + CASE aid % 2 WHEN 0 THEN 7 ELSE -7 END WHERE aid <= 100"
        )
        return bool(engine.value("SELECT sum(abalance)::numeric FROM pgbench_accounts") == total)

    run = engine.enqueue(text)
    expect(engine.drive(run, until=lambda _run: not moved()), State.WAITING)
    assert moved()
    rolled_back(engine, run)
    assert moved()
    again = engine.enqueue(text)
    assert again != run
    expect(engine.drive(again), State.WAITING)
    expect(approved(engine, again), State.COMPLETED)
    assert engine.value("SELECT pg_typeof(abalance)::text FROM pgbench_accounts LIMIT 1") == "bigint"
    assert moved()
    rolled_back(engine, again)
    assert moved()
    assert engine.value("SELECT pg_typeof(abalance)::text FROM pgbench_accounts LIMIT 1") == "integer"


def test_a_value_that_comes_to_fit_no_more_before_the_switch_stops_it(engine: Engine, jobs: None) -> None:
    """After verify a statement writes what is no JSON: it goes through, and the switch waits until the row is mended."""
    run = engine.enqueue(change("info", "jsonb", approve="[switch, contract]"))
    engine.drive(run)
    engine.execute("UPDATE jobs SET info = 'no json' WHERE id = 9")
    now = approved(engine, run, "switch")
    expect(now, State.FAILED)
    assert now.error is not None
    assert "does not fit the new type, with their keys: 1 (9)" in now.error["message"]
    engine.execute("UPDATE jobs SET info = '[]' WHERE id = 9")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.WAITING)
    assert engine.value("SELECT info FROM jobs WHERE id = 9") == []


def test_what_is_made_meanwhile_stops_the_switch(engine: Engine, jobs: None) -> None:
    """An index or a view of the time between would hang on the column that is about to go."""
    run = engine.enqueue(change("at", "timestamptz", approve="[switch, contract]"))
    engine.drive(run)
    engine.execute("CREATE INDEX meanwhile ON jobs (at)")
    now = approved(engine, run, "switch")
    expect(now, State.FAILED)
    assert now.error is not None
    assert "the 'index meanwhile' of column at has changed" in now.error["message"]
    engine.execute("DROP INDEX meanwhile")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.WAITING)

    engine.execute("CREATE VIEW since AS SELECT at FROM jobs")
    commands.rollback(engine.connection, run, actor="ann")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "the 'view public.since' was created after" in now.error["message"]
    engine.execute("DROP VIEW since")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)


def test_a_view_gets_no_privileges_from_defaults(engine: Engine, jobs: None) -> None:
    """On Supabase everything new in public may be read by everybody; a view that is made anew is not new."""
    engine.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
    before = picture(engine)
    run = engine.enqueue(change("info", "jsonb"))
    engine.drive(run)
    assert engine.value("SELECT has_table_privilege('pg_monitor', 'jobs_view', 'SELECT')") is False
    rolled_back(engine, run)
    assert picture(engine) == before


def test_the_owner_of_the_tables_needs_no_other_right(engine: Engine, supabase_url: str) -> None:
    """As on Supabase: NOSUPERUSER and BYPASSRLS, with a view of the application's that others may read."""
    with (
        psycopg.connect(supabase_url, autocommit=True, row_factory=dict_row) as connection,
        open_pool(supabase_url, size=4) as pool,
    ):
        schema.ensure(connection)
        owner = type(engine)(url=supabase_url, connection=connection, pool=pool)
        owner.set_pace()
        owner.execute(understood(JOBS % {"reader": "anon"}, owner.version).replace("CREATE ROLE anon;", ""))
        before = picture(owner)
        run = owner.enqueue(change("device", "bigint"))
        expect(owner.drive(run), State.WAITING)
        assert names(picture(owner)) == names(before)
        expect(approved(owner, run), State.COMPLETED)
        rolled_back(owner, run)
        assert picture(owner) == before


#: How many steps further each run goes than the one before: stops in each phase, and in the middle of lanes.
STRIDE = 3


def test_back_from_every_step(engine: Engine) -> None:
    """Wherever the run is told to go back, the table is what it was, with every value that was written meanwhile."""
    engine.execute(
        "CREATE TABLE other (n integer PRIMARY KEY); INSERT INTO other SELECT generate_series(0, 99);"
        'CREATE TABLE jobs (id bigint PRIMARY KEY, "a""b%" integer NOT NULL DEFAULT 3 REFERENCES other CHECK ("a""b%" >= 0));'
        'CREATE UNIQUE INDEX "un%" ON jobs ("a""b%", id); CREATE INDEX ON jobs ("a""b%");'
        'CREATE VIEW v AS SELECT "a""b%" AS n FROM jobs;'
        "INSERT INTO jobs SELECT n, n % 100 FROM generate_series(1, 20) n"
    )
    before = picture(engine)
    stopped: set[Phase] = set()
    for stop in count(1, STRIDE):
        run = engine.enqueue(change("'a\"b%'", "bigint", name=f"change-{stop}", approve="[]"))
        for _ in range(stop):
            if engine.run(run).state is State.COMPLETED:
                break
            engine.step(batch_rows=9)
        ended = engine.run(run)
        stopped.add(ended.phase)
        engine.execute('UPDATE jobs SET "a""b%%" = %s WHERE id = 7', stop)
        rolled_back(engine, run)
        engine.sent.clear()
        assert picture(engine) == before, f"after {stop} steps"
        assert engine.value('SELECT "a""b%" FROM jobs WHERE id = 7') == stop
        assert engine.value('SELECT count(*) FROM jobs WHERE "a""b%" = id % 100 AND id <> 7') == 19
        if ended.state is State.COMPLETED:
            break
    assert stopped == set(Phase)


REFUSED = {
    "a primary key": ("id", "numeric", "", "id is part of a key, and changes between"),
    "a generated column": (
        "device",
        "bigint",
        "ALTER TABLE jobs ADD g integer GENERATED ALWAYS AS (device + 1) STORED",
        "generated column g",
    ),
    "a rule": (
        "info",
        "jsonb",
        "CREATE RULE r AS ON UPDATE TO jobs WHERE new.info = '' DO INSTEAD NOTHING",
        "the rule r",
    ),
    "an expression index": (
        "info",
        "jsonb",
        "CREATE INDEX i ON jobs (lower(info))",
        "the index i cannot be kept with the new type",
    ),
    "a check": (
        "info",
        "jsonb",
        "ALTER TABLE jobs ADD CONSTRAINT c CHECK (info <> '')",
        "the check c cannot be kept with the new type",
    ),
    "a foreign key": (
        "device",
        "text",
        """DROP VIEW jobs_view CASCADE; DROP INDEX jobs_device_status; DROP POLICY jobs_mine ON jobs;
           DROP POLICY devices_used ON devices; DROP FUNCTION most""",
        "the foreign key jobs_device_fk is not accepted",
    ),
    "a view": (
        "info",
        "jsonb",
        "CREATE VIEW short AS SELECT left(info, 3) FROM jobs",
        "the view public.short is not accepted",
    ),
    "a view with a trigger": (
        "info",
        "jsonb",
        "CREATE TRIGGER i INSTEAD OF INSERT ON jobs_view FOR EACH ROW EXECUTE FUNCTION noted()",
        "depends on it",
    ),
    "a policy": (
        "info",
        "jsonb",
        "CREATE POLICY p ON jobs USING (info LIKE '%x%')",
        "the policy p on public.jobs is not accepted",
    ),
    "a trigger": (
        "info",
        "jsonb",
        "CREATE TRIGGER t AFTER UPDATE ON jobs FOR EACH ROW WHEN (new.info LIKE 'x%') EXECUTE FUNCTION noted()",
        "the trigger t is not accepted",
    ),
    "no cast up": ("device", "jsonb", "", "Write `up:`"),
    "no cast down": ("plain", "point", "ALTER TABLE jobs ADD plain integer", "Write `down:`"),
    "a replica identity": (
        "number",
        "bigint",
        "ALTER TABLE jobs REPLICA IDENTITY USING INDEX jobs_number_key",
        "replica identity",
    ),
    "an invalid index": (
        "info",
        "jsonb",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs_info'::regclass",
        "jobs_info is INVALID",
    ),
    "a name that is taken": (
        "info",
        "jsonb",
        "ALTER TABLE jobs ADD info_backfilld_new text",
        "has a column info_backfilld_new",
    ),
    "a domain with a rule": (
        "info",
        "public.short",
        "CREATE DOMAIN short AS text CHECK (length(value) < 99)",
        "rewrites the table, under a lock",
    ),
    "no such column": ("inf", "jsonb", "", "Did you mean info?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(engine: Engine, jobs: None, case: str) -> None:
    column, type_, statement, words = REFUSED[case]
    if case == "a replica identity":
        engine.execute("ALTER TABLE jobs ALTER number SET NOT NULL")
    if statement:
        engine.execute(statement)
    before = picture(engine)
    with pytest.raises(Refused) as refused:
        engine.enqueue(change(column, type_, more=", up: 'point(plain, 1)'" if column == "plain" else ""))
    assert words in str(refused.value)
    assert picture(engine) == before


def test_a_check_that_the_new_values_break_is_looked_for_before_it_stands(engine: Engine) -> None:
    """The application goes on to write such rows; the run stops, and goes on when they are mended."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer CHECK (n < 100), other text)")
    engine.execute("INSERT INTO jobs SELECT i, i FROM generate_series(1, 60) i")
    run = engine.enqueue(change("n", "bigint", more=", up: 'n * 2', down: 'n / 2'"))
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "rows break the check jobs_n_check with their new values of n" in now.error["message"]
    assert "by key: 50, 51" in now.error["message"]
    engine.execute("UPDATE jobs SET other = 'still written' WHERE id = 55")
    engine.execute("UPDATE jobs SET n = 1 WHERE id >= 50")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.WAITING)
    assert engine.value("SELECT max(n) FROM jobs") == 98


#: A rule of the old column that a value of the new one breaks on the way back; and what an UPDATE of it must be.
BROKEN_ON_THE_WAY_BACK = {
    "a check": ("CHECK (n <> 7)", "numeric", "", "6.9", "1"),
    "not null": ("NOT NULL", "bigint", ", down: 'nullif(n, 7)'", "7", "1"),
}


@pytest.mark.parametrize("case", BROKEN_ON_THE_WAY_BACK)
def test_a_rule_that_is_broken_on_the_way_back_is_taken_back(engine: Engine, case: str) -> None:
    """The row is named, an UPDATE of its other columns passes, and the run goes back once the row is fixed."""
    rule, type_, more, breaks, fits = BROKEN_ON_THE_WAY_BACK[case]
    engine.execute(f"CREATE TABLE jobs (id bigint PRIMARY KEY, n integer {rule}, other text)")
    engine.execute("INSERT INTO jobs SELECT i + 7, i + 7 FROM generate_series(1, 30) i")
    before = engine.execute("SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint ORDER BY conname")
    run = engine.enqueue(change("n", type_, more=more))
    expect(engine.drive(run), State.WAITING)
    commands.rollback(engine.connection, run, actor="ann")
    engine.execute(f"UPDATE jobs SET n = {breaks} WHERE id = 12")
    failed = engine.drive(run)
    expect(failed, State.FAILED)
    assert failed.error is not None
    assert (failed.error["class"], "by key: 12)" in failed.error["message"]) == ("violated", True)
    assert engine.value("SELECT count(*) FROM pg_constraint WHERE NOT convalidated") == 0
    engine.execute("UPDATE jobs SET other = 'mine' WHERE id = 12")

    engine.execute(f"UPDATE jobs SET n = {fits} WHERE id = 12")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.execute("SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint ORDER BY conname") == before


@pytest.mark.parametrize(
    "other",
    [
        "create_index: {table: jobs, name: i, columns: [info]}",
        'add_check: {table: jobs, name: c, check: "length(INFO) > 0"}',
        'add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(\\"info\\")"}',
    ],
)
def test_two_operations_about_the_column_are_refused(engine: Engine, jobs: None, other: str) -> None:
    """What the other makes of the old type would be wrong, or in the way, once the column has the new one."""
    text = change("info", "jsonb").replace("settings:", f"  - {other}\nsettings:")
    with pytest.raises(Refused, match=rf"operations\[1\].{other.partition(':')[0]} also uses jobs.info"):
        engine.enqueue(text)


def test_up_and_down_of_ones_own(engine: Engine) -> None:
    """`down` names the column, which then has the new type; both read the rest of the row, and need not undo each other."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, price numeric(8, 2), currency text)")
    engine.execute("INSERT INTO jobs SELECT n, n + 0.5, 'EUR' FROM generate_series(1, 30) n")
    more = ", up: \"jsonb_build_object('amount', price, 'in', jobs.currency)\", down: \"(price ->> 'amount')::numeric\""
    run = engine.enqueue(change("price", "jsonb", more=more))
    expect(engine.drive(run), State.WAITING)
    assert engine.value("SELECT price FROM jobs WHERE id = 3") == {"amount": 3.5, "in": "EUR"}
    engine.execute('UPDATE jobs SET price = \'{"amount": 9, "in": "USD"}\' WHERE id = 3')
    assert float(engine.value("SELECT price_backfilld_old FROM jobs WHERE id = 3")) == 9
    engine.execute("UPDATE jobs SET price_backfilld_old = 4 WHERE id = 4")
    assert engine.value("SELECT price FROM jobs WHERE id = 4") == {"amount": 4.0, "in": "EUR"}
    rolled_back(engine, run)
    assert float(engine.value("SELECT sum(price) FROM jobs")) == sum(n + 0.5 for n in range(1, 31)) + 5.5 - 0.5


def test_text_that_is_too_long_is_not_cut(engine: Engine) -> None:
    """A cast to varchar(3) would cut; here the row is set aside."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, code text)")
    engine.execute("INSERT INTO jobs VALUES (1, 'abc'), (2, 'abcd')")
    run = engine.enqueue(change("code", "varchar(3)"))
    expect(engine.drive(run), State.PAUSED)
    assert [(row.key, row.sqlstate) for row in engine.quarantined(run)] == [(("2",), "22001")]


def test_a_change_that_needs_no_rewrite_is_made_in_place(engine: Engine) -> None:
    """Found by doing it to a copy: an index that computes something would be built anew."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, a varchar(20), b varchar(20), c integer)")
    engine.execute("CREATE INDEX ON jobs (a); CREATE INDEX ON jobs (lower(b))")
    in_place = {
        column: examine.examine(engine.connection, definition.parse(change(column, type_))).facts[0].in_place
        for column, type_ in (("a", "varchar(30)"), ("b", "varchar(30)"), ("c", "bigint"))
    }
    assert in_place == {"a": True, "b": False, "c": False}
