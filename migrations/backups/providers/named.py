"""The providers, by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.providers.barman import Barman
from backfilld.migrations.backups.providers.command import Command
from backfilld.migrations.backups.providers.pg_basebackup import PgBasebackup
from backfilld.migrations.backups.providers.pg_dump import PgDump
from backfilld.migrations.backups.providers.pgbackrest import PgBackRest
from backfilld.migrations.backups.providers.supabase import Supabase

if TYPE_CHECKING:
    from backfilld.migrations.backups.providers.base import Provider

_ALL: tuple[Provider, ...] = (PgDump(), PgBasebackup(), Barman(), PgBackRest(), Command(), Supabase())
_PROVIDERS = {one.name: one for one in _ALL}


def provider_named(name: str) -> Provider:
    """Raises BackupFailed for one that this release does not have."""
    if name not in _PROVIDERS:
        msg = f"there is no provider {name}; there are {', '.join(_PROVIDERS)}"
        raise BackupFailed(msg)
    return _PROVIDERS[name]
