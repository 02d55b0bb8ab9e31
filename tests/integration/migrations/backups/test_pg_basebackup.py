"""Physical backups: a chain recovers to the very moment of its mark, and what is wrong with one is found before a gate opens."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_backups import UNWATCHED, files_of
from fix_physical import WANTED, physical_place
from psycopg.rows import dict_row

from backfilld.migrations.backups import checksums, contents, prove, sweep, take
from backfilld.migrations.backups.physical import objects, receiver, recovery, saved
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.prove import BadBackup
from backfilld.migrations.backups.providers.pg_basebackup import PgBasebackup
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import open_session_at
from backfilld.migrations.record import backups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fix_physical import Taken

    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.record.backups import Backup
    from backfilld.producers.demo.servers import EmbeddedPostgres

Rows = psycopg.Connection[dict[str, Any]]  # Any: a column has the type it has


@pytest.fixture
def session(physical_postgres: EmbeddedPostgres) -> Iterator[Rows]:
    with psycopg.connect(physical_postgres.url(), autocommit=True, row_factory=dict_row) as connection:
        yield connection


def test_a_chain_is_proved_by_recovering_it_to_its_mark(chain: Taken) -> None:
    """Of two stores each; what was written after the mark, the backup's own row say, is not in it."""
    assert (chain.whole.kind, chain.incremental.kind) == ("full", "incremental")
    assert chain.incremental.parent == chain.whole.backup
    assert chain.incremental.bytes < chain.whole.bytes
    # How many segments of the WAL belong to it depends on when the server began another.
    east, west = (
        {one.removeprefix(name) for one in files_of(chain.place.stores) if one.startswith(name)}
        for name in ("east", "west")
    )
    assert east == west
    assert sum(one.endswith("manifest.json") for one in east) == 2

    proved = prove.prove(chain.place, chain.incremental.backup, UNWATCHED)

    assert proved.level == "proved"
    assert proved.proof is not None
    assert {one["table"]: one["rows"] for one in proved.proof["tables"]} == {
        "Odd Schema.Order": 600,
        "parts_1": 50,
        "parts_2": 50,
    }
    assert "not_compared" not in proved.proof


@pytest.mark.parametrize("by", ["place", pytest.param("name", marks=pytest.mark.soak)])  # the proof goes by name
def test_a_recovery_ends_between_the_right_two_transactions(chain: Taken, by: str) -> None:
    """At the mark the row of the backup still says that it is being taken; the whole one has the rows of before the change."""
    link = saved.chain(_store(chain.place), chain.whole.label)
    assert recovery.mark_of(link[0]).name == chain.whole.restore_point
    target = recovery.mark_of(link[0]) if by == "name" else recovery.Target(lsn=link[0].details["mark_lsn"])

    with (
        recovery.recovered(chain.place, link, UNWATCHED, target=target) as url,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as found,
    ):
        (own,) = found.execute("SELECT state, backup FROM backfilld.backups ORDER BY backup DESC LIMIT 1").fetchall()
        assert (own["state"], own["backup"]) == ("taking", chain.whole.backup)
        changed = found.execute("""SELECT FROM "Odd Schema"."Order" WHERE "Order" = 'changed'""").fetchall()
        assert changed == []
        settings = ("archive_mode", "max_logical_replication_workers", "shared_preload_libraries", "listen_addresses")
        assert [found.execute(f"SHOW {name}").fetchone() for name in settings] == [
            {"archive_mode": "off"},
            {"max_logical_replication_workers": "0"},
            {"shared_preload_libraries": ""},
            {"listen_addresses": ""},
        ]


def test_rows_that_are_written_in_the_meantime_are_told_apart(
    session: Rows, physical_postgres: EmbeddedPostgres
) -> None:
    """By their transactions: those that a snapshot did not see, among them one that was at work in it, are left out."""
    session.execute("DROP TABLE IF EXISTS meant; CREATE TABLE meant AS SELECT i AS id FROM generate_series(1, 10) i")
    url = physical_postgres.url()
    with (
        psycopg.connect(url) as at_work,
        open_session_at(url, application_name="test", settings=contents.SESSION) as seeing,
    ):
        at_work.execute("INSERT INTO meant VALUES (11)")
        session.execute("INSERT INTO meant VALUES (12)")  # later begun, and over before
        seeing.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        table = contents.Held(name=TableName("public", "meant"), bytes=0, hides_rows=False)
        seen = (seeing.execute("SELECT pg_current_snapshot()::text AS snapshot").fetchone() or {})["snapshot"]
        expected = checksums.checksum(seeing, table, UNWATCHED)
        at_work.commit()
        session.execute("INSERT INTO meant VALUES (13)")

    with open_session_at(url, application_name="test", settings=contents.SESSION) as looking:
        assert checksums.checksum(looking, table, UNWATCHED, as_of=seen) == expected
        assert checksums.checksum(looking, table, UNWATCHED).rows == 13


