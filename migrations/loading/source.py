"""A source of bytes that is loaded: its head, and its bytes from any offset on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.loading import databases
from backfilld.migrations.loading.buckets import open_object
from backfilld.migrations.loading.objects import Object, open_file
from backfilld.migrations.loading.packed import told, unpacked
from backfilld.migrations.loading.parquet import ParquetReader, looks_like
from backfilld.migrations.loading.reader import Missing, Reader, Unknown, Unreadable
from backfilld.migrations.loading.records import Format

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backfilld.migrations.file.operations import Source
    from backfilld.migrations.source_settings import SourceSettings

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
    #: Fields that cannot be loaded, each with its type.
    nested: Mapping[str, str] = field(default_factory=dict)
    #: Fields of bytes, whose texts are those of bytea.
    binary: frozenset[str] = frozenset()

    @property
    def header_lines(self) -> int:
        return int(self.begin > len(_BYTE_ORDER_MARK))


def format_of(source: Source) -> Format:
    """How the records of a source lie in what is read of it."""
    if source.format == "parquet" or source.query is not None:  # CSV that is made here, or by a server
        return Format(delimiter=",", skips_blank=False)
    return Format(delimiter=source.delimiter if source.format == "csv" else None)


def open_source(source: Source, places: Sequence[SourceSettings] = (), *, version: str = "") -> Object:
    """The bytes of a source: of a file on this machine, or of an object in one of the `places`. Raises Unreadable."""
    if source.s3 is None:
        return open_file(source.name)
    place = _known_place(source, places)
    return open_object(place, _key_in(place, source), ahead=source.format != "parquet", version=version)


def _known_place(source: Source, places: Sequence[SourceSettings]) -> SourceSettings:
    """Raises Unknown."""
    place = place_of(source, places)
    if place is None:
        raise Unknown(source.place or "", ", ".join(one.name for one in places) or "none")
    return place


def place_of(source: Source, places: Sequence[SourceSettings]) -> SourceSettings | None:
    """Which of the places a source names."""
    by_name = next((one for one in places if one.name == source.place), None)
    return by_name or next((one for one in places if _is_below(one, source)), None)


def _is_below(place: SourceSettings, source: Source) -> bool:
    """Whether a source names the bucket by the bucket's own name, and an object of what may be read of it."""
    return place.bucket == source.place and source.s3 is not None and _key(source).startswith(_prefix(place))


def _key(source: Source) -> str:
    return (source.s3 or "").partition("/")[2]


def _key_in(place: SourceSettings, source: Source) -> str:
    """The key below the prefix of a place."""
    return _key(source) if place.name == source.place else _key(source).removeprefix(_prefix(place))


def _prefix(place: SourceSettings) -> str:
    return f"{place.prefix.rstrip('/')}/" if place.prefix else ""


def open_reader(source: Source, found: Object) -> Reader:
    """A reader at the beginning of a source. Raises Unreadable."""
    return ParquetReader(found) if source.format == "parquet" else TextReader(found)


def read_head(source: Source, places: Sequence[SourceSettings] = ()) -> Head:
    """Raises Refused for a source that cannot be read, or that has no header where it should have one."""
    try:
        with opened(source, places) as (head, _):
            return head
    except Unreadable as exc:
        raise unreadable(source, exc) from exc


@contextmanager
def opened(
    source: Source, places: Sequence[SourceSettings] = (), *, version: str = ""
) -> Iterator[tuple[Head, Reader]]:
    """What the beginning of a source tells, and a reader at the beginning.

    Raises Unreadable, and Refused where it has no header that it should have, or another than the migration says.
    """
    if source.database is not None:
        with databases.one_moment(_known_place(source, places)) as connection:
            with databases.told():
                fields, lines, width = databases.look(connection, source.query or "")
            _check_names(source, fields)
            _check_declared(source, fields)
            head = Head(fields=fields, begin=0, bytes_total=lines * width, lines=lines)
            with closing(
                databases.DatabaseReader(connection, source.query or "", bytes_expected=head.bytes_total)
            ) as rows:
                yield head, rows
        return
    found = open_source(source, places, version=version)
    with closing(found.raw):
        head = _head_of(source, open_reader(source, found))
        with told():
            found.raw.seek(0)
        yield head, open_reader(source, found)


