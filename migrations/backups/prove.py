"""Looking at a backup: every copy read back, and the rows restored elsewhere and compared. One that is none is told so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backfilld.migrations.backups import checksums, copies
from backfilld.migrations.backups.place import BackupFailed, NotHere, NotWhole
from backfilld.migrations.backups.providers.external import External
from backfilld.migrations.backups.providers.named import provider_named
from backfilld.migrations.backups.take import in_words
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.record import backups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.base import Read
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup
    from backfilld.migrations.stores.base import Store


class BadBackup(BackupFailed):
    """A backup is not what was written, or does not hold the rows that were there: it is on record as failed."""


def verify(place: Place, number: int, watch: Watch) -> Backup:
    """Read every object of every copy back. Raises BadBackup, StoreFailed where a store is away, and what the watch raises."""
    backup = _taken(place, number)
    provider = provider_named(backup.provider)
    if isinstance(provider, External):
        _have_verified(provider, place, backup, watch)
        return _known(place, number, backups.verified)
    stores = place.stores_of(backup)
    try:
        for store in stores[1:]:
            _read_all(store, backup, watch)
        first = stores[0]
        copies.manifest_of(b"".join(first.read(f"{backup.label}/{copies.MANIFEST}")))
        provider.verify(place, backup, _reader(first, backup, watch), watch)
    except NotHere:
        raise
    except BackupFailed as exc:
        raise _bad(place, backup, exc) from exc
    return _known(place, number, backups.verified)


def prove(place: Place, number: int, watch: Watch) -> Backup:
    """Restore it into a scratch server, and compare the rows with those of its snapshot; verify it first where nobody has.

    Raises BadBackup, BackupFailed where it cannot be restored here, StoreFailed, and what the watch raises.
    """
    backup = _taken(place, number)
    if backup.verified_at is None:
        backup = verify(place, number, watch)
    provider = provider_named(backup.provider)
    began = time.monotonic()
    restored = provider.restore(place, backup, reader(place, backup, watch), watch)
    comparable = [one for one in backup.tables if one.table not in restored.not_compared]
    if told := checksums.differences(comparable, restored.tables):
        raise _bad(place, backup, BackupFailed(f"restored, it is not what was saved: {'; '.join(told)}"))
    proof = {
        "seconds": round(time.monotonic() - began, 1),
        "tables": [vars(one) for one in restored.tables],
        "warnings": restored.warnings,
        **({"not_compared": dict(restored.not_compared)} if restored.not_compared else {}),
    }
    return _known(place, number, lambda record, number: backups.proved(record, number, proof))


def reader(place: Place, backup: Backup, watch: Watch) -> Read:
    """Reads the objects of a backup from the first of its stores; one that a provider keeps itself has none."""
    stores = place.stores_of(backup)
    return _reader(stores[0], backup, watch) if stores else _no_objects


def _reader(store: Store, backup: Backup, watch: Watch) -> Read:
    stored = {one.name: one for one in backup.objects}

    def read(name: str) -> Iterator[bytes]:
        return copies.read_back(store, backup.label, stored[name], watch)

    return read


def _no_objects(name: str) -> Iterator[bytes]:
    raise LookupError(name)


def _read_all(store: Store, backup: Backup, watch: Watch) -> None:
    copies.manifest_of(b"".join(store.read(f"{backup.label}/{copies.MANIFEST}")))
    for stored in backup.objects:
        for _ in copies.read_back(store, backup.label, stored, watch):
            pass


def _taken(place: Place, number: int) -> Backup:
    with connected(place.url) as record:
        backup = backups.get(record, number)
    if backup is None:
        msg = f"there is no backup {number}"
        raise BackupFailed(msg)
    if backup.state != "taken" or not (backup.copies or backup.kind == "external"):
        why = f": {backup.error}" if backup.error else ""
        msg = f"backup {number} is {backup.state}{why}"
        raise BackupFailed(msg)
    return backup


def _known(place: Place, number: int, tell: Callable[[Connection, int], None]) -> Backup:
    with connected(place.url) as record:
        tell(record, number)
    return _taken(place, number)


def _have_verified(provider: External, place: Place, backup: Backup, watch: Watch) -> None:
    """What a provider says of a backup of its own is on record; that it cannot tell now is not the backup's fault."""
    try:
        provider.verify(place, backup, reader(place, backup, watch), watch)
    except NotWhole as exc:
        raise _bad(place, backup, exc) from exc


def _bad(place: Place, backup: Backup, exc: BackupFailed) -> BadBackup:
    with connected(place.url) as record:
        backups.failed(record, backup.backup, in_words(exc))
    return BadBackup(f"backup {backup.backup} is bad: {exc}")
