"""What the shell offers after Tab, asked as a shell asks; and what the command does not import for those who do not need it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_daemon import environment
from psycopg.rows import dict_row

from backfilld.migrations.file import migration as definition
from backfilld.producers import enqueueing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_proxy import Proxy

JOBS = """
name: jobs-shout
operations:
- add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
"""
PROGRAM = "from backfilld.producers.cli import main; main()"


@pytest.fixture
def url(database_url: str) -> str:
    """A database with a run of jobs-shout."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL)")
        enqueueing.enqueue(connection, definition.parse(JOBS), actor="ann@laptop")
    return database_url


def offered(line: str, *, url: str, folder: Path | None = None) -> list[str]:
    """What bash is told to offer at the end of this line."""
    words = line.split(" ")
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(url, None)
        | {"_BACKFILLD_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stderr == ""
    return told.stdout.split()


@pytest.mark.parametrize(
    "line",
    [
        "backfilld status j",
        "backfilld pause j",
        "backfilld gate j",
        "backfilld quarantine list j",
    ],
)
def test_runs_are_offered_by_name(url: str, line: str) -> None:
    assert offered(line, url=url) == ["jobs-shout"]


def test_the_database_of_the_option_is_the_one_that_is_asked(url: str) -> None:
    assert offered(f"backfilld --database-url {url} status j", url="postgresql://127.0.0.1:1/x") == ["jobs-shout"]


def test_what_does_not_begin_so_is_not_offered(url: str) -> None:
    assert offered("backfilld status x", url=url) == []


def test_phases_verbs_and_migration_files_are_offered(tmp_path: Path) -> None:
    nowhere = "postgresql://127.0.0.1:1/x"
    (tmp_path / "migrations").mkdir()
    for name in ("jobs.yaml", "notes.txt", "migrations/more.yml", ".hidden.yaml"):
        (tmp_path / name).write_text("")
    assert offered("backfilld approve jobs --phase s", url=nowhere) == ["switch"]
    assert offered("backfilld ex", url=nowhere) == ["explain"]
    assert offered("backfilld plan ", url=nowhere, folder=tmp_path) == ["jobs.yaml", "migrations/"]
    assert offered("backfilld enqueue migrations/", url=nowhere, folder=tmp_path) == ["migrations/more.yml"]


def test_a_database_that_does_not_answer_offers_nothing_and_soon(url: str, proxy: Callable[[str], Proxy]) -> None:
    between = proxy(url)
    between.stall()
    began = time.monotonic()
    assert offered("backfilld status j", url=between.url(url)) == []
    assert offered("backfilld status j", url="postgresql://127.0.0.1:1/x") == []
    assert time.monotonic() - began < 30, "the time limit is a second; the rest is the start of two processes"


def test_the_completion_script_is_printed() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--show-completion", "bash"],
        # The shell is named here: what typer finds out by itself is the shell that started the tests.
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_BACKFILLD_COMPLETE=complete_bash" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        ("['--help']", "psycopg redis dramatiq structlog textual apprise"),
        ("['version']", "psycopg redis dramatiq structlog textual apprise"),
        (
            "['status']",
            "redis dramatiq structlog textual apprise backfilld.migrations.planning.examine backfilld.migrations.planning.plan backfilld.migrations.rollback.check",
        ),
        ("['events', 'jobs-shout']", "redis dramatiq structlog textual apprise backfilld.migrations.planning.examine"),
    ],
)
def test_a_verb_does_not_pay_for_what_others_need(url: str, arguments: str, unwanted: str) -> None:
    program = (
        "import sys; from backfilld.producers.cli import app\n"
        f"try: app({arguments}, prog_name='backfilld')\n"
        f"except SystemExit as end: assert not end.code, end.code\n"
        f"print([name for name in {unwanted.split()!r} if name in sys.modules], file=sys.stderr)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment(url, None), capture_output=True, text=True, check=True
    )
    assert told.stderr == "[]\n"
