"""Disasters that a physical backup and the WAL since undo: the moment before a run, a corrupt page, a server that is gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_backups import UNWATCHED, readings
from fix_contrib import contrib_programs
from fix_daemon import until
from fix_physical import SERVER_SETTINGS, physical_place
from fix_runs import Engine, expect
from paths import ROOT
from psycopg.rows import dict_row
from typer.testing import CliRunner

from backfilld.migrations.backups import sweep, take
from backfilld.migrations.backups.physical import receiver, segments
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import backups, schema
from backfilld.migrations.record.states import State
from backfilld.producers.cli import app
from backfilld.producers.demo.servers import EmbeddedPostgres
from backfilld.producers.demo.servers.folder import free_port
from backfilld.worker.side_tasks.wal_receiver import WalKeeper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import Result

    from backfilld.migrations.backups.place import Place

TABLES = """
CREATE TABLE jobs (id int PRIMARY KEY, status text NOT NULL);
INSERT INTO jobs SELECT i, 'status ' || i FROM generate_series(1, 3000) i;
"""
#: It spoils every row, and keeps no journal. A backup that is there will do.
FILE = """
name: jobs-new-field
operations:
  - backfill: {table: jobs, set: {status: "'spoilt'"}}
settings: {journal: false, backup: {require: recent, tables: all}}
"""


@dataclass(frozen=True)
class Story:
    """A server with a worker's receiver of WAL, and a backup from an hour ago."""

    server: EmbeddedPostgres
    engine: Engine
    place: Place
    keeper: WalKeeper

    def wait_for_wal(self) -> None:
        """All that has committed is with the receiver."""
        here = self.engine.value("SELECT pg_current_wal_flush_lsn()::text")

        def came() -> bool:
            known = receiver.slot(self.engine.connection, "backfilld")
            return bool(known and known.received and segments.position(known.received) >= segments.position(here))

        until("the WAL to be received", came)


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    server = EmbeddedPostgres(superuser="supabase_admin", settings=SERVER_SETTINGS, server=contrib_programs())
    server.start()
    try:
        place = physical_place(server.url(), tmp_path)
        with (
            psycopg.connect(server.url(), autocommit=True, row_factory=dict_row) as connection,
            open_pool(server.url(), size=8) as pool,
        ):
            schema.ensure(connection)
            connection.execute(TABLES)
            engine = Engine(url=server.url(), connection=connection, pool=pool)
            engine.set_pace()
            keeper = WalKeeper(place, observe=lambda _: None)
            keeper.run_once(connection)
            take.take(place, take.Wanted(requested_by="the clock"), UNWATCHED)
            settings = place.settings
            monkeypatch.setenv(
                "BACKFILLD_STORES", json.dumps([one.model_dump(mode="json", exclude_none=True) for one in place.stores])
            )
            monkeypatch.setenv("BACKFILLD_BACKUP", settings.model_dump_json(exclude_defaults=True))
            monkeypatch.setenv("BACKFILLD_DATABASE_URL", server.url())
            with readings(server.url()):
                yield Story(server, engine, place, keeper)
            keeper.stop()
    finally:
        server.close()


