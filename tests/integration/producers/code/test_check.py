"""The commands of a file, run against the schema of each phase: only what is new in a later phase counts."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backfilld.migrations.file.application_checks import Command
from backfilld.migrations.planning.planned_schema import At, today
from backfilld.migrations.record import audit, schema
from backfilld.migrations.record.states import Phase
from backfilld.producers.cli import app
from backfilld.producers.code import checking

if TYPE_CHECKING:
    from pathlib import Path

    from fix_runs import Engine
    from typer.testing import Result

TABLES = """
CREATE TABLE jobs (id bigint PRIMARY KEY, total int, status text);
INSERT INTO jobs VALUES (1, 10, 'new');
"""

MIGRATION = """
name: jobs-change
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
  - change_type: {table: jobs, column: status, type: boolean, up: "status = 'done'", down: "CASE WHEN status THEN 'done' ELSE 'new' END"}
application:
  commands:
    - name: the worker
      run: [PYTHON, -I, app.py]
      types_to: generated/database.ts
"""

#: Stands for a compiler: it reads the types of the rows, and says which columns that the code names are not so.
OLD_CODE = """
row = open("generated/database.ts").read().partition("Row: {")[2].partition("}")[0]
for name, kind in {"total": "number", "status": "string"}.items():
    if f'"{name}": {kind}' not in row:
        print(f"app.py: Jobs has no {name} of type {kind}"); failed = True
