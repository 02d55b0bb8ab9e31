"""Who lives by the order of rows on disk, and what a walk makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backfilld.migrations.walks.order import ENOUGH_SCANS, RANGE_ROWS, IndexOrder, correlation_after, who_lives_by_it

INDEX = IndexOrder(
    index="jobs_created_at",
    is_brin=False,
    is_clustered=False,
    column="created_at",
    correlation=0.99,
    scans=ENOUGH_SCANS,
    rows_read=ENOUGH_SCANS * RANGE_ROWS,
)


@pytest.mark.parametrize(
    ("index", "because"),
    [
        (INDEX, "a scan of jobs_created_at reads 1,000 of them"),
        (replace(INDEX, correlation=-0.99), "rows are in the order of created_at"),
        (replace(INDEX, correlation=0.89), ""),
        (replace(INDEX, correlation=None), ""),
        (replace(INDEX, scans=ENOUGH_SCANS - 1), ""),
        (replace(INDEX, rows_read=ENOUGH_SCANS * RANGE_ROWS - 1), ""),
        # The index that batches read by themselves.
        (replace(INDEX, column="id"), ""),
        (replace(INDEX, correlation=None, scans=0, is_clustered=True), "clustered on jobs_created_at"),
        (replace(INDEX, correlation=None, scans=0, is_brin=True), "BRIN index jobs_created_at"),
    ],
)
def test_order_is_kept_for_who_lives_by_it(index: IndexOrder, because: str) -> None:
    found = who_lives_by_it([index], walked_by="id")
    assert because in found
    assert bool(because) == bool(found)


@pytest.mark.parametrize(
    ("moved", "lanes", "after"),
    [(0.0, 2, 1.0), (1.0, 1, 1.0), (1.0, 2, 0.5), (0.15, 1, 0.745), (0.16, 2, 0.718)],
)
def test_correlation_falls_by_what_moves_and_by_the_lanes_that_mix(moved: float, lanes: int, after: float) -> None:
    """As measured: 0.74 and 0.72 for the last two, and 0.49 for two lanes by key."""
    assert correlation_after(1.0, moved=moved, lanes=lanes) == pytest.approx(after, abs=0.001)
