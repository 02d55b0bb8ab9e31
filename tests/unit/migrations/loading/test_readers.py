"""Files that are packed, and files of Parquet, are read to their end or not at all, and from any place on."""

from __future__ import annotations

import gzip
import io
import sys
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from backfilld.migrations.errors import Refused
from backfilld.migrations.file.operations import Source
from backfilld.migrations.loading import source
from backfilld.migrations.loading.objects import Object
from backfilld.migrations.loading.parquet import ParquetReader
from backfilld.migrations.loading.reader import Unreadable

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"".join(b"%d,a\xc3\xa4\n" % number for number in range(20_000))


def packed(name: str) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(CONTENT)
    if name.endswith(".zst"):  # several frames, as `zstd` makes of files that are joined
        half, frames = len(CONTENT) // 2, zstandard.ZstdCompressor(write_checksum=True)
        return frames.compress(CONTENT[:half]) + frames.compress(b"") + frames.compress(CONTENT[half:])
    return CONTENT


def object_of(name: str, content: bytes) -> Object:
    return Object(name=name, raw=io.BytesIO(content), size=len(content))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst"])
def test_what_a_file_holds_is_read_from_any_place_on(name: str) -> None:
    first = source.TextReader(object_of(name, packed(name)))
    begin = first.read(1234)
    first.take(begin)
    second = source.TextReader(object_of(name, packed(name)))
    assert second.pass_over(len(begin)) == first.digest
    rest = second.read(10_000_000)
    assert (begin + rest, second.at_end, first.at_end) == (CONTENT, True, False)
    assert second.position == second.bytes_total


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zst"])
def test_a_packed_file_that_is_cut_off_or_broken_has_no_end(name: str) -> None:
    whole = packed(name)
    middle = len(whole) // 3
    broken = whole[:middle] + bytes(255 - one for one in whole[middle : middle + 40]) + whole[middle + 40 :]
    for content in (whole[:-1], whole[: len(whole) // 2], broken, b"no such thing"):
        with pytest.raises(Unreadable):
            source.TextReader(object_of(name, content)).read(10_000_000)


@pytest.mark.parametrize(
    ("name", "kind", "package"), [("a.csv.zst", "csv", "zstandard"), ("a.parquet", "parquet", "pyarrow")]
)
def test_a_package_that_is_missing_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, kind: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(packed(name))
    with pytest.raises(Refused, match=r'pip install "backfilld\[(zstd|parquet)\]"'):
        source.read_head(Source.model_validate({"file": str(tmp_path / name), "format": kind}))


@pytest.fixture
def rows_in_groups(tmp_path: Path) -> Path:
    """Thirty rows in three row groups, with columns that no row of a table has a place for between the others."""
    numbers = range(30)
    columns = {
        "n": pa.array(numbers),
        "pair": pa.array([{"x": n, "y": [n]} for n in numbers]),
        "took": pa.array(numbers, pa.duration("s")),
        "a.b": pa.array([f'"{n}",\n' if n % 3 else None for n in numbers]),
        "lists": pa.array([[n] for n in numbers]),
        "raw": pa.array([bytes([n]) for n in numbers]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=10)
    return tmp_path / "a.parquet"


def read_all(reader: ParquetReader) -> list[bytes]:
    """Row group by row group."""
    found = []
    while not reader.at_end:
        found.append(reader.read(1))
        reader.take(found[-1])
    return found


def test_a_parquet_file_is_csv_without_the_columns_that_hold_others(rows_in_groups: Path) -> None:
    reader = ParquetReader(object_of("", rows_in_groups.read_bytes()))
    assert reader.fields == ("n", "a.b", "raw")
    assert (set(reader.nested), reader.binary) == ({"pair", "took", "lists"}, {"raw"})
    reader.pass_over(0)
    parts = read_all(reader)
    expected = [b'%d,%s,"\\x%s"\n' % (n, b'"""%d"",\n"' % n if n % 3 else b"", b"%02x" % n) for n in range(30)]
    assert b"".join(parts) == b"".join(expected)
    assert parts == [b"".join(expected[begin:end]) for begin, end in pairwise(range(0, 31, 10))]


def test_a_parquet_file_is_read_on_from_any_row(rows_in_groups: Path) -> None:
    def opened(**changes: object) -> ParquetReader:
        return ParquetReader(replace(object_of("", rows_in_groups.read_bytes()), **changes))  # type: ignore[arg-type] # of its fields

    first = opened()
    first.pass_over(0)
    digests, parts = {0: first.digest}, []
    while not first.at_end:
        parts.append(first.read(1))
        first.take(parts[-1])
        digests[first.offset] = first.digest
    assert list(digests) == [0, 10, 20, 30]
    assert len({*digests.values()}) == 4
    for offset, digest in digests.items():
        again = opened()
        assert again.pass_over(offset) == digest
        assert again.read(10_000) == b"".join(parts[offset // 10 :])
    # In the middle of a row group; and without a look at those before, where a version says that nothing has changed.
    content = bytearray(rows_in_groups.read_bytes())
    content[4:40] = bytes(36)
    broken = opened(raw=io.BytesIO(content), version="1")
    assert broken.pass_over(25) == "1"
    assert broken.read(10_000) == b"".join(parts).split(b"24,")[1].split(b"\n", 1)[1]
    with pytest.raises(Unreadable):
        read_all(opened(raw=io.BytesIO(content), version="1"))


def test_what_a_parquet_file_calls_text_and_is_none_is_left_to_copy(tmp_path: Path) -> None:
    raw = pa.array([b"good", b'\xff"', None], pa.binary())
    texts = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    parquet.write_table(pa.table({"n": [1, 2, None], "t": texts}), tmp_path / "a.parquet")
    reader = ParquetReader(object_of("", (tmp_path / "a.parquet").read_bytes()))
    reader.pass_over(0)
    assert reader.read(1) == b'1,"good"\n2,"\xff"""\n,\n'


def test_a_file_that_is_no_parquet_is_refused_and_one_that_is_wants_to_be_called_so(
    rows_in_groups: Path, tmp_path: Path
) -> None:
    (tmp_path / "b.parquet").write_bytes(b"n,m\n1,2\n")
    with pytest.raises(Refused, match="cannot be read"):
        source.read_head(Source(file=str(tmp_path / "b.parquet"), format="parquet"))
    with pytest.raises(Refused, match="format: parquet"):
        source.read_head(Source(file=str(rows_in_groups)))
