"""A run begins once as much is known of a backup as it needs, and not before; the gate can be left and killed at any point."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fix_backups import files_of
from fix_daemon import until
from fix_runs import expect

from backfilld.migrations.backup_settings import BackupSettings, StoreSettings
from backfilld.migrations.backups import sweep
from backfilld.migrations.holds import Cause
from backfilld.migrations.record import audit, backups
from backfilld.migrations.record.states import State
from backfilld.monitoring import progress
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.record.backups import Backup

pytestmark = pytest.mark.usefixtures("governed")

TABLE = """
CREATE SCHEMA app;
CREATE TABLE app."Job" (id int PRIMARY KEY, "Order" text NOT NULL);
INSERT INTO app."Job" SELECT i, 'row ' || i FROM generate_series(1, 300) i
"""


def file(backup: str) -> str:
    return f"""
name: orders
operations:
  - backfill: {{table: app.Job, set: {{Order: "upper(\\"Order\\")"}}, where: "\\"Order\\" <> upper(\\"Order\\")"}}
settings: {{backup: {backup}}}
"""


def holds_of(engine: Engine, run: int) -> tuple[Cause | None, str]:
    (now,) = progress.read(engine.connection, [engine.run(run)])
    return (now.hold.cause, now.hold.reason) if now.hold is not None else (None, "")


def test_a_run_begins_once_its_backup_is_proved(engine: Engine, place: Place) -> None:
    engine.execute(TABLE)
    run = engine.enqueue(file("{require: proved}"))
    runner = engine.runner(backups=place)

    told: list[str] = []
    while not audit.latest(engine.connection, run, what="backup.gate"):
        engine.step(runner=runner)
        cause, reason = holds_of(engine, run)
        if cause is Cause.BACKUP and (not told or told[-1] != reason):
            told.append(reason)
        # What was taken is over before the first statement of the run: it cannot be in its way. (A server process is a moment late.)
        _until(
            engine,
            "SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name ~ 'backfilld (backup|gate)')",
        )

    assert [reason.split(" ")[0] for reason in told] == ["takes", "waits", "reads", "waits", "restores", "waits"]
    (found,) = backups.listed(engine.connection)
    assert (found.level, found.run, found.requested_by) == ("proved", run, "worker")
    assert [(one.table, one.rows) for one in found.tables] == [("app.Job", 300)]
    expect(engine.drive(run, runner=runner), State.COMPLETED)
    assert audit.count(engine.connection, run, what="backup.gate", operation=0) == 0
    gates = [one for one in audit.story(engine.connection, run) if one["what"] == "backup.gate"]
    assert [one["detail"]["level"] for one in gates] == ["proved"]


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        pytest.param(BackupSettings(), "proved", marks=pytest.mark.soak),
        (BackupSettings(proved_up_to_bytes=0), "taken"),
        pytest.param(BackupSettings(require="verified"), "verified", marks=pytest.mark.soak),
        (BackupSettings(require="off"), None),
    ],
    ids=["small tables", "large tables", "the settings say so", "off"],
)
def test_a_run_that_asks_for_nothing_gets_what_the_settings_say(
    engine: Engine, place: Place, settings: BackupSettings, level: str | None
) -> None:
    engine.execute(TABLE)
    run = engine.enqueue(file("{}"))

    expect(engine.drive(run, runner=engine.runner(backups=replace(place, settings=settings))), State.COMPLETED)
    assert [one.level for one in backups.listed(engine.connection)] == ([level] if level else [])


def test_a_recent_backup_will_do_for_the_next_run(engine: Engine, place: Place) -> None:
    engine.execute(TABLE)
    runner = engine.runner(backups=place)
    recent = file("{require: recent, max_age: 1h}")
    engine.drive(engine.enqueue(recent), runner=runner)
    engine.execute("""UPDATE app."Job" SET "Order" = 'again'""")

    engine.drive(engine.enqueue(recent.replace("orders", "again")), runner=runner)
    assert len(backups.listed(engine.connection)) == 1
    engine.execute("UPDATE backfilld.backups SET snapshot_at = snapshot_at - interval '61 min'")
    engine.execute("""UPDATE app."Job" SET "Order" = 'more'""")
    engine.drive(engine.enqueue(recent.replace("orders", "more")), runner=runner)
    assert len(backups.listed(engine.connection)) == 2


def test_without_a_backup_nothing_is_changed(engine: Engine, place: Place, tmp_path: Path) -> None:
    """A store that is away holds the run, in words; once it is there the run goes on by itself."""
    engine.execute(TABLE)
    (tmp_path / "away").touch()
    away = StoreSettings(name="away", kind="folder", path=tmp_path / "away")
    run = engine.enqueue(file("{require: taken, copies: [east, away]}"))
    runner = engine.runner(backups=replace(place, stores=(*place.stores, away)))
    for _ in range(2):
        engine.step(runner=runner)

    cause, reason = holds_of(engine, run)
    assert (cause, "store away" in reason, engine.run(run).phase) == (Cause.BACKUP, True, "expand")
    assert engine.run(run).state is State.QUEUED
    assert files_of(place.stores) == []
    (tmp_path / "away").unlink()
    expect(engine.drive(run, runner=runner), State.COMPLETED)
    (taken, failed) = backups.listed(engine.connection)
    assert ({copy.store for copy in taken.copies}, failed.state) == ({"east", "away"}, "failed")


def test_a_worker_without_stores_holds_the_run_that_needs_one(engine: Engine, place: Place) -> None:
    engine.execute(TABLE)
    run = engine.enqueue(file("{require: taken}"))
    runner = engine.runner(backups=replace(place, stores=()))
    for _ in range(2):
        engine.step(runner=runner)

    cause, reason = holds_of(engine, run)
    assert (cause, "BACKFILLD_STORES" in reason) == (Cause.BACKUP, True)


def test_another_worker_leaves_the_gate_to_the_one_that_is_at_it(engine: Engine, place: Place) -> None:
    engine.execute(TABLE)
    run = engine.enqueue(file("{require: taken}"))
    runner = engine.runner(backups=place)
    engine.step(runner=runner)
    with engine.connect() as other, other.transaction():
        assert backups.hold(other, backups.GATES, run)
        engine.step(runner=runner)
        assert backups.listed(engine.connection) == []
        assert holds_of(engine, run)[0] is Cause.BACKUP
    expect(engine.drive(run, runner=runner), State.COMPLETED)


def test_a_pause_ends_a_dump_within_a_moment(engine: Engine, place: Place) -> None:
    """It waits behind the lock of another session meanwhile, and leaves nothing."""
    engine.execute(f"{TABLE}; CREATE TABLE app.other ()")
    run = engine.enqueue(file("{require: taken}"))
    runner = engine.runner(backups=place)
    engine.step(runner=runner)
    with engine.connect() as other, other.transaction():
        other.execute("LOCK TABLE app.other IN ACCESS EXCLUSIVE MODE")
        gate = threading.Thread(target=engine.step, kwargs={"runner": runner})
        gate.start()
        _until(
            engine,
            "SELECT FROM pg_stat_activity WHERE application_name = 'backfilld backup' AND wait_event = 'relation'",
        )
        with engine.connect() as person:
            commands.pause(person, run, actor="ann")
        gate.join(10)
        assert not gate.is_alive()

    expect(engine.drive(run, runner=runner), State.PAUSED)
    (failed,) = backups.listed(engine.connection)
    # One that nobody stops gives up on the lock by itself after five seconds, and says so.
    assert (failed.state, failed.error, failed.copies) == ("failed", "it was told to stop", ())
    assert files_of(place.stores) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from unittest.mock import patch
from backfilld.migrations.backup_settings import BackupSettings, StoreSettings
from backfilld.migrations.backups import {module}
from backfilld.migrations.backups.place import Place
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import lanes
from backfilld.worker.lanes.runner import Runner
import threading

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

{module}.{at} = die
stopping = threading.Event()
stopping.set()
stores = tuple(StoreSettings(name=n, kind="folder", path=Path({folder!r}) / n) for n in ("east", "west"))
with open_pool({url!r}, size=4) as pool:
    place = Place(url={url!r}, settings=BackupSettings(), stores=stores)
    runner = Runner(pool, send=print, observe=lambda _: None, stopping=stopping, backups=place)
    for _ in range(20):
        with pool.connection() as connection:
            connection.execute("UPDATE backfilld.pace SET sampled_at = clock_timestamp()")
            connection.execute("UPDATE backfilld.lanes SET next_run_at = clock_timestamp(), enqueued_at = NULL")
            (message,) = lanes.due(connection, grace_seconds=0)
        runner.advance(message)
"""
#: Each step of the gate, by what is replaced with a SIGKILL.
STEPS = {
    "nothing is written yet": ("take", "_write"),
    "the dump is written, and not its manifest": ("take", "json"),
    "nothing is read back": ("prove", "_read_all"),
    "it is verified, and that not told": ("prove.backups", "verified"),
    "it is restored, and not compared": ("prove.checksums", "differences"),
    "it is proved, and that not told": ("prove.backups", "proved"),
}


