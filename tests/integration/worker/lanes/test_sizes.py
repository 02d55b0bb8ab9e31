"""How large batches become where the database is far away: a real lane, through a network that delays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.settings import Limits
from backfilld.monitoring import explain
from bench.delay import Delay

if TYPE_CHECKING:
    from fix_runs import Engine

FILL = """
name: shout
operations:
  - backfill: {table: jobs, set: {status: "upper(status)"}}
settings: {lanes: 1, walk: keys, batch_seconds: 0.05, journal: false}
"""


@pytest.mark.parametrize("milliseconds", [20, 60, pytest.param(150, marks=pytest.mark.soak)])
def test_batches_do_not_shrink_to_a_row_where_the_network_takes_the_time(engine: Engine, milliseconds: int) -> None:
    """A batch may last 50 ms, and one round trip of its statements takes 20, 60 or 150: its rows are sized, not the network."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, 60000) n")
    run = engine.enqueue(FILL)
    engine.drive_to_lanes(run)
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 50 WHERE lane = 1")
    with (
        Delay(engine.url, round_trip_seconds=milliseconds / 1000) as far,
        open_pool(far.url, size=2) as pool,
    ):
        # A message is good for two seconds of batches. Before, each of them was smaller than the one before it, down to a row.
        runner = engine.runner(pool=pool, one_step=False)
        for _ in range(8):
            engine.step(runner=runner)
            if engine.lane(run, 1).batch_rows > 150:
                break
        else:
            pytest.fail(f"batches do not grow: {engine.lane(run, 1)}")
    told = " ".join(explain.read(engine.connection, engine.run(run), Limits()).sentences)
    # Of 20 ms no more than half of the target need be seen.
    assert milliseconds == 20 or "before its first row, and should last 50 ms: network round trips" in told
