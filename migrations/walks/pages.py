"""The page walk: a table in the order of its pages, a stripe of every page at a time.

The first update of a full page is dear: there is no room for the new version, so it goes to another page and every index gets
an entry. Once that has committed, the room of the old version is free again, and the next row of the page finds it: a HOT
update, no index entry and no new page. So a lane takes a *group* of pages and goes round it in as many rounds as there are
*stripes*, changing one stripe of each page in a round. Only the first round pays.

A stripe is a run of neighbours on its page, by line pointers, so that those which leave it do so together. Where the order is to be
kept, the first stripe is as large as the page needs: what rows grow by must leave the page too, and in the first round all of it
goes together, in order. A row that leaves in each later round costs whoever reads in key order a change of page each
(docs/benchmarks, `order`); but the indexes then have more entries to take at once than their pages have room for, and grow.

The room of an old version is free when no snapshot can see it any more. A group is therefore gone round in several batches:
by the time a page comes up again, the batches that other lanes were running at the first visit are over.

Pages are read by TID range scans, which prune them; a TID scan by a list would not.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.queries import templates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.record.model import PageRange
    from backfilld.migrations.walks.keys import Query

_SQL = templates(__package__, "pages")

#: Rounds for tables with the primary key's index alone, and for others. Measured (docs/benchmarks): eight rounds halve what
#: a single index costs, sixteen save more than the scans they take as soon as there is a second index.
FEW_STRIPES, MANY_STRIPES = 8, 16
#: Batches in a round, at least: a page must not come up again while another lane's batch still sees what it was.
BATCHES_A_ROUND = 4
#: Pages of a batch that is cut short for the sake of that. Fewer would pay more for the transaction than for the rows.
LEAST_PAGES = 16
#: Pages of a batch of the first round, beside others: the WAL holds each whole, once after a checkpoint, and a commit of
#: theirs waits until all of it is on disk. Half a megabyte, for which a usual disk needs 2 to 4 ms.
POLITE_PAGES = 64
#: Where few of them are changed more are passed over at once, but not more than this many times as many: the next may be full.
MOST_POLITE_SCALE = 16
#: Groups smaller than this are not worth the rounds.
LEAST_GROUP_PAGES = 64
#: A group is read as often as there are stripes, and should stay in memory meanwhile: at most 128 MB.
MOST_GROUP_PAGES = 16_384
#: The first group of a lane that keeps the order, and its rounds: while batches are small because nothing is known of their time, it is learned what
#: rows grow by.
PILOT_PAGES, PILOT_STRIPES = 128, 4
#: Rows that leave their page after the first round, as a part of all: fewer are not worth a larger first round.
FEW_LATE = 0.005
#: The most that a first stripe may be enlarged to, as a part of the rows.
MOST_FIRST = 0.5
#: Rows that grow by so much more leave in most rounds, whatever the first one: then it is not enlarged at all.
IN_VAIN = 1.25
#: How far a group may grow when its pages come up again too early.
MOST_SCALE = 8
#: What a page has for rows and their line pointers (8 kB less its header).
PAGE_BYTES = 8168
LINE_POINTER_BYTES = 4
#: Below this many changed rows a share of them says nothing.
ENOUGH_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class PageBatchRange:
    """What one batch covers: pages from `first` to before `last` (None: to the end), one stripe of them."""

    first: int
    last: int | None
    #: Line pointers of the stripe: after `above`, up to and with `upto`; None for no limit.
    above: int | None = None
    upto: int | None = None


@dataclass(frozen=True, kw_only=True)
class Count:
    """Rows that were changed, and how many of them in place."""

    changed: int = 0
    hot: int = 0

    @property
    def hot_ratio(self) -> float | None:
        return self.hot / self.changed if self.changed >= ENOUGH_ROWS else None

    def plus(self, changed: int, hot: int) -> Count:
        return Count(changed=self.changed + changed, hot=self.hot + hot)


@dataclass(frozen=True, kw_only=True)
class PageCursor:
    """Where a lane is: a group of pages, the round it is in, and the page it continues with."""

    first: int
    last: int | None
    stripes: int
    stripe: int
    page: int
    #: Rounds that the room on the pages asks for; fewer are done where few rows need work.
    level: int
    #: Fewer rounds than this were tried and did not do.
    floor: int = 2
    #: How many times larger than planned the group is.
    scale: int = 1
    #: The part of the rows that leave their page after a first round that has its share alone.
    grown: float = 0.0
    #: Of this group: the first round, and the others.
    opening: Count = Count()
    following: Count = Count()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "opening": Count(**value["opening"]), "following": Count(**value["following"])})


@dataclass(frozen=True, kw_only=True)
class PageWalk:
    """A table or a leaf of a partitioned one, and the name its columns go by in expressions."""

    relation: TableName
    alias: str

    @property
    def table(self) -> sql.Composed:
        """The table, under the name that expressions know."""
        return sql.SQL("{} AS {}").format(sendable(self.relation.identifier), sendable(sql.Identifier(self.alias)))

    def within(self, batch_range: PageBatchRange) -> tuple[sql.Composable, list[str]]:
        """The condition for rows that `batch_range` covers."""
        ctid = sendable(sql.Identifier(self.alias, "ctid"))
        conditions: list[sql.Composable] = [sql.SQL("{} >= %s::pg_catalog.tid").format(ctid)]
        parameters = [f"({batch_range.first},0)"]
        if batch_range.last is not None:
            conditions.append(sql.SQL("{} < %s::pg_catalog.tid").format(ctid))
            parameters.append(f"({batch_range.last},0)")
        # The low byte of the line pointer, as the type's own send function writes it: a tenth of what the cast to text costs.
        # Pointers past 255 begin anew, and so fall into another stripe than their neighbours, but into one.
        for edge, operator in ((batch_range.upto, "<="), (batch_range.above, ">")):
            if edge is not None:
                conditions.append(
                    sql.SQL("pg_catalog.get_byte(pg_catalog.tidsend({}), 5) {} {}").format(
                        ctid, sql.SQL(operator), sql.Literal(edge)
                    )
                )
        return sql.SQL(" AND ").join(conditions), parameters

    def look(self) -> Query:
        """(file of the table, its pages) at this moment; NULLs when the table is gone."""
        return sql.Composed([_SQL["look"]]), [self.relation.identifier.as_string()]


def begin(page_range: PageRange) -> PageCursor:
    """Where a lane begins."""
    rounds = Rounds(level=page_range.stripes)
    if (
        not page_range.ordered
        or page_range.stripes <= PILOT_STRIPES
        or (page_range.last or 0) - page_range.first < 4 * PILOT_PAGES
    ):
        return _group(page_range, page_range.first, rounds, stripes=page_range.stripes)
    pilot = replace(page_range, group_pages=min(PILOT_PAGES, page_range.group_pages))
    return _group(pilot, page_range.first, rounds, stripes=PILOT_STRIPES)


def batch_range(
    page_range: PageRange, cursor: PageCursor, *, rows: int, pages: int, beside_others: bool = False
) -> PageBatchRange:
    """The pages of the next batch, for about `rows` rows, in a table that has `pages` by now; fewer beside others."""
    wanted = max(1, round(rows / max(page_range.rows_per_page * _share(cursor), 0.01)))
    if beside_others and cursor.stripe == 0:
        wanted = min(wanted, _polite_pages(cursor))
    if cursor.last is None:
        last = cursor.page + wanted
        return PageBatchRange(first=cursor.page, last=last if last < pages else None)
    if cursor.stripes > 1:
        wanted = min(wanted, max(math.ceil((cursor.last - cursor.first) / BATCHES_A_ROUND), LEAST_PAGES))
    above, upto = _edges(page_range, cursor)
    return PageBatchRange(first=cursor.page, last=min(cursor.page + wanted, cursor.last), above=above, upto=upto)


def after(
    page_range: PageRange, cursor: PageCursor, done: PageBatchRange, *, changed: int, hot: int
) -> PageCursor | None:
    """Where the lane is after a batch that changed so many rows; None at its end."""
    if done.last is None:
        return None
    counted = (
        replace(cursor, opening=cursor.opening.plus(changed, hot))
        if cursor.stripe == 0
        else replace(cursor, following=cursor.following.plus(changed, hot))
    )
    if cursor.last is None or done.last < cursor.last:
        return replace(counted, page=done.last)
    if cursor.stripe + 1 < cursor.stripes:
        return replace(counted, stripe=cursor.stripe + 1, page=cursor.first)
    if page_range.last is not None and cursor.last >= page_range.last:
        return None
    rounds = _learn(page_range, counted)
    # Rounds that would find less than one row to change on a page are scans for nothing.
    needed = math.ceil((counted.opening.changed + counted.following.changed) / (cursor.last - cursor.first))
    return _group(page_range, cursor.last, rounds, stripes=max(1, min(rounds.level, needed)))


def _share(cursor: PageCursor) -> float:
    """The part of the rows that the stripe of this round has."""
    if cursor.stripes == 1:
        return 1.0
    first = _first(cursor.stripes, cursor.grown)
    return first if cursor.stripe == 0 else (1 - first) / (cursor.stripes - 1)


def _first(stripes: int, grown: float) -> float:
    """The part of the rows that the first stripe has."""
    return min(1 / stripes + grown, 1.0)


def _before(cursor: PageCursor) -> float:
    """The part of the rows that earlier rounds have had."""
    share = _share(cursor)
    return 1 - share * (cursor.stripes - cursor.stripe) if cursor.stripe else 0.0


def _edges(page_range: PageRange, cursor: PageCursor) -> tuple[int | None, int | None]:
    """The line pointers between which the stripe of this round is; the first and the last stripe are open to the outside."""
    before, width = page_range.first_offset - 1, page_range.last_offset - page_range.first_offset + 1
    above = before + round(width * _before(cursor)) if cursor.stripe > 0 else None
    upto = before + round(width * (_before(cursor) + _share(cursor))) if cursor.stripe + 1 < cursor.stripes else None
    return above, upto


def pages_done(page_range: PageRange, cursor: PageCursor | None) -> float:
    """How many pages a lane has behind it; a page in its third round of eight counts as a quarter."""
    if cursor is None:
        return float((page_range.last or 0) - page_range.first)
    if cursor.last is None:
        return float(cursor.page - page_range.first)
    rounds = (cursor.last - cursor.first) * _before(cursor) + (cursor.page - cursor.first) * _share(cursor)
    return cursor.first - page_range.first + rounds


@dataclass(frozen=True, kw_only=True)
class Part:
    """Pages of a lane, and where in them it is."""

    page_range: PageRange
    cursor: PageCursor


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a lane keeps and what it gives away, and how many pages the latter counts as."""

    kept: Part
    given: Part
    pages: float


