"""An application beside a rename, a change of type and a drop in one file: what is said beforehand is what then happens, phase by phase.

Its statements and functions are really sent after each phase, and its API is asked by old code and by code that reads both schemas. Edge
functions in a real Deno are in `test_edge_functions`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
from fix_rest import serving
from fix_runs import Engine, expect

from backfilld.migrations.file import migration as definition
from backfilld.migrations.record.states import Phase, State
from backfilld.producers.client import Client
from backfilld.producers.code import codegen, python_module, uses

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

TABLES = """
CREATE TABLE jobs (id bigint PRIMARY KEY, total int, details text, note text, status text DEFAULT 'new');
CREATE INDEX ON jobs (status);
INSERT INTO jobs SELECT n, n, CASE WHEN n % 2 = 0 THEN '{"a": 1}' ELSE '[]' END, 'n' || n FROM generate_series(1, 20) n;
CREATE TABLE customers (id bigint PRIMARY KEY, total int, note text);
INSERT INTO customers SELECT n, n, 'x' FROM generate_series(1, 5) n;
CREATE VIEW totals AS SELECT id, total AS sum FROM jobs;
CREATE FUNCTION revenue() RETURNS bigint LANGUAGE sql AS 'SELECT sum(total) FROM public.jobs';
CREATE FUNCTION shout(one bigint) RETURNS text LANGUAGE sql AS 'SELECT upper(details) FROM public.jobs WHERE id = one';
CREATE FUNCTION notes() RETURNS SETOF text LANGUAGE sql AS 'SELECT note FROM public.jobs';
CREATE FUNCTION many() RETURNS bigint LANGUAGE sql AS 'SELECT count(details) FROM public.jobs';
CREATE FUNCTION doubled(one jobs) RETURNS int LANGUAGE sql AS 'SELECT 2 * one.total';
CREATE FUNCTION stated(one jobs) RETURNS text LANGUAGE sql AS 'SELECT one.status';
CREATE FUNCTION old_jobs() RETURNS SETOF jobs LANGUAGE sql AS 'SELECT * FROM public.jobs WHERE id < 5';
CREATE FUNCTION bound() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT sum(total) FROM public.jobs; END;
ANALYZE;
SELECT pg_stat_statements_reset();
"""

MIGRATION = """
name: jobs-change
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
  - change_type: {table: jobs, column: details, type: jsonb}
  - drop_column: {table: jobs, column: note}
