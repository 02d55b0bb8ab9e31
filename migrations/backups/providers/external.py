"""Providers that keep their backups in a place of their own: nothing of them goes through the stores, and their retention is theirs.

What is on record is a reference by which the provider finds one again, and evidence about it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from backfilld.migrations.backups.place import BackupFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from backfilld.migrations.backups.contents import Server
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.record.backups import Backup, Kind


@dataclass(frozen=True, kw_only=True)
class Task:
    """A backup that a provider is to take."""

    place: Place
    server: Server
    backup: int
    label: str
    run: int | None
    #: Whose rows are wanted; none: those of all tables.
    tables: Sequence[TableName]
    #: The tables that hold those rows, partitions in place of their table.
    holds: Sequence[str]
    #: When it began, by the clock of the database; its row was committed after that.
    began_at: datetime
    #: The name of a snapshot that it may join; None where it asks for none.
    snapshot: str | None
    watch: Watch


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a provider has taken. Any: JSON, and never a secret."""

    #: By which the provider finds it again.
    reference: str
    #: Where it is, for people.
    kept: str
    bytes: int = 0
    #: The moment that it holds; None: when it began.
    at: datetime | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class External(ABC):
    """One way to have backups taken elsewhere."""

    name: ClassVar[str]
    kind: ClassVar[Kind] = "external"
    #: It holds the whole server, whatever tables are asked for.
    whole: ClassVar[bool] = True
    #: Rows of it can be compared at the restore point: it replays the WAL up to there.
    replays: ClassVar[bool] = False

    def wants_snapshot(self, place: Place) -> bool:  # noqa: ARG002 - for those that override it
        """Whether a snapshot is held for it while it works."""
        return False

    @abstractmethod
    def able(self, place: Place, server: Server) -> str:
        """The version of the tool, which was asked once. Raises BackupFailed, saying what is missing."""

    @abstractmethod
    def take(self, task: Task) -> Taken:
        """Take one. Raises BackupFailed, and what the watch raises."""

    def settle(self, task: Task, taken: Taken) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait until the WAL up to now is where a recovery finds it. Raises BackupFailed, and what the watch raises."""

    @abstractmethod
    def verify(self, place: Place, backup: Backup, watch: Watch) -> None:
        """Have it looked at. Raises NotWhole where it is none, and BackupFailed where that cannot be told now."""

    @contextmanager
    def restored(self, place: Place, backup: Backup, watch: Watch) -> Iterator[str]:  # noqa: ARG002 - for those that override it
        """The URL of a database that it was restored into, elsewhere, and that is gone at the end. Raises BackupFailed."""
        msg = f"the provider {self.name} cannot restore a backup elsewhere, so it can be verified and not proved"
        raise BackupFailed(msg)
        yield ""
