"""Cutting bytes into records: where one ends, and what is refused for its quotes or its bytes."""

from __future__ import annotations

import csv
import io
import random

import pytest

from backfilld.migrations.loading import records
from backfilld.migrations.loading.records import BAD_ENCODING, BAD_RECORD, Format

CSV, JSON = Format(delimiter=","), Format(delimiter=None)

#: What is cut, the records, and which of them are refused.
CASES: dict[str, tuple[bytes, list[bytes], dict[int, str]]] = {
    "plain": (b"a,b\nc,d\n", [b"a,b\n", b"c,d\n"], {}),
    "no line break at the end": (b"a,b\nc,d", [b"a,b\n", b"c,d"], {}),
    "carriage returns": (b"a,b\r\nc,d\r\n", [b"a,b\r\n", b"c,d\r\n"], {}),
    "a line break in quotes": (b'a,"b\nc"\nd,e\n', [b'a,"b\nc"\n', b"d,e\n"], {}),
    "doubled quotes": (b'a,"b ""c"" d"\n"""e""",f\n', [b'a,"b ""c"" d"\n', b'"""e""",f\n'], {}),
    "a quote too many": (b'a,"b\nc,d\ne,f\n', [b'a,"b\n', b"c,d\n", b"e,f\n"], {0: BAD_RECORD}),
    "two lines with a quote too many": (
        b'a,"b\nc,d\ne,"f\ng,h\n',
        [b'a,"b\n', b"c,d\n", b'e,"f\n', b"g,h\n"],
        {0: BAD_RECORD, 2: BAD_RECORD},
    ),
    "a quote in a field": (b'a"b,c\nd,e\n', [b'a"b,c\n', b"d,e\n"], {0: BAD_RECORD}),
    "quotes in a field": (b'a"b"c,d\ne,f\n', [b'a"b"c,d\n', b"e,f\n"], {0: BAD_RECORD}),
    "no text": (b"a,\xff\nb,c\n", [b"a,\xff\n", b"b,c\n"], {0: BAD_ENCODING}),
    "no text behind a quote too many": (
        b'a,"b\nc,\xff\nd,e\n',
        [b'a,"b\n', b"c,\xff\n", b"d,e\n"],
        {0: BAD_RECORD, 1: BAD_ENCODING},
    ),
    "a NUL": (b"a,b\x00\nc,d\n", [b"a,b\x00\n", b"c,d\n"], {0: BAD_ENCODING}),
    "the end of data for COPY": (b"a,b\n\\.\nc,d\n", [b"a,b\n", b"\\.\n", b"c,d\n"], {1: BAD_RECORD}),
}


@pytest.mark.parametrize("what", CASES)
def test_where_records_end_and_which_are_refused(what: str) -> None:
    content, wanted, refused = CASES[what]
    found, taken = CSV.cut(content, at_end=True)
    assert [one.content for one in found] == wanted
    assert {number: one.refused.sqlstate for number, one in enumerate(found) if one.refused} == refused
    assert taken == len(content)
    assert [content[one.start : one.start + len(one.content)] for one in found] == wanted
    assert CSV.is_suspicious(content) >= any(state == BAD_ENCODING for state in refused.values())


def test_what_has_not_ended_is_left_for_later() -> None:
    assert CSV.cut(b'a,b\nc,"d\n', at_end=False)[1] == 4
    assert CSV.cut(b"a,b\nc,d", at_end=False)[1] == 4
    assert CSV.end_of_last(b'a,b\nc,"d\ne') == 4
    assert CSV.end_of_last(b'c,"d\ne') == 0
    assert JSON.end_of_last(b'{"a": "\\""}\n{"b') == 12
    assert not JSON.is_suspicious(b'{"a": "\\""}\n')


def test_a_record_that_is_too_long_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_RECORD_BYTES", 20)
    found, _ = CSV.cut(b'a,"b\n' + b"c,d\n" * 10, at_end=False)
    assert [one.content for one in found] == [b'a,"b\n', *[b"c,d\n"] * 10]
    assert [one.refused is not None for one in found] == [True, *[False] * 10]


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_a_csv_reader(seed: int) -> None:
    """Whatever a writer of CSV writes is cut where it wrote its rows, however it is read, and nothing of it is refused."""
    chance = random.Random(seed)
    written: list[bytes] = []
    for _ in range(200):
        row = ["".join(chance.choice('ab,"\n é') for _ in range(chance.randrange(6))) or "x" for _ in range(3)]
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerow(row)
        written.append(text.getvalue().encode())
    content, at, found = b"".join(written), 0, []
    while at < len(content):
        size = chance.randrange(1, 400)
        end = CSV.end_of_last(content[at : at + size])
        several, taken = CSV.cut(content[at : at + (end or size)], at_end=False)
        assert taken == end or not end
        found += several
        at += taken
        if not taken:
            several, taken = CSV.cut(content[at : at + 2000], at_end=at + 2000 >= len(content))
            found += several
            at += taken
    assert [one.content for one in found] == written
    assert [one.refused for one in found if one.refused] == []
    assert not CSV.is_suspicious(content)
