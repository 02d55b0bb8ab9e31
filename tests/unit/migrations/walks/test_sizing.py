"""How large the next batch is: never outside its limits, never twice as large, and small again after a surprise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfilld.migrations.record.model import Timing
from backfilld.migrations.walks.sizing import (
    GROWTH,
    LEAST_ROWS,
    MOST_ROWS,
    PANIC,
    REMEMBERED,
    fixed_seconds,
    next_rows,
    rest_seconds,
    smaller,
)

ROWS = st.integers(LEAST_ROWS, MOST_ROWS)
SECONDS = st.floats(0, 1000, allow_nan=False)
TARGETS = st.floats(0.01, 30)
TIMINGS = st.lists(st.builds(Timing, rows=st.integers(0, MOST_ROWS), seconds=SECONDS, at=st.just(0.0)), max_size=20)


def timing(rows: int, seconds: float) -> Timing:
    return Timing(rows=rows, seconds=seconds, at=0.0)


@given(ROWS, TIMINGS, TARGETS)
def test_never_outside_the_limits_and_never_much_larger(rows: int, recent: list[Timing], target: float) -> None:
    following = next_rows(rows, recent, target_seconds=target)
    assert LEAST_ROWS <= following <= MOST_ROWS
    assert following <= max(rows * GROWTH, rows + 1)


@given(ROWS, TARGETS, st.floats(1.01, 100))
def test_a_batch_far_over_its_target_is_followed_by_a_tenth(rows: int, target: float, factor: float) -> None:
    assert next_rows(rows, [timing(rows, PANIC * target * factor)], target_seconds=target) == max(
        LEAST_ROWS, rows // 10
    )


@given(ROWS, TIMINGS, TARGETS, st.floats(1.01, 100))
def test_it_is_never_followed_by_a_larger_one(rows: int, recent: list[Timing], target: float, factor: float) -> None:
    recent = recent[-REMEMBERED + 1 :]  # what is remembered beside the last one
    recent = [*recent, timing(rows, fixed_seconds(recent) + PANIC * target * factor)]
    assert next_rows(rows, recent, target_seconds=target) <= max(rows, LEAST_ROWS + 1)


@given(ROWS, TARGETS)
def test_batches_that_walked_nothing_say_nothing(rows: int, target: float) -> None:
    assert next_rows(rows, [], target_seconds=target) == rows
    assert next_rows(rows, [timing(0, 99.0)] * 3, target_seconds=target) == rows


@given(st.floats(1e-6, 1e-2), TARGETS)
def test_it_finds_the_size_that_takes_the_target(seconds_per_row: float, target: float) -> None:
    """From one row up or from the most down, against a table whose rows all cost the same."""
    wanted = min(max(target / seconds_per_row, LEAST_ROWS), MOST_ROWS)
    for first in (LEAST_ROWS, MOST_ROWS):
        rows, recent = first, list[Timing]()
        for _ in range(60):
            recent = [*recent, timing(rows, rows * seconds_per_row)][-REMEMBERED:]
            rows = next_rows(rows, recent, target_seconds=target)
        assert abs(rows - wanted) <= max(2, 0.01 * wanted)


@given(st.floats(1e-5, 1e-4))
def test_one_slow_batch_in_ten_is_remembered(seconds_per_row: float) -> None:
    """It aims at the slow end: nine quick batches do not make it forget the two slow ones."""
    quick, slow = timing(1000, 1000 * seconds_per_row), timing(1000, 3000 * seconds_per_row)
    target = 1000 * seconds_per_row
    rows = next_rows(1000, [slow, slow, *[quick] * 8], target_seconds=target)
    assert 390 <= rows <= 410
    assert next_rows(1000, [slow, *[quick] * 9], target_seconds=target) >= 990


def test_a_free_row_makes_no_division_by_zero() -> None:
    assert next_rows(10, [timing(10, 0.0)], target_seconds=0.5) == 15


@given(ROWS)
def test_what_was_rolled_back_is_tried_again_smaller(rows: int) -> None:
    assert smaller(rows, timed_out=True) == max(LEAST_ROWS, rows // 10)
    assert smaller(rows, timed_out=False) == max(LEAST_ROWS, rows // 2)
    assert smaller(LEAST_ROWS, timed_out=False) == LEAST_ROWS


# --- What a batch costs before its first row


def settled(
    fixed: float, seconds_per_row: float, *, target: float, first: int = 1000, waits: float = 0.0
) -> tuple[int, float, float]:
    """Rows of the last batch, seconds of the longest of the last hundred, and rows a second of those, after 300 batches.

    `waits` is for how long a busy machine makes a batch wait, on average and at random.
    """
    chance, rows, recent = random.Random(12), first, list[Timing]()
    done: list[tuple[int, float]] = []
    for _ in range(300):
        seconds = (
            fixed + rows * seconds_per_row + (chance.expovariate(1 / waits) if waits else chance.uniform(0, 0.003))
        )
        done.append((rows, seconds))
        recent = [*recent, timing(rows, seconds)][-REMEMBERED:]
        rows = next_rows(rows, recent, target_seconds=target)
    last = done[-100:]
    return (
        rows,
        max(seconds for _, seconds in last),
        sum(rows for rows, _ in last) / sum(seconds for _, seconds in last),
    )


@pytest.mark.parametrize("first", [1, 1000, 100_000])
@pytest.mark.parametrize("fixed", [0.02, 0.06, 0.15])
def test_a_database_far_away_does_not_make_batches_of_a_row(fixed: float, first: int) -> None:
    """Beside an application a batch may last 50 ms, and the network alone takes longer: it was one row for ever."""
    _, longest, rate = settled(fixed, 1e-5, target=0.05, first=first)
    at_best = 0.05 / (fixed + 0.05) / 1e-5
    assert rate > 0.5 * at_best
    assert longest < fixed + 0.05 * 2


@pytest.mark.parametrize("first", [1, 1000])
def test_a_machine_without_a_processor_to_spare_does_not_make_batches_of_a_row(first: int) -> None:
    _, _, rate = settled(0.01, 1e-4, target=0.1, waits=0.2, first=first)
    assert rate > 250  # with batches of one row it is 5


def test_rows_that_are_dear_themselves_still_make_small_batches() -> None:
    """The application comes first: what a row costs is not taken for what a batch costs."""
    rows, longest, _ = settled(0.002, 0.01, target=0.05)
    assert rows in {3, 4}
    assert longest < 0.06
    rows, longest, _ = settled(0.002, 0.06, target=0.05)
    assert rows in {1, 2}
    assert longest < 0.13


def test_a_database_that_becomes_slower_still_makes_batches_smaller() -> None:
    """Each batch is smaller than the one before and takes longer: that is no cost of its own of a batch."""
    recent = [timing(1000 - 50 * n, 0.05 + 0.02 * n) for n in range(10)]
    assert fixed_seconds(recent) <= 0.05
    assert next_rows(550, recent, target_seconds=0.05) < 550


def test_the_fixed_part_is_found() -> None:
    assert fixed_seconds([timing(rows, 0.06 + rows * 1e-5) for rows in (1000, 700, 500, 350, 250)]) == pytest.approx(
        0.06
    )
    assert fixed_seconds([timing(1000, 0.07)] * 10) == 0
    assert fixed_seconds([]) == 0


@pytest.mark.parametrize(
    ("work", "ratio", "wal", "limit", "expected"),
    [
        pytest.param(0.02, 2.0, 0, None, 0.04, id="the duty cycle"),
        pytest.param(0.02, 0.0, 0, None, 0.0, id="nobody asks for a rest"),
        pytest.param(0.02, 2.0, 100_000, 10e6, 0.04, id="its WAL is spread over less than that"),
        pytest.param(0.02, 2.0, 1_000_000, 10e6, 0.08, id="its WAL is spread over more"),
        pytest.param(0.02, 0.0, 1_000_000, 10e6, 0.08, id="also where it would not rest"),
        pytest.param(0.02, 0.0, 100_000, 10e6, 0.0, id="it wrote more slowly than it may"),
        pytest.param(0.02, 2.0, 10**9, None, 0.04, id="without a limit WAL counts for nothing"),
    ],
)
def test_a_lane_rests_for_its_work_or_for_its_wal(
    work: float, ratio: float, wal: int, limit: float | None, expected: float
) -> None:
    assert rest_seconds(work, rest_ratio=ratio, wal_bytes=wal, wal_bytes_per_second=limit) == pytest.approx(expected)
