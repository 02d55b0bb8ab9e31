"""A Parquet file, read as CSV: row by row in batches, from any row on, without those columns that hold other columns.

pyarrow writes the CSV itself, six times as fast as rows would be built in Python. Every value is a text that PostgreSQL reads as the
same value, or refuses: days before the year 1, say, are errors in both notations.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backfilld.migrations.loading.packed import told
from backfilld.migrations.loading.reader import Missing, Reader, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.loading.objects import Object

#: The first bytes of every Parquet file, and the last.
MAGIC = b"PAR1"
#: Rows that pyarrow gives at once.
_BATCH_ROWS = 4096
#: Of each column, read at once: a row group may be larger than the memory.
_BUFFER_BYTES = 1024 * 1024
_FOOTER_BYTES = 8
_HASHED_AT_ONCE = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A row group: rows that lie together in the file."""

    first_byte: int
    end_byte: int
    first_row: int
    end_row: int


class ParquetReader(Reader):
    """The rows of a Parquet file; `offset` counts rows."""

    def __init__(self, source: Object) -> None:
        """Raises Unreadable."""
        try:
            import pyarrow as pa  # noqa: PLC0415 - of the extra `parquet`, and a quarter of a second
            from pyarrow import csv, parquet  # noqa: PLC0415 - comes with it
        except ImportError:
            raise Missing("the file is one of Parquet", extra="parquet") from None
        #: Any: pyarrow has no types.
        self._pa: Any = pa
        self._csv: Any = csv
        self._source = source
        self.bytes_total = source.size
        with self._told():
            self._file: Any = parquet.ParquetFile(source.raw, pre_buffer=False, buffer_size=_BUFFER_BYTES)
            self._schema: Any = self._file.schema_arrow
        #: Columns that hold several values in each row, or a kind of value that PostgreSQL has no text for, each with its type.
        self.nested: dict[str, str] = {}
        #: Columns of bytes.
        self.binary: set[str] = set()
        names = []
        self._leaves: list[int] = []
        leaf = 0
        for field in self._schema:
            kind, leaves = self._kind(field.type), _leaves(field.type)
            if kind is None:
                self.nested[field.name] = str(field.type)
            else:
                names.append(field.name)
                self._leaves.append(leaf)
            if kind == "bytes":
                self.binary.add(field.name)
            leaf += leaves
        self.fields = tuple(names)
        self.rows: int = self._file.metadata.num_rows
        self._groups = self._groups_of_file()
        self._hash = None if source.version else hashlib.sha256()
        self._hashed = 0
        self._read_rows = self._read_bytes = 0
        self._batches: Iterator[Any] = iter(())

    @property
    def position(self) -> int:
        for group in self._groups:
            if self._read_rows < group.end_row:
                share = (self._read_rows - group.first_row) / (group.end_row - group.first_row)
                return round(group.first_byte + (group.end_byte - group.first_byte) * share)
        return self.bytes_total

    @property
    def digest(self) -> str:
        """Of the file up to the end of the row group that was read last, and of what it tells of itself at its end."""
        if self._hash is None:
            return self._source.version
        with told():
            found = self._hash.copy()
            self._source.raw.seek(-_FOOTER_BYTES, io.SEEK_END)
            size = int.from_bytes(self._source.raw.read(4), "little")
            self._source.raw.seek(-_FOOTER_BYTES - size, io.SEEK_END)
            found.update(self._source.raw.read(size))
        return found.hexdigest()

    def pass_over(self, offset: int) -> str:
        self.offset = self._read_rows = offset
        self._hash_up_to(offset)
        self._batches = self._from(offset)
        return self.digest

    def read(self, size: int) -> bytes:
        content, ended = io.BytesIO(), False
        with self._told():
            while content.tell() < size and not ended:
                batch = next(self._batches, None)
                ended = batch is None
                if batch is not None:
                    self._write(batch, content)
                    self._read_rows += batch.num_rows
        self.at_end = ended or self._read_rows >= self.rows
        if self.at_end and self._read_rows != self.rows:
            raise Unreadable(f"{self._read_rows} of its {self.rows} rows can be read")
        self._read_bytes = content.tell()
        return content.getvalue()

    def take(self, content: bytes) -> None:
        """All that was read: each row is a record."""
        if len(content) != self._read_bytes:
            msg = f"{len(content)} of {self._read_bytes} bytes, which are whole records, were taken"
            raise ValueError(msg)
        self.offset = self._read_rows
        self._hash_up_to(self.offset)

    def place_of(self, start: int) -> None:
        """Its line is its row."""
        del start

    def _kind(self, type_: Any) -> str | None:  # Any: of pyarrow
        """What is done with values of a type; None: they have no text that PostgreSQL reads."""
        types, found = self._pa.types, None
        if isinstance(type_, self._pa.BaseExtensionType):
            inner = self._kind(type_.storage_type)
            found = ("uuid" if type_.extension_name == "arrow.uuid" else inner) if inner != "cast" else inner
        elif types.is_dictionary(type_):
            found = "cast" if self._kind(type_.value_type) is not None else None
        elif any(
            is_one(type_)
            for is_one in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
        ):
            found = "bytes"
        elif types.is_timestamp(type_) and type_.tz is not None:
            found = "zone"
        elif types.is_string_view(type_) or types.is_large_string(type_) or types.is_float16(type_):
            found = "cast"
        elif any(
            is_one(type_)
            for is_one in (
                types.is_boolean,
                types.is_integer,
                types.is_floating,
                types.is_decimal,
                types.is_string,
                types.is_date,
                types.is_time,
                types.is_timestamp,
                types.is_null,
            )
        ):
            found = "as it is"
        return found

    def _texts(self, column: Any) -> Any:  # Any: of pyarrow
        """The values of a column, in a type whose texts PostgreSQL reads."""
        pa, type_ = self._pa, column.type
        kind, found = self._kind(type_), column
        if kind == "uuid":
            found = pa.array([None if one is None else one.hex() for one in column.storage.to_pylist()], pa.string())
        elif isinstance(type_, pa.BaseExtensionType):
            found = self._texts(column.storage)
        elif kind == "bytes":
            found = pa.array([None if one is None else f"\\x{one.hex()}" for one in column.to_pylist()], pa.string())
        elif kind == "zone":
            found = column.cast(pa.timestamp(type_.unit, "UTC"))
        elif pa.types.is_dictionary(type_):
            found = self._texts(column.dictionary_decode())
        elif kind == "cast":
            found = column.cast(pa.float32() if pa.types.is_float16(type_) else pa.string())
        return found

    def _write(self, batch: Any, content: io.BytesIO) -> None:  # Any: of pyarrow
        """Add the rows of a batch to what is read, as CSV in which NULL is an empty field without quotes."""
        columns = [self._texts(column) for column in batch.columns]
        before = content.tell()
        try:
            self._write_columns(columns, content)
        except self._pa.ArrowInvalid:  # bytes that are no text, where the file says text: COPY tells which row it is
            content.seek(before)
            content.truncate()
            found = [self._one_by_one(column) for column in columns]
            content.write(b"".join(b",".join(row) + b"\n" for row in zip(*found, strict=True)))

    def _write_columns(self, columns: list[Any], content: io.BytesIO) -> None:  # Any: of pyarrow
        rows = self._pa.record_batch(columns, names=[f"f_{number}" for number, _ in enumerate(columns)])
        self._csv.write_csv(rows, content, self._csv.WriteOptions(include_header=False, quoting_style="needed"))

    def _one_by_one(self, column: Any) -> list[bytes]:  # Any: of pyarrow
        """The fields of a column, built here; texts as their bytes, whatever those are."""
        if not self._pa.types.is_string(column.type):
            alone = io.BytesIO()
            self._write_columns([column], alone)
            return alone.getvalue().split(b"\n")[:-1]
        return [
            b"" if one is None else b'"' + one.replace(b'"', b'""') + b'"'
            for one in column.cast(self._pa.binary()).to_pylist()
        ]

    def _from(self, offset: int) -> Iterator[Any]:  # Any: batches of pyarrow
        """The rows from one on."""
        for number, group in enumerate(self._groups):
            skipped = max(offset - group.first_row, 0)
            if group.first_row + skipped >= group.end_row:
                continue
            for batch in self._file.reader.iter_batches(
                _BATCH_ROWS, row_groups=[number], column_indices=self._leaves, use_threads=False
            ):
                left = batch.slice(min(skipped, batch.num_rows))
                skipped -= batch.num_rows - left.num_rows
                if left.num_rows:
                    yield left

    def _groups_of_file(self) -> list[_Group]:
        found, end, rows = [], 0, 0
        for number in range(self._file.metadata.num_row_groups):
            group = self._file.metadata.row_group(number)
            begin, first = end, rows
            for column in map(group.column, range(group.num_columns)):
                begins = min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset)
                end = max(end, begins + column.total_compressed_size)
            rows += group.num_rows
            end = min(end, self.bytes_total)
            found.append(_Group(first_byte=begin, end_byte=end, first_row=first, end_row=rows))
        return found

    def _hash_up_to(self, row: int) -> None:
        """Take the bytes of all row groups into the digest in which rows before this one are."""
        if self._hash is None:
            return
        end = max((group.end_byte for group in self._groups if group.first_row < row), default=0)
        with told():
            self._source.raw.seek(self._hashed)
            while self._hashed < end:
                part = self._source.raw.read(min(_HASHED_AT_ONCE, end - self._hashed))
                if not part:
                    raise Unreadable("the file ends before its row groups do")
                self._hash.update(part)
                self._hashed += len(part)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            with told():
                yield
        except self._pa.ArrowException as exc:
            raise Unreadable(str(exc)) from exc


def _leaves(type_: Any) -> int:  # Any: of pyarrow
    """How many columns of a file make a field: of one that holds others, several."""
    if hasattr(type_, "storage_type"):
        return _leaves(type_.storage_type)
    return sum(_leaves(type_.field(number).type) for number in range(type_.num_fields)) or 1


def looks_like(head: bytes) -> bool:
    """Whether a file is one of Parquet, by its first bytes."""
    return head.startswith(MAGIC)
