"""How far away: rows per second against the round trip to the database, at the batch target of a quiet table and of a busy one."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from bench.daemon import CHEAP, Daemon
from bench.delay import Delay
from bench.figures import Figure, Section, Table, Target, number
from bench.stage import ROWS_PER_SCALE

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Stage

SCALE = 3
LANES = 2
ROUND_TRIPS_MILLISECONDS = (0, 20, 60, 150)
#: The default, and what a batch may last beside an application that feels it.
TARGETS_SECONDS = (0.5, 0.05)


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.scale(SCALE) * ROWS_PER_SCALE
    rates = {
        (milliseconds, target): [
            rows / _backfill_seconds(stage, effort.scale(SCALE), milliseconds, target)
            for _ in range(effort.repetitions)
        ]
        for target in TARGETS_SECONDS
        for milliseconds in ROUND_TRIPS_MILLISECONDS
    }
    near, far = ROUND_TRIPS_MILLISECONDS[0], ROUND_TRIPS_MILLISECONDS[2]
    return Section(
        name="distance",
        title=f"Distance: x = {CHEAP} in {rows:,} rows, by the round trip to the database (medians of {effort.repetitions})",
        method=(
            f"A proxy delays what goes between the daemon and the database. {LANES} lanes, 2 processes of 1 thread. The rate is "
            "that of the backfill phase, from the event phase.backfill to the event phase.verify."
        ),
        tables=(
            Table(
                columns=("round trip", *(f"rows/s at batch_seconds {target:g}" for target in TARGETS_SECONDS)),
                rows=tuple(
                    (
                        f"{milliseconds} ms",
                        *(number(statistics.median(rates[milliseconds, target])) for target in TARGETS_SECONDS),
                    )
                    for milliseconds in ROUND_TRIPS_MILLISECONDS
                ),
            ),
        ),
        figures=tuple(
            Figure(
                name=f"rows/s {far} ms away to those of a database in the room, batch_seconds {target:g}",
                values=tuple(away / here for away, here in zip(rates[far, target], rates[near, target], strict=True)),
                unit="times",
                target=Target(at="least", value=0.5) if target == TARGETS_SECONDS[0] else None,
            )
            for target in TARGETS_SECONDS
        ),
    )


def _backfill_seconds(stage: Stage, scale: int, milliseconds: int, target_seconds: float) -> float:
    with (
        stage.database(scale) as database,
        Delay(database.url, round_trip_seconds=milliseconds / 1000) as delay,
        Daemon(stage, database, processes=2, url=delay.url if milliseconds else None) as daemon,
    ):
        run = daemon.enqueue(lanes=LANES, batch_seconds=target_seconds)
        database.until_state(run, "completed")
        return database.lasted(run, "phase.backfill", "phase.verify")
