"""Providers that keep their backups in a place of their own: nothing of them goes through the stores, and their retention is theirs.

On record is a reference by which the provider finds a backup again, where it is kept, and evidence about it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from backfilld.migrations.backups import checksums, contents
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.providers.base import Restored, Taken
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import open_session_at
from backfilld.migrations.postgres.sessions import named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from backfilld.migrations.backup_settings import Level
    from backfilld.migrations.backups.contents import Held, Server
    from backfilld.migrations.backups.pacing import Pace
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.base import Mark, Read, Task
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup, Kind, TableSum


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A backup that a provider has taken and keeps. Any: JSON, and never a secret."""

    #: By which the provider finds it again.
    reference: str
    #: Where it is, for people.
    where: str
    bytes: int = 0
    #: The moment that it holds; None: when it began.
    at: datetime | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class External(ABC):
    """One way to have backups taken and kept elsewhere."""

    name: ClassVar[str]
    kind: ClassVar[Kind] = "external"
    #: It holds the whole server, whatever tables are asked for.
    whole: ClassVar[bool] = True
    #: Restored, it is recovered to the mark: rows can be compared with those of that moment.
    replays: ClassVar[bool] = False

    def joins(self, place: Place) -> bool:  # noqa: ARG002 - for those that do
        """Whether it joins a snapshot, which is held for as long as it works."""
        return False

    @abstractmethod
    def able(self, place: Place, server: Server) -> str:
        """The version of the tool, which was asked once. Raises BackupFailed, saying what is missing."""

    @abstractmethod
    def keep(self, task: Task) -> Kept:
        """Take one. Raises BackupFailed, and what the watch raises."""

    def settle(self, task: Task, kept: Kept, mark: Mark) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait until the WAL up to the mark is where a recovery finds it. Raises BackupFailed, and what the watch raises."""

    @abstractmethod
    def verify(self, place: Place, backup: Backup, read: Read, watch: Watch) -> None:
        """Have it looked at. Raises NotWhole where it is none, and BackupFailed where that cannot be told now."""

    def lacks(self, place: Place, connection: Connection, tables: Sequence[Held], level: Level) -> list[str]:
        """What would keep it from being proved: whoever cannot be compared with anything, or restored elsewhere."""
        del place, connection, tables
        if level == "proved" and not self.replays:
            return [
                f"the provider {self.name} cannot restore a backup elsewhere: verified is the most that can be required"
            ]
        return []

    @contextmanager
    def restored(
        self,
        place: Place,  # noqa: ARG002 - for those that can
        backup: Backup,  # noqa: ARG002 - as above
        read: Read,  # noqa: ARG002 - as above
        watch: Watch,  # noqa: ARG002 - as above
        *,
        only: Sequence[TableName] = (),  # noqa: ARG002 - as above
    ) -> Iterator[tuple[str, str]]:
        """The URL of a database that it was restored into, elsewhere and gone at the end. Raises BackupFailed."""
        msg = f"the provider {self.name} cannot restore a backup elsewhere: it can be verified, and not proved"
        raise BackupFailed(msg)
        yield "", ""

    def take(self, task: Task) -> Taken:
        """Have it taken; what it will be compared with is counted in the snapshot, or around the mark."""
        kept = self.keep(task)
        sums: tuple[TableSum, ...] = ()
        if task.snapshot:
            sums = _sums(task.session, task.tables, task.watch, task.pace)
        elif self.replays and task.compare and not task.everything:
            sums = _around_the_mark(task)
        mark = task.mark()
        self.settle(task, kept, mark)
        known = {
            "reference": kept.reference,
            "kept": kept.where,
            "mark_lsn": mark.lsn,
            "tables": [str(one.name) for one in task.tables],
        }
        return Taken(objects=(), tables=sums, details={**kept.details, **known}, at=kept.at, bytes=kept.bytes)

    def restore(
        self, place: Place, backup: Backup, read: Read, watch: Watch, *, only: Sequence[TableName] = ()
    ) -> Restored:
        """Tables whose rows are not on record are read to their ends: they were written just then, or nobody had named them."""
        with (
            self.restored(place, backup, read, watch, only=only) as (url, warnings),
            open_session_at(url, application_name=named("backup"), settings=contents.SESSION) as session,
        ):
            names = [TableName.parse(one) for one in backup.details.get("tables", ())]
            held = contents.tables(session, [name for name in names if not only or name in only])
            found = _sums(session, held, watch)
        compared = {one.table for one in backup.tables}
        read_only = [one.table for one in found if one.table not in compared]
        told = f"read, and not compared: {', '.join(read_only)}" if read_only else ""
        return Restored(tables=found, warnings="; ".join(part for part in (warnings, told) if part))


def _around_the_mark(task: Task) -> tuple[TableSum, ...]:
    """The rows of tables that have the same before and after the mark; what others held at the mark nobody knows."""
    with open_session_at(task.place.url, application_name=named("backup"), settings=contents.SESSION) as session:
        before = _sums(session, task.tables, task.watch, task.pace)
        task.mark()
        after = _sums(session, task.tables, task.watch, task.pace)
    return tuple(one for one, other in zip(before, after, strict=True) if one == other)


def _sums(session: Connection, held: Sequence[Held], watch: Watch, pace: Pace | None = None) -> tuple[TableSum, ...]:
    return tuple(checksums.checksum(session, one, watch, pace=pace) for one in held)
