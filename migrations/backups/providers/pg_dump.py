"""Backups by pg_dump: all that is needed is a connection. It cannot do increments, and says so.

    a session exports its snapshot, and stays              every part below sees the same moment
    the definitions of the whole database                  a table alone does not restore: schemas, types and functions are missing
    the rows of the tables, each partition by its name     of a partitioned table pg_dump would save its definition only
    a checksum of each table                               what a restore is compared with

Both archives go to the stores as they come. `--enable-row-security` is never passed: it saves the rows that the role sees, and ends
with 0.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from backfilld.migrations.backups import checksums, contents, programs, scratch
from backfilld.migrations.backups.place import BackupFailed, NotHere
from backfilld.migrations.backups.providers.base import Restored, Taken
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import open_session_at
from backfilld.migrations.postgres.sessions import named

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.backup_settings import Level
    from backfilld.migrations.backups.contents import Held, Server
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.base import Read, Task
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup, Kind, StoredObject

DEFINITIONS, ROWS = "definitions.dump", "rows.dump"
#: It fails rather than waits behind somebody else's lock, with others queueing behind its own.
LOCK_WAIT_MILLISECONDS = 5000


class PgDump:
    """The provider `pg_dump`."""

    name = "pg_dump"
    kind: Kind = "logical"

    def able(self, place: Place, server: Server) -> str:
        return programs.find(place.settings.programs, server_major=server.major).version

    def lacks(self, place: Place, connection: Connection, tables: Sequence[Held], level: Level) -> list[str]:
        """What a restore into a scratch server on this host would lack: the server, the room, extensions of the tables' types."""
        if level != "proved":
            return []
        server = contents.server(connection)
        found = programs.find(place.settings.programs, server_major=server.major)
        if not found.has_server:
            return [scratch.no_server(found)]
        room = scratch.no_room(sum(one.bytes for one in tables))
        there = scratch.extensions(found)
        gone = [] if there is None else sorted(contents.extensions(connection, tables) - there)
        without = (
            f"the scratch server has no extension {', '.join(gone)}, of which these tables have types: install it there, "
            "or say where a server is that has it: BACKFILLD_BACKUP__PROGRAMS"
        )
        return [*([room] if room else []), *([without] if gone else [])]

    def take(self, task: Task) -> Taken:
        found = programs.find(task.place.settings.programs, server_major=task.server.major)
        base = [
            found / "pg_dump",
            "--format=custom",
            f"--compress={programs.compression(found)}",
            f"--snapshot={task.snapshot}",
            f"--lock-wait-timeout={LOCK_WAIT_MILLISECONDS}",
            "--no-password",
            "--strict-names",
            *(f"--exclude-schema={_pattern(schema)}" for schema in task.place.settings.exclude_schemas),
        ]
        wanted = [] if task.everything else [f"--table={_table_pattern(one.name)}" for one in task.tables]
        objects = [
            self._dump(task, [*base, "--schema-only"], DEFINITIONS),
            self._dump(task, [*base, "--data-only", *wanted], ROWS),
        ]
        # As much slower than it could as the dump was: that wrote fewer bytes than there are.
        read, written = sum(one.bytes for one in task.tables), objects[1].bytes
        pace = task.pace.times(max(1.0, read / max(written, 1)))
        sums = [checksums.checksum(task.session, one, task.watch, pace=pace) for one in task.tables]
        details = {"compression": programs.compression(found)}
        return Taken(objects=tuple(objects), tables=tuple(sums), details=details)

    def _dump(self, task: Task, command: Sequence[str], name: str) -> StoredObject:
        environment = programs.environment(task.place.url, application_name=named("backup"))
        with task.begin(name) as copies:
            programs.read_from(command, environment, write=copies.write, watch=task.watch, pace=task.pace)
            return copies.finish()

    def verify(self, place: Place, backup: Backup, read: Read, watch: Watch) -> None:
        """pg_restore reads both archives to their ends; a flipped byte it does not always find, the SHA-256 does."""
        found = _programs_for(place, backup)
        for stored in backup.objects:
            command = [found / "pg_restore", "--file=/dev/null"]
            programs.write_to(command, programs.environment("", application_name=""), read(stored.name), watch=watch)

    def restore(
        self, place: Place, backup: Backup, read: Read, watch: Watch, *, only: Sequence[TableName] = ()
    ) -> Restored:
        with self.restored(place, backup, read, watch, only=only) as (url, warnings):
            session = open_session_at(url, application_name=named("backup"), settings=contents.SESSION)
            with session:
                names = [TableName.parse(one.table) for one in backup.tables]
                held = contents.tables(session, [name for name in names if not only or name in only])
                return Restored(
                    tables=tuple(checksums.checksum(session, one, watch) for one in held), warnings=warnings
                )

    @contextmanager
    def restored(
        self, place: Place, backup: Backup, read: Read, watch: Watch, *, only: Sequence[TableName] = ()
    ) -> Iterator[tuple[str, str]]:
        """The URL of a scratch database with the rows of a backup, and what pg_restore complained about. Raises BackupFailed.

        What the definitions ask for may be missing there, an extension say: that is a warning. Whether the rows could be restored
        all the same, and all of them, is for the comparison to say.
        """
        found = _programs_for(place, backup)
        size = sum(one.bytes for one in backup.tables)
        with scratch.server(found, encoding=_encoding(backup), needs_bytes=size, watch=watch) as url:
            environment = programs.environment(url, application_name=named("backup"))
            restore = [found / "pg_restore", "--dbname=postgres", "--no-password"]
            quiet = ["--no-owner", "--no-privileges", "--no-tablespaces", "--no-publications", "--no-subscriptions"]
            warnings = programs.write_to(
                [*restore, *quiet, "--no-security-labels", "--section=pre-data"],
                environment,
                read(DEFINITIONS),
                watch=watch,
                may_fail=True,
            )
            chosen = [part for one in only for part in (f"--schema={one.schema}", f"--table={one.name}")]
            try:
                programs.write_to(
                    [*restore, "--section=data", "--exit-on-error", *chosen], environment, read(ROWS), watch=watch
                )
            except BackupFailed as exc:
                because = f"; before that: {warnings}" if warnings else ""
                msg = f"its rows cannot be restored: {exc}{because}"
                raise BackupFailed(msg) from exc
            yield url, warnings


def _programs_for(place: Place, backup: Backup) -> programs.Programs:
    """Raises NotHere also for those that cannot read what others have compressed."""
    found = programs.find(place.settings.programs, server_major=(backup.server_version or 0) // 10_000)
    if backup.details.get("compression") == "zstd:1" and programs.compression(found) != "zstd:1":
        msg = f"backup {backup.backup} is compressed with zstd, and {found.version} in {found.folder} was built without it"
        raise NotHere(msg)
    return found


def _encoding(backup: Backup) -> str:
    return str(backup.details.get("encoding", "UTF8"))


def _pattern(name: str) -> str:
    """A name as pg_dump takes it for exactly that: in quotes, where nothing else is special."""
    return '"' + name.replace('"', '""') + '"'


def _table_pattern(table: TableName) -> str:
    return f"{_pattern(table.schema)}.{_pattern(table.name)}"
