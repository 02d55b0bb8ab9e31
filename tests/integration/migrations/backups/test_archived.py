"""pgBackRest and Barman take, verify and restore the backups of a gate; what is wrong with one is found before it opens."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fix_backups import UNWATCHED, readings
from fix_runs import Engine, expect
from typer.testing import CliRunner

from backfilld.migrations.backup_settings import BarmanSettings, PgBackRestSettings
from backfilld.migrations.backups import prove, rescue, scratch, take
from backfilld.migrations.backups.physical import recovery
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.prove import BadBackup
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import backups
from backfilld.migrations.record.states import RESTING, State
from backfilld.producers.cli import app

if TYPE_CHECKING:
    from fix_archives import Archive

pytestmark = pytest.mark.archives

ORDERS = TableName("Odd Schema", "Order")
WANTED = take.Wanted(requested_by="test", tables=(ORDERS,))
FILE = """
name: jobs-{tool}
operations:
  - backfill: {{table: jobs, set: {{status: "'{tool}'"}}}}
settings: {{journal: false, backup: {{require: proved}}}}
"""


@pytest.fixture(params=["pgbackrest", "barman"])
def archive(request: pytest.FixtureRequest) -> Archive:
    found: Archive = request.getfixturevalue(f"{request.param}_archive")
    return found


def test_a_run_begins_once_its_backup_is_proved_and_its_rows_come_back(archive: Archive) -> None:
    """A whole pass: taken, verified, recovered to the mark on a scratch server and compared; then rows are put back from it."""
    tool = archive.place.settings.provider
    archive.connection.execute("UPDATE jobs SET status = 'before'")
    with open_pool(archive.place.url, size=8) as pool, readings(archive.place.url):
        engine = Engine(url=archive.place.url, connection=archive.connection, pool=pool)
        engine.set_pace()
        run = engine.enqueue(FILE.format(tool=tool))
        engine.drive(
            run,
            runner=engine.runner(
                backups=archive.place, one_step=False
            ),  # told to stop, it waits ten seconds for a tool
            until=lambda now: (
                now.state in RESTING or bool(backups.listed(engine.connection, run=run, states=["failed"]))
            ),
        )
        expect(engine.run(run), State.COMPLETED)
        (found,) = backups.listed(engine.connection, run=run)
        assert (found.level, found.kind, found.scope, found.error) == ("proved", "external", "all", None)
        assert [(one.table, one.rows) for one in found.tables] == [("jobs", 50)]
        assert found.proof is not None
        assert [one["table"] for one in found.proof["tables"]] == ["jobs"]
        assert engine.value("SELECT count(*) FROM jobs WHERE status = %s", tool) == 50

        told = CliRunner().invoke(app, ["--database-url", archive.place.url, "explain", f"jobs-{tool}", "--emergency"])
        (command,) = [line.split() for line in told.stdout.splitlines() if line.strip().startswith(f"{tool} ")]
        words = [one for one in command[1:] if "--config" not in one and "--stanza" not in one]
        with scratch.folder_for(0) as (folder, user):
            (folder / "data").mkdir()
            recovery.give(folder, user)
            archive.tool(*(one.replace("FOLDER", str(folder / "data")) for one in words))
            assert "recovery_target_lsn" in (folder / "data" / "postgresql.auto.conf").read_text()

        (rescued,) = rescue.rescue(
            archive.place, found, [TableName("public", "jobs")], schema=f"rescue_{tool}", watch=UNWATCHED
        )
        assert (rescued.missing, rescued.different) == (0, 50)
        assert engine.value(f"SELECT count(*) FROM rescue_{tool}.jobs WHERE status = 'before'") == 50


def test_rows_of_after_the_mark_are_not_in_it(archive: Archive) -> None:
    """The WAL since is in the archive too, and a recovery ends at the mark."""
    taken = take.take(archive.place, WANTED, UNWATCHED)
    archive.connection.execute(
        """UPDATE "Odd Schema"."Order" SET "Order" = 'after' WHERE part = 1; SELECT pg_switch_wal()"""
    )
    try:
        proved = prove.prove(archive.place, taken.backup, UNWATCHED)
    finally:
        archive.connection.execute("""UPDATE "Odd Schema"."Order" SET "Order" = 'order ' || id WHERE part = 1""")
    assert (proved.level, [one.rows for one in proved.tables]) == ("proved", [600])


def test_a_file_of_it_that_is_changed_is_found(archive: Archive) -> None:
    taken = take.take(archive.place, WANTED, UNWATCHED)
    label = taken.details["reference"]
    files = sorted(
        one for one in archive.kept.rglob("*") if label in str(one) and one.is_file() and "data/base/" in str(one)
    )
    files = [one for one in files if one.stat().st_size > 1000 and "pg_internal" not in one.name]
    content = bytearray(files[0].read_bytes())
    content[len(content) // 2] ^= 1
    kept = files[0].read_bytes()
    files[0].write_bytes(content)
    try:
        with pytest.raises(BadBackup, match=r"invalid|verify-backup"):
            prove.verify(archive.place, taken.backup, UNWATCHED)
    finally:
        files[0].write_bytes(kept)


def test_wal_that_is_missing_is_found(archive: Archive) -> None:
    taken = take.take(archive.place, WANTED, UNWATCHED)
    archive.connection.execute("CREATE TABLE IF NOT EXISTS filling (); SELECT pg_switch_wal()")
    assert prove.verify(archive.place, taken.backup, UNWATCHED).level == "verified"
    size, start = int(taken.details["segment_bytes"]), str(taken.details["start_lsn"])
    name = (
        f"{taken.timeline:08X}{int(start.split('/', maxsplit=1)[0], 16):08X}{int(start.split('/')[1], 16) // size:08X}"
    )
    files = [one for one in archive.kept.rglob(f"{name}*") if ".backup" not in one.name and one.is_file()]
    assert files
    kept = {one: one.read_bytes() for one in files}
    for one in files:
        one.unlink()
    try:
        with pytest.raises(BadBackup, match=rf"lacks WAL of it: {name}|invalid"):
            prove.verify(archive.place, taken.backup, UNWATCHED)
    finally:
        for one, content in kept.items():
            one.write_bytes(content)


def test_one_that_the_tool_does_not_have_any_more_is_found(archive: Archive) -> None:
    taken = take.take(archive.place, WANTED, UNWATCHED)
    archive.connection.execute(
        "UPDATE backfilld.backups SET details = details || %s::jsonb WHERE backup = %s",
        ['{"reference": "gone", "labels": {"1": "gone"}}', taken.backup],
    )
    with pytest.raises(BadBackup, match="no backup gone any more"):
        prove.verify(archive.place, taken.backup, UNWATCHED)


def test_tablespaces_are_never_restored_to_their_places(archive: Archive) -> None:
    """There the server's own data lies: pgBackRest puts them elsewhere, and Barman is not asked to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        Path(parent).chmod(0o755)
        place = Path(parent) / "space"
        place.mkdir()
        if os.geteuid() == 0:
            shutil.chown(place, "nobody", "nogroup")
        archive.connection.execute(f"CREATE TABLESPACE elsewhere LOCATION '{place}'".encode())
        archive.connection.execute("CREATE TABLE far (id int) TABLESPACE elsewhere")
        archive.connection.execute("INSERT INTO far SELECT generate_series(1, 100)")
        try:
            taken = take.take(
                archive.place, take.Wanted(requested_by="test", tables=(TableName("public", "far"),)), UNWATCHED
            )
            before = {(one, one.stat().st_ino) for one in place.rglob("*")}
            if archive.place.settings.provider == "barman":
                with pytest.raises(BackupFailed, match="1 tablespaces to where those of the server are"):
                    prove.prove(archive.place, taken.backup, UNWATCHED)
            else:
                assert prove.prove(archive.place, taken.backup, UNWATCHED).level == "proved"
            assert {(one, one.stat().st_ino) for one in place.rglob("*")} == before
        finally:
            archive.connection.execute("DROP TABLE far")
            archive.connection.execute("DROP TABLESPACE elsewhere")


def test_what_is_not_set_up_is_told_and_nothing_is_taken(archive: Archive, tmp_path: Path) -> None:
    before = len(backups.listed(archive.connection))
    settings = archive.place.settings
    (tmp_path / "old").write_text("#!/bin/sh\necho tool 1.2\n")
    (tmp_path / "old").chmod(0o755)
    for changed, told in (
        ({"program": tmp_path / "nothing"}, "No such file"),
        ({"program": tmp_path / "old"}, "or newer is needed"),
        ({"stanza": "other"} if settings.pgbackrest else {"server": "other"}, "other"),
    ):
        known = settings.pgbackrest or settings.barman
        assert isinstance(known, PgBackRestSettings | BarmanSettings)
        bad = settings.model_copy(update={settings.provider: known.model_copy(update=changed)})
        with pytest.raises(BackupFailed, match=told):
            take.take(replace(archive.place, settings=bad), WANTED, UNWATCHED)
    assert len(backups.listed(archive.connection)) == before
