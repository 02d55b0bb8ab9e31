"""The command line starts quickly: what a verb does not need is not imported, and calls that scripts loop over need little."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.rows import dict_row

from backfilld.migrations.file.migration import parse
from backfilld.producers import enqueueing
from backfilld.producers.cli.light import Call, recognised

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

URL = "postgresql://host/name"
SET = {"BACKFILLD_DATABASE_URL": URL, "BACKFILLD_REDIS_URL": "redis://host/0", "PATH": "/bin"}
JOBS = """
name: jobs-shout
operations:
- add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
"""


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["version"], Call("version")),
        (["--version"], Call("version")),
        (["status"], Call("overview", URL)),
        (["status", "--json"], Call("status", URL)),
        (["--database-url", "postgresql://other", "status", "--json"], Call("status", "postgresql://other")),
        (["gate", "jobs"], Call("gate", URL, "jobs")),
        (["gate", "jobs", "--phase", "contract"], Call("gate", URL, "jobs", "contract")),
        (["gate", "--phase", "contract", "jobs"], Call("gate", URL, "jobs", "contract")),
    ],
)
def test_calls_that_scripts_loop_over_are_answered_lightly(arguments: list[str], call: Call) -> None:
    assert recognised(arguments, SET, has_file=False) == call


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["status", "jobs"],
        ["status", "--all"],
        ["status", "jobs", "--json"],
        ["gate"],
        ["gate", "--help"],
        ["gate", "jobs", "--wait"],
        ["gate", "jobs", "--json"],
        ["gate", "jobs", "--phase", "--json"],
        ["gate", "jobs", "more"],
        ["--redis-url", "redis://host", "gate", "jobs"],
        ["--database-url=postgresql://other", "gate", "jobs"],
        ["pause", "jobs"],
    ],
)
def test_every_other_call_is_left_to_the_whole_command(arguments: list[str]) -> None:
    assert recognised(arguments, SET, has_file=False) is None


@pytest.mark.parametrize(
    ("environment", "has_file"),
    [
        ({}, False),
        ({"BACKFILLD_DATABASE_URL": ""}, False),
        (SET, True),
        (SET | {"BACKFILLD_HTTP_PORT": "ten"}, False),
        (SET | {"backfilld_database_url": "postgresql://other"}, False),
        (SET | {"_BACKFILLD_COMPLETE": "complete_bash"}, False),
    ],
)
def test_settings_that_may_be_wrong_are_read_by_the_whole_command(
    environment: Mapping[str, str],
    has_file: bool,  # noqa: FBT001 - a case of a table
) -> None:
    assert recognised(["gate", "jobs"], environment, has_file=has_file) is None


@pytest.fixture
def enqueued(database_url: str) -> str:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("create table jobs (id bigint primary key, status text not null)")
        enqueueing.enqueue(connection, parse(JOBS), actor="ann")
    return database_url


def run(*arguments: str, url: str, folder: Path, then: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, and what it does after its answer."""
    program = (
        f"import sys\nfrom backfilld.producers.cli import main\nsys.argv[1:] = {list(arguments)!r}\n"
        f"try: main()\nfinally:\n    pass\n    {then}"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILLD_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=clean | {"BACKFILLD_DATABASE_URL": url, "PYTHONPATH": os.pathsep.join(sys.path)} | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


#: What no call on this page may import.
HEAVY = ["redis", "dramatiq", "textual", "apprise", "structlog", "yaml", "pydantic_settings", "psycopg_pool"]
DRAWS = ["rich", "backfilld.monitoring.display"]


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "unwanted"),
    [
        (["status"], {}, 0, [*HEAVY, "typer", "pydantic"]),
        (["status", "--json"], {}, 0, [*HEAVY, *DRAWS, "typer", "pydantic"]),
        (["gate", "jobs-shout", "--phase", "expand"], {}, 4, [*HEAVY, *DRAWS, "typer", "pydantic"]),
        (["gate", "jobs"], {}, 2, [*HEAVY, *DRAWS, "typer", "pydantic"]),
        (["--version"], {}, 0, [*HEAVY, *DRAWS, "typer", "pydantic", "psycopg"]),
        (["--help"], {}, 0, [*HEAVY, "backfilld.monitoring.display", "psycopg"]),
        (["approve", "--help"], {}, 0, [*HEAVY, "backfilld.monitoring.display", "psycopg"]),
        (
            [],
            {"_BACKFILLD_COMPLETE": "complete_bash", "COMP_WORDS": "backfilld gate ", "COMP_CWORD": "2"},
            0,
            [*HEAVY, "backfilld.monitoring.display"],
        ),
        (["pause", "jobs-shout"], {}, 0, [name for name in HEAVY if name != "pydantic_settings"]),
    ],
)
def test_a_call_does_not_import_what_it_does_not_need(
    enqueued: str, tmp_path: Path, arguments: list[str], variables: dict[str, str], code: int, unwanted: list[str]
) -> None:
    then = f"print('imported', [name for name in {unwanted!r} if name in sys.modules], file=sys.stderr)"
    told = run(*arguments, url=enqueued, folder=tmp_path, then=then, **variables)
    assert (told.returncode, told.stderr.splitlines()[-1]) == (code, "imported []"), told.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["gate", "jobs-shout"],
        ["gate", "1", "--phase", "contract"],
        ["gate", "nobody"],
        ["gate", "jobs-shout", "--phase", "swtich"],
        ["--database-url", "postgresql://127.0.0.1:1/x", "gate", "jobs-shout"],
        ["--database-url", "postgresql://ann:s3cret@[::1/x", "gate", "jobs-shout"],
        ["--version"],
    ],
)
def test_the_light_answer_is_that_of_the_whole_command(enqueued: str, tmp_path: Path, arguments: list[str]) -> None:
    light = run(*arguments, url=enqueued, folder=tmp_path)
    # A setting beside the URLs, and a right one: the whole command answers.
    whole = run(*arguments, url=enqueued, folder=tmp_path, BACKFILLD_HTTP_PORT="9188")
    assert (light.returncode, light.stdout, light.stderr) == (whole.returncode, whole.stdout, whole.stderr)
    assert "s3cret" not in light.stderr
