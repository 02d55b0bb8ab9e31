"""Physical backups by pg_basebackup: the whole server, incremental from version 17 on, with the WAL up to a moment of our own.

    the WAL is received                  before anything else, so that none is missing
    pg_basebackup as a tar stream        to all stores in one pass; its manifest is kept for the next incremental one
    a snapshot, and the mark at once     what the mark's moment must give back
    a checksum of each table             in that snapshot
    the WAL up to the mark               packed beside it: with it the backup needs nothing else

The exit code is believed and never what was written: after a checksum error there is an archive that looks whole.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backfilld.migrations.backup_settings import seconds_of
from backfilld.migrations.backups import checksums, contents, copies, programs
from backfilld.migrations.backups.physical import archiver, objects, receiver, recovery, saved, segments, tools, wal
from backfilld.migrations.backups.physical.tar_member import TarMember
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.providers.base import ChainBroken, Restored, Taken
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import connected, open_session_at
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.queries import queries
from backfilld.migrations.record import backups
from backfilld.migrations.stores.base import StoreFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.backups.contents import Server
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.base import Read, Task
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup, Kind, StoredObject, TableSum

_SQL = queries("backfilld.migrations.backups.physical", "physical")
#: What pg_basebackup and the server say where only a whole backup will do.
_ONLY_A_WHOLE_ONE = ("summar", "incremental", "manifest")
#: Kilobytes a second that --max-rate takes.
_SLOWEST, _FASTEST = 32, 1024 * 1024


class PgBasebackup:
    """The provider `pg_basebackup`."""

    name = "pg_basebackup"
    kind: Kind = "full"

    def able(self, place: Place, server: Server) -> str:
        with connected(place.url) as connection:
            tools.require(tools.facts(connection), place.settings, server.role)
        found = tools.find(place, server.major)
        tools.require_replication(place.url)
        return found.version.replace("pg_dump", self.name)

    def based_on(self, place: Place, record: Connection, server: Server, known: Sequence[Backup]) -> Backup | None:
        if server.major < tools.INCREMENTAL or not tools.facts(record).summarizes:
            return None
        of_this_server = {
            one.backup: one
            for one in known
            if one.provider == self.name
            and (one.system_identifier, one.timeline) == (server.system_identifier, server.timeline)
            and (one.server_version or 0) // 10_000 == server.major
        }
        newest = max(of_this_server, default=None)
        if newest is None:
            return None
        links = [of_this_server[newest]]
        while (parent := links[-1].parent) is not None:
            if parent not in of_this_server:
                return None
            links.append(of_this_server[parent])
        wanted = {store.name for store in place.stores_for()}
        if not wanted <= {copy.store for copy in links[0].copies}:
            return None
        whole = links[-1]
        due = segments.chain_is_due_for_a_whole_one(
            len(links) - 1,
            (whole.now - whole.began_at).total_seconds(),
            most_incrementals=place.settings.incrementals,
            most_seconds=seconds_of(place.settings.full_every),
        )
        return None if due or not _wal_came_since(place, record, links[0]) else links[0]

    def take(self, task: Task) -> Taken:
        found = tools.find(task.place, task.server.major)
        with connected(task.place.url) as connection:
            known = tools.facts(connection)
            archiver.require_well(connection)
            patience = task.place.settings.wal.patience
            copying = replace(task, watch=archiver.Watched(connection, task.watch, patience=patience))
            with wal.source(task.place, found, connection, task.server.system_identifier) as received:
                began = time.monotonic()
                data, manifest_object, manifest, plain = self._copy(copying, found)
                copied = time.monotonic()
                start = _start_of(manifest, task.server.timeline)
                moment = _moment(task, connection)
                counted = time.monotonic()
                received.wait(moment["until"], task.watch)
                names = segments.names(task.server.timeline, start, moment["until"], known.segment_bytes)
                with task.begin(objects.WAL) as written:
                    wal_bytes = objects.pack(received.files(names, task.watch), written.write)
                    packed = written.finish()
        return Taken(
            objects=(data, manifest_object, packed),
            tables=moment.pop("tables"),
            details={
                **moment,
                "start_lsn": start,
                "first_segment": names[0],
                "segment_bytes": known.segment_bytes,
                "manifest_checksum": manifest["Manifest-Checksum"],
                "plain_bytes": plain,
                "wal_bytes": wal_bytes,
                "superuser": known.superuser,
                "prepared_transactions": known.prepared_transactions,
                "seconds": {
                    "copy": round(copied - began, 1),
                    "checksums": round(counted - copied, 1),
                    "wal": round(time.monotonic() - counted, 1),
                },
            },
        )

    def _copy(
        self, task: Task, found: programs.Programs
    ) -> tuple[StoredObject, StoredObject, dict[str, Any], int]:  # Any: JSON
        """The data folder and its manifest. Raises ChainBroken where only a whole backup will do."""
        settings = task.place.settings
        command = [
            found / "pg_basebackup",
            "--pgdata=-",
            "--format=tar",
            "--wal-method=none",
            f"--checkpoint={settings.checkpoint}",
            f"--label=backfilld {task.number}{f' run={task.run}' if task.run is not None else ''}",
            "--no-password",
        ]
        if settings.mb_per_second:
            rate = min(max(int(settings.mb_per_second * 1000), _SLOWEST), _FASTEST)
            command.append(f"--max-rate={rate}k")
        environment = programs.environment(task.place.url, application_name=named("backup"))
        member = TarMember(objects.BACKUP_MANIFEST)
        with _parents_manifest(task) as given, task.begin(objects.DATA) as written:
            compressed = objects.Compressed(written.write)

            def write(part: bytes) -> None:
                member.feed(part)
                compressed.write(part)

            try:
                programs.read_from([*command, *given], environment, write=write, watch=task.watch)
            except BackupFailed as exc:
                if given and any(words in str(exc) for words in _ONLY_A_WHOLE_ONE):
                    raise ChainBroken(str(exc)) from exc
                raise
            compressed.finish()
            data = written.finish()
        if member.content is None:
            msg = "pg_basebackup wrote no manifest"
            raise BackupFailed(msg)
        with task.begin(objects.BACKUP_MANIFEST) as written:
            written.write(member.content)
            stored = written.finish()
        return data, stored, json.loads(member.content), compressed.plain_bytes

    def verify(self, place: Place, backup: Backup, read: Read, watch: Watch) -> None:
        """Compare each object with its SHA-256, each file in it with the manifest, and read the WAL that it names."""
        del read  # a chain has more than one backup's objects
        recovery.verify(place, _chain(place, backup)[-1], watch)

    def restore(
        self, place: Place, backup: Backup, read: Read, watch: Watch, *, only: Sequence[TableName] = ()
    ) -> Restored:
        """Recover it to its mark on a scratch server, and sum up there what its snapshot saw."""
        del read
        chain = _chain(place, backup)
        with (
            recovery.recovered(place, chain, watch) as url,
            open_session_at(url, application_name=named("backup"), settings=contents.SESSION) as session,
        ):
            row = session.execute(_SQL["in_recovery"]).fetchone()
            if row is None or row["in_recovery"]:
                msg = "a scratch server says that it has recovered, and has not"
                raise BackupFailed(msg)
            details = chain[-1].details
            snapshot = str(details["snapshot"])
            names = [TableName.parse(one.table) for one in backup.tables]
            held = contents.tables(session, [name for name in names if not only or name in only])
            sums = [checksums.checksum(session, one, watch, as_of=snapshot) for one in held]
        return Restored(tables=tuple(sums), warnings="", not_compared=_written_meanwhile(backup.tables, sums, details))

    @contextmanager
    def restored(
        self, place: Place, backup: Backup, read: Read, watch: Watch, *, only: Sequence[TableName] = ()
    ) -> Iterator[tuple[str, str]]:
        """The URL of the database on a scratch server that was recovered to the mark; all tables are there."""
        del read, only
        with recovery.recovered(place, _chain(place, backup), watch) as url:
            yield url, ""


def _chain(place: Place, backup: Backup) -> list[saved.Saved]:
    """As the first store has it. Raises BackupFailed where its manifest says something else than the record."""
    found = saved.chain(place.stores_of(backup)[0], backup.label)
    if found[-1].manifest["objects"] != [vars(one) for one in backup.objects]:
        msg = "its manifest names other objects than the record"
        raise BackupFailed(msg)
    return found


@contextmanager
def _parents_manifest(task: Task) -> Iterator[list[str]]:
    """The options of an incremental backup; none for a whole one. Raises ChainBroken where the manifest cannot be had."""
    if task.parent is None:
        yield []
        return
    stored = next((one for one in task.parent.objects if one.name == objects.BACKUP_MANIFEST), None)
    with tempfile.NamedTemporaryFile(prefix="backfilld-manifest-") as file:
        try:
            if stored is None:
                msg = f"backup {task.parent.backup} has no manifest"
                raise ChainBroken(msg)
            for part in copies.read_back(task.place.stores_of(task.parent)[0], task.parent.label, stored, task.watch):
                file.write(part)
            file.flush()
        except (BackupFailed, StoreFailed) as exc:
            msg = f"the manifest of backup {task.parent.backup} cannot be read: {exc}"
            raise ChainBroken(msg) from exc
        yield [f"--incremental={file.name}"]


def _start_of(manifest: dict[str, Any], timeline: int) -> str:  # Any: JSON
    """Where in the WAL a backup begins. Raises BackupFailed where the server was promoted meanwhile."""
    ranges = manifest["WAL-Ranges"]
    if [one["Timeline"] for one in ranges] != [timeline]:
        msg = f"the server went from timeline {timeline} to another while it was copied: {ranges}"
        raise BackupFailed(msg)
    return str(ranges[0]["Start-LSN"])


def _moment(task: Task, connection: Connection) -> dict[str, Any]:  # Any: details, and `tables`
    """Make the mark, and sum up what a snapshot of just before it sees.

    Raises BackupFailed, psycopg.Error, and what the watch raises.
    """
    before = _writes(connection, task)
    session = open_session_at(task.place.url, application_name=named("backup"), settings=contents.SESSION)
    with session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = session.execute(_SQL["snapshot"]).fetchone() or {}
        mark = task.mark()
        # A recovery to a place stops at the first record from there on: there is one now.
        backups.grows(connection, task.number, 0)
        flushed = connection.execute(_SQL["flushed"]).fetchone() or {}
        sums = tuple(checksums.checksum(session, one, task.watch, pace=task.pace) for one in task.tables)
    after = _writes(connection, task)
    return {
        "tables": sums,
        "snapshot": row["snapshot"],
        "mark_lsn": mark.lsn,
        "until": flushed["lsn"],
        "marked_at": flushed["at"].isoformat(),
        # Between the snapshot and the mark lie milliseconds, in which a row may be changed; never more than these.
        "writes": {table: rows - before.get(table, 0) for table, rows in after.items() if rows > before.get(table, 0)},
    }


def _writes(connection: Connection, task: Task) -> dict[str, int]:
    asked = {"schemas": [one.name.schema for one in task.tables], "names": [one.name.name for one in task.tables]}
    rows = connection.execute(_SQL["writes"], asked).fetchall()
    return {str(TableName(row["schema"], row["name"])): row["rows"] for row in rows}


def _written_meanwhile(
    expected: Sequence[TableSum], found: Sequence[TableSum], details: dict[str, Any]
) -> dict[str, str]:
    """Tables of which rows were changed between the snapshot and the mark, as far as the server has counted that. Pure. Any: JSON."""
    by_table = {one.table: one for one in found}
    told = {}
    for one in expected:
        other = by_table.get(one.table)
        gone = one.rows - other.rows if other is not None else 0
        if 0 < gone <= int(details["writes"].get(one.table, 0)):
            told[one.table] = (
                f"{gone} of {one.rows} rows were updated or deleted in the moment between the snapshot and the mark: the others "
                "were counted, and not compared"
            )
    return told


def _wal_came_since(place: Place, record: Connection, backup: Backup) -> bool:
    """Whether all WAL since a backup has come, where it is received here: after a gap the chain begins anew."""
    settings = place.settings.wal
    if settings.folder is None:
        return True
    known = receiver.slot(record, settings.slot)
    if known is None or known.is_lost or known.received is None:
        return False
    details = backup.details
    wanted = segments.names(backup.timeline or 0, str(details["until"]), known.received, int(details["segment_bytes"]))
    return receiver.came_without_a_gap(settings.folder, str(backup.system_identifier), wanted)
