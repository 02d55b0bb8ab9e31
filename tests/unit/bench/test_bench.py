"""The bench's own arithmetic: figures that are wrong would be believed."""

from __future__ import annotations

import pytest

from bench.figures import Figure, Section, Table, Target
from bench.load import Transaction, percentile, read_log
from bench.matrix import Measured, OnKind, in_another_order
from bench.page import block, markdown, put
from bench.scale import dearer_percent
from bench.stage import Counters, Sizes
from bench.tables import BASE
from bench.ways import ONE_UPDATE, WAYS, next_job_rows
from bench.windows import Pair, Window, due_in, ratios


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0), (0.995, 100.0)],
)
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(1, 101)], share) == expected


def test_latency_counts_from_when_a_transaction_was_due() -> None:
    """A transaction that ended in second 1001.5, 1.5 s after it was due, 1.2 s of them waiting for its turn."""
    (one,) = read_log(["0 199 1500000 0 1001 500000 1200000"])

    assert one.due == pytest.approx(1000.0)
    assert one.milliseconds == 1500.0


def test_a_transaction_belongs_to_the_window_in_which_it_was_due() -> None:
    """Not to that in which it ended: those that wait for the last batch end after it."""
    transactions = [
        Transaction(due, milliseconds) for due, milliseconds in ((9.9, 1), (10.0, 5000), (19.9, 2), (20.0, 4))
    ]

    assert due_in(transactions, Window(since=10.0, till=20.0)) == [2, 5000]


def test_a_ratio_is_between_neighbours_and_what_both_suffer_falls_out() -> None:
    """The host was ten times slower in the second half; the run doubles the slowest tenth, always."""
    quick = Pair(without=[1.0] * 90 + [4.0] * 10, with_=[1.0] * 90 + [8.0] * 10)
    slow = Pair(without=[10.0] * 90 + [40.0] * 10, with_=[10.0] * 90 + [80.0] * 10)

    p40, p99 = ratios([quick, slow] * 10, [0.4, 0.99])

    assert (p40.value, p99.value) == (1.0, 2.0)
    assert p99.least == p99.most == 2.0


def test_one_bad_window_widens_the_interval() -> None:
    usual = Pair(without=[2.0] * 100, with_=[2.0] * 100)
    bad = Pair(without=[2.0] * 100, with_=[2.0] * 50 + [40.0] * 50)

    (sure,) = ratios([usual] * 20, [0.99])
    (unsure,) = ratios([usual] * 19 + [bad], [0.99])

    assert (sure.least, sure.most) == (1.0, 1.0)
    assert (unsure.least, unsure.value, unsure.most) == (1.0, 20.0, 20.0)


def _measured(*, seconds: float, wal: int = 100, heap: int = 0) -> Measured:
    return Measured(
        rows=1000,
        seconds=seconds,
        verified_seconds=seconds,
        before=Sizes(wal=0, heap=200, indexes=50),
        grown=Sizes(wal=wal, heap=heap, indexes=10),
        counted=Counters(wal_records=9, full_pages=8, updates=1000, hot_updates=750),
    )


def test_ratios_are_to_one_update_of_the_same_repetition() -> None:
    """A machine that was half as fast in the second repetition was so for both ways."""
    on_base = OnKind(
        BASE,
        {
            ONE_UPDATE.name: [_measured(seconds=2, wal=200), _measured(seconds=4, wal=200)],
            "other": [_measured(seconds=1, wal=100), _measured(seconds=2, wal=50)],
        },
    )

    assert on_base.ratios("other", lambda one: one.rows_per_second) == (2.0, 2.0)
    assert on_base.ratios("other", lambda one: one.grown.wal) == (0.5, 0.25)


def test_growth_is_a_share_of_what_was_there() -> None:
    one = _measured(seconds=2, heap=50)

    assert (one.rows_per_second, one.heap_percent, one.index_percent, one.hot_percent) == (500, 25, 20, 75)


def test_every_way_comes_first_in_some_repetition() -> None:
    orders = [in_another_order(WAYS, repetition) for repetition in range(len(WAYS))]

    assert {order[0].name for order in orders} == {way.name for way in WAYS}
    assert all(sorted(way.name for way in order) == sorted(way.name for way in WAYS) for order in orders)


def test_flat_is_told_by_the_dearest_row_and_the_cheapest() -> None:
    assert dearer_percent([10.0, 8.0, 9.0]) == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("rows", "seconds", "expected"),
    [
        pytest.param(10_000, [1.85], 10_000, id="92 % of its interval: as it should be"),
        pytest.param(10_000, [0.1], 12_000, id="far too short: a fifth more and no further"),
        pytest.param(10_000, [7.6], 2_500, id="four times too long: a quarter at once"),
        pytest.param(1_000, [60.0], 1_000, id="never below the smallest"),
        pytest.param(2_000_000, [0.1], 2_000_000, id="never above the largest"),
        pytest.param(10_000, [1.85] * 20 + [0.5] * 20, 12_000, id="only the last twenty count"),
    ],
)
def test_a_job_is_sized_as_gitlab_publishes(rows: int, seconds: list[float], expected: int) -> None:
    assert next_job_rows(rows, seconds) == expected


def test_the_newest_job_counts_most() -> None:
    """One slow job after a fast one shrinks the next; the other way round it may grow."""
    assert next_job_rows(10_000, [0.1, 4.0]) < 10_000 < next_job_rows(10_000, [4.0, 0.1])


#: With two blocks, the second of which stands empty.
PAGE = """# Benchmarks

By hand.

<!-- measured: a on embedded -->
old
<!-- end: a on embedded -->

<!-- measured: b on embedded -->
<!-- end: b on embedded -->
"""


def _block(name: str) -> str:
    section = Section(
        name=name,
        title="Title",
        method="Method.",
        tables=(Table(columns=("way", "rows/s"), rows=(("a | b", "1"),)),),
        figures=(Figure(name="figure", values=(2.0,), target=Target(at="most", value=1)),),
    )
    return block(section, where="embedded", machine={"measured": "today"}, pictures=[("speed.svg", "speed")])


def test_a_measurement_replaces_its_own_block_and_nothing_else() -> None:
    page = put(PAGE, _block("a"))

    assert "old" not in page
    assert page.startswith(
        "# Benchmarks\n\nBy hand.\n\n<!-- measured: a on embedded -->\n\n### Title\n\n- measured: today\n"
    )
    assert page.endswith("\n\n<!-- measured: b on embedded -->\n<!-- end: b on embedded -->\n")
    assert put(page, _block("a")) == page


def test_a_measurement_without_a_block_comes_last() -> None:
    page = put(PAGE, _block("c"))

    assert page.startswith(PAGE.rstrip())
    assert page.endswith("<!-- end: c on embedded -->\n")


def test_a_block_holds_what_was_measured() -> None:
    text = _block("a")

    assert "![speed](speed.svg)" in text
    assert "| figure | 2 |  | once | 2 | 2 | ≤ 1 | ✗ |" in text


def test_a_table_is_markdown() -> None:
    table = Table(columns=("way", "rows/s"), rows=(("one | two", "1,000"), ("three", "")))

    assert markdown(table) == "| way | rows/s |\n| --- | ---: |\n| one \\| two | 1,000 |\n| three |  |"
