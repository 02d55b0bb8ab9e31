"""What nobody will finish or needs any longer: backups whose process is gone are failed, and what the stores have of them is removed.

A database that was restored from a backup may have one on record as `taking` that was completed after its snapshot: its manifest is
there, and says so. It is taken, and never removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.backups import copies
from backfilld.migrations.backups.place import BackupFailed, Place
from backfilld.migrations.record import backups
from backfilld.migrations.record.backups import StoredObject, TableSum
from backfilld.migrations.stores.base import StoreFailed

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup

ABANDONED = "the process that took it is gone"


def abandoned(connection: Connection, place: Place) -> int:
    """Settle backups that nobody is at any more; returns how many were failed.

    Where a store cannot be asked, or is not this worker's, whether one is whole is not known: it is left for later.
    """
    failed = 0
    with connection.transaction():
        for number in backups.abandoned(connection):
            backup = backups.get(connection, number)
            if backup is None:
                continue
            try:
                raw = copies.manifest(place.stores_of(backup), backup.label)
            except (BackupFailed, StoreFailed):
                continue
            if raw is None or not _complete(connection, backup, raw):
                backups.failed(connection, number, ABANDONED)
                failed += 1
    return failed


def remove(connection: Connection, place: Place) -> int:
    """Remove from the stores what is none any more; what a store cannot do now is tried again. Returns how many are gone."""
    gone = 0
    for number in backups.to_remove(connection):
        backup = backups.get(connection, number)
        if backup is None:
            continue
        try:
            stores = place.stores_of(backup)
        except BackupFailed:
            continue  # another worker has the store
        if not copies.remove(stores, backup.label):
            backups.removed(connection, number)
            gone += 1
    return gone


def expire(connection: Connection, place: Place) -> list[int]:
    """Give up backups that nothing needs any longer; returns which. Never the newest, nor the newest proved one."""
    expired = backups.to_expire(connection)
    for number in expired:
        backups.expired(connection, number)
    remove(connection, place)
    return expired


def _complete(connection: Connection, backup: Backup, raw: bytes) -> bool:
    """Tell the record what a manifest says; False where that cannot be read."""
    try:
        found = copies.manifest_of(raw)
    except BackupFailed:
        return False
    return backups.taken(
        connection,
        backup.backup,
        tables=[TableSum(**one) for one in found["tables"]],
        objects=[StoredObject(**one) for one in found["objects"]],
        lsn_stop=found.get("lsn_stop"),
        details=found.get("details"),
        restore_point=found.get("restore_point"),
        restore_point_lsn=found.get("restore_point_lsn"),
        taken_at=backup.began_at,
    )