# --- what is wrong is found ---------------------------------------------------------------------------------------------------


def _cut(content: bytes) -> bytes:
    return content[:-100]


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "harm", "problem"),
    [
        (objects.DATA, _flip, "SHA-256"),
        pytest.param(objects.DATA, _cut, "bytes", marks=pytest.mark.soak),
        pytest.param(objects.WAL, _flip, "SHA-256", marks=pytest.mark.soak),
        pytest.param(objects.WAL, _cut, "bytes", marks=pytest.mark.soak),
        pytest.param(objects.BACKUP_MANIFEST, _flip, "SHA-256", marks=pytest.mark.soak),
        pytest.param(objects.BACKUP_MANIFEST, _cut, "bytes", marks=pytest.mark.soak),
    ],
)
def test_a_copy_that_is_not_what_was_written_is_found(
    chain: Taken, name: str, harm: Callable[[bytes], bytes], problem: str
) -> None:
    path = _path(chain, chain.incremental, name)
    path.write_bytes(harm(path.read_bytes()))

    with pytest.raises(BadBackup, match=f"{problem}|cannot be unpacked"):
        prove.verify(chain.place, chain.incremental.backup, UNWATCHED)


def _flipped_page(member: str, content: bytes) -> bytes | None:
    return _flip(content) if member.startswith("base/") and len(content) > 8192 else content


def _without_a_file(member: str, content: bytes) -> bytes | None:
    return None if member == "global/pg_filenode.map" else content


def _without_wal(member: str, content: bytes) -> bytes | None:
    del content
    return None if len(member) == 24 else b""


def _zeroed_wal(member: str, content: bytes) -> bytes | None:
    return bytes(len(content)) if len(member) == 24 else content


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        (objects.DATA, _flipped_page, "(?s)pg_verifybackup .*checksum mismatch"),
        (objects.DATA, lambda member, content: None if member == "global/pg_filenode.map" else content, "not on disk"),
        (objects.WAL, _without_wal, "(?s)pg_verifybackup .*WAL parsing failed"),
        (objects.WAL, _zeroed_wal, "(?s)pg_verifybackup .*WAL parsing failed"),
    ],
    ids=["a page", "a file is missing", "WAL is missing", "WAL is empty"],
)
def test_what_was_wrong_when_it_was_written_is_found(
    chain: Taken, session: Rows, name: str, change: Callable[[str, bytes], bytes | None], problem: str
) -> None:
    """Its digests are those of what was written: only reading it tells."""
    _rewrite(chain, chain.incremental, session, name, change)

    with pytest.raises(BadBackup, match=problem):
        prove.verify(chain.place, chain.incremental.backup, UNWATCHED)


def test_a_chain_that_lacks_a_link_is_found(chain: Taken, session: Rows) -> None:
    _path(chain, chain.whole, objects.DATA).unlink()
    session.execute("UPDATE backfilld.backups SET verified_at = taken_at WHERE backup = %s", [chain.incremental.backup])

    with pytest.raises(Exception, match=r"data\.tar\.gz"):
        prove.prove(chain.place, chain.incremental.backup, UNWATCHED)
    found = backups.get(session, chain.incremental.backup)
    assert found is not None
    assert found.level == "verified"


def test_what_is_based_on_a_bad_one_is_bad(chain: Taken, session: Rows) -> None:
    path = _path(chain, chain.whole, objects.DATA)
    path.write_bytes(_flip(path.read_bytes()))

    with pytest.raises(BadBackup):
        prove.verify(chain.place, chain.whole.backup, UNWATCHED)

    found = backups.get(session, chain.incremental.backup)
    assert found is not None
    assert (found.state, f"backup {chain.whole.backup}, on which it is based, is bad" in str(found.error)) == (
        "failed",
        True,
    )


@pytest.mark.soak  # what compares is tested with pg_dump's
def test_a_table_with_other_rows_is_found(chain: Taken, session: Rows) -> None:
    """The rows are those of the moment, and the record says others."""
    tables = [replace(one, checksum="1") if one.table == "parts_1" else one for one in chain.incremental.tables]
    session.execute(
        "UPDATE backfilld.backups SET tables = %s, verified_at = taken_at WHERE backup = %s",
        [json.dumps([vars(one) for one in tables]), chain.incremental.backup],
    )
    try:
        with pytest.raises(BadBackup, match="parts_1 has 50 rows, and other values in some of them"):
            prove.prove(chain.place, chain.incremental.backup, UNWATCHED)
    finally:
        session.execute(
            "UPDATE backfilld.backups SET tables = %s WHERE backup = %s",
            [json.dumps([vars(one) for one in chain.incremental.tables]), chain.incremental.backup],
        )


