"""What a walk costs: by pages a table grows less the more rounds it is rewritten in, and the WAL holds each page at least once."""

from __future__ import annotations

from itertools import pairwise

import pytest

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.planning.estimate import BLOCK_BYTES, ROUNDS_WITHOUT_SPLITS, CostEstimate, cost
from backfilld.migrations.postgres.catalog import Leaf, Table
from backfilld.migrations.walks.order import IndexOrder, WalkChoice
from backfilld.migrations.walks.table_statistics import TableStatistics

JOBS = TableName("public", "jobs")
PAGES, INDEX_BYTES = 1000, 4_000_000
HEAP_BYTES = PAGES * BLOCK_BYTES
TABLE = Table(
    name=JOBS,
    oid=1,
    kind="r",
    pages=PAGES,
    heap_bytes=HEAP_BYTES,
    index_bytes=INDEX_BYTES,
    row_security_active=False,
    owned=True,
    may_select=True,
    may_update=True,
    replica_identity="d",
    has_children=False,
    is_partition=False,
    persistence="p",
    columns=(),
    keys=(),
    triggers=(),
    publications=(),
    dependents=(),
)


def leaf(*, stripes: int, pages: int = PAGES, indexes: int = 2) -> TableStatistics:
    one = Leaf(
        name=JOBS,
        oid=1,
        kind="r",
        heap=True,
        filenode=1,
        pages=pages,
        row_security_active=False,
        may_update=True,
        indexes=indexes,
        indexed_columns=(),
    )
    return TableStatistics(leaf=one, rows_per_page=50.0, row_bytes=100.0, stripes=stripes)


def by_pages(stripes: int) -> CostEstimate:
    return cost(TABLE, [leaf(stripes=stripes)], WalkChoice(walk="pages"))


def test_more_rounds_let_a_table_grow_less() -> None:
    estimates = [by_pages(rounds) for rounds in (2, 4, 8, 16, 32)]
    assert all(more.heap_growth_bytes < less.heap_growth_bytes for less, more in pairwise(estimates))
    assert all(more.index_growth_bytes < less.index_growth_bytes for less, more in pairwise(estimates))


def test_by_keys_there_is_one_round_and_the_table_doubles() -> None:
    estimate = cost(TABLE, [leaf(stripes=8)], WalkChoice(walk="keys", because="the expression reads what it sets"))
    assert (estimate.walk, estimate.stripes) == ("keys", 1)
    assert estimate.heap_growth_bytes == HEAP_BYTES
    assert estimate.because == "the expression reads what it sets"


@pytest.mark.parametrize("stripes", [1, 2, 16, 100])
def test_every_page_is_in_the_wal_once_at_least(stripes: int) -> None:
    assert by_pages(stripes).wal_bytes > HEAP_BYTES


def test_indexes_never_more_than_double() -> None:
    assert by_pages(1).index_growth_bytes == INDEX_BYTES
    assert by_pages(ROUNDS_WITHOUT_SPLITS).index_growth_bytes == round(INDEX_BYTES / ROUNDS_WITHOUT_SPLITS)


def test_the_largest_leaf_says_in_how_many_rounds() -> None:
    estimate = cost(TABLE, [leaf(stripes=3, pages=10), leaf(stripes=7, pages=900)], WalkChoice(walk="pages"))
    assert estimate.stripes == 7


def test_a_table_without_leaves_costs_nothing_by_row() -> None:
    """A partitioned table that has no partition yet."""
    assert cost(TABLE, [], WalkChoice(walk="pages")).stripes == 1


def index_on(column: str, correlation: float | None) -> IndexOrder:
    return IndexOrder(
        index=f"jobs_{column}",
        is_brin=False,
        is_clustered=False,
        column=column,
        correlation=correlation,
        scans=0,
        rows_read=0,
    )


def test_it_is_said_what_becomes_of_the_order_of_columns_that_are_in_one() -> None:
    indexes = [index_on("id", 1.0), index_on("user_id", 0.02), index_on("unknown", None)]
    striped = cost(TABLE, [leaf(stripes=16)], WalkChoice(walk="pages"), indexes=indexes, lanes=2)
    assert striped.moved_ratio == pytest.approx(1 / 16 + 8 / 100 + 1 / 50, abs=0.001)
    (order,) = striped.correlations
    assert (order.column, order.before, order.after) == ("id", 1.0, 0.71)
    # All rows move: two lanes mix at the end of the table, one keeps the order.
    for lanes, after in ((1, 1.0), (2, 0.5)):
        moved = cost(
            TABLE,
            [leaf(stripes=16)],
            WalkChoice(walk="ordered", in_stripes=False),
            indexes=indexes,
            lanes=lanes,
        )
        assert moved.stripes == 1
        assert moved.correlations[0].after == after
