"""`change_type`: a column gets another type with everything that hangs on it, and goes back from every step."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_runs import expect

from migrations.errors import Refused
from migrations.states import Phase, State
from producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

    from migrations.model import Run

#: What hangs on columns of the test's tables, each kind with its name and its definition.
PICTURE = """
SELECT 'column' AS kind, c.relname || '.' || a.attname AS name,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END, pg_get_expr(d.adbin, d.adrelid),
                 a.attacl, col_description(c.oid, a.attnum), nullif(to_jsonb(a) ->> 'attstattarget', '-1'), a.attoptions) AS what
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'index', x.relname, concat_ws(' ', pg_get_indexdef(x.oid), i.indisvalid, obj_description(x.oid, 'pg_class'))
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
WHERE pronamespace IN ('public'::regnamespace, 'backfilld'::regnamespace) AND proname NOT IN ('may_work', 'make_partition')
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
        f"name: {name}\noperations:\n  - change_type: {{table: jobs, column: {column}, type: {type_}{more}}}\n"
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
    engine.execute(JOBS % {"reader": reader})
    engine.execute("CREATE TYPE status AS ENUM ('open', 'done', 'late')")
    yield
    engine.execute(f"DROP OWNED BY {reader} CASCADE; DROP ROLE {reader}")


#: The column, its new type, a value that only the new type can have (and what the old one makes of it), and one for both.
PAIRS = {
    "int to bigint": ("number", "bigint", "70", "70"),
    "int to bigint, a foreign key": ("device", "bigint", "50", "50"),
    "text to jsonb": ("info", "jsonb", '\'{"b":  1}\'', '{"b": 1}'),
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
    assert type_.removeprefix("public.") in switched["column", f"jobs.{column}"].replace("timestamp with time zone", "timestamptz")
    different = {name for name in names(before) if switched[name] != before[name]}
    assert {kind for kind, _ in different} <= {"column", "view", "constraint", "policy", "index", "trigger", "statistics"}, different
    for kind, name in different:  # the same but for casts to the type
        if kind in {"index", "constraint"}:
            assert before[kind, name].split("(")[0] == switched[kind, name].split("(")[0]
    converted = engine.value(f"SELECT count(*) FROM jobs WHERE {column}::text IS NOT NULL")
    assert converted == 60

    # When a value is written through the new type and the run is rolled back, it is there in the old one.
    engine.execute(f"UPDATE jobs SET {column} = {given} WHERE id = 60")
    engine.execute(f"INSERT INTO jobs (id, number, {column}) VALUES (61, 61, {given})" if column != "number" else
                   "INSERT INTO jobs (id, number) VALUES (61, 71)")
    engine.execute("INSERT INTO jobs (id, number) VALUES (62, 1000)" if column != "number" else "INSERT INTO jobs (id) VALUES (62)")
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