def _head_of(source: Source, reader: Reader) -> Head:
    if isinstance(reader, ParquetReader):
        _check_names(source, reader.fields)
        _check_declared(source, reader.fields)
        return Head(
            fields=reader.fields,
            begin=0,
            bytes_total=reader.bytes_total,
            lines=reader.rows,
            nested=reader.nested,
            binary=frozenset(reader.binary),
        )
    content = reader.read(HEAD_BYTES)
    at, total = reader.position, reader.bytes_total
    if looks_like(content):
        raise _refused(source, "the file is one of Parquet", "Say so: format: parquet")
    whole = len(content) < HEAD_BYTES
    begin = len(_BYTE_ORDER_MARK) if content.startswith(_BYTE_ORDER_MARK) else 0
    records, end = format_of(source).cut(content[begin:], at_end=whole)
    if not records:
        raise _refused(source, "the file is empty, or its first record does not end", "Name a file with records in it")
    fields, header = _fields(source, records[0].content), 0
    if source.format == "csv" and source.header:
        _check_declared(source, fields)
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
            if source.fields is not None:
                return source.fields
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
    _check_names(source, names)
    return names


def _check_declared(source: Source, fields: tuple[str, ...]) -> None:
    """Raises Refused where the migration says which fields a source has, and it has others."""
    if source.fields is not None and source.fields != fields:
        raise _refused(
            source,
            f"its fields are {', '.join(fields)}, and `fields` says {', '.join(source.fields)}",
            "Write `fields` as the source has them, in that order",
        )


def _check_names(source: Source, names: tuple[str, ...]) -> None:
    """Raises Refused where a name is missing or stands for two fields."""
    if names and all(names) and len({*names}) == len(names):
        return
    problem = {
        "csv": "its first line does not name each field once",
        "ndjson": "its first line is no JSON object",
        "parquet": "it does not name each field once, or has none that can be loaded",
    }[source.format]
    remedy = "Give every field a name of its own"
    if source.query is not None:
        problem, remedy = (
            "two columns of the query have one name, or one has none",
            "Give each a name of its own, with AS",
        )
    elif source.format == "csv":
        remedy += "; a file without a header has `header: false` and `fields: [...]`"
    raise _refused(source, problem, remedy)


def _refused(source: Source, problem: str, remedy: str) -> Refused:
    return Refused([Finding("source", f"{source.name}: {problem}", remedy)])


def unreadable(source: Source, exc: Unreadable) -> Refused:
    """The file is not there, or not what it says it is."""
    if isinstance(exc, Missing | Unknown):
        return _refused(source, str(exc), exc.remedy)
    if source.is_read_by_a_worker:
        return _refused(
            source, f"it cannot be read: {exc}", "Put it there, or set the source up; then enqueue the migration again"
        )
    return _refused(
        source,
        f"the file cannot be read: {exc}",
        "Put it where the migration says, as seen from the folder in which backfilld is called, and enqueue the migration again",
    )


class TextReader(Reader):
    """A file of lines, unpacked where it is packed, with the digest of what was taken of it."""

    def __init__(self, found: Object) -> None:
        """Raises Unreadable."""
        self._object = found
        self._content = unpacked(found.raw, found.name)
        self._digest = hashlib.sha256()
        self.bytes_total = found.size

    @property
    def position(self) -> int:
        return self._object.raw.tell()

    @property
    def digest(self) -> str:
        return self._object.version or self._digest.copy().hexdigest()

    def pass_over(self, offset: int) -> str:
        if self._object.version and self._content is self._object.raw:
            with told():
                self.offset = self._object.raw.seek(offset)
        while self.offset < offset:
            part = self.read(min(offset - self.offset, BLOCK_BYTES))
            if not part:
                return ""
            self.take(part)
        return self.digest

    def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the end."""
        parts, left = [], size
        with told():
            while left > 0 and (part := self._content.read(left)):
                parts.append(part)
                left -= len(part)
        self.at_end = left > 0
        return b"".join(parts)

    def take(self, content: bytes) -> None:
        if not self._object.version:
            self._digest.update(content)
        self.offset += len(content)
