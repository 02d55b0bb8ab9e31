"""Where backups are made from and kept: a database, the settings of this process, and the stores they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from backfilld.migrations.backup_settings import BackupSettings, StoreSettings, seconds_of
from backfilld.migrations.errors import BackfilldError, UsageError
from backfilld.migrations.stores.opened import open_stores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backfilld.migrations.record.backups import Backup
    from backfilld.migrations.settings import Settings
    from backfilld.migrations.stores.base import Store

#: Asked about three times a second while something lasts: raises to stop it, and returns why it must wait, or None.
Watch: TypeAlias = "Callable[[], str | None]"

#: What is held for longer than this by the load, with a snapshot open that keeps vacuum from its work, had better be begun anew.
MOST_HELD_SECONDS = 600.0
#: How often a watch is asked.
LOOK_SECONDS = 0.3


class BackupFailed(BackfilldError):
    """A backup could not be taken, or is none; the message says what is wrong with it, and what would help."""


class NotHere(BackupFailed):
    """What this process lacks keeps it from looking at a backup; that says nothing about the backup."""


class NotWhole(BackupFailed):
    """A backup was looked at, and is not what was taken."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One database and the settings of this process."""

    url: str = field(repr=False)
    settings: BackupSettings
    stores: tuple[StoreSettings, ...]
    #: How long a snapshot of a dump may be held: what the governor would stop all work for.
    most_seconds: float = 6 * 3600.0

    @classmethod
    def of(cls, settings: Settings) -> Place:
        """Raises InvalidSettings without a database."""
        limit = settings.limits.snapshot_age_seconds
        most = {} if limit is None else {"most_seconds": limit.hard}
        return cls(url=settings.require_database(), settings=settings.backup, stores=settings.stores, **most)

    @classmethod
    def of_stores(cls, settings: Settings) -> Place:
        """Without the database: it may be lost."""
        return cls(url="", settings=settings.backup, stores=settings.stores)

    @property
    def keep_seconds(self) -> float:
        return seconds_of(self.settings.keep)

    @property
    def keeps(self) -> bool:
        """Whether this process has a place for backups: stores, or one of the provider's own."""
        return bool(self.stores) or self.settings.keeps_its_own

    def stores_for(self, copies: Sequence[str] = ()) -> list[Store]:
        """The stores that a new backup is copied to. Raises BackupFailed where there is none, or one is not there."""
        return self._required(copies or self.settings.copies)

    def every_store(self, names: Sequence[str] = ()) -> list[Store]:
        """The stores of these names, or all. Raises BackupFailed where there is none."""
        return self._required(names)

    def stores_of(self, backup: Backup) -> list[Store]:
        """The stores that have a copy of it. Raises BackupFailed where this process does not know one of them."""
        return self._opened([copy.store for copy in backup.copies]) if backup.copies else []

    def _required(self, names: Sequence[str]) -> list[Store]:
        if not self.stores:
            msg = "no store is set in this process: set BACKFILLD_STORES, as docs/backup.md has it"
            raise BackupFailed(msg)
        return self._opened(names)

    def _opened(self, names: Sequence[str]) -> list[Store]:
        try:
            return open_stores(self.stores, names)
        except UsageError as exc:
            raise BackupFailed(str(exc)) from exc
