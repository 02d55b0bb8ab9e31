"""How large the next batch is: never outside its limits, never twice as large, and small again after a surprise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backfilld.migrations.record.model import Timing
from backfilld.migrations.walks.sizing import GROWTH, LEAST_ROWS, MOST_ROWS, PANIC, REMEMBERED, next_rows, smaller

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


@given(ROWS, TIMINGS, TARGETS, st.floats(1.01, 100))
def test_a_batch_far_over_its_target_is_followed_by_a_tenth(
    rows: int, recent: list[Timing], target: float, factor: float
) -> None:
    recent = [*recent, timing(rows, PANIC * target * factor)]
    assert next_rows(rows, recent, target_seconds=target) == max(LEAST_ROWS, rows // 10)


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
    assert 330 <= rows <= 340
    assert next_rows(1000, [slow, *[quick] * 9], target_seconds=target) >= 990


def test_a_free_row_makes_no_division_by_zero() -> None:
    assert next_rows(10, [timing(10, 0.0)], target_seconds=0.5) == 15


@given(ROWS)
def test_what_was_rolled_back_is_tried_again_smaller(rows: int) -> None:
    assert smaller(rows, timed_out=True) == max(LEAST_ROWS, rows // 10)
    assert smaller(rows, timed_out=False) == max(LEAST_ROWS, rows // 2)
    assert smaller(LEAST_ROWS, timed_out=False) == LEAST_ROWS
