"""Cutting the bytes of a file into records. Pure.

COPY is handed the bytes as they are: building rows in Python takes more time than the server needs to read them. All that is found out
here is where a record ends. In CSV that is a line break outside of quotes, so a line with an odd number of quotes continues.

One quote too many makes everything behind it look quoted. So a record of several lines whose quotes are not those of CSV, or that
does not end, is not taken for one: its first line is refused by itself, and the next line begins a record.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cached_property

#: A record that has not ended by then never will: its quote is one too many.
MOST_RECORD_BYTES = 4 * 1024 * 1024

#: PostgreSQL's codes for a record it cannot read, and for bytes that are no text in its encoding.
BAD_RECORD, BAD_ENCODING = "22P04", "22021"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Why a record is not read."""

    sqlstate: str
    error: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record of a file."""

    #: Where it begins, counted from the beginning of what was cut.
    start: int
    #: With its line break.
    content: bytes
    #: None: COPY may read it.
    refused: Refused | None = None

    @property
    def is_blank(self) -> bool:
        return not self.content.strip(b"\r\n")


@dataclass(frozen=True, kw_only=True)
class Format:
    """How records lie in a file."""

    #: CSV with this between its fields; None: JSON, an object a line.
    delimiter: str | None = ","
    #: A line without anything in it is no record.
    skips_blank: bool = True

    def end_of_last(self, content: bytes) -> int:
        """Where the last whole record ends, as far as quotes tell; 0 where none does."""
        end = content.rfind(b"\n") + 1
        if self.delimiter is None or not end:
            return end
        quotes = content.count(b'"', 0, end)
        while quotes % 2:
            before = content.rfind(b"\n", 0, end - 1) + 1
            if not before:
                return 0
            quotes -= content.count(b'"', before, end)
            end = before
        return end

    def is_suspicious(self, content: bytes) -> bool:
        """Whether records should be looked at one by one: for a quote where CSV has none, or for what COPY takes for something else."""
        if b"\x00" in content or not _is_text(content):
            return True
        if self.delimiter is None:
            return False
        ends = content.startswith(b"\\.") or b"\n\\." in content
        return ends or (b'"' in content and self._stray.search(content) is not None)

    def cut(self, content: bytes, *, at_end: bool) -> tuple[list[Record], int]:
        """The records, and how many bytes they take; what is left is the beginning of a record whose end is not there yet.

        `at_end`: nothing follows.
        """
        found: list[Record] = []
        start = 0
        while start < len(content):
            line_end = end = _line_end(content, start)
            is_open = self._opens(content, start, end)
            while is_open and end < len(content) and end - start <= MOST_RECORD_BYTES:
                before, end = end, _line_end(content, end)
                is_open ^= self._opens(content, before, end)
            too_long = end - start > MOST_RECORD_BYTES
            if (is_open or content[end - 1 : end] != b"\n") and not (at_end or too_long):
                break
            refused = self._refusal(content[start:end], is_open=is_open or too_long)
            if refused is not None and end > line_end and refused.sqlstate == BAD_RECORD:
                end = line_end
            found.append(Record(start=start, content=content[start:end], refused=refused))
            start = end
        return found, start

    def _opens(self, content: bytes, start: int, end: int) -> bool:
        """Whether a quote that is open before a line is closed behind it, or the other way round."""
        return self.delimiter is not None and content.count(b'"', start, end) % 2 == 1

    def _refusal(self, record: bytes, *, is_open: bool) -> Refused | None:
        """Why COPY is not to read a record. Its quotes first: where they are wrong, it may hold bytes that are none of its own."""
        if self.delimiter is not None:
            text = record.rstrip(b"\r\n")
            if is_open:
                return Refused(sqlstate=BAD_RECORD, error="a quote is opened and not closed")
            if self._stray.search(text) or (b"\n" in text and not self._is_csv(text)):
                return Refused(sqlstate=BAD_RECORD, error="a quote stands in the middle of a field")
            if text == rb"\.":
                return Refused(sqlstate=BAD_RECORD, error="the line is \\. alone, which ends the data for COPY")
        if b"\x00" in record or not _is_text(record):
            return Refused(sqlstate=BAD_ENCODING, error="the bytes are not UTF-8 text, or hold a NUL character")
        return None

    def _is_csv(self, record: bytes) -> bool:
        try:
            rows = list(
                csv.reader(
                    [record.replace(b"\x00", b"").decode(errors="replace")],
                    delimiter=self.delimiter or ",",
                    strict=True,
                )
            )
        except csv.Error:
            return False
        return len(rows) == 1

    @cached_property
    def _stray(self) -> re.Pattern[bytes]:
        """A quote that neither opens nor closes a field, nor is doubled."""
        other = rb'[^"\r\n' + re.escape((self.delimiter or ",").encode()) + rb"]"
        # With the quote first, which is looked for as fast as memory is read.
        return re.compile(b'"(?<=' + other + b'")' + other)


def _line_end(content: bytes, start: int) -> int:
    """Where the line ends that begins at `start`, behind its line break; where the content ends, if it has none."""
    return content.find(b"\n", start) + 1 or len(content)


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
