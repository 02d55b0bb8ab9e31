"""The page walk's own arithmetic: every row version of every page exactly once, whatever the batches, splits and lessons."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from backfilld.migrations.record.model import PageRange
from backfilld.migrations.walks import pages
from backfilld.migrations.walks.pages import PageCursor, stripes_for

#: Line pointers of a page in these tests: past 256, where the low byte begins anew.
OFFSETS = (*range(1, 24), *range(250, 270))


def page_range(first: int = 0, last: int | None = 500, *, stripes: int = 8, group_pages: int = 128) -> PageRange:
    return PageRange(
        first=first,
        last=last,
        filenode=1,
        rows_per_page=60.0,
        stripes=stripes,
        group_pages=group_pages,
        last_offset=60,
    )


def covered(covered: pages.PageBatchRange, *, size: int) -> Counter[tuple[int, int]]:
    """(page, line pointer) of what a batch covers."""
    last = size if covered.last is None else covered.last
    return Counter(
        (page, offset)
        for page in range(covered.first, last)
        for offset in OFFSETS
        if (covered.above is None or offset & 255 > covered.above)
        and (covered.upto is None or offset & 255 <= covered.upto)
    )


@pytest.mark.parametrize("seed", range(25))
def test_every_line_pointer_of_every_page_is_covered_exactly_once(seed: int) -> None:
    """With any sizes of batches, any share of HOT updates, and lanes that give halves away at any moment."""
    # Given
    chance = random.Random(seed)
    size = chance.randint(1, 300)
    whole = page_range(last=size, stripes=chance.choice([1, 2, 5, 8, 16]), group_pages=chance.choice([64, 100, 256]))
    open_lanes: list[tuple[PageRange, PageCursor | None]] = [(whole, None)]
    seen: Counter[tuple[int, int]] = Counter()
    # When
    while open_lanes:
        lane, cursor = open_lanes.pop(chance.randrange(len(open_lanes)))
        here = cursor or pages.begin(lane)
        if chance.random() < 0.2 and (parts := pages.split(lane, here)) is not None:
            open_lanes += [(part.page_range, part.cursor) for part in (parts.kept, parts.given)]
            continue
        wanted = pages.batch_range(lane, here, rows=chance.randint(1, 5000), pages=size)
        seen += covered(wanted, size=size)
        changed = chance.choice([0, 10, 5000])
        after = pages.after(lane, here, wanted, changed=changed, hot=chance.randint(0, changed))
        if after is not None:
            open_lanes.append((lane, PageCursor.from_json(after.to_json())))
    # Then
    assert seen == Counter((page, offset) for page in range(size) for offset in OFFSETS)


def test_a_group_is_gone_round_in_several_batches_even_if_one_could_take_it_all() -> None:
    """The batches that another lane was running at the first visit must be over at the second."""
    lane = page_range(last=1000, group_pages=1000, stripes=4)
    cursor = pages.begin(lane)
    covered = pages.batch_range(lane, cursor, rows=1_000_000, pages=1000)
    assert covered.last == 250


def test_beside_others_the_first_round_writes_few_whole_pages_at_a_time() -> None:
    """A commit of theirs waits until they are on disk; in later rounds pages are in the WAL already."""
    lane = page_range(last=4000, group_pages=4000, stripes=4)
    cursor = pages.begin(lane)
    first = pages.batch_range(lane, cursor, rows=1_000_000, pages=4000, beside_others=True)
    assert first.last == pages.POLITE_PAGES
    second = pages.batch_range(lane, replace(cursor, stripe=1), rows=1_000_000, pages=4000, beside_others=True)
    assert second.last == 1000


@pytest.mark.parametrize(
    ("passed", "changed", "expected"),
    [
        pytest.param(0, 0, pages.POLITE_PAGES, id="nothing is known"),
        pytest.param(640, 5000, pages.POLITE_PAGES, id="all of them were changed"),
        pytest.param(640, 320, 2 * pages.POLITE_PAGES, id="half of them"),
        pytest.param(640, 0, pages.MOST_POLITE_SCALE * pages.POLITE_PAGES, id="none, and the next may be full"),
    ],
)
def test_a_first_round_that_finds_little_to_change_passes_over_more_pages(
    passed: int, changed: int, expected: int
) -> None:
    """It is the changed ones that are written whole; a scan for a few rows must not take hours for it."""
    lane = page_range(last=16_000, group_pages=16_000, stripes=4)
    cursor = replace(pages.begin(lane), page=passed, opening=pages.Count(changed=changed))
    first = pages.batch_range(lane, cursor, rows=1_000_000, pages=16_000, beside_others=True)
    assert (first.last or 0) - first.first == expected


def test_what_a_lane_has_behind_it_adds_up_to_its_pages() -> None:
    lane = page_range(first=100, last=900)
    cursor: PageCursor | None = pages.begin(lane)
    before = 0.0
    while cursor is not None:
        covered = pages.batch_range(lane, cursor, rows=700, pages=900)
        cursor = pages.after(lane, cursor, covered, changed=700, hot=600)
        assert pages.pages_done(lane, cursor) > before
        before = pages.pages_done(lane, cursor)
    assert before == 800


def test_the_open_end_reaches_rows_added_meanwhile() -> None:
    lane = page_range(first=10, last=None, stripes=1)
    cursor = pages.begin(lane)
    covered = pages.batch_range(lane, cursor, rows=120, pages=13)
    assert (covered.first, covered.last) == (10, 12)
    after = pages.after(lane, cursor, covered, changed=0, hot=0)
    assert after is not None
    covered = pages.batch_range(lane, after, rows=120, pages=14)
    assert (covered.first, covered.last) == (12, None)
    assert pages.after(lane, after, covered, changed=0, hot=0) is None


def _second_group(lane: PageRange, *, opening_hot: float, following_hot: float, changed: int = 1000) -> PageCursor:
    """The cursor after a whole first group with these shares of HOT updates."""
    cursor = pages.begin(lane)
    first = cursor.first
    while cursor.first == first:
        covered = pages.batch_range(lane, cursor, rows=100_000, pages=lane.last or 0)
        hot = opening_hot if cursor.stripe == 0 else following_hot
        after = pages.after(lane, cursor, covered, changed=changed, hot=round(changed * hot))
        assert after is not None
        cursor = after
    return cursor


def test_pages_with_room_are_done_in_fewer_rounds() -> None:
    assert _second_group(page_range(last=5000), opening_hot=1.0, following_hot=1.0).stripes == 4


def test_fewer_rounds_that_do_not_do_are_not_tried_again() -> None:
    lane = page_range(last=50_000)
    cursor = _second_group(lane, opening_hot=1.0, following_hot=1.0)
    assert cursor.stripes == 4
    for expected, opening in ((8, 0.2), (8, 1.0)):
        first = cursor.first
        while cursor.first == first:
            covered = pages.batch_range(lane, cursor, rows=100_000, pages=50_000)
            after = pages.after(lane, cursor, covered, changed=1000, hot=round(1000 * opening))
            assert after is not None
            cursor = after
        assert cursor.stripes == expected


def _groups(lane: PageRange, *, late: list[float]) -> list[PageCursor]:
    """The first cursor of each group, when of the rows of each group after its first round this part left the page."""
    cursor = pages.begin(lane)
    found = [cursor]
    for part in late:
        first = cursor.first
        while cursor.first == first:
            covered = pages.batch_range(lane, cursor, rows=100_000, pages=lane.last or 0)
            hot = 0 if cursor.stripe == 0 else round(1000 * (1 - part))
            after = pages.after(lane, cursor, covered, changed=1000, hot=hot)
            assert after is not None
            cursor = after
        found.append(cursor)
    return found


def _first_stripe_upto(lane: PageRange, cursor: PageCursor) -> int | None:
    return pages.batch_range(lane, cursor, rows=100_000, pages=lane.last or 0).upto


def test_a_lane_begins_with_a_small_group_in_few_rounds() -> None:
    lane = replace(page_range(last=100_000, group_pages=16_000, stripes=16), ordered=True)
    pilot, second = _groups(lane, late=[0.0])
    assert (pilot.last, pilot.stripes) == (pages.PILOT_PAGES, pages.PILOT_STRIPES)
    assert ((second.last or 0) - second.first, second.stripes) == (16_000, 16)


def test_what_rows_grow_by_leaves_the_page_in_the_first_round() -> None:
    """60 rows a page and 16 rounds: 4 rows in the first, and 8 when a fifteenth left late, which is 4 rows."""
    lane = replace(page_range(last=100_000, group_pages=1000, stripes=16), ordered=True)
    _, equal = _groups(lane, late=[0.0])
    assert _first_stripe_upto(lane, equal) == 4
    _, larger, kept = _groups(lane, late=[0.089, 0.0])
    assert (_first_stripe_upto(lane, larger), _first_stripe_upto(lane, kept)) == (8, 8)


def test_a_first_stripe_that_would_not_do_is_not_enlarged() -> None:
    lane = replace(page_range(last=100_000, group_pages=1000, stripes=16), ordered=True)
    *_, third = _groups(lane, late=[0.6, 0.6])
    assert _first_stripe_upto(lane, third) == 4


def test_where_the_order_is_not_asked_for_all_stripes_are_alike() -> None:
    """A B-tree's pages are split where more than a tenth is added at once, before any of its old entries can be removed."""
    lane = page_range(last=100_000, group_pages=1000, stripes=16)
    first, second = _groups(lane, late=[0.089])
    assert (first.stripes, _first_stripe_upto(lane, second)) == (16, 4)


