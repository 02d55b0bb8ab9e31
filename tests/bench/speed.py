"""How fast: one statement that nobody dares to run on a live table, against the same done in batches."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.daemon import CHEAP, Daemon
from bench.figures import MEGABYTE, Figure, Section, Table, Target, number

if TYPE_CHECKING:
    from bench.stage import Database, Sizes, Stage

    from psycopg.abc import Query

SCALE = 10
LANES = 2
BATCH_ROWS = 1000

ONE_UPDATE = "one UPDATE"
KEY_BATCHES = "batches of 1,000 keys, one connection"
BACKFILL_PHASE = "backfilld, backfill phase"
WHOLE_RUN = "backfilld, whole run with verify"

#: Our own restatement of the pattern that is published for doing this by hand: the next thousand keys, locked in order, and
#: their rows updated, a transaction each.
NEXT_BATCH: Query = f"""
WITH batch AS (
    SELECT aid FROM pgbench_accounts WHERE aid > %s ORDER BY aid LIMIT {BATCH_ROWS} FOR NO KEY UPDATE
), done AS (
    UPDATE pgbench_accounts SET x = {CHEAP} FROM batch WHERE pgbench_accounts.aid = batch.aid
    RETURNING pgbench_accounts.aid
)
SELECT max(aid) FROM done
""".encode()


@dataclass(frozen=True)
class Timed:
    """One way to do it, done once."""

    seconds: float
    grown: Sizes


def measure(stage: Stage, repetitions: int) -> Section:
    timed: dict[str, list[Timed]] = {name: [] for name in (ONE_UPDATE, KEY_BATCHES, BACKFILL_PHASE, WHOLE_RUN)}
    for _ in range(repetitions):
        with stage.database(SCALE) as database:
            timed[ONE_UPDATE].append(_one_update(database))
        with stage.database(SCALE) as database:
            timed[KEY_BATCHES].append(_key_batches(database))
        with stage.database(SCALE) as database:
            phase, run = _backfilld(stage, database)
            timed[BACKFILL_PHASE].append(phase)
            timed[WHOLE_RUN].append(run)
    rows = SCALE * stage_rows()
    base = statistics.median(one.seconds for one in timed[ONE_UPDATE])
    return Section(
        name="speed",
        title=f"Speed: x = {CHEAP} in all of {rows:,} rows, medians of {repetitions}",
        method=(
            "x is a new column, bigint, NULL. Each way gets a fresh, vacuumed table in memory after a CHECKPOINT. "
            f"backfilld: lanes {LANES}, 2 processes of 1 thread, batch_seconds 0.5, add_column with its sync trigger. The "
            "backfill phase is from the event phase.backfill to the event phase.verify, the making of the lanes included; the "
            "whole run is from run.enqueued to run.completed. WAL and growth of both lines are those of the whole run. "
            "Ratios are rows/s, to those of one UPDATE in the same repetition."
        ),
        tables=(
            Table(
                columns=("way", "seconds", "rows/s", "ratio", "WAL MB", "heap MB", "index MB"),
                rows=tuple(_row(name, runs, rows, base) for name, runs in timed.items()),
            ),
        ),
        figures=(
            _ratio("backfill phase, rows/s to one UPDATE's", timed, BACKFILL_PHASE, Target(at="least", value=0.8)),
            _ratio("whole run, rows/s to one UPDATE's", timed, WHOLE_RUN),
            _ratio("batches of 1,000 keys, rows/s to one UPDATE's", timed, KEY_BATCHES),
        ),
    )


def stage_rows() -> int:
    from bench.stage import ROWS_PER_SCALE

    return ROWS_PER_SCALE
