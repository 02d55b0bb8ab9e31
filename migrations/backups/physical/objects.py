"""The objects of a physical backup: compressed on their way out, unpacked on their way back."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from backfilld.migrations.backups.place import BackupFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


#: All of a data folder, as pg_basebackup writes it; its manifest is in it too.
DATA = "data.tar.gz"
#: The WAL from the beginning of the backup to its mark: with it the backup needs nothing else.
WAL = "wal.tar.gz"
#: What the next incremental backup is taken against.
BACKUP_MANIFEST = "backup_manifest"

#: gzip's quickest: a fifth of the size for a tenth of the processor that the best takes. It is the worker's processor, not the server's.
_LEVEL = 1
_AS_GZIP = 31
_READ_BYTES = 128 * 1024


class Compressed(io.RawIOBase):
    """Compresses what is written to it, and hands it on; nothing is on its way any more once it is closed."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _AS_GZIP)
        self.plain_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, part: bytes) -> int:  # type: ignore[override] # bytes are all that comes
        self.plain_bytes += len(part)
        if smaller := self._compressor.compress(part):
            self._write(smaller)
        return len(part)

    def finish(self) -> None:
        """To be called at the end of what is whole: `close` alone leaves it cut off."""
        self._write(self._compressor.flush())


class _Plain(io.RawIOBase):
    """What comes compressed in parts, to be read as a stream.

    Never more is unpacked than is asked for: tarfile copies what is left over at each read, and a megabyte of pages that are mostly
    empty unpacks to hundreds.
    """

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = iter(parts)
        self._decompressor = zlib.decompressobj(_AS_GZIP)

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes; empty at the end. Raises zlib.error, EOFError where it is cut off, and what the parts raise."""
        waiting = self._decompressor.unconsumed_tail
        while not self._decompressor.eof:
            if not waiting:
                waiting = next(self._parts, b"")
                if not waiting:
                    msg = "it is cut off"
                    raise EOFError(msg)
            if plain := self._decompressor.decompress(waiting, max(size, 1)):
                return plain
            waiting = self._decompressor.unconsumed_tail
        return b""

    def drain(self) -> None:
        """Read to the end: what gives the parts compares their digest there."""
        while self.read(_READ_BYTES):
            pass
        for _ in self._parts:
            pass


def unpack(parts: Iterable[bytes], into: Path) -> None:
    """Unpack an object into a folder, which is made. Raises BackupFailed, and what reading the parts raises."""
    into.mkdir(mode=0o700)
    with _archive(parts) as archive:
        archive.extractall(into, filter=_kept)  # noqa: S202 - `_kept` lets nothing out of the folder


def _kept(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """As it is, for us alone; nothing of it leads outside of the folder."""
    kept = tarfile.data_filter(member, path)
    return kept.replace(mode=0o700 if member.isdir() else 0o600, deep=False)


@contextmanager
def _archive(parts: Iterable[bytes]) -> Iterator[tarfile.TarFile]:
    source = _Plain(parts)
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=_READ_BYTES) as archive:
            yield archive
        source.drain()
    except (tarfile.TarError, zlib.error, EOFError) as exc:
        msg = f"it cannot be unpacked: {exc}"
        raise BackupFailed(msg) from exc
    except OSError as exc:
        msg = f"it cannot be unpacked: {exc.strerror or exc}"
        raise BackupFailed(msg) from exc


def pack(files: Iterable[tuple[str, IO[bytes]]], write: Callable[[bytes], None]) -> int:
    """Pack files under these names; returns their bytes. Raises what `write` and the files raise, and OSError."""
    compressed = Compressed(write)
    with tarfile.open(fileobj=compressed, mode="w|") as archive:
        for name, file in files:
            member = tarfile.TarInfo(name)
            member.size = os.fstat(file.fileno()).st_size
            archive.addfile(member, file)
    compressed.finish()
    return compressed.plain_bytes
