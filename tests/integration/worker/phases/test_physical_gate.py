"""The gate of a run with physical backups can be killed at any point: nothing of it is left, and the next worker goes through."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_backups import files_of, readings
from fix_daemon import until
from fix_physical import physical_place
from fix_runs import Engine, expect
from psycopg.rows import dict_row

from backfilld.migrations.backups import sweep
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import backups
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.producers.demo.servers import EmbeddedPostgres

FILE = """
name: {name}
operations:
  - backfill: {{table: jobs, set: {{status: "upper(status)"}}, where: "status <> upper(status)"}}
settings: {{backup: {{require: proved}}}}
"""
KILLED = """
import os, signal, sys, threading
sys.path.insert(0, {tests!r})
from pathlib import Path
from fix_physical import physical_place
from backfilld.migrations.backups.{module} import {inside}
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import lanes
from backfilld.worker.lanes.runner import Runner

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

{at} = die
stopping = threading.Event()
stopping.set()
with open_pool({url!r}, size=4) as pool:
    place = physical_place({url!r}, Path({folder!r}))
    runner = Runner(pool, send=print, observe=lambda _: None, stopping=stopping, backups=place)
    for _ in range(20):
        with pool.connection() as connection:
            connection.execute("UPDATE backfilld.pace SET sampled_at = clock_timestamp()")
            connection.execute("UPDATE backfilld.lanes SET next_run_at = clock_timestamp(), enqueued_at = NULL")
            (message,) = lanes.due(connection, grace_seconds=0)
        runner.advance(message)
"""
#: Each step of the gate: what is killed there, and where it is to be found.
STEPS = {
    "the data is being copied": ("physical", "objects", "objects.Compressed.write"),
    "the data is copied, and its mark not made": ("providers", "pg_basebackup", "pg_basebackup._moment"),
    "the mark is made, and the WAL not packed": ("physical", "objects", "objects.pack"),
    "the WAL is packed, and the manifest not written": ("take", "json", "json.dumps"),
    "nothing is read back": ("physical", "recovery", "recovery.verify"),
    "it is verified, and that not told": ("prove", "backups", "backups.verified"),
    "it is unpacked, and not recovered": ("physical", "recovery", "recovery.prepare_scratch"),
    "it is recovered, and not compared": ("prove", "checksums", "checksums.differences"),
    "it is proved, and that not told": ("prove", "backups", "backups.proved"),
}


@pytest.fixture
def engine(physical_postgres: EmbeddedPostgres) -> Iterator[Engine]:
    url = physical_postgres.url()
    with (
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection,
        open_pool(url, size=8) as pool,
        readings(url),
    ):
        connection.execute("CREATE TABLE jobs AS SELECT i AS id, 'a' AS status FROM generate_series(1, 300) i")
        connection.execute("ALTER TABLE jobs ADD PRIMARY KEY (id)")
        one = Engine(url=url, connection=connection, pool=pool)
        one.set_pace()
        yield one
        connection.execute("DROP TABLE jobs; DELETE FROM backfilld.backups")
        free = "SELECT FROM pg_replication_slots WHERE NOT active"
        until("the slot to be let go", lambda: connection.execute(free).fetchall())
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


@pytest.mark.soak  # the gate of pg_dump is killed in `make test`, and an owner of a scratch folder: test_scratch.py
@pytest.mark.parametrize("where", STEPS)
def test_a_gate_that_is_killed_is_gone_through_by_the_next_worker(engine: Engine, tmp_path: Path, where: str) -> None:
    run = engine.enqueue(FILE.format(name=f"killed-{list(STEPS).index(where)}"))
    module, inside, at = STEPS[where]
    place, before = physical_place(engine.url, tmp_path), _scratch_folders()
    tests = str(Path(__file__).parents[3])
    script = KILLED.format(module=module, inside=inside, at=at, url=engine.url, folder=str(tmp_path), tests=tests)

    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    theirs = (
        "SELECT FROM pg_stat_activity WHERE application_name ~ 'backfilld (backup|gate)|pg_basebackup|pg_receivewal'"
    )
    until("the server to end the sessions of the killed process", lambda: not engine.execute(theirs))
    until("what it had started to end with it", lambda: not _programs_below(tmp_path))
    sweep.abandoned(engine.connection, place)
    sweep.remove(engine.connection, place)

    expect(engine.drive(run, runner=engine.runner(backups=place)), State.COMPLETED)
    known = backups.listed(engine.connection)
    assert [one.level for one in known] in (["proved"], ["proved", "failed"])
    assert len(files_of(place.stores)) == 8, "data, its manifest, WAL and the manifest, in both stores"
    until("the scratch server to end with its owner", lambda: not _scratch_folders() - before)


def _scratch_folders() -> set[str]:
    return {str(one) for one in Path(tempfile.gettempdir()).glob("backfilld-scratch-*")}


def _programs_below(folder: Path) -> list[bytes]:
    """Programs of PostgreSQL that write below this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (process / "cmdline").read_bytes()
            if bytes(folder) in line and line.split(b"\0")[0].rpartition(b"/")[2].startswith(b"pg_"):
                found.append(line)
    return found
