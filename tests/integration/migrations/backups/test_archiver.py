"""Where the server archives its WAL by itself, a backup counts once that has happened; an archiver that fails is told beforehand."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_backups import UNWATCHED
from fix_contrib import contrib_programs
from fix_daemon import until
from fix_physical import SCHEMA, SERVER_SETTINGS, WANTED, physical_place
from fix_postgres import missing_service
from psycopg.rows import dict_row

from backfilld.migrations.backup_settings import BackupSettings, CommandSettings
from backfilld.migrations.backups import prove, take
from backfilld.migrations.backups.physical import archiver
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.record import schema
from backfilld.producers.demo.servers import EmbeddedFailed, EmbeddedPostgres, EmbeddedUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.backups.place import Place


@dataclass(frozen=True)
class Archiving:
    """A server that archives into a folder of its own, and a place that fetches from there."""

    folder: Path
    place: Place
    session: psycopg.Connection[dict[str, Any]]

    def set(self, command: str) -> None:
        self.session.execute(f"ALTER SYSTEM SET archive_command = '{command}'")
        self.session.execute("SELECT pg_reload_conf()")

    def mend(self) -> None:
        self.session.execute("ALTER SYSTEM RESET archive_command")
        self.session.execute("SELECT pg_reload_conf()")
        until("the archiver to get on", lambda: archiver.look(self.session).failing is None)

    def fail(self) -> None:
        """No disk is there any more: the archiver has noticed."""
        self.set("false")
        self.session.execute("CREATE TABLE IF NOT EXISTS filling (); SELECT pg_switch_wal()")
        until("the archiver to fail", lambda: archiver.look(self.session).failing)


@pytest.fixture(scope="module")
def archiving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archiving]:
    with tempfile.TemporaryDirectory() as parent:  # pytest's own are for us alone, and the server's user writes here
        Path(parent).chmod(0o755)
        folder = Path(parent) / "archive"
        folder.mkdir()
        folder.chmod(0o777)
        settings = SERVER_SETTINGS | {"archive_mode": "on", "archive_command": f"cp %p {folder}/%f"}
        try:
            server = EmbeddedPostgres(superuser="supabase_admin", settings=settings, server=contrib_programs())
            server.start()
        except (EmbeddedUnavailable, EmbeddedFailed) as error:
            missing_service(str(error))
        try:
            with psycopg.connect(server.url(), autocommit=True, row_factory=dict_row) as session:
                schema.ensure(session)
                session.execute(SCHEMA)
                fetch = f"cp {folder}/%f %p"
                at = tmp_path_factory.mktemp("archiving")
                place = physical_place(server.url(), at, folder=None, restore_command=fetch, patience="20s")
                yield Archiving(folder, place, session)
        finally:
            server.close()


def test_a_backup_has_the_wal_of_the_servers_own_archive(archiving: Archiving) -> None:
    """Received by nobody: no slot is made."""
    taken = take.take(archiving.place, WANTED, UNWATCHED)
    assert prove.prove(archiving.place, taken.backup, UNWATCHED).level == "proved"
    assert archiving.session.execute("SELECT FROM pg_replication_slots").fetchall() == []


def test_an_archiver_that_begins_to_fail_ends_what_waits_for_it(archiving: Archiving) -> None:
    """pg_basebackup would wait for it without a word."""
    short = archiving.place.settings.wal.model_copy(update={"patience": "1s"})
    place = replace(archiving.place, settings=archiving.place.settings.model_copy(update={"wal": short}))
    failed: list[bool] = []

    def fail_once() -> str | None:
        if not failed:
            failed.append(True)
            archiving.fail()
        return None

    try:
        with pytest.raises(BackupFailed, match=r"archive_command fails at 0\w{23}"):
            take.take(place, WANTED, fail_once)
    finally:
        archiving.mend()


def test_an_archiver_that_fails_is_told_before_anything_is_copied(archiving: Archiving, tmp_path: Path) -> None:
    archiving.fail()
    try:
        for place in (archiving.place, with_script(archiving.place, tmp_path)):
            with pytest.raises(BackupFailed, match=r"archive_command fails at 0\w{23} \(\d+ failures so far\)"):
                take.take(place, WANTED, UNWATCHED)
        assert not (tmp_path / "called").exists()
    finally:
        archiving.mend()


def test_a_script_that_needs_the_archive_waits_for_it(archiving: Archiving, tmp_path: Path) -> None:
    taken = take.take(with_script(archiving.place, tmp_path), WANTED, UNWATCHED)
    assert (tmp_path / "called").exists()
    row = archiving.session.execute("SELECT pg_walfile_name(%s) AS name", [taken.details["mark_lsn"]]).fetchone() or {}
    assert archiver.look(archiving.session).has(row["name"])


def test_a_segment_that_the_archive_has_lost_is_found_before_a_backup_counts(archiving: Archiving) -> None:
    """The server says that it is archived, and it is not there."""
    short = archiving.place.settings.wal.model_copy(update={"patience": "1s"})
    place = replace(archiving.place, settings=archiving.place.settings.model_copy(update={"wal": short}))
    archiving.set("true")  # it archives nowhere, and says that it did
    try:
        with pytest.raises(
            BackupFailed, match=r"the WAL segment 0\w{23} is not in the archive after 1s: restore_command ended with 1"
        ):
            take.take(place, WANTED, UNWATCHED)
    finally:
        archiving.mend()


def with_script(place: Place, folder: Path) -> Place:
    (folder / "own.sh").write_text(
        f"""#!/bin/sh
case $1 in
able) echo '{{"version": "own 1"}}' ;;
take) touch {folder}/called; echo '{{"reference": "a", "kept": "b"}}' ;;
esac
"""
    )
    (folder / "own.sh").chmod(0o755)
    settings = BackupSettings(
        provider="command",
        command="own",
        commands={"own": CommandSettings(path=folder / "own.sh", archive=True)},
        wal=place.settings.wal,
    )
    return replace(place, stores=(), settings=settings)