raise SystemExit("failed" in globals())
"""
NEW_CODE = OLD_CODE.replace('{"total": "number", "status": "string"}', '{"revenue": "number", "status": "boolean"}')


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an application, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated" / "database.ts").write_text("// what was there\n", encoding="utf-8")
    (tmp_path / "m.yaml").write_text(MIGRATION.replace("PYTHON", sys.executable), encoding="utf-8")
    (tmp_path / "app.py").write_text(OLD_CODE, encoding="utf-8")
    return tmp_path


def _check(engine: Engine, *options: str) -> Result:
    return CliRunner().invoke(app, ["--database-url", engine.url, "check", "m.yaml", *options])


def _verdict(engine: Engine, *options: str) -> dict[str, Any]:
    answer = _check(engine, "--json", *options)
    assert answer.stdout, answer.output
    (found,) = json.loads(answer.stdout)["commands"]
    return dict(found)


def test_old_code_fails_from_the_phase_that_takes_its_names_away(engine: Engine, project: Path) -> None:
    """The type is another from the switch on; the old name works until contract."""
    engine.execute(TABLES)
    answer = _check(engine, "--json")

    assert answer.exit_code == 1, answer.output
    (found,) = json.loads(answer.stdout)["commands"]
    assert found["fails_from"] == "switch"
    assert [(one["at"], one["exit_code"], one["new"]) for one in found["runs"]] == [
        ("today", 0, False),
        ("expand", 0, False),
        ("switch", 1, True),
        ("contract", 1, True),
    ]
    assert found["runs"][2]["lines"] == ["app.py: Jobs has no status of type string"]
    assert found["runs"][3]["lines"] == [
        "app.py: Jobs has no total of type number",
        "app.py: Jobs has no status of type string",
    ]
    assert (project / "generated" / "database.ts").read_text(encoding="utf-8") == "// what was there\n"
    assert sorted(one.name for one in (project / "generated").iterdir() if one.is_file()) == ["database.ts"]


def test_only_the_phases_that_are_asked_for_count(engine: Engine, project: Path) -> None:
    engine.execute(TABLES)
    answer = _check(engine, "--until", "expand")

    assert answer.exit_code == 0, answer.output
    assert "the worker: passes" in answer.stdout


def test_what_fails_today_is_no_finding_and_what_is_new_beside_it_is(engine: Engine, project: Path) -> None:
    engine.execute(TABLES)
    (project / "app.py").write_text("print('app.py: something old'); failed = True" + OLD_CODE, encoding="utf-8")
    found = _verdict(engine)

    assert found["fails_today"]
    assert found["fails_from"] == "switch"
    assert found["runs"][1]["lines"] == []
    assert found["runs"][2]["lines"] == ["app.py: Jobs has no status of type string"]


def test_new_code_passes_where_it_is_right_and_the_verdict_is_on_record(engine: Engine, project: Path) -> None:
    """Of a run that is under way the phases that are still to come are checked, from what the database is now."""
    engine.execute(TABLES)
    schema.ensure(engine.connection)
    run = engine.enqueue((project / "m.yaml").read_text(encoding="utf-8"))
    engine.drive(run, until=lambda now: now.phase is Phase.CONTRACT)
    (project / "app.py").write_text(NEW_CODE, encoding="utf-8")
    answer = _check(engine)

    assert answer.exit_code == 0, answer.output
    event = audit.latest(engine.connection, run, what="application.code")
    assert event is not None
    assert [one["passes"] for one in event["detail"]["commands"]] == [True]
    (project / "app.py").write_text(OLD_CODE, encoding="utf-8")
    assert _verdict(engine)["fails_from"] == "contract"  # the type is what it is by now


def test_a_command_that_does_not_look_at_the_tables_proves_nothing(engine: Engine, project: Path) -> None:
    """As code does whose client has no types."""
    engine.execute(TABLES)
    schema.ensure(engine.connection)
    (project / "app.py").write_text("open('generated/database.ts')", encoding="utf-8")
    verdict = _verdict(engine)
    assert (verdict["passes"], verdict["sees_types"], len(verdict["runs"])) == (True, False, 4)
    shown = _check(engine)
    assert shown.exit_code == 0
    assert "it says the same without the tables of the migration" in shown.stdout
    assert (project / "generated" / "database.ts").read_text(encoding="utf-8") == "// what was there\n"
    (project / "app.py").write_text(OLD_CODE, encoding="utf-8")
    assert _verdict(engine, "--until", "today")["sees_types"] is True


def test_without_a_record_the_verdict_is_only_told(engine: Engine, project: Path) -> None:
    engine.execute("DROP SCHEMA IF EXISTS backfilld CASCADE")
    engine.execute(TABLES)
    answer = _check(engine, "--until", "today")

    assert answer.exit_code == 0, answer.output
    assert "not on record" in answer.stderr
    assert engine.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'backfilld'") == 0


@pytest.mark.parametrize(
    ("run", "seconds", "says"),
    [
        (["no-such-program-anywhere"], 600, "could not be started"),
        ([sys.executable, "-c", "import threading; threading.Event().wait()"], 0.2, "timed out after 0.2 s"),
    ],
)
def test_a_command_that_cannot_be_run_is_a_wrong_usage_and_the_file_is_put_back(
    engine: Engine, project: Path, run: list[str], seconds: float, says: str
) -> None:
    engine.execute(TABLES)
    text = f"name: x\noperations:\n  - drop_column: {{table: jobs, column: status}}\napplication:\n  commands:\n    - {json.dumps({'name': 'c', 'run': run, 'types_to': 'generated/database.ts', 'timeout_seconds': seconds})}\n"
    (project / "m.yaml").write_text(text, encoding="utf-8")
    answer = _check(engine)

    assert answer.exit_code == 2
    assert says in answer.stderr
    assert (project / "generated" / "database.ts").read_text(encoding="utf-8") == "// what was there\n"


def test_a_file_without_commands_is_a_wrong_usage(engine: Engine, project: Path) -> None:
    (project / "m.yaml").write_text(
        "name: x\noperations:\n  - sql: {run: SELECT 1, rollback: SELECT 1}\n", encoding="utf-8"
    )
    answer = _check(engine)

    assert answer.exit_code == 2
    assert "no application.commands" in answer.stderr


def test_a_file_that_a_killed_check_has_left_is_put_back_first(engine: Engine, project: Path) -> None:
    engine.execute(TABLES)
    types = project / "generated" / "database.ts"
    types.with_name(".database.ts.backfilld-kept").write_text("// the real one\n", encoding="utf-8")
    types.write_text("// of a phase\n", encoding="utf-8")
    command = Command(name="c", run=(sys.executable, "-c", "pass"), types_to="generated/database.ts")
    now = today(engine.connection, ["public"])
    checking.check([command], lambda _: dict.fromkeys(At, now), folder=project)

    assert types.read_text(encoding="utf-8") == "// the real one\n"


def test_a_file_that_was_not_there_is_not_there_afterwards(engine: Engine, project: Path) -> None:
    engine.execute(TABLES)
    command = Command(name="c", run=(sys.executable, "-c", "open('new/types.ts')"), types_to="new/types.ts")
    now = today(engine.connection, ["public"])
    (verdict,) = checking.check([command], lambda _: dict.fromkeys(At, now), folder=project)

    assert [one.exit_code for one in verdict.ran] == [0, 0, 0, 0]
    assert not (project / "new" / "types.ts").exists()
