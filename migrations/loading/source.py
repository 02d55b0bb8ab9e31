"""A file on this machine that is loaded: its head, and its bytes from any offset on."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.loading.records import Format

if TYPE_CHECKING:
    from backfilld.migrations.file.operations import Source

#: As much is read to learn what a file is like.
HEAD_BYTES = 256 * 1024
#: Of one read. A chunk of about that size is one transaction.
BLOCK_BYTES = 2 * 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Head:
    """What the beginning of a file tells."""

    fields: tuple[str, ...]
    #: Bytes before the first record: of a byte order mark and a header.
    begin: int
    #: Of the file as it lies there.
    bytes_total: int
    #: About how many records it holds.
    lines: int

    @property
    def header_lines(self) -> int:
        return int(self.begin > len(_BYTE_ORDER_MARK))


def format_of(source: Source) -> Format:
    """How the records of a source lie in its file."""
    return Format(delimiter=source.delimiter if source.format == "csv" else None)


def read_head(source: Source) -> Head:
    """Raises Refused for a file that cannot be read, or that has no header where it should have one."""
    try:
        with Opened.of(source) as opened:
            content = opened.read(HEAD_BYTES)
            at, total = opened.position, opened.bytes_total
    except (OSError, EOFError) as exc:
        raise unreadable(source, exc) from exc
    whole = len(content) < HEAD_BYTES
    begin = len(_BYTE_ORDER_MARK) if content.startswith(_BYTE_ORDER_MARK) else 0
    records, end = format_of(source).cut(content[begin:], at_end=whole)
    if not records:
        raise _refused(source, "the file is empty, or its first record does not end", "Name a file with records in it")
    fields, header = _fields(source, records[0].content), 0
    if source.format == "csv" and source.header:
        header = len(records[0].content)
    count = len(records) - bool(header)
    share = (total / at) if at else 1.0
    lines = count if whole else round(count * share * len(content) / max(end, 1))
    return Head(fields=fields, begin=begin + header, bytes_total=total, lines=max(lines, count))


def _fields(source: Source, first: bytes) -> tuple[str, ...]:
    """The names of the fields. Raises Refused."""
    try:
        text = first.decode()
        if source.format == "ndjson":
            found = json.loads(text)
            names = tuple(found) if isinstance(found, dict) else ()
        elif source.header:
            names = tuple(next(csv.reader(io.StringIO(text, newline=""), delimiter=source.delimiter)))
        else:
            return source.fields or ()
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as exc:
        raise _refused(
            source, f"its first record cannot be read: {exc}", "Write it in UTF-8, as the format says"
        ) from exc
    if not names or not all(names) or len({*names}) < len(names):
        problem = (
            "its first line does not name each field once"
            if source.format == "csv"
            else "its first line is no JSON object"
        )
        remedy = "Give every field a name of its own; a file without a header has `header: false` and `fields: [...]`"
        raise _refused(source, problem, remedy)
    return names


def _refused(source: Source, problem: str, remedy: str) -> Refused:
    return Refused([Finding("source", f"{source.name}: {problem}", remedy)])


def unreadable(source: Source, exc: Exception) -> Refused:
    """The file is not there, or not what it says it is."""
    reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return _refused(
        source,
        f"the file cannot be read: {reason}",
        "Put it where the migration says, as seen from the folder in which backfilld is called, and enqueue the migration again",
    )


class Opened:
    """A file that is read, unpacked where it is packed, with the digest of what was read."""

    def __init__(self, raw: BinaryIO, content: BinaryIO, *, bytes_total: int) -> None:
        self._raw = raw
        self._content = content
        self._digest = hashlib.sha256()
        #: Of the file as it lies there.
        self.bytes_total = bytes_total

    @classmethod
    def of(cls, source: Source) -> Self:
        """Raises OSError."""
        path = Path(source.name)
        raw = path.open("rb")
        content = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        return cls(raw, content, bytes_total=path.stat().st_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._content.close()
        self._raw.close()

    @property
    def position(self) -> int:
        """How many bytes of the file as it lies there were read."""
        return self._raw.tell()

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end. Raises OSError, and EOFError for a packed file that is cut off."""
        parts = []
        while size > 0 and (part := self._content.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def pass_over(self, size: int) -> str:
        """Read so many bytes that were read before; returns the digest of all that the file has up to there."""
        while size > 0:
            part = self.read(min(size, BLOCK_BYTES))
            if not part:
                return ""
            self.take(part)
            size -= len(part)
        return self.digest

    def take(self, content: bytes) -> None:
        """What was read is done with, and belongs to the digest."""
        self._digest.update(content)

    @property
    def digest(self) -> str:
        return self._digest.copy().hexdigest()