def split(page_range: PageRange, cursor: PageCursor) -> Split | None:
    """Give away half of what a lane has before it.

    None when there is too little, in the middle of a round over the last group, and where one lane is to keep the order.
    """
    if page_range.last is None or cursor.last is None or page_range.ordered:
        return None
    untouched = page_range.last - cursor.last
    if cursor.stripes == 1 or untouched >= cursor.last - cursor.first:
        middle = ((cursor.page if cursor.stripes == 1 else cursor.last) + page_range.last) // 2
        if min(middle - cursor.page, page_range.last - middle) < LEAST_PAGES:
            return None
        given = replace(page_range, first=middle)
        return Split(
            kept=Part(
                page_range=replace(page_range, last=middle), cursor=replace(cursor, last=min(cursor.last, middle))
            ),
            given=Part(page_range=given, cursor=begin(given)),
            pages=float(page_range.last - middle),
        )
    if cursor.page != cursor.first or cursor.last - cursor.first < 2 * LEAST_GROUP_PAGES:
        return None
    middle = (cursor.first + cursor.last) // 2
    rounds_left = (cursor.stripes - cursor.stripe) / cursor.stripes
    from_there = replace(cursor, first=middle, page=middle, opening=Count(), following=Count())
    return Split(
        kept=Part(page_range=replace(page_range, last=middle), cursor=replace(cursor, last=middle)),
        given=Part(page_range=replace(page_range, first=middle), cursor=from_there),
        pages=(cursor.last - middle) * rounds_left + untouched,
    )


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """What a lane has learned for its next group of pages; see `PageCursor`."""

    level: int
    floor: int = 2
    scale: int = 1
    grown: float = 0.0


