"""The order of rows on disk: where something lives by it, it is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.record.model import PageRange
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from fix_runs import Engine

SET = """
name: sizes
operations:
  - backfill: {table: jobs, set: {size: length(status)}}
settings: {approve: [], journal: false, lanes: %d, walk: %s}
"""


def make_jobs(engine: Engine, rows: int) -> None:
    engine.execute(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, at bigint NOT NULL, status text NOT NULL, size bigint, pad text) "
        "WITH (autovacuum_enabled = off)"
    )
    engine.execute(
        "INSERT INTO jobs SELECT n, n, 'Open ' || n, NULL, repeat('x', 90) FROM generate_series(1, %s) n", rows
    )
    engine.execute("CREATE INDEX jobs_at ON jobs (at)")
    engine.execute("VACUUM (ANALYZE) jobs")


def buffers_of_range(engine: Engine, first: int, rows: int) -> int:
    """What an index scan in key order asks the shared buffers for."""
    engine.execute("VACUUM (ANALYZE) jobs")
    with engine.connection.transaction():
        engine.execute("SET LOCAL enable_bitmapscan = off")
        engine.execute("SET LOCAL enable_seqscan = off")
        plan = engine.value(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT sum(length(pad)) FROM jobs WHERE id > {first} AND id <= {first + rows}"
        )[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def correlation(engine: Engine) -> float:
    engine.execute("ANALYZE jobs")
    return float(engine.value("SELECT correlation FROM pg_stats WHERE tablename = 'jobs' AND attname = 'at'"))


def lanes_of(engine: Engine, run: int) -> list[PageRange]:
    return [lane.bounds for lane in engine.lanes(run, "backfill") if isinstance(lane.bounds, PageRange)]


def test_what_leaves_in_stripes_leaves_together_where_the_order_is_kept(engine: Engine) -> None:
    """A page is left once for the rows that had to leave it, not for every row of them: that would be ten times as many."""
    make_jobs(engine, 80_000)
    engine.execute("CREATE INDEX jobs_brin ON jobs USING brin (at)")
    before = buffers_of_range(engine, 60_000, 2000)
    run = engine.enqueue(SET % (1, "ordered"))
    expect(engine.drive(run), State.COMPLETED)
    assert buffers_of_range(engine, 60_000, 2000) < 7 * before


def test_ordered_moves_all_rows_and_keeps_their_order(engine: Engine) -> None:
    make_jobs(engine, 20_000)
    before = buffers_of_range(engine, 10_000, 2000)
    run = engine.enqueue(SET % (2, "ordered"))
    expect(engine.drive(run), State.COMPLETED)
    assert [(lane.ordered, lane.stripes) for lane in lanes_of(engine, run)] == [(True, 1)]
    assert buffers_of_range(engine, 10_000, 2000) < 1.3 * before
    assert correlation(engine) > 0.99


@pytest.mark.parametrize("walk", ["auto", "ordered"])
def test_beside_a_brin_index_rows_stay_and_what_leaves_is_in_order(engine: Engine, walk: str) -> None:
    make_jobs(engine, 20_000)
    engine.execute("CREATE INDEX jobs_brin ON jobs USING brin (at) WITH (pages_per_range = 8)")
    before = engine.value("SELECT pg_relation_size('jobs')")
    run = engine.enqueue(SET % (2, walk))
    expect(engine.drive(run), State.COMPLETED)
    (lane,) = lanes_of(engine, run)
    assert lane.ordered
    assert lane.stripes > 1
    assert engine.value("SELECT pg_relation_size('jobs')") < 1.5 * before


def test_a_table_that_is_clustered_is_walked_in_order(engine: Engine) -> None:
    make_jobs(engine, 1000)
    engine.execute("CLUSTER jobs USING jobs_at")
    run = engine.enqueue(SET % (2, "auto"))
    expect(engine.drive(run), State.COMPLETED)
    assert [(lane.ordered, lane.stripes) for lane in lanes_of(engine, run)] == [(True, 1)]


def test_other_tables_are_walked_by_all_lanes(engine: Engine) -> None:
    make_jobs(engine, 20_000)
    run = engine.enqueue(SET % (2, "auto"))
    expect(engine.drive(run), State.COMPLETED)
    assert [lane.ordered for lane in lanes_of(engine, run)] == [False, False]


def test_what_can_only_be_walked_by_key_is_in_order_by_one_lane(engine: Engine) -> None:
    """An expression that reads what it sets; the lane gives no half of it to the one that has nothing to do."""
    make_jobs(engine, 20_000)
    engine.execute("UPDATE jobs SET size = id")
    run = engine.enqueue(SET.replace("length(status)", "size + 1") % (2, "ordered"))
    expect(engine.drive(run), State.COMPLETED)
    assert len(engine.lanes(run, "backfill")) == 1
    assert engine.value("SELECT count(*) FROM jobs WHERE size IS DISTINCT FROM id + 1") == 0


@pytest.mark.since(15)  # what a session has counted is not to be seen before it ends
def test_a_table_that_is_read_by_ranges_in_its_order_is_walked_in_order(engine: Engine) -> None:
    make_jobs(engine, 5000)
    engine.execute("SET enable_seqscan = off")
    engine.execute("SET enable_bitmapscan = off")
    engine.execute(
        "DO $$ BEGIN FOR n IN 1..100 LOOP PERFORM sum(size) FROM jobs WHERE at > 100 AND at <= 1200; END LOOP; END $$"
    )
    engine.hand_in_counts()
    run = engine.enqueue(SET % (2, "auto"))
    expect(engine.drive(run), State.COMPLETED)
    assert [(lane.ordered, lane.stripes) for lane in lanes_of(engine, run)] == [(True, 1)]