def test_a_lane_that_keeps_the_order_gives_nothing_away() -> None:
    lane = replace(page_range(last=1000, group_pages=100), ordered=True)
    assert pages.split(lane, pages.begin(lane)) is None


def test_groups_grow_when_their_pages_come_up_again_too_early() -> None:
    cursor = _second_group(page_range(last=50_000), opening_hot=0.1, following_hot=0.3)
    assert cursor.last is not None
    assert cursor.last - cursor.first == 256
    assert cursor.stripes == 8


def test_where_nothing_is_ever_free_again_the_rounds_are_given_up() -> None:
    lane = page_range(last=1_000_000)
    cursor = pages.begin(lane)
    for _ in range(10_000):
        if cursor.first > 3000:
            break
        covered = pages.batch_range(lane, cursor, rows=100_000, pages=1_000_000)
        after = pages.after(lane, cursor, covered, changed=1000, hot=0)
        assert after is not None
        cursor = after
    assert cursor.stripes == 1


def test_where_few_rows_need_work_a_page_is_not_visited_in_vain() -> None:
    """Two rows of a page in need: two rounds, as many as there were."""
    lane = page_range(last=5000)
    cursor = _second_group(lane, opening_hot=0.0, following_hot=0.0, changed=8)
    assert cursor.stripes == 2
    assert cursor.level == 8


