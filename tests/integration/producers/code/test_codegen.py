"""The module that reads either schema, asked after every step of a run: its answers never change."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_runs import expect
from psycopg import sql
from psycopg.rows import dict_row
from typer.testing import CliRunner

from backfilld.migrations.errors import UsageError
from backfilld.migrations.file import migration as definition
from backfilld.migrations.record.states import State
from backfilld.producers.cli import app
from backfilld.producers.code import codegen, python_module, typescript_module

if TYPE_CHECKING:
    from types import ModuleType

    from fix_runs import Engine

MIGRATION = """
name: jobs-change
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
  - change_type: {table: jobs, column: details, type: jsonb, up: "coalesce(details::jsonb, '{}')"}
  - change_type: {table: jobs, column: amount, type: "numeric(12, 2)"}
  - drop_column: {table: jobs, column: status}
  - rename_table: {table: Odd Schema.Order, to: purchases}
settings: {approve: []}
"""

TABLES = """
CREATE TABLE jobs (id bigint PRIMARY KEY, total int, details text, amount text, status text DEFAULT 'new');
INSERT INTO jobs VALUES (1, 10, '{"a": [1, "x"]}', '12.50', 'done'), (2, NULL, NULL, NULL, 'new'), (3, 30, '"text"', '0', 'new');
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Order" (id bigint PRIMARY KEY, note text);
INSERT INTO "Odd Schema"."Order" VALUES (1, 'first');
"""


def _module(folder: Path) -> ModuleType:
    """The module for Python, as an application imports it."""
    (folder / "migration.yaml").write_text(MIGRATION, encoding="utf-8")
    file = folder / "transition.py"
    answer = CliRunner().invoke(
        app, ["codegen", str(folder / "migration.yaml"), "--lang", "python", "--write", str(file)]
    )
    assert answer.exit_code == 0, answer.output
    spec = importlib.util.spec_from_file_location("transition", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


def _answers(module: ModuleType, connection: psycopg.Connection[dict[str, Any]]) -> list[Any]:
    """What the application reads: all rows, a filter by the renamed column, and another table."""

    def jobs(names: Any) -> list[dict[str, Any]]:
        query = sql.SQL("SELECT * FROM {} WHERE {} > 5 OR id = 2 ORDER BY id").format(
            sql.Identifier(names.schema, names.table), sql.Identifier(names.columns["revenue"])
        )
        return connection.execute(query).fetchall()

    def orders(names: Any) -> list[dict[str, Any]]:
        return connection.execute(
            sql.SQL("SELECT id, note FROM {} ORDER BY id").format(sql.Identifier(names.schema, names.table))
        ).fetchall()

    known = ("id", "revenue", "details", "amount", "status")
    rows = [module.read_jobs(row) for row in module.ask_jobs(jobs)]
    return [
        [{key: row[key] for key in known if key in row} for row in rows],
        module.ask_odd_schema_order(orders),
    ]


def _write(module: ModuleType, connection: psycopg.Connection[dict[str, Any]], number: int) -> None:
    """The application adds a row and takes it away again, under the names of the moment."""

    def change(names: Any) -> None:
        table, column = sql.Identifier(names.schema, names.table), sql.Identifier(names.columns["revenue"])
        connection.execute(sql.SQL("INSERT INTO {} (id, {}) VALUES (%s, 1)").format(table, column), [number])
        found = connection.execute(
            sql.SQL("DELETE FROM {} WHERE id = %s RETURNING {} AS revenue").format(table, column), [number]
        ).fetchone()
        assert found == {"revenue": 1}

    module.ask_jobs(change)


def test_the_answers_are_the_same_after_every_step_of_the_run(engine: Engine, tmp_path: Path) -> None:
    engine.execute(TABLES)
    module = _module(tmp_path)
    phases = set()
    with psycopg.connect(engine.url, autocommit=True, prepare_threshold=None, row_factory=dict_row) as application:
        before = _answers(module, application)
        run = engine.enqueue(MIGRATION)

        def same(now: Any) -> bool:
            phases.add(str(now.phase))
            assert _answers(module, application) == before, now.phase
            _write(module, application, 1000)
            return False

        expect(engine.drive(run, batch_rows=1, until=same), State.COMPLETED)
        assert _answers(module, application) == before

    assert before[0][0] == {"id": 1, "revenue": 10, "details": {"a": [1, "x"]}, "amount": module.Decimal("12.50")}
    assert before[0][1]["details"] == {}
    assert phases >= {"expand", "backfill", "verify", "switch", "contract"}


def test_the_new_name_is_not_asked_for_while_it_is_being_filled(engine: Engine, tmp_path: Path) -> None:
    """Both names are there, and the new one is empty: the answer is the old one's."""
    engine.execute(TABLES)
    module = _module(tmp_path)
    run = engine.enqueue(MIGRATION)
    engine.drive_to_lanes(run)

    assert engine.value("SELECT count(*) FROM jobs WHERE revenue IS NULL") == 3
    assert [row["revenue"] for row in _answers(module, engine.connection)[0]] == [10, None, 30]