def _group(page_range: PageRange, first: int, rounds: Rounds, *, stripes: int) -> PageCursor:
    if page_range.last is None:
        return PageCursor(first=first, last=None, stripes=1, stripe=0, page=first, level=1)
    size = page_range.group_pages * rounds.scale
    rest = page_range.last - first
    # Not a rest that is too small for rounds of its own.
    last = page_range.last if rest < size + size // 2 else first + size
    stripes = 1 if last - first < LEAST_GROUP_PAGES else _with_rows(page_range, stripes, rounds.grown)
    return PageCursor(first=first, last=last, stripes=stripes, stripe=0, page=first, **asdict(rounds))


def _with_rows(page_range: PageRange, stripes: int, grown: float) -> int:
    """So many rounds, or fewer where beside a larger first stripe some of the others would have no row."""
    others = math.floor((1 - _first(stripes, grown)) * page_range.rows_per_page)
    return min(stripes, 1 + max(1, others)) if grown else stripes


def _polite_pages(cursor: PageCursor) -> int:
    """Pages of which about `POLITE_PAGES` are changed, by what the group's first round met so far."""
    passed = cursor.page - cursor.first
    if passed < POLITE_PAGES:
        return POLITE_PAGES
    return round(POLITE_PAGES / min(1.0, max(cursor.opening.changed / passed, 1 / MOST_POLITE_SCALE)))