@pytest.mark.parametrize(
    ("what", "stripes"),
    [
        ({"rows_per_page": 80, "row_bytes": 97, "indexes": 3, "in_place": True}, 16),
        ({"rows_per_page": 80, "row_bytes": 97, "indexes": 1, "in_place": True}, 8),
        ({"rows_per_page": 80, "row_bytes": 97, "indexes": 3, "in_place": False}, 1),
        ({"rows_per_page": 5, "row_bytes": 1600, "indexes": 3, "in_place": True}, 5),
        ({"rows_per_page": 1, "row_bytes": 6000, "indexes": 3, "in_place": True}, 1),
        # fillfactor 90, and half-empty pages
        ({"rows_per_page": 72, "row_bytes": 98, "indexes": 3, "in_place": True}, 13),
        ({"rows_per_page": 40, "row_bytes": 97, "indexes": 3, "in_place": True}, 3),
        ({"rows_per_page": 0, "row_bytes": 0, "indexes": 1, "in_place": True}, 1),
    ],
)
def test_as_many_rounds_as_the_table_asks_for(what: dict[str, float], stripes: int) -> None:
    assert stripes_for(**what) == stripes  # type: ignore[arg-type] # a table of cases


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("size", [1, 63, 64, 129, 10_000])
def test_a_table_is_cut_into_equal_stretches_without_a_gap(size: int, pieces: int) -> None:
    cut = pages.cut(size, pieces, page_range=page_range(last=size))
    assert cut[0].first == 0
    assert cut[-1].last == size
    assert all(one.last == other.first for one, other in pairwise(cut))
    assert len(cut) == max(1, min(pieces, size // pages.LEAST_GROUP_PAGES))


def test_half_of_the_rest_is_given_away() -> None:
    lane = page_range(last=1000, group_pages=100)
    cursor = pages.begin(lane)
    parts = pages.split(lane, cursor)
    assert parts is not None
    kept, given = parts.kept, parts.given
    assert (kept.page_range.last, given.page_range.first, given.page_range.last, parts.pages) == (550, 550, 1000, 450)
    assert kept.cursor == cursor
    assert given.cursor.first == 550


def test_a_group_is_shared_between_two_rounds_when_nothing_else_is_left() -> None:
    lane = page_range(last=400, group_pages=400)
    cursor = pages.begin(lane)
    while cursor.stripe < 4:
        after = pages.after(lane, cursor, pages.batch_range(lane, cursor, rows=700, pages=400), changed=700, hot=0)
        assert after is not None
        cursor = after
    parts = pages.split(lane, cursor)
    assert parts is not None
    kept, given = parts.kept, parts.given
    assert (kept.page_range.last, kept.cursor.last, given.page_range.first) == (200, 200, 200)
    assert (given.cursor.stripe, parts.pages) == (4, 100)


def test_little_is_not_shared() -> None:
    lane = page_range(last=100)
    assert pages.split(lane, pages.begin(lane)) is None