def test_another_error_is_not_taken_for_a_name_that_is_gone(tmp_path: Path) -> None:
    module = _module(tmp_path)
    asked = []

    def ask(names: Any) -> None:
        asked.append(names)
        raise psycopg.errors.DeadlockDetected

    with pytest.raises(psycopg.errors.DeadlockDetected):
        module.ask_jobs(ask)
    assert len(asked) == 1


def test_where_neither_name_is_there_the_first_error_is_raised_and_the_old_names_stay(tmp_path: Path) -> None:
    module = _module(tmp_path)
    asked = []

    def ask(names: Any) -> None:
        asked.append(names.columns["revenue"])
        raise psycopg.errors.UndefinedColumn(names.columns["revenue"])

    for _ in range(2):
        with pytest.raises(psycopg.errors.UndefinedColumn, match="total"):
            module.ask_jobs(ask)
    assert asked == ["total", "revenue"] * 2


def test_the_names_that_were_there_last_are_asked_for_first(tmp_path: Path) -> None:
    """Also where a rollback brings the old ones back."""
    module = _module(tmp_path)
    there, asked = {"revenue"}, []

    def ask(names: Any) -> str:
        asked.append(names.columns["revenue"])
        if asked[-1] not in there:
            raise psycopg.errors.UndefinedColumn
        return str(asked[-1])

    assert [module.ask_jobs(ask) for _ in range(2)] == ["revenue", "revenue"]
    there = {"total"}
    assert [module.ask_jobs(ask) for _ in range(2)] == ["total", "total"]
    assert asked == ["total", "revenue", "revenue", "revenue", "total", "total"]


@pytest.mark.parametrize(
    ("operation", "why"),
    [
        ('change_type: {table: jobs, column: a, type: bigint, up: "round(a * 100)"}', "computes another value"),
        ("change_type: {table: jobs, column: a, type: timestamptz}", "does not show whether"),
        ("drop_not_null: {table: jobs, column: a}", "may be NULL"),
        ("drop_table: {table: jobs}", "is gone after contract"),
        ("create_index: {name: i, table: jobs, columns: [a]}", "nothing that code names"),
    ],
)
def test_what_a_value_does_not_show_is_left_out_and_said(operation: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        codegen.module(definition.parse(f"name: x\noperations:\n  - {operation}\n"))


def test_two_tables_never_get_one_name() -> None:
    text = """
name: x
operations:
  - rename_column: {table: a_b, from: x, to: y}
  - rename_column: {table: a-b, from: x, to: y}
  - rename_column: {table: "1", from: x, to: '"'}
  - rename_column: {table: é, from: x, to: "*/"}
"""
    module = codegen.module(definition.parse(text))

    assert codegen.identifiers(module.tables) == ["AB", "AB2", "Table1", "Table2"]
    compile(python_module.python(module), "transition.py", "exec")


TRIES = """
import { askJobs, readJobs, REMOVE_BY } from "./transition.ts";

const phases = JSON.parse(await new Response(Deno.stdin.readable).text());
for (const rows of phases) {
  const asked: string[] = [];
  const answer = await askJobs(async (names) => {
    const name = names.columns["revenue"];
    asked.push(name);
    return rows.length && name in rows[0] ? { data: rows, error: null } : { data: null, error: { code: "42703" } };
  });
  console.log(JSON.stringify({ asked, rows: (answer.data ?? []).map(readJobs) }));
}
console.log(JSON.stringify(REMOVE_BY));
"""


@pytest.mark.soak
def test_the_typescript_module_answers_the_same_in_every_phase(engine: Engine, tmp_path: Path) -> None:
    """In Deno, with its type check: the rows are what PostgreSQL gives as JSON in each phase of a real run."""
    deno = shutil.which("deno", path=str(Path(sys.executable).parent)) or shutil.which("deno")
    if deno is None:
        pytest.skip("deno is not there: pip install deno")
    engine.execute(TABLES)
    migration = definition.parse(MIGRATION)
    (tmp_path / "transition.ts").write_text(typescript_module.typescript(codegen.module(migration)), encoding="utf-8")
    (tmp_path / "tries.ts").write_text(TRIES, encoding="utf-8")
    rows: list[Any] = []

    def look(_: object = None) -> bool:
        now = engine.value("SELECT json_agg(row_to_json(jobs) ORDER BY id) FROM jobs")
        if not rows or now != rows[-1]:
            rows.append(now)
        return False

    look()
    expect(engine.drive(engine.enqueue(MIGRATION), batch_rows=1, until=look), State.COMPLETED)
    look()
    ran = subprocess.run(
        [deno, "run", "--check", "--no-lock", str(tmp_path / "tries.ts")],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    *answers, remove_by = map(json.loads, ran.stdout.splitlines())
    assert len(rows) > 5
    known = [
        [{key: row[key] for key in ("id", "revenue", "details", "amount")} for row in one["rows"]] for one in answers
    ]
    assert known == [known[0]] * len(rows)
    assert known[0][0] == {"id": 1, "revenue": 10, "details": {"a": [1, "x"]}, "amount": 12.5}
    assert all("status" not in row for one in answers for row in one["rows"])
    assert [one["asked"] for one in answers if len(one["asked"]) > 1] == [["total", "revenue"]]
    assert remove_by > "2026"
