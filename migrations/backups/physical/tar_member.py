"""One file of a tar archive, read while the archive flows by on its way to the stores."""

from __future__ import annotations

import tarfile

_BLOCK = tarfile.BLOCKSIZE


class TarMember:
    """Looks for a file in an archive that comes in pieces of any size."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._header = bytearray()
        #: What is left of the file at hand, its filling up to whole blocks included.
        self._left = 0
        self._wanted = 0
        self._found = bytearray()
        self.content: bytes | None = None

    def feed(self, part: bytes) -> None:
        """Raises tarfile.TarError for what is no archive."""
        view = memoryview(part)
        while view:
            if self._left:
                taken = view[: self._left]
                if self._wanted:
                    self._found += taken[: self._wanted]
                    self._wanted -= min(len(taken), self._wanted)
                    if not self._wanted:
                        self.content = bytes(self._found)
                self._left -= len(taken)
                view = view[len(taken) :]
                continue
            missing = _BLOCK - len(self._header)
            self._header += view[:missing]
            view = view[missing:]
            if len(self._header) == _BLOCK:
                self._begin(bytes(self._header))
                self._header.clear()

    def _begin(self, header: bytes) -> None:
        if not header.strip(b"\0"):
            return  # the end of the archive
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if member.isreg():
            self._left = -(-member.size // _BLOCK) * _BLOCK
            if member.name == self._name:
                self._wanted = member.size
                self.content = None if member.size else b""