@pytest.mark.parametrize(
    "where",
    [pytest.param(one, marks=() if one == "it is restored, and not compared" else pytest.mark.soak) for one in STEPS],
)
def test_a_gate_that_is_killed_is_gone_through_by_the_next_worker(engine: Engine, place: Place, where: str) -> None:
    engine.execute(TABLE)
    run = engine.enqueue(file("{require: proved}"))
    module, at = STEPS[where]
    before = _scratch_folders()
    script = KILLED.format(
        module=module.partition(".")[0],
        at=f"{module.partition('.')[2]}.{at}".strip(".") if at != "json" else "json.dumps",
        folder=str(place.stores[0].path.parent if place.stores[0].path else ""),
        url=engine.url,
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr

    theirs = "SELECT FROM pg_stat_activity WHERE application_name ~ 'backfilld (backup|gate)'"
    until("the server to end the sessions of the killed process", lambda: not engine.execute(theirs))
    sweep.abandoned(engine.connection, place)
    sweep.remove(engine.connection, place)
    expect(engine.drive(run, runner=engine.runner(backups=place)), State.COMPLETED)

    known: list[Backup] = backups.listed(engine.connection)
    assert [one.level for one in known] in (["proved"], ["proved", "failed"])
    assert len(files_of(place.stores)) == 6
    until("the scratch server to end with its owner", lambda: not _scratch_folders() - before)


def _scratch_folders() -> set[str]:
    return {str(one) for one in Path(tempfile.gettempdir()).glob("backfilld-scratch-*")}


def _until(engine: Engine, query: str) -> None:
    with engine.connect() as other:
        until(query, lambda: other.execute(query.encode()).fetchall())
