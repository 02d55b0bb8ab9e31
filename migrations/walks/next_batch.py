"""The next batch of a lane, by keys or by pages: the range it covers, and the cursor after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from backfilld.migrations.record.model import Bounds, Key, Lane, PageRange
from backfilld.migrations.walks import pages
from backfilld.migrations.walks.pages import PageBatchRange, PageCursor, PageWalk

if TYPE_CHECKING:
    from backfilld.migrations.walks.keys import KeyWalk, Query


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row, by its key."""

    key: Key


@dataclass(frozen=True, kw_only=True)
class JournalSlice:
    """Rows that the journal holds of one batch: from `first` to `last` of an entry, or of each entry up to `last_entry`."""

    batch: int
    entry: int
    last_entry: int
    first: int
    last: int
    #: The pass over the data in which the batch was done.
    pass_: int

    @property
    def rows(self) -> int:
        return (self.last - self.first + 1) * (self.last_entry - self.entry + 1)

    @property
    def parameters(self) -> list[int]:
        return [self.batch, self.entry, self.last_entry, self.first, self.last]

    @property
    def halves(self) -> list[JournalSlice]:
        """None of a single row."""
        if self.last_entry > self.entry:
            middle = (self.entry + self.last_entry) // 2
            return [replace(self, last_entry=middle), replace(self, entry=middle + 1)]
        if self.last > self.first:
            middle = (self.first + self.last) // 2
            return [replace(self, last=middle), replace(self, first=middle + 1)]
        return []


#: What one statement covers.
BatchRange = Bounds | PageBatchRange | JournalSlice | Row


@dataclass(frozen=True, kw_only=True)
class After:
    """Where a batch leaves its lane."""

    #: Any: JSON.
    cursor: Any
    done: bool


#: The answer to `look`; None when the query gave no row.
Seen = tuple[Any, ...] | None  # Any: texts of a key, or numbers


class NextBatch(Protocol):
    """One batch of a walk. A batch with nothing to cover ends its lane."""

    @property
    def batch_range(self) -> BatchRange | None: ...

    @property
    def rows(self) -> int | None:
        """About how many rows that is; None when they have to be counted."""

    def cursor_after(self, *, changed: int, hot: int) -> After:
        """Where the lane is after the batch."""


def look(walk: KeyWalk | PageWalk, lane: Lane) -> Query:
    """What to ask in the round trip that takes the lane, so that `following` knows where the batch ends."""
    match walk:
        case PageWalk():
            return walk.look()
        case _:
            return walk.bound(_ahead(lane), lane.batch_rows)


def following(lane: Lane, seen: Seen, *, writes: bool, beside_others: bool) -> NextBatch:
    """The lane's next batch: one that `writes`, or only looks; smaller where it writes `beside_others`."""
    match lane.bounds:
        case PageRange():
            return _page_batch(lane, lane.bounds, seen, writes=writes, beside_others=beside_others)
        case _:
            return KeyBatch(ahead=_ahead(lane), end=seen, size=lane.batch_rows)


@dataclass(frozen=True, kw_only=True)
class KeyBatch:
    """A range of keys: up to the key that was found, or, where fewer rows are left, to the lane's end."""

    ahead: Bounds
    end: Key | None
    size: int

    @property
    def batch_range(self) -> Bounds:
        return Bounds(after=self.ahead.after, upto=self.end or self.ahead.upto)

    @property
    def rows(self) -> int | None:
        return self.size if self.end is not None else None

    def cursor_after(self, *, changed: int, hot: int) -> After:
        del changed, hot
        end = self.end or self.ahead.upto or self.ahead.after
        return After(cursor=list(end) if end is not None else None, done=self.end is None)


@dataclass(frozen=True, kw_only=True)
class PageBatch:
    """Some pages, one stripe of them."""

    page_range: PageRange
    cursor: PageCursor
    batch_range: PageBatchRange

    @property
    def rows(self) -> int:
        """Estimated: pages done after the batch minus pages done before it, rounded so that the lane's total stays exact."""
        ended = pages.after(self.page_range, self.cursor, self.batch_range, changed=0, hot=0)
        each = self.page_range.rows_per_page
        return round(each * pages.pages_done(self.page_range, ended)) - round(
            each * pages.pages_done(self.page_range, self.cursor)
        )

    def cursor_after(self, *, changed: int, hot: int) -> After:
        cursor = pages.after(self.page_range, self.cursor, self.batch_range, changed=changed, hot=hot)
        return After(cursor=cursor.to_json() if cursor is not None else None, done=cursor is None)


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """The table's file is another one: its rows are not where they were. Verify finds what is left, and it is walked again."""

    batch_range: None = None
    rows: int = 0

    def cursor_after(self, *, changed: int, hot: int) -> After:
        del changed, hot
        return After(cursor=None, done=True)


def _page_batch(
    lane: Lane, page_range: PageRange, seen: Seen, *, writes: bool, beside_others: bool
) -> PageBatch | Rewritten:
    filenode, size = seen or (None, None)
    # A verifying lane walks on: whether pages moved under any of them is asked when all have ended.
    if writes and filenode != page_range.filenode:
        return Rewritten()
    cursor = PageCursor.from_json(lane.cursor) if lane.cursor is not None else pages.begin(page_range)
    covered = pages.batch_range(
        page_range, cursor, rows=lane.batch_rows, pages=size or 0, beside_others=writes and beside_others
    )
    return PageBatch(page_range=page_range, cursor=cursor, batch_range=covered)


def _ahead(lane: Lane) -> Bounds:
    bounds = lane.bounds
    if not isinstance(bounds, Bounds):
        msg = f"lane {lane.lane} of run {lane.run} does not walk keys"
        raise TypeError(msg)
    return replace(bounds, after=tuple(lane.cursor)) if lane.cursor is not None else bounds
