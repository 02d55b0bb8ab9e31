"""The example with an application's code beside it: what each command says of it."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect
from paths import ROOT
from typer.testing import CliRunner

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import State
from backfilld.producers.cli import app
from backfilld.producers.client import Client

if TYPE_CHECKING:
    from fix_runs import Engine

EXAMPLES = ROOT / "examples"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine) -> Path:
    """The folder of the examples, which is the current one, and their tables."""
    engine.execute((EXAMPLES / "schema.sql").read_text(encoding="utf-8"))
    shutil.copytree(EXAMPLES / "application", tmp_path / "application")
    shutil.copy(EXAMPLES / "jobs_code.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    return tmp_path


def _backfilld(engine: Engine, *words: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["--database-url", engine.url, *words])
    return answer.exit_code, answer.stdout


def test_each_command_on_the_example(engine: Engine, project: Path) -> None:
    _, printed = _backfilld(engine, "uses", "jobs_code.yaml", "--in", "application", "--json")
    found = json.loads(printed)
    assert {(Path(one["file"]).name, one["line"], one["names"]) for one in found["certain"]} == {
        *(("job-report.ts", 8, name) for name in ("jobs.total", "jobs.device_info")),
        *(("job-report.ts", 10, name) for name in ("jobs.total", "jobs.device_info")),
        ("report.py", 11, "jobs.total"),
    }
    assert {(Path(one["file"]).name, one["line"]) for one in found["mentions"]} == {
        ("job-report.ts", 10),  # the key of its answer
        ("report.py", 17),
    }
    assert _backfilld(engine, "codegen", "jobs_code.yaml", "--lang", "python", "--write", "application/t.py")[0] == 0
    assert {"ask_jobs", "read_jobs"} <= _functions(project / "application" / "t.py")
    assert (
        _backfilld(engine, "codegen", "jobs_code.yaml", "--lang", "typescript", "--write", "application/t.ts")[0] == 0
    )
    assert "readJobs" in (project / "application" / "t.ts").read_text(encoding="utf-8")
    for at, has, lacks in (
        ("today", "total", "revenue"),
        ("switch", "revenue", "legacy"),
        ("contract", "revenue", "total"),
    ):
        code, types = _backfilld(engine, "types", "jobs_code.yaml", "--at", at, "--lang", "python")
        (rows,) = [one for one in ast.parse(types).body if isinstance(one, ast.ClassDef) and one.name == "Jobs"]
        fields = {
            one.target.id for one in rows.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        }
        assert (code, has in fields, lacks in fields) == (0, True, False), at


def _functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}


@pytest.mark.soak
def test_contract_of_the_example_waits_for_code_that_fits(engine: Engine, project: Path) -> None:
    """By a real mypy: the old code fits until the switch, and not after contract; the new code does."""
    assert _backfilld(engine, "check", "jobs_code.yaml", "--until", "switch")[0] == 0
    code, printed = _backfilld(engine, "check", "jobs_code.yaml", "--json")
    (verdict,) = json.loads(printed)["commands"]
    assert (code, verdict["fails_today"], verdict["fails_from"]) == (1, False, "contract"), printed
    run = engine.enqueue(project / "jobs_code.yaml")
    expect(engine.drive(run), State.WAITING)
    client = Client(engine.url)
    with pytest.raises(Refused, match="the command report fails from"):
        client.approve(run, "contract")
    report = project / "application" / "report.py"
    report.write_text(report.read_text(encoding="utf-8").replace("total", "revenue"), encoding="utf-8")
    code, printed = _backfilld(engine, "check", "jobs_code.yaml", "--json")
    assert code == 0, printed
    body = "CREATE OR REPLACE FUNCTION public.revenue() RETURNS bigint LANGUAGE sql AS 'SELECT sum(revenue) FROM public.jobs'"
    engine.execute(body)
    client.approve(run, "contract")
    expect(engine.drive(run), State.COMPLETED)
