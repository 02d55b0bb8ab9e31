"""What a provider of backups does: says whether it can, takes one, looks at it, and restores it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from backfilld.migrations.backups.contents import Held, Server
    from backfilld.migrations.backups.copies import Copies
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup, Kind, StoredObject, TableSum

#: An object of a backup, piece by piece, as a store gives it back.
Read = Callable[[str], "Iterator[bytes]"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A backup that is being taken."""

    place: Place
    server: Server
    #: Holds the backup, in a transaction with the snapshot.
    session: Connection
    #: The name of the snapshot, for other sessions.
    snapshot: str
    #: Tables whose rows are to be in it.
    tables: Sequence[Held]
    #: Every table of the database.
    everything: bool
    #: Begins an object, in all stores.
    begin: Callable[[str], Copies]
    watch: Watch


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a provider has written."""

    objects: tuple[StoredObject, ...]
    tables: tuple[TableSum, ...]


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was found in what a backup gave back."""

    tables: tuple[TableSum, ...]
    #: What the tool complained about that has nothing to do with the rows.
    warnings: str


class Provider(Protocol):
    """One way to take backups."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    def able(self, place: Place, server: Server) -> str:
        """The version of the tool, which was run once. Raises BackupFailed, saying what is missing."""

    def take(self, task: Task) -> Taken:
        """Write the objects. Raises BackupFailed, StoreFailed, psycopg.Error, and what the watch raises."""

    def verify(self, place: Place, backup: Backup, read: Read, watch: Watch) -> None:
        """Read every object once and look whether it is one of the tool's. Raises BackupFailed."""

    def restore(
        self, place: Place, backup: Backup, read: Read, watch: Watch, *, only: Sequence[TableName] = ()
    ) -> Restored:
        """Restore into a scratch server, and count what is there. Raises BackupFailed."""

    def restored(
        self, place: Place, backup: Backup, read: Read, watch: Watch, *, only: Sequence[TableName] = ()
    ) -> AbstractContextManager[tuple[str, str]]:
        """The URL of a scratch database with the rows, gone at the end, and what the tool complained about. Raises BackupFailed."""
