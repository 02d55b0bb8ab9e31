"""What a provider of backups does: says whether it can, takes one, looks at it, and restores it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from backfilld.migrations.backups.pacing import Pace
from backfilld.migrations.errors import BackfilldError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from backfilld.migrations.backup_settings import Level
    from backfilld.migrations.backups.contents import Held, Server
    from backfilld.migrations.backups.copies import Copies
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup, Kind, StoredObject, TableSum

#: An object of a backup, piece by piece, as a store gives it back.
Read = Callable[[str], "Iterator[bytes]"]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A moment in the WAL up to which a physical backup is recovered: all that had committed before it, and nothing that did after."""

    #: Of a restore point; None where the role may make none.
    name: str | None
    lsn: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A backup that is being taken."""

    place: Place
    server: Server
    number: int
    label: str
    #: Whatever run it is taken for.
    run: int | None
    #: What it is based on; None: it is a whole one.
    parent: Backup | None
    #: Holds the backup, in a transaction; with the snapshot, unless the provider is `Chained`.
    session: Connection
    #: The name of the snapshot, for other sessions; empty where there is none.
    snapshot: str
    #: Tables whose rows are to be in it.
    tables: Sequence[Held]
    #: Every table of the database.
    everything: bool
    #: Begins an object, in all stores.
    begin: Callable[[str], Copies]
    #: Makes the mark, once; it is made after `take` where that does not.
    mark: Callable[[], Mark]
    watch: Watch
    #: Of what is written, and of what is read for checksums.
    pace: Pace = field(default_factory=Pace)
    #: It is to be proved, so what it will be compared with must be known.
    compare: bool = True


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a provider has written."""

    objects: tuple[StoredObject, ...]
    tables: tuple[TableSum, ...]
    #: The provider's own, for the record and the manifest. Any: JSON.
    details: Mapping[str, Any] = field(default_factory=dict)
    #: The moment that it holds; None: that of the snapshot, or when it began.
    at: datetime | None = None
    #: None: those of the objects.
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was found in what a backup gave back."""

    tables: tuple[TableSum, ...]
    #: What the tool complained about that has nothing to do with the rows.
    warnings: str
    #: Tables that cannot be compared, and why: rows of theirs were written in between.
    not_compared: Mapping[str, str] = field(default_factory=dict)


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


@runtime_checkable
class Chained(Protocol):
    """A provider whose backups may be based on others, and which needs no snapshot while it copies."""

    def based_on(self, place: Place, record: Connection, server: Server, known: Sequence[Backup]) -> Backup | None:
        """What the next backup is based on; None: a whole one is due. `known` are those that were taken, the newest first."""


class ChainBroken(BackfilldError):
    """An incremental backup cannot be taken any more; a whole one can."""


@runtime_checkable
class Foreseeing(Protocol):
    """A provider that knows beforehand what a backup, or its proof, would lack here."""

    def lacks(self, place: Place, connection: Connection, tables: Sequence[Held], level: Level) -> list[str]:
        """What is missing beside what `able` asks for, each with what helps; nothing is taken."""


@runtime_checkable
class Restoring(Protocol):
    """A provider that can show what a backup holds on a scratch server."""

    def restored(
        self, place: Place, backup: Backup, read: Read, watch: Watch, *, only: Sequence[TableName] = ()
    ) -> AbstractContextManager[tuple[str, str]]:
        """The URL of the database on a scratch server, and what the tool complained about. Raises BackupFailed."""
