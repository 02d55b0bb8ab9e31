"""Places in the WAL, and the files that hold them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What a segment is that is being written; pg_receivewal names it so.
PARTIAL = ".partial"
#: A log, of which the name of a segment counts the pieces, has so many bytes whatever the segments have.
_LOG_BYTES = 2**32
#: Of a segment's name: eight digits each for timeline, log and piece.
_NAME = 24


def position(lsn: str) -> int:
    """`16/B374D848` as a number of bytes. Raises ValueError."""
    high, low = lsn.split("/")
    return int(high, 16) * _LOG_BYTES + int(low, 16)


def names(timeline: int, first: str, last: str, segment_bytes: int) -> list[str]:
    """The files that hold the WAL from one place up to another, in their order; the byte at `last` itself is not needed."""
    begin, end = position(first) // segment_bytes, (position(last) - 1) // segment_bytes
    return [_name(timeline, one, segment_bytes) for one in range(begin, end + 1)]


def holding(timeline: int, lsn: str, segment_bytes: int) -> str:
    """The file that holds the byte at a place."""
    return _name(timeline, position(lsn) // segment_bytes, segment_bytes)


def ending(timeline: int, lsn: str, segment_bytes: int) -> str:
    """The file that holds the byte before a place: the last that is needed up to there."""
    return _name(timeline, (position(lsn) - 1) // segment_bytes, segment_bytes)


def next_name(name: str, segment_bytes: int) -> str:
    """The segment after this one, of the same timeline."""
    return _name(int(name[:8], 16), number(name, segment_bytes) + 1, segment_bytes)


def _name(timeline: int, number: int, segment_bytes: int) -> str:
    per_log = _LOG_BYTES // segment_bytes
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


def number(name: str, segment_bytes: int) -> int:
    """How many segments are before this one, whatever its timeline."""
    return int(name[8:16], 16) * (_LOG_BYTES // segment_bytes) + int(name[16:24], 16)


def continues_with(files: Iterable[str], segment_bytes: int) -> int | None:
    """The number of the segment that pg_receivewal asks for in a folder with these files; None: whatever the slot has."""
    numbers = [
        (number(name, segment_bytes), name.endswith(PARTIAL))
        for name in files
        if name[:24].isalnum() and len(name) >= _NAME
    ]
    if not numbers:
        return None
    last, is_partial = max(numbers)
    return last if is_partial else last + 1


def chain_is_due_for_a_whole_one(
    length: int, age_seconds: float, *, most_incrementals: int, most_seconds: float
) -> bool:
    """Whether a chain of so many incremental backups, whose whole one is so old, takes no more."""
    return length >= most_incrementals or age_seconds >= most_seconds