# --- what cannot be is said before anything is written ------------------------------------------------------------------------


def test_a_slot_that_could_fill_the_disk_is_refused(chain: Taken, session: Rows) -> None:
    _set(session, "max_slot_wal_keep_size", "-1")
    try:
        with pytest.raises(BackupFailed, match="ALTER SYSTEM SET max_slot_wal_keep_size"):
            take.take(chain.place, WANTED, UNWATCHED)
    finally:
        _set(session, "max_slot_wal_keep_size", "1GB")


def test_a_role_that_may_not_replicate_is_refused(
    chain: Taken, session: Rows, physical_postgres: EmbeddedPostgres
) -> None:
    session.execute(
        "DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN BYPASSRLS; GRANT ALL ON SCHEMA backfilld TO plain"
    )
    url = physical_postgres.url(user="plain")

    with pytest.raises(BackupFailed, match="ALTER ROLE plain REPLICATION"):
        take.take(replace(chain.place, url=url), WANTED, UNWATCHED)
    session.execute("DROP OWNED BY plain; DROP ROLE plain")


def test_a_program_that_crashes_is_said(chain: Taken, tmp_path: Path) -> None:
    given = chain.place.settings.programs
    assert given is not None
    broken = tmp_path / "broken"
    broken.mkdir()
    for program in given.iterdir():
        (broken / program.name).symlink_to(program)
    (broken / "pg_verifybackup").unlink()
    (broken / "pg_verifybackup").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (broken / "pg_verifybackup").chmod(0o755)
    settings = chain.place.settings.model_copy(update={"programs": broken})

    with pytest.raises(BackupFailed, match="pg_verifybackup --version ends with -11"):
        take.take(replace(chain.place, settings=settings), WANTED, UNWATCHED)


def test_tablespaces_are_refused(chain: Taken, session: Rows) -> None:
    session.execute("SET allow_in_place_tablespaces = on")
    session.execute("CREATE TABLESPACE elsewhere LOCATION ''")
    try:
        with pytest.raises(BackupFailed, match="1 tablespaces of its own"):
            take.take(chain.place, WANTED, UNWATCHED)
    finally:
        session.execute("DROP TABLESPACE elsewhere")


def test_a_backup_needs_wal_from_somewhere(chain: Taken) -> None:
    settings = chain.place.settings.model_copy(
        update={"wal": chain.place.settings.wal.model_copy(update={"folder": None})}
    )

    with pytest.raises(BackupFailed, match="BACKFILLD_BACKUP__WAL__FOLDER"):
        take.take(replace(chain.place, settings=settings), WANTED, UNWATCHED)


# --- the chain, and what breaks it ---------------------------------------------------------------------------------------------


def test_a_receiver_that_dies_ends_the_backup_and_nothing_stays(chain: Taken, session: Rows) -> None:
    def kill() -> str | None:
        session.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        return None

    before = files_of(chain.place.stores)
    with pytest.raises(BackupFailed, match="the WAL is received no longer: pg_receivewal ended with 1"):
        take.take(chain.place, WANTED, kill)
    assert files_of(chain.place.stores) == before


def test_a_page_that_is_corrupt_is_never_backed_up(
    chain: Taken, session: Rows, physical_postgres: EmbeddedPostgres
) -> None:
    """pg_basebackup leaves what looks whole, and ends with 1; the rows come from the chain that was taken before."""
    session.execute("CREATE TABLE harmed AS SELECT i AS id FROM generate_series(1, 5000) i")
    session.execute("CHECKPOINT")
    row = session.execute("SELECT pg_relation_filepath('harmed') AS path").fetchone() or {}
    path = physical_postgres.folder / "data" / row["path"]
    content = bytearray(path.read_bytes())
    content[8192 + 4000] ^= 1  # in the rows of a page: of one whose place in the WAL is unlikely nothing is checked
    path.write_bytes(content)
    before = files_of(chain.place.stores)
    try:
        with pytest.raises(BackupFailed, match=r"pg_basebackup ended with 1: .*checksum"):
            take.take(chain.place, WANTED, UNWATCHED)
    finally:
        session.execute("DROP TABLE harmed")
    assert files_of(chain.place.stores) == before
    failed = backups.listed(session, most=1)[0]
    assert (failed.state, failed.copies) == ("failed", ())