def shell(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.mark.soak  # three processes and two servers; its parts: test_new_server.py, and test_restore.py for `--from`
def test_rows_are_taken_from_a_server_of_the_moment_before_a_run(story: Story) -> None:
    """What others wrote between the backup and the run is there, and what they wrote since stays."""
    engine = story.engine
    engine.execute("INSERT INTO jobs VALUES (3001, 'after the backup'); UPDATE jobs SET status = 'paid' WHERE id = 1")
    before = rows(engine)
    run = engine.enqueue(FILE)
    expect(engine.drive(run, runner=engine.runner(backups=story.place)), State.COMPLETED)
    assert len(backups.listed(engine.connection)) == 1, "the recent one let it begin"
    engine.execute("INSERT INTO jobs VALUES (3002, 'since')")
    story.wait_for_wal()

    told = shell("explain", "jobs-new-field", "--emergency").stdout
    (lsn,) = re.findall(r"backfilld backup recover FOLDER --lsn (\S+)", told)
    with another_server(story, "4. Restore another server to the moment before", LSN=lsn):
        engine.drive(engine.value("SELECT max(run) FROM backfilld.runs"))
        assert rows(engine) == {**before, 3002: "since"}


@pytest.mark.soak  # three recoveries
def test_a_corrupt_page_and_then_a_server_that_is_gone(story: Story) -> None:
    """The page comes back with what was written to it since the backup; then the disk is gone, and nothing that had committed."""
    engine = story.engine
    engine.execute("UPDATE jobs SET status = 'paid' WHERE id = 200; INSERT INTO jobs VALUES (3001, 'after the backup')")
    before = rows(engine)
    harm(story)
    with pytest.raises(psycopg.errors.DataCorrupted):
        rows(engine)
    with pytest.raises(BackupFailed, match="checksum"):
        take.take(story.place, take.Wanted(requested_by="test"), UNWATCHED)
    story.wait_for_wal()
    with another_server(story, "A page is corrupt"):
        engine.execute("INSERT INTO jobs VALUES (3002, 'since')")
        engine.drive(engine.value("SELECT max(run) FROM backfilld.runs"))
    assert rows(engine) == {**before, 3002: "since"}

    taken = take.take(story.place, take.Wanted(requested_by="test"), UNWATCHED)
    engine.execute("DELETE FROM jobs WHERE id = 2")
    story.wait_for_wal()
    story.server.stop("immediate")
    shutil.rmtree(story.server.folder / "data")
    with another_server(story, "The server is lost") as url, psycopg.connect(url, row_factory=dict_row) as found:
        assert found.execute("SELECT count(*) AS n FROM jobs").fetchone() == {"n": len(before)}
        assert state_of(found, taken.backup) == "taken"
    # Recovered to the mark of that backup, the record has it as one that is being taken: its manifest says that it is whole.
    with (
        another_server(story, "The server is lost", without=" --latest") as url,
        psycopg.connect(url, row_factory=dict_row, autocommit=True) as found,
    ):
        assert state_of(found, taken.backup) == "taking"
        sweep.abandoned(found, story.place)
        assert state_of(found, taken.backup) == "taken"


def state_of(connection: psycopg.Connection[dict[str, Any]], backup: int) -> str | None:
    known = backups.get(connection, backup)
    return known.state if known is not None else None


def rows(engine: Engine) -> dict[int, str]:
    return {row["id"]: row["status"] for row in engine.execute("SELECT id, status FROM jobs ORDER BY id")}


def harm(story: Story) -> None:
    """A byte of the second page of the table is another, on disk and for whoever reads it next."""
    story.engine.execute("CREATE EXTENSION pg_buffercache; CHECKPOINT")
    path = story.server.folder / "data" / story.engine.value("SELECT pg_relation_filepath('jobs')")
    content = bytearray(path.read_bytes())
    content[8192 + 4000] ^= 1
    path.write_bytes(content)
    story.engine.execute("SELECT pg_buffercache_evict_relation('jobs'::regclass)")


@contextmanager
def another_server(story: Story, heading: str, *, without: str = "", **variables: str) -> Iterator[str]:
    """Run the commands below a heading of the page; gives the URL of the server that they have made, which is gone at the end."""
    page = (ROOT / "docs" / "disaster.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n.*?^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder, port = Path(parent) / "data", str(free_port())
        url = story.engine.url.replace(f":{story.server.port}/", f":{port}/")
        programs = Path(parent) / "bin"
        programs.mkdir()
        write(
            programs / "backfilld", f'exec {sys.executable} -c "from backfilld.producers.cli import main; main()" "$@"'
        )
        # Root may not run a server: a person would have been the server's user from the beginning.
        become = (
            f"chown -R nobody {folder}; exec setpriv --reuid=nobody --regid=nogroup --clear-groups"
            if os.geteuid() == 0
            else "exec"
        )
        write(programs / "pg_ctl", f'{become} {contrib_programs()}/pg_ctl "$@"')
        environment = {
            **os.environ,
            "PATH": f"{programs}:{contrib_programs()}:{os.environ['PATH']}",
            "FOLDER": str(folder),
            "PORT": port,
            "RECOVERED": url,
            **variables,
        }
        try:
            done = subprocess.run(
                ["sh", "-euc", found[1].replace(without, "")],
                env=environment,
                cwd=parent,
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            assert done.returncode == 0, done.stderr
            yield url
        finally:
            subprocess.run([programs / "pg_ctl", "stop", f"--pgdata={folder}", "--mode=immediate"], check=False)


def write(program: Path, line: str) -> None:
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
