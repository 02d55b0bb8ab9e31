"""Files that are packed, as a stream of what they hold."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from backfilld.migrations.loading.reader import Missing, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Of what is packed, read at once. Fifteen bytes can hold 128 kB, and what these hold is in memory as a whole: so where much comes of a few,
#: fewer are read.
_LEAST_PACKED_BYTES, _MOST_PACKED_BYTES = 64, 4096
#: As much is to come of one read.
_LEAST_HELD_BYTES, _MOST_HELD_BYTES = 128 * 1024, 512 * 1024


class Content(Protocol):
    """What a packed file holds."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; none at the end."""


def unpacked(raw: BinaryIO, name: str) -> Content:
    """What a file of this name holds. Raises Unreadable."""
    if name.endswith(".gz"):
        return cast("Content", gzip.GzipFile(fileobj=raw))
    return _Unzstd(raw) if name.endswith(".zst") else raw


@contextmanager
def told() -> Iterator[None]:
    """Errors of reading and of unpacking are Unreadable."""
    try:
        yield
    except OSError as exc:
        raise Unreadable(exc.strerror or str(exc)) from exc
    except (EOFError, zlib.error) as exc:
        raise Unreadable(str(exc)) from exc


class _Unzstd:
    """A file of zstd: frames that follow one another, each of which must be whole. The package's own stream takes a file that is cut off
    for one that ends.
    """

    def __init__(self, raw: BinaryIO) -> None:
        try:
            import zstandard  # noqa: PLC0415 - of the extra `zstd`
        except ImportError:
            raise Missing("the file is packed with zstd", extra="zstd") from None
        self._broken = zstandard.ZstdError
        self._begin = zstandard.ZstdDecompressor
        self._raw = raw
        #: Any: the package names no type of it. None between two frames.
        self._frame: Any = None
        self._packed = b""
        self._held = b""
        self._at_once = _LEAST_PACKED_BYTES

    def read(self, size: int, /) -> bytes:
        try:
            while not self._held:
                self._packed = self._packed or self._raw.read(self._at_once)
                if not self._packed:
                    break
                self._frame = self._frame or self._begin().decompressobj()
                self._held, self._packed = self._frame.decompress(self._packed), b""
                if len(self._held) > _MOST_HELD_BYTES:
                    self._at_once = max(_LEAST_PACKED_BYTES, self._at_once // 4)
                elif len(self._held) < _LEAST_HELD_BYTES:
                    self._at_once = min(_MOST_PACKED_BYTES, self._at_once * 2)
                if self._frame.eof:
                    self._packed, self._frame = self._frame.unused_data, None
        except self._broken as exc:
            raise Unreadable(str(exc)) from exc
        if not self._held and self._frame is not None:
            raise Unreadable("the file ends in the middle of what is packed with zstd")
        found, self._held = self._held[:size], self._held[size:]
        return found
