"""The documentation is run: a command, a file or a metric in it that is not there fails here."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, get_args

import pytest
from fix_daemon import Daemon, Record, backfilld, environment, until
from paths import ROOT
from typer.testing import CliRunner

from backfilld.migrations import settings
from backfilld.migrations.backup_settings import BackupSettings, Schedule, WalSettings
from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.file import migration as definition
from backfilld.monitoring import metrics
from backfilld.producers.cli import app

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[object]:
    """Code blocks of a language, each with its page for a name."""
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, (found, text) in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8")))
        if found == language
    ]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_migrations_in_the_docs_are_valid(text: str) -> None:
    """What a reader copies is accepted; a fragment is tried as the operation it shows."""
    if "operations:" in text:
        definition.parse(text)
        return
    wrapped = "name: shown\noperations:\n" + "".join(f"  {line}\n" for line in text.splitlines())
    try:
        definition.parse(wrapped)
    except BackfilldError:
        definition.parse(f"name: shown\noperations:\n  - backfill: {{table: t, set: {{a: b}}}}\n{text}")


@pytest.mark.parametrize("text", blocks("python"))
def test_python_in_the_docs_compiles(text: str) -> None:
    ast.parse(text)


@pytest.mark.parametrize("text", blocks("toml"))
def test_settings_in_the_docs_are_accepted(text: str) -> None:
    settings.load(**tomllib.loads(text))


@pytest.mark.parametrize("text", blocks("sql"))
def test_sql_in_the_docs_is_understood(text: str, connection: psycopg.Connection[dict[str, object]]) -> None:
    connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    connection.execute(
        "CREATE TABLE events (id bigint, created_at timestamptz, note text) PARTITION BY RANGE (created_at); "
        "CREATE TABLE events_default PARTITION OF events DEFAULT"
    )
    connection.execute("CREATE FUNCTION notify() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    connection.execute(text.encode())


@pytest.mark.parametrize("text", blocks("bash"))
def test_commands_in_the_docs_exist(text: str) -> None:
    """Each verb and each option of `backfilld …` is one the command has; each `make` target is in the Makefile."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        if words[:1] == ["backfilld"]:
            # Options are looked up before help is given, so a wrong one still fails.
            answer = CliRunner().invoke(app, [*words[1:], "--help"])
            assert answer.exit_code == 0, answer.output


def test_the_metrics_that_others_rely_on_are_documented() -> None:
    """Whatever is served is held against the page by tests/acceptance/test_metrics.py."""
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    served = {f"{family.name}{'_total' if family.type == 'counter' else ''}" for family in metrics.REGISTRY.collect()}
    promised = {
        "backfilld_rows_total", "backfilld_batches_total", "backfilld_batch_seconds", "backfilld_run_rows_remaining",
        "backfilld_run_progress_age_seconds", "backfilld_message_age_seconds", "backfilld_replica_lag_seconds",
        "backfilld_hold_seconds_total", "backfilld_errors_total", "backfilld_width", "backfilld_quarantined_rows",
        "backfilld_reconciler_wakeups_total",
    }  # fmt: skip

    assert served
    assert {name for name in served | promised if f"`{name}`" not in page} == set()


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    names = {f"BACKFILLD_{name.upper()}" for name in settings.Settings.model_fields if name != "limits"}
    names |= {f"BACKFILLD_LIMITS__{name.upper()}" for name in settings.Limits.model_fields}
    names |= {f"BACKFILLD_BACKUP__{name.upper()}" for name in BackupSettings.model_fields}
    names |= {f"BACKFILLD_BACKUP__WAL__{name.upper()}" for name in WalSettings.model_fields}
    names |= {f"BACKFILLD_BACKUP__SCHEDULE__{name.upper()}" for name in Schedule.model_fields}

    assert {name for name in names if name not in page} == set()


def test_the_operators_session_works(database_url: str, redis_url: str, record: Record, tmp_path: Path) -> None:
    """The commands of docs/operating.md, one after the other, as a person would type them; then all that is in Python."""
    record.connection.execute(
        "CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text NOT NULL)"
    )
    record.connection.execute("INSERT INTO jobs (status) SELECT 'done' FROM generate_series(1, 2000)")
    daemon = Daemon(database_url, redis_url, tmp_path / "daemon.log", processes=1).ready()
    try:
        deploy = ["plan examples/jobs_new_field.yaml", "enqueue examples/jobs_new_field.yaml"]
        looks = ["status", "status jobs-new-field", "events jobs-new-field", "explain jobs-new-field"]
        for line in [*deploy, "gate jobs-new-field --wait", *looks]:
            answer = backfilld(*line.split(), database_url=database_url, redis_url=redis_url, cwd=ROOT)
            assert answer.returncode == 0, (line, answer.stdout, answer.stderr)
        assert (
            backfilld(
                "gate", "jobs-new-field", "--phase", "contract", database_url=database_url, redis_url=redis_url
            ).returncode
            == 4
        )
        approve = "approve jobs-new-field --phase contract"
        assert backfilld(*approve.split(), database_url=database_url, redis_url=redis_url).returncode == 0
        until("the run to be completed", lambda: record.state("jobs-new-field") == "completed")
        pages = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("operating.md", "python.md")]
        in_python = "\n".join(text for page in pages for language, text in _BLOCK.findall(page) if language == "python")
        subprocess.run(
            [sys.executable, "-c", in_python],
            cwd=ROOT,
            env=environment(database_url, redis_url),
            check=True,
            stdin=subprocess.DEVNULL,
        )
    finally:
        daemon.stop()


@pytest.mark.parametrize("operation", [model.kind for model in get_args(definition.Operation)])
def test_every_operation_has_a_page_and_a_line_in_the_readme(operation: str) -> None:
    page = f"docs/operations/{operation}.md"
    assert (ROOT / page).exists()
    assert f"`{operation}`" in README
    assert f"({page})" in README
