"""Disasters, each undone with the backup of the run's gate and the commands of docs/disaster.md; what others wrote since stays."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from fix_postgres import VERSION
from fix_runs import expect
from paths import ROOT
from typer.testing import CliRunner

from backfilld.migrations.backups import programs
from backfilld.migrations.record.states import State
from backfilld.producers.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_runs import Engine
    from typer.testing import Result

    from backfilld.migrations.backups.place import Place

pytestmark = pytest.mark.usefixtures("governed")

TABLES = """
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE jobs (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text NOT NULL CHECK (status <> ''), customer int REFERENCES customers);
CREATE INDEX jobs_by_status ON jobs (status);
COMMENT ON COLUMN jobs.status IS 'of the job';
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_them ON jobs USING (true);
CREATE TABLE prices (id int PRIMARY KEY, cents int);
INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 20) i;
INSERT INTO jobs (status, customer) SELECT 'status ' || i, 1 + i % 20 FROM generate_series(1, 100) i;
INSERT INTO prices SELECT i, i * 100 FROM generate_series(1, 50) i;
"""
#: The bad backfill: it sets every price to nothing, and keeps no journal.
FILE = """
name: jobs-new-field
operations:
  - backfill: {table: prices, set: {cents: "0"}, where: "cents > 0"}
settings: {journal: false, backup: {require: taken, tables: all}}
"""


@pytest.fixture
def shell(engine: Engine, place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    listed = [one.model_dump(mode="json", exclude_none=True) for one in place.stores]
    monkeypatch.setenv("BACKFILLD_STORES", json.dumps(listed))
    monkeypatch.setenv("BACKFILLD_DATABASE_URL", engine.url)
    return lambda *words: CliRunner().invoke(app, list(words))


def test_what_was_dropped_deleted_and_spoilt_is_there_again(
    engine: Engine, place: Place, shell: Callable[..., Result]
) -> None:
    engine.execute(TABLES)
    before = everything(engine)
    run = engine.enqueue(FILE)
    expect(engine.drive(run, runner=engine.runner(backups=place)), State.COMPLETED)

    # The run itself was wrong, and has no journal; somebody deletes without WHERE, and drops a table. Others go on writing.
    assert engine.value("SELECT count(*) FROM prices WHERE cents = 0") == 50
    refused = shell("rollback", "jobs-new-field")
    assert (refused.exit_code, "journal" in refused.stderr) == (3, True), refused.stderr
    engine.execute("DROP TABLE jobs; DELETE FROM customers")
    engine.execute("INSERT INTO customers VALUES (21, 'since'); INSERT INTO prices VALUES (51, 7)")

    told = shell("restore", "jobs-new-field", "--table", "jobs", "--into", "rescue")
    assert (told.exit_code, "is not there any more" in told.stderr) == (1, True)
    make_again(engine, place)
    tables = [word for table in before for word in ("--table", table)]
    back = shell("restore", "jobs-new-field", *tables, "--into", "rescue", "--copy-back", "--json")
    assert back.exit_code == 0, back.stderr
    expect(engine.drive(json.loads(back.stdout)["run"]["run"]), State.COMPLETED)

    now = everything(engine)
    assert now.pop("jobs") == before.pop("jobs")
    assert now == {table: [*rows, SINCE[table]] for table, rows in before.items()}
    engine.execute("INSERT INTO jobs (status, customer) VALUES ('new', 21)")  # the key goes on where it was
    assert engine.value("SELECT count(*) FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'jobs'") == 2
    assert (
        engine.value("SELECT count(*) FROM pg_constraint WHERE conrelid = 'jobs'::regclass AND contype IN ('c', 'f')")
        == 2
    )
    assert engine.value("SELECT col_description('jobs'::regclass, 2)") == "of the job"
    assert engine.value("SELECT count(*) FROM pg_policies WHERE tablename = 'jobs'") == 1


SINCE = {"customers": "(21,since)", "prices": "(51,7)"}


def everything(engine: Engine) -> dict[str, list[str]]:
    return {
        table: [row["row"] for row in engine.execute(f"SELECT {table}::text AS row FROM {table} ORDER BY id")]
        for table in ("jobs", "customers", "prices")
    }


def make_again(engine: Engine, place: Place) -> None:
    """The commands of the page, beside the objects of one copy."""
    page = (ROOT / "docs" / "disaster.md").read_text(encoding="utf-8")
    commands = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    assert commands.startswith("pg_restore --list")
    label = engine.value("SELECT label FROM backfilld.backups")
    folder: Path = (place.stores[0].path or ROOT) / label
    path = f"{programs.find(None, server_major=VERSION).folder}:{os.environ['PATH']}"
    environment = {**os.environ, "BACKFILLD_DATABASE_URL": engine.url, "PATH": path}
    done = subprocess.run(
        ["sh", "-euc", commands], cwd=folder, env=environment, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
