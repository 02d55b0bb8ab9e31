"""The objects of a backup, written to all of its stores in one pass, and read back from each."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.record.backups import StoredObject
from backfilld.migrations.stores.base import StoreFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from backfilld.migrations.backups.place import Watch
    from backfilld.migrations.stores.base import Store, Writer

#: Written last: an object of this name says that the backup is whole, and what it holds.
MANIFEST = "manifest.json"


class Copies:
    """One object on its way to several stores: each piece goes to all of them, and is hashed once.

    Leaving it without `finish` forgets what was written.
    """

    def __init__(self, stores: Sequence[Store], label: str, name: str) -> None:
        """Raises StoreFailed."""
        self._name = name
        self._digest = hashlib.sha256()
        self.bytes = 0
        self._writers: list[Writer] = []
        try:
            for store in stores:
                self._writers.append(store.begin(f"{label}/{name}"))
        except BaseException:
            self._abort()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._abort()

    def write(self, part: bytes) -> None:
        """Raises StoreFailed when one of the stores does: a backup that lacks a copy is not the one that was asked for."""
        self._digest.update(part)
        self.bytes += len(part)
        for writer in self._writers:
            writer.write(part)

    def finish(self) -> StoredObject:
        for writer in self._writers:
            writer.finish()
        self._writers = []
        return StoredObject(name=self._name, bytes=self.bytes, sha256=self._digest.hexdigest())

    def _abort(self) -> None:
        for writer in self._writers:
            writer.abort()
        self._writers = []


def read_back(store: Store, label: str, stored: StoredObject, watch: Watch | None = None) -> Iterator[bytes]:
    """An object of a backup, piece by piece. Raises BackupFailed at its end when it is not what was written, and StoreFailed."""
    digest, size = hashlib.sha256(), 0
    for part in store.read(f"{label}/{stored.name}"):
        digest.update(part)
        size += len(part)
        if watch is not None:
            watch()
        yield part
    where = f"{stored.name} in store {store.name}"
    if size != stored.bytes:
        msg = f"{where} has {size} bytes, and {stored.bytes} were written"
        raise BackupFailed(msg)
    if digest.hexdigest() != stored.sha256:
        msg = f"{where} is not what was written: its SHA-256 is another"
        raise BackupFailed(msg)


def remove(stores: Sequence[Store], label: str) -> list[StoreFailed]:
    """Remove a backup, whole or not; returns what the stores could not do."""
    failed = []
    for store in stores:
        try:
            store.remove(label)
        except StoreFailed as exc:
            failed.append(exc)
    return failed


def manifest(stores: Sequence[Store], label: str) -> bytes | None:
    """The manifest of a backup, from the first store that has one; None where all say that there is none. Raises StoreFailed."""
    key, problem = f"{label}/{MANIFEST}", None
    for store in stores:
        try:
            if key in store.keys(key):
                return b"".join(store.read(key))
        except StoreFailed as exc:
            problem = exc
    if problem is not None:
        raise problem
    return None


def manifest_of(raw: bytes) -> dict[str, Any]:  # Any: JSON
    """What a manifest says. Raises BackupFailed for one that is none."""
    try:
        found = json.loads(raw)
        return {"tables": found["tables"], "objects": found["objects"], **found}
    except (ValueError, KeyError, TypeError) as exc:
        msg = f"its manifest cannot be read: {exc}"
        raise BackupFailed(msg) from exc