def test_when_a_whole_one_is_due(chain: Taken, session: Rows) -> None:
    """A chain that is long, old or broken takes no more; pure but for the slot and the settings of the server."""
    provider, server = PgBasebackup(), contents.server(session)
    known = [chain.incremental, chain.whole]

    def base(place: Place = chain.place, known: list[Backup] = known) -> int | None:
        found = provider.based_on(place, session, server, known)
        return found.backup if found is not None else None

    def having(**settings: Any) -> Place:
        return replace(chain.place, settings=chain.place.settings.model_copy(update=settings))

    assert base() == chain.incremental.backup
    elsewhere = chain.place.settings.wal.model_copy(update={"folder": chain.folder / "none"})
    assert base(having(wal=elsewhere)) is None, "WAL between is not there"
    assert base(having(incrementals=1)) is None
    assert base(having(full_every="1s"), [replace(one, now=one.now.replace(year=2100)) for one in known]) is None
    assert base(chain.place, known[:1]) is None, "the whole one is gone"
    for other in ({"system_identifier": "1"}, {"timeline": 7}, {"copies": chain.whole.copies[:1]}):
        assert base(chain.place, [replace(one, **other) for one in known]) is None, other


@pytest.mark.soak  # takes another one into the stores that tests share
def test_where_an_incremental_one_fails_a_whole_one_is_taken(taken_chain: Taken, session: Rows, tmp_path: Path) -> None:
    """What it is based on has lost its manifest."""
    newest = _path(taken_chain, taken_chain.incremental, objects.BACKUP_MANIFEST)
    kept = newest.read_bytes()
    newest.write_bytes(_flip(kept))
    try:
        taken = take.take(taken_chain.place, WANTED, UNWATCHED)
    finally:
        newest.write_bytes(kept)
    assert (taken.kind, taken.parent) == ("full", None)
    failed = backups.get(session, taken.backup - 1)
    assert failed is not None
    assert (failed.kind, failed.state, "cannot be read" in str(failed.error)) == ("incremental", "failed", True)
    session.execute("DELETE FROM backfilld.backups WHERE backup >= %s", [failed.backup])


def test_links_are_kept_for_as_long_as_what_is_based_on_them(chain: Taken, session: Rows) -> None:
    session.execute(
        "UPDATE backfilld.backups SET expires_at = clock_timestamp() - interval '1 day' WHERE backup = %s",
        [chain.whole.backup],
    )
    assert sweep.expire(session, chain.place) == []


# --- the receiver ---------------------------------------------------------------------------------------------------------------


@pytest.mark.soak  # the slot that tests share is lost as well
def test_a_lost_slot_begins_another_stretch(chain: Taken, session: Rows, tmp_path: Path) -> None:
    """The server has removed what nobody came for: the gap is never taken for a whole piece."""
    place = physical_place(chain.place.url, tmp_path, slot="another")
    system, folder = contents.server(session).system_identifier, tmp_path / "wal"
    take.take(place, WANTED, UNWATCHED)
    assert [one.name for one in receiver.stretches(folder, system)] == ["0001"]
    _set(session, "max_slot_wal_keep_size", "0")
    for _ in range(100):  # WAL that was not summarized yet is kept
        session.execute("CREATE TABLE filling (); DROP TABLE filling; SELECT pg_switch_wal()")
        session.execute("CHECKPOINT")
        known = receiver.slot(session, "another")
        assert known is not None
        if known.is_lost:
            break
    else:
        pytest.fail("the slot is never lost")
    _set(session, "max_slot_wal_keep_size", "1GB")

    taken = take.take(place, WANTED, UNWATCHED)

    assert taken.kind == "full"
    assert [one.name for one in receiver.stretches(folder, system)] == ["0001", "0002"]
    session.execute("SELECT pg_drop_replication_slot('another')")
    session.execute("DELETE FROM backfilld.backups WHERE backup > %s", [chain.incremental.backup])


def _set(session: Rows, name: str, value: str) -> None:
    session.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    session.execute("SELECT pg_reload_conf()")
    while (session.execute(f"SHOW {name}").fetchone() or {})[name] != value:
        pass


def _store(place: Place) -> Any:  # Any: whatever a store is
    return place.stores_for()[0]


def _path(chain: Taken, backup: Backup, name: str) -> Path:
    return chain.folder / "stores" / "east" / backup.label / name


def _rewrite(
    chain: Taken, backup: Backup, session: Rows, name: str, change: Callable[[str, bytes], bytes | None]
) -> None:
    """Have a backup written with other files in it, as if it had been taken so."""
    path = _path(chain, backup, name)
    packed = io.BytesIO()
    with tarfile.open(path) as before, tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as after:
        for member in before:
            file = before.extractfile(member)
            content = change(member.name, file.read()) if file is not None else b""
            if content is not None:
                member.size = len(content) if file is not None else 0
                after.addfile(member, io.BytesIO(content))
    content = packed.getvalue()
    new = {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    listed = [new if one.name == name else vars(one) for one in backup.objects]
    for store in ("east", "west"):
        folder = chain.folder / "stores" / store / backup.label
        (folder / name).write_bytes(content)
        manifest = json.loads((folder / "manifest.json").read_text()) | {"objects": listed}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    session.execute("UPDATE backfilld.backups SET objects = %s WHERE backup = %s", [json.dumps(listed), backup.backup])
