"""A chain of backups as the stores have it: told by the manifests alone, for the day on which the record is lost with its database."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backfilld.migrations.backups import copies
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.record.backups import StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.backups.place import Watch
    from backfilld.migrations.stores.base import Store

#: No chain of ours is longer; a circle would be.
_LONGEST = 2000


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One backup in a store."""

    store: Store
    label: str
    #: Any: JSON.
    manifest: dict[str, Any]

    @property
    def details(self) -> dict[str, Any]:  # Any: JSON
        return dict(self.manifest["details"])

    @property
    def major(self) -> int:
        return int(self.manifest["server_version"]) // 10_000

    def read(self, name: str, watch: Watch) -> Iterator[bytes]:
        """An object of it. Raises BackupFailed where it has none, or at the end where it is not what was written; StoreFailed."""
        for one in self.manifest["objects"]:
            if one["name"] == name:
                return copies.read_back(self.store, self.label, StoredObject(**one), watch)
        msg = f"{self.label} in store {self.store.name} has no {name}"
        raise BackupFailed(msg)


def one(store: Store, label: str) -> Saved:
    """Raises BackupFailed, and StoreFailed where it is not there."""
    manifest = copies.manifest_of(b"".join(store.read(f"{label}/{copies.MANIFEST}")))
    if missing := {"details", "server_version", "system_identifier", "timeline"} - manifest.keys():
        msg = f"{label} in store {store.name} is no physical backup: its manifest has no {min(missing)}"
        raise BackupFailed(msg)
    return Saved(store=store, label=label, manifest=manifest)


def chain(store: Store, label: str) -> list[Saved]:
    """A backup and those that it is based on, the whole one first. Raises BackupFailed, and StoreFailed where one is not there."""
    found = [one(store, label)]
    while (parent := found[0].manifest.get("parent")) is not None:
        found.insert(0, one(store, str(parent)))
        if len(found) > _LONGEST:
            msg = f"{label} in store {store.name} is based on itself"
            raise BackupFailed(msg)
    return found


def of_provider(store: Store, provider: str) -> list[Saved]:
    """The whole backups of a provider in a store, the newest first; one whose manifest cannot be read is none. Raises StoreFailed."""
    found = []
    for key in store.keys(""):
        if key.endswith(f"/{copies.MANIFEST}"):
            with suppress(BackupFailed):
                found.append(one(store, key.removesuffix(f"/{copies.MANIFEST}")))
    wanted = [one for one in found if one.manifest.get("provider") == provider]
    return sorted(wanted, key=lambda one: str(one.manifest["snapshot_at"]), reverse=True)
