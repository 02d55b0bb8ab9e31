"""A store that is a folder: a disk of the worker's host, or a network's."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from backfilld.migrations.stores.base import CHUNK_BYTES, StoreFailed, checked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: What is being written has this in its name; no key ends so, as it has a `~`.
_PARTIAL = "~partial"


@dataclass(frozen=True, kw_only=True)
class FolderStore:
    """Objects are files below one folder, readable by this user alone."""

    name: str
    path: Path
    region: str = ""

    def begin(self, key: str) -> FolderWriter:
        final = self._place(key)
        with _told(self.name):
            final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = final.with_name(f"{final.name}.{secrets.token_hex(4)}{_PARTIAL}")
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            return FolderWriter(self.name, os.fdopen(descriptor, "wb"), partial, final)

    def read(self, key: str) -> Iterator[bytes]:
        with _told(self.name), self._place(key).open("rb") as file:
            while part := file.read(CHUNK_BYTES):
                yield part

    def remove(self, folder: str) -> None:
        place = self._place(folder)
        with _told(self.name), suppress(FileNotFoundError):
            shutil.rmtree(place)
        with suppress(OSError):  # those above it, once they are empty
            for above in place.relative_to(self.path).parents[:-1]:
                (self.path / above).rmdir()

    def keys(self, prefix: str) -> list[str]:
        with _told(self.name):
            found = (str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file())
            return sorted(key for key in found if key.startswith(prefix) and not key.endswith(_PARTIAL))

    def _place(self, key: str) -> Path:
        return self.path / checked(self.name, key)


class FolderWriter:
    """A file beside its place, renamed once it is on disk."""

    def __init__(self, store: str, file: IO[bytes], partial: Path, final: Path) -> None:
        self._store, self._file, self._partial, self._final = store, file, partial, final

    def write(self, part: bytes) -> None:
        with _told(self._store):
            self._file.write(part)

    def finish(self) -> None:
        with _told(self._store):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.rename(self._final)
            folder = os.open(self._final.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def abort(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)


@contextmanager
def _told(store: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StoreFailed(store, f"{exc.strerror or exc}{f': {exc.filename}' if exc.filename else ''}") from exc
