"""`backfilld run`, in a process of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fix_daemon import Record, backfilld

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
name: jobs-shout
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
"""
NOWHERE = "redis://127.0.0.1:1/0"


def test_a_redis_that_is_away_does_not_stop_a_run_that_needs_none(
    record: Record, database_url: str, tmp_path: Path
) -> None:
    record.connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL)")
    record.connection.execute("INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, 100) n")
    (tmp_path / "jobs.yaml").write_text(FILE)

    done = backfilld("run", "jobs.yaml", database_url=database_url, redis_url=NOWHERE, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "next: backfilld approve jobs-shout --phase contract", (
        "what a person does now"
    )
    assert record.state("jobs-shout") == "waiting"
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_is_done_in_order_up_to_the_first_that_does_not_get_there(
    record: Record, database_url: str, tmp_path: Path
) -> None:
    record.connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL)")
    record.connection.execute("INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, 100) n")
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "1.yaml").write_text(FILE)
    (folder / "2.yaml").write_text(FILE.replace("shout", "whisper").replace("upper", "lower"))
    (folder / "3.yaml").write_text(FILE.replace("shout", "loud") + "settings: {approve: [backfill]}\n")
    (folder / "4.yaml").write_text(FILE.replace("shout", "never"))

    done = backfilld("run", "migrations", "--json", database_url=database_url, redis_url=NOWHERE, cwd=tmp_path)

    assert done.returncode == 4, done.stderr
    assert [(one["name"], one["state"], one["phase"]) for one in json.loads(done.stdout)["runs"]] == [
        ("jobs-shout", "waiting", "contract"),
        ("jobs-whisper", "waiting", "contract"),
        ("jobs-loud", "waiting", "backfill"),
    ]
    assert record.state("jobs-never") == "queued", "it begins after the one that waits"

    there = backfilld("cancel", "jobs-never", database_url=database_url, redis_url=NOWHERE)
    assert (there.returncode, record.state("jobs-never")) == (0, "cancelling"), "no worker is there to do it"
    told = backfilld("rollback", "jobs-never", "--here", database_url=database_url, redis_url=NOWHERE)
    assert (told.returncode, "backfilld cancel jobs-never --here" in told.stderr) == (2, True)
    done = backfilld("cancel", "jobs-never", "--here", database_url=database_url, redis_url=NOWHERE)
    assert (done.returncode, record.state("jobs-never")) == (0, "cancelled"), done.stderr