application: {statements: {files: [queries/*.sql], window: 1s}, on_regression: warn}
settings: {approve: []}
"""

#: What the application sends, with its parameters, and the phase from which on it fails.
SENT: dict[str, tuple[list[Any], Phase | None]] = {
    "SELECT * FROM jobs": ([], None),
    "SELECT id, status FROM public.jobs WHERE status = $1 ORDER BY id LIMIT $2": (["new", 3], None),
    "SELECT id, total FROM jobs WHERE id = $1": ([7], Phase.CONTRACT),
    'SELECT "public"."jobs"."total" FROM "public"."jobs" WHERE "public"."jobs"."id" = $1': ([7], Phase.CONTRACT),
    "SELECT count(*) FROM jobs WHERE total > $1": ([7], Phase.CONTRACT),
    "SELECT id FROM jobs ORDER BY total DESC": ([], Phase.CONTRACT),
    "SELECT id AS total FROM jobs ORDER BY total": ([], None),
    "SELECT (j).total FROM jobs j": ([], Phase.CONTRACT),
    "SELECT j.* FROM jobs j WHERE j.note = $1": (["n1"], Phase.CONTRACT),
    "SELECT c.total, c.note FROM customers c JOIN jobs USING (id)": ([], None),
    "SELECT total FROM customers": ([], None),
    "WITH a AS (SELECT total FROM jobs) SELECT count(*) FROM a": ([], Phase.CONTRACT),
    "SELECT EXISTS (SELECT FROM jobs j WHERE j.id = c.id AND j.total = c.total) FROM customers c": ([], Phase.CONTRACT),
    "SELECT sum FROM totals WHERE id = $1": ([7], None),
    "SELECT details FROM jobs WHERE id = $1": ([7], None),
    "SELECT details::json->>$1 FROM jobs WHERE id = $2": (["a", 2], None),
    "SELECT upper(details) FROM jobs": ([], Phase.SWITCH),
    "SELECT id FROM jobs WHERE details LIKE $1": (["%a%"], Phase.SWITCH),
    "SELECT length(details), total FROM jobs": ([], Phase.SWITCH),
    "UPDATE jobs SET details = $1 WHERE id = $2": (["{}", 7], None),
    "UPDATE jobs SET total = total + $1 WHERE id = $2": ([1, 7], Phase.CONTRACT),
    "UPDATE customers SET note = $1 WHERE id = $2": (["y", 1], None),
    "INSERT INTO jobs (id, status) VALUES ($1, $2)": ([100, "new"], None),
    "INSERT INTO jobs (id, details, note) VALUES ($1, $2, $3)": ([100, "{}", "n"], Phase.CONTRACT),
    "INSERT INTO jobs (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET total = $2": ([7, 7], Phase.CONTRACT),
    "INSERT INTO jobs AS j (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET status = j.note": ([7], Phase.CONTRACT),
    "INSERT INTO jobs (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET id = CASE WHEN excluded.total IS NULL THEN jobs.id END": (
        [7],
        Phase.CONTRACT,
    ),
    "INSERT INTO jobs SELECT id FROM customers WHERE id > $1": ([100], None),
    "WITH jobs AS (SELECT id, total FROM jobs) SELECT id FROM jobs": ([], Phase.CONTRACT),
    "WITH jobs (total) AS (VALUES ($1::int)) SELECT total FROM jobs": ([7], None),
    "DELETE FROM jobs WHERE id = $1 RETURNING note": ([7], Phase.CONTRACT),
    "SELECT count(*) FROM jobs": ([], None),
}
#: As their file has them: with constants, of which what is counted keeps none.
WRITTEN: dict[str, Phase | None] = {
    "SELECT coalesce(details, '') FROM jobs": Phase.SWITCH,
    "SELECT coalesce(details, '{}') FROM jobs": None,
    "SELECT total FROM jobs WHERE status = 'new'": Phase.CONTRACT,
}
#: By name, each with a call of it.
FUNCTIONS: dict[str, tuple[str, Phase | None]] = {
    "function public.revenue()": ("SELECT public.revenue()", Phase.CONTRACT),
    "function public.shout(one bigint)": ("SELECT public.shout(7)", Phase.SWITCH),
    "function public.notes()": ("SELECT public.notes()", Phase.CONTRACT),
    "function public.many()": ("SELECT public.many()", None),
    "function public.doubled(one public.jobs)": ("SELECT public.doubled(jobs) FROM jobs", Phase.CONTRACT),
    "function public.stated(one public.jobs)": ("SELECT public.stated(jobs) FROM jobs", None),
    "function public.old_jobs()": ("SELECT * FROM public.old_jobs()", None),
    "function public.bound()": ("SELECT public.bound()", None),
}
ORDER = (Phase.EXPAND, Phase.BACKFILL, Phase.VERIFY, Phase.SWITCH, Phase.CONTRACT)


def _fail_now(connection: psycopg.Connection[Any], *, written: bool = True) -> set[str]:
    """What of the application fails at this moment. Nothing of it stays."""
    found = set()
    sent = [(name, name, values) for name, (values, _) in SENT.items()]
    sent += [(name, name, []) for name in WRITTEN] if written else []
    sent += [(name, call, []) for name, (call, _) in FUNCTIONS.items()]
    for name, text, values in sent:
        with connection.transaction(force_rollback=True), psycopg.RawCursor(connection) as cursor:
            try:
                cursor.execute(text.encode(), values, prepare=False)
            except psycopg.Error:
                found.add(name)
    return found


def test_what_the_plan_names_is_what_then_fails_no_more_and_no_less(counting_engine: Engine, tmp_path: Path) -> None:
    engine, client = counting_engine, Client(counting_engine.url)
    engine.execute(TABLES)
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "jobs.sql").write_text(";\n".join(WRITTEN), encoding="utf-8")
    (tmp_path / "m.yaml").write_text(MIGRATION, encoding="utf-8")
    with psycopg.connect(engine.url, autocommit=True) as application:
        assert _fail_now(application, written=False) == set()  # what is only written, nobody has counted yet

        told = client.plan(tmp_path / "m.yaml").to_json()["application"]
        named = {
            one["source"] if one["source"].startswith("function") else one["statement"]: Phase(one["phase"])
            for one in told["breaks"]
        }
        known = {
            **{name: phase for name, (_, phase) in SENT.items()},
            **WRITTEN,
            **{name: phase for name, (_, phase) in FUNCTIONS.items()},
        }
        assert named == {name: phase for name, phase in known.items() if phase is not None}
        # A function takes rows of the table, and no row of a copy: of the function itself it is known, of those who call it not.
        of_rows = {call for call, _ in FUNCTIONS.values() if "(jobs)" in call}
        assert {one["statement"] for one in told["cannot_be_checked"]} == of_rows
        assert (told["untried"], told["silence"]) == ((), ())

        seen: dict[Phase, set[str]] = {}

        def look(now: Any) -> bool:
            """As a phase begins, those before it are done."""
            if now.phase not in seen:
                seen[now.phase] = _fail_now(application)
            return False

        run = engine.enqueue(tmp_path / "m.yaml")
        expect(engine.drive(run, until=look), State.COMPLETED)
        seen[Phase.DONE] = _fail_now(application)

    for phase, failed in seen.items():
        done = ORDER[: ORDER.index(phase)] if phase in ORDER else ORDER
        assert failed == {name for name, from_ in named.items() if from_ in done}, phase
    assert seen.keys() >= {*ORDER, Phase.DONE}
    engine.execute("DROP FUNCTION bound()")


class ApiError(Exception):
    """As supabase-py raises it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _get(url: str, path: str) -> list[dict[str, Any]]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = json.load(answer)
    finally:
        connection.close()
    if answer.status != 200:
        raise ApiError(body["code"])
    return list(body)


#: An edge function, in Python: what it reads, computes and answers.
OLD = """
def handle(db):
    rows = db.table("jobs").select("id, total, details").gt("total", 15).order("id").execute().data
    return [{"id": row["id"], "total": row["total"] + 1, "details": row["details"]} for row in rows]
"""


def _old_code(url: str) -> list[dict[str, Any]]:
    rows = _get(url, "/jobs?select=id,total,details&total=gt.15&order=id")
    return [{"id": row["id"], "total": row["total"] + 1, "details": row["details"]} for row in rows]


def _either_code(module: ModuleType, url: str) -> list[dict[str, Any]]:
    def ask(names: Any) -> list[dict[str, Any]]:
        column = names.columns["revenue"]
        return _get(url, f"/{names.table}?select=id,{column},details&{column}=gt.15&order=id")

    return [module.read_jobs(row) for row in module.ask_jobs(ask)]


def _module(folder: Path, text: str) -> ModuleType:
    file = folder / "jobs_transition.py"
    file.write_text(python_module.python(codegen.module(definition.parse(text))), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("jobs_transition", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


def test_code_that_reads_both_schemas_answers_the_same_in_every_phase(engine: Engine, tmp_path: Path) -> None:
    text = "".join(line for line in MIGRATION.splitlines(keepends=True) if not line.startswith("application"))
    engine.execute(TABLES.partition("CREATE VIEW")[0])
    (tmp_path / "old.py").write_text(OLD, encoding="utf-8")
    found = uses.uses(definition.parse(text), [tmp_path / "old.py"])
    assert {(one.to_json()["line"], one.to_json()["names"]) for one in found.certain} == {
        *((3, name) for name in ("jobs.total", "jobs.details")),
        *((4, name) for name in ("jobs.total", "jobs.details")),
    }
    module = _module(tmp_path, text)
    old: dict[Phase, Any] = {}
    either: dict[Phase, Any] = {}

    def ask(phase: Phase, url: str) -> None:
        if phase not in either:
            either[phase] = _either_code(module, url)
            try:
                old[phase] = _old_code(url)
            except ApiError as exc:
                old[phase] = exc.code

    with serving(engine.url) as rest:

        def look(now: Any) -> bool:
            ask(now.phase, rest.url)
            return False

        run = engine.enqueue(text)
        expect(engine.drive(run, until=look), State.COMPLETED)
        ask(Phase.DONE, rest.url)

    before = [{"id": n, "revenue": n, "details": {"a": 1} if n % 2 == 0 else []} for n in range(16, 21)]
    assert either == dict.fromkeys([*ORDER, Phase.DONE], before)
    as_text = [{"id": n, "total": n + 1, "details": '{"a": 1}' if n % 2 == 0 else "[]"} for n in range(16, 21)]
    as_json = [{"id": n, "total": n + 1, "details": {"a": 1} if n % 2 == 0 else []} for n in range(16, 21)]
    assert old == {
        **dict.fromkeys((Phase.EXPAND, Phase.BACKFILL, Phase.VERIFY, Phase.SWITCH), as_text),
        Phase.CONTRACT: as_json,
        Phase.DONE: "42703",
    }