def _learn(page_range: PageRange, cursor: PageCursor) -> Rounds:
    """How the next group is gone round, by what was HOT in this one."""
    level, floor, scale, grown = cursor.level, cursor.floor, cursor.scale, cursor.grown
    opening, following = cursor.opening.hot_ratio, cursor.following.hot_ratio
    if opening is not None and opening >= 0.9:
        # The pages had room for the first round: fewer, larger rounds may do.
        return Rounds(level=max(min(floor, level), level // 2), floor=floor, scale=scale, grown=grown)
    if (
        opening is not None
        and level < page_range.stripes
        and cursor.stripes == _with_rows(page_range, level, cursor.grown)
    ):
        # They had not: go back, and do not try that again.
        level = min(level * 2, page_range.stripes)
        floor = level
    if following is not None and following < 0.5:
        # What the first round left is not free yet when the next one comes: another session's snapshot still sees it. Come later.
        if scale >= MOST_SCALE and following < 0.2:
            return Rounds(level=1, floor=floor, scale=scale)
        scale = min(scale * 2, MOST_SCALE)
    elif following is not None and page_range.ordered:
        # What left late would have left in the first round, together, had that been larger.
        left = cursor.following.changed - cursor.following.hot
        late = left / (cursor.opening.changed + cursor.following.changed)
        if late > FEW_LATE and 1 / level + grown + late <= IN_VAIN * MOST_FIRST:
            # Rows are whole: of 37 in 16 rounds some stripes have three, and the first must leave room for those.
            rows = max(page_range.rows_per_page, 1.0)
            whole = (math.ceil(rows / level) - rows / level) / rows if not grown else 0.0
            grown = max(min(grown + late + whole, MOST_FIRST - 1 / level), 0.0)
    return Rounds(level=level, floor=floor, scale=scale, grown=grown)


def stripes_for(*, rows_per_page: float, row_bytes: float, indexes: int, in_place: bool) -> int:
    """How many rounds a table's pages are rewritten in.

    `row_bytes` is a row's size on its page, `in_place` whether the updates can be HOT at all: no index holds a column that is
    written. Where pages have room for some rows (a fillfactor, deleted rows), so many can be done at once, and fewer rounds do.
    """
    if not in_place or rows_per_page < 2:
        return 1
    stripes = FEW_STRIPES if indexes <= 1 else MANY_STRIPES
    room = (PAGE_BYTES - rows_per_page * (row_bytes + LINE_POINTER_BYTES)) / PAGE_BYTES
    if room > 0:
        # A quarter more than fits on average, for pages that are fuller than others.
        stripes = min(stripes, math.ceil(1.25 / room))
    return max(1, min(stripes, math.floor(rows_per_page)))


def cut(pages: int, pieces: int, *, page_range: PageRange) -> list[PageRange]:
    """The pages of a table in up to `pieces` equal ranges, each like `page_range` but for its ends."""
    pieces = max(1, min(pieces, pages // LEAST_GROUP_PAGES))
    edges = [round(pages * piece / pieces) for piece in range(pieces + 1)]
    return [replace(page_range, first=first, last=last) for first, last in pairwise(edges)]
