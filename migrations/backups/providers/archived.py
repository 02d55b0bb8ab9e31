"""Backups of the whole server by a tool that keeps an archive of the WAL too: recovered to the mark out of both.

    the tool takes one                      in a place of its own
    the mark, and the WAL up to it          waited for in the tool's archive; where a segment is missing it is no backup
    verified                                by the tool's own command, and every segment up to the mark is there
    proved                                  restored by the tool into a scratch folder, recovered there to the mark

The WAL of a proof is fetched beforehand: the scratch server needs neither the tool nor its credentials.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psycopg.conninfo import make_conninfo

from backfilld.migrations.backup_settings import seconds_of
from backfilld.migrations.backups import scratch, tools
from backfilld.migrations.backups.physical import archiver, recovery, segments, wal
from backfilld.migrations.backups.physical import tools as physical
from backfilld.migrations.backups.place import BackupFailed, NotWhole
from backfilld.migrations.backups.providers.external import External, Kept
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.record import backups

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from backfilld.migrations.backup_settings import Level
    from backfilld.migrations.backups.contents import Held
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.base import Mark, Read, Task
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup

#: Between two looks for a segment: a tool takes up to a second to say that it is not there.
POLL_SECONDS = 0.5
#: A question that changes nothing.
ASK_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The WAL that a backup needs to be consistent."""

    start: str
    stop: str


class Archived(External):
    """One tool with an archive."""

    replays = True

    @abstractmethod
    def backup(self, task: Task) -> tuple[Kept, Stretch]:
        """Have the tool take one. Raises BackupFailed, and what the watch raises."""

    @abstractmethod
    def look(self, place: Place, backup: Backup, watch: Watch) -> None:
        """Have the tool look at it. Raises NotWhole where it is none, and BackupFailed where that cannot be told now."""

    @abstractmethod
    def lay(self, place: Place, backup: Backup, data: Path, user: dict[str, Any], watch: Watch) -> None:
        """Have the tool restore it into this folder, which is not there yet. Raises BackupFailed. Any: as Popen has it."""

    @abstractmethod
    def fetch(self, place: Place, name: str, into: Path, watch: Watch) -> str | None:
        """Fetch a segment out of the archive into this folder: None once it is there; else why not. Raises BackupFailed."""

    def missing(self, place: Place, names: Sequence[str], watch: Watch) -> str | None:
        """The first of these segments that the archive lacks, and why; None where all are there. Raises BackupFailed."""
        with scratch.folder_for(0) as (folder, user):
            into = folder / "wal"
            into.mkdir()
            recovery.give(into, user)
            for name in names:
                if (why := self.fetch(place, name, into, watch)) is not None:
                    return f"{name}: {why}"
                (into / name).unlink()
        return None

    def keep(self, task: Task) -> Kept:
        with connected(task.place.url) as connection:
            known = physical.facts(connection)
            archiver.require_well(connection)
        kept, stretch = self.backup(task)
        details = {
            "start_lsn": stretch.start,
            "stop_lsn": stretch.stop,
            "segment_bytes": known.segment_bytes,
            "superuser": known.superuser,
            "prepared_transactions": known.prepared_transactions,
        }
        return replace(kept, details={**kept.details, **details})

    def settle(self, task: Task, kept: Kept, mark: Mark) -> None:
        """Wait until the archive has all WAL from the end of the backup to the mark."""
        patience = task.place.settings.wal.patience
        deadline = time.monotonic() + seconds_of(patience)
        size, timeline = int(kept.details["segment_bytes"]), task.server.timeline
        last = segments.holding(timeline, mark.lsn, size)
        with connected(task.place.url) as connection:
            backups.grows(
                connection, task.number, 0
            )  # recovery stops at the first record from the mark on: there is one now
            wal.switch(connection)
            archiver.wait_for(connection, last, task.watch, patience=patience)
        names = segments.names(timeline, str(kept.details["stop_lsn"]), mark.lsn, size)
        wanted = list(dict.fromkeys([*names, last]))
        while (lacks := self.missing(task.place, wanted, task.watch)) is not None:
            if time.monotonic() > deadline:
                msg = f"the archive of {self.name} lacks WAL up to the mark after {patience}: {lacks}"
                raise BackupFailed(msg)
            task.watch()
            time.sleep(POLL_SECONDS)

    def verify(self, place: Place, backup: Backup, read: Read, watch: Watch) -> None:
        del read  # it has no objects
        self.look(place, backup, watch)
        if (lacks := self.missing(place, _needed(backup), watch)) is not None:
            raise NotWhole(f"the archive of {self.name} lacks WAL of it: {lacks}")

    def lacks(self, place: Place, connection: Connection, tables: Sequence[Held], level: Level) -> list[str]:
        del tables
        if level != "proved":
            return []
        told = []
        if physical.facts(connection).tablespaces:
            told.append(
                f"the server has tablespaces of its own, which {self.name} would restore to their places: it can be verified"
            )
        try:
            physical.find_server(place, connection.info.server_version // 10_000)
        except BackupFailed as exc:
            told.append(str(exc))
        return told

    @contextmanager
    def restored(
        self,
        place: Place,
        backup: Backup,
        read: Read,
        watch: Watch,
        *,
        only: Sequence[TableName] = (),
    ) -> Iterator[tuple[str, str]]:
        """The URL of the database on a scratch server that was recovered to the mark; all tables are there."""
        del read, only
        found = physical.find_server(place, (backup.server_version or 0) // 10_000)
        names = _needed(backup)
        needs = backup.bytes + len(names) * int(backup.details["segment_bytes"])
        with scratch.folder_for(needs) as (folder, user):
            data = folder / "data"
            self.lay(place, backup, data, user, watch)
            with_wal = data / recovery.WAL_FOLDER
            with_wal.mkdir()
            recovery.give(with_wal, user)
            for name in names:
                if (why := self.fetch(place, name, with_wal, watch)) is not None:
                    msg = f"the archive of {self.name} lacks WAL of it: {name}: {why}"
                    raise BackupFailed(msg)
            recovery.give(data, user)
            recovery.prepare_scratch(
                data,
                user,
                recovery.Target(name=backup.restore_point)
                if backup.restore_point
                else recovery.Target(lsn=str(backup.details["mark_lsn"])),
                major=found.major,
                prepared_transactions=int(backup.details["prepared_transactions"]),
            )
            superuser = str(backup.details["superuser"])
            with scratch.running(
                found, data, folder, user, watch=watch, superuser=superuser, start_seconds=recovery.RECOVERY_SECONDS
            ) as url:
                yield make_conninfo(url, dbname=str(backup.details["database"])), ""


def ask(command: Sequence[str | Path], watch: Watch, *, seconds: float = ASK_SECONDS) -> str:
    """What a tool prints. Raises BackupFailed with its own words, and what the watch raises."""
    return tools.run([str(part) for part in command], {**os.environ, "LC_ALL": "C"}, seconds=seconds, watch=watch)


def _needed(backup: Backup) -> list[str]:
    """The segments from the beginning of a backup to its mark, and the one in which recovery sees that it is beyond that."""
    size, timeline = int(backup.details["segment_bytes"]), backup.timeline or 0
    mark = str(backup.details["mark_lsn"])
    names = segments.names(timeline, str(backup.details["start_lsn"]), mark, size)
    return list(dict.fromkeys([*names, segments.holding(timeline, mark, size)]))
