"""The little languages of PostgREST, as they stand in strings: columns to select, conditions, lists of columns.

Pure: each function gives the columns that are named, each with its place in the text and with the table that an embedding leads to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The names of columns as PostgREST takes them without quotes; what stands behind `->`, `::` or `.` is not one.
_NAME = r'"[^"]+"|[\w$][\w$ ]*'
_ITEM = re.compile(
    rf"\s*(?:\.\.\.)?\s*(?:(?P<alias>{_NAME})\s*:(?!:))?\s*(?P<name>{_NAME})\s*(?P<rest>[^,()]*)", re.UNICODE
)
#: `status.eq.done` and `status.not.in.(a,b)`, after `jobs.` for an embedded table; not `and(…)` and `or(…)`.
_CONDITION = re.compile(
    r'(?:^|(?<=[,(]))\s*(?P<path>(?:"[^"]+"|[\w$]+)(?:\s*->>?\s*[\w$]+)*(?:\.[\w$]+)*?)\.(?:not\.)?(?P<operator>eq|neq|gt|gte|lt|lte|like|ilike|match|imatch|in|is|isdistinct|fts|plfts|phfts|wfts|cs|cd|ov|sl|sr|nxr|nxl|adj)[.(]'
)
#: What is computed over rows, and is no column.
_AGGREGATES = frozenset({"count"})


@dataclass(frozen=True)
class Column:
    """A column that a text names; `embedded` is the table it is of, where that is another than the one asked."""

    name: str
    at: int
    embedded: str = ""


@dataclass
class Selected:
    """What a `select` text names, and the names that the answer's rows have."""

    columns: list[Column] = field(default_factory=list)
    #: The tables that are embedded, with their places.
    tables: list[Column] = field(default_factory=list)
    #: Keys of the answer that are not columns of the table: aliases, and embedded rows with their table.
    keys: dict[str, str] = field(default_factory=dict)


def selected(text: str) -> Selected:
    """`id, state:status, customers!inner(name), details->>a`."""
    found = Selected()
    _select(text, 0, "", found)
    return found


def _select(text: str, start: int, table: str, found: Selected) -> int:
    """Read items until the bracket closes, or the text ends; gives where."""
    at = start
    while at < len(text):
        match = _ITEM.match(text, at)
        if match is None:
            at += 1
            continue
        name, alias = _bare(match["name"]), _bare(match["alias"] or "")
        at = match.end()
        if text[at : at + 1] == "(" and not match["rest"].startswith(".") and name not in _AGGREGATES:
            found.tables.append(Column(name, match.start("name"), table))
            if not table:
                found.keys[alias or name] = name
            at = _select(text, at + 1, name, found)
        elif name not in {"*"} | _AGGREGATES:
            found.columns.append(Column(name, match.start("name"), table))
            if alias and not table:
                found.keys[alias] = ""
        at += 2 if text.startswith("()", at) else 0  # amount.sum()
        while at < len(text) and text[at] not in ",)":
            at += 1
        if text[at : at + 1] == ")":
            return at + 1
        at += 1
    return at


def conditions(text: str) -> Iterator[Column]:
    """`status.eq.done,and(total.gt.3,jobs.paid.is.true)`."""
    for match in _CONDITION.finditer(text):
        yield column(match["path"], match.start("path"))


def column(path: str, at: int = 0) -> Column:
    """`status`, `details->>a`, or `jobs.status` of an embedded table."""
    bare = re.split(r"->|::", path, maxsplit=1)[0].strip()
    table, dot, name = bare.rpartition(".")
    return Column(_bare(name), at + (len(table) + 1 if dot else 0), _bare(table))


def listed(text: str) -> Iterator[Column]:
    """`id, status`, as in `onConflict`."""
    for match in re.finditer(rf"{_NAME}", text):
        yield Column(_bare(match[0]), match.start())


def _bare(name: str) -> str:
    return name.strip().strip('"')
