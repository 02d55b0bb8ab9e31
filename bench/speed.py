"""How fast: one statement that nobody dares to run on a live table, against the same done in batches."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.daemon import CHEAP, Daemon
from bench.figures import MEGABYTE, Figure, Section, Table, Target, number
from bench.stage import ROWS_PER_SCALE

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Database, Sizes, Stage

SCALE = 10
LANES = 2
WAYS = ("update", "batches", "backfilld")

ONE_UPDATE = "one UPDATE"
KEY_BATCHES = "batches of 1,000 keys, one connection"
BACKFILL_PHASE = "backfilld, backfill phase"
WHOLE_RUN = "backfilld, whole run with verify"

#: Our own restatement of the pattern that is published for doing this by hand: the next thousand keys, locked in order, and
#: their rows updated, a transaction each.
NEXT_BATCH = """
WITH batch AS (
    SELECT aid FROM pgbench_accounts WHERE aid > %s ORDER BY aid LIMIT 1000 FOR NO KEY UPDATE
), done AS (
    UPDATE pgbench_accounts SET x = abalance * 100 FROM batch WHERE pgbench_accounts.aid = batch.aid
    RETURNING pgbench_accounts.aid
)
SELECT max(aid) FROM done
"""


@dataclass(frozen=True)
class Timed:
    """One way to do it, done once."""

    seconds: float
    grown: Sizes


def measure(stage: Stage, effort: Effort) -> Section:
    scale = effort.scale(SCALE)
    timed: dict[str, list[Timed]] = {name: [] for name in (ONE_UPDATE, KEY_BATCHES, BACKFILL_PHASE, WHOLE_RUN)}
    for repetition in range(effort.repetitions):
        for number_ in range(len(WAYS)):  # in another order each time: the one before leaves its work to the disk
            way = WAYS[(number_ + repetition) % len(WAYS)]
            with stage.database(scale) as database:
                match way:
                    case "update":
                        timed[ONE_UPDATE].append(_one_update(database))
                    case "batches":
                        timed[KEY_BATCHES].append(_key_batches(database))
                    case "backfilld":
                        phase, run = _backfilld(stage, database)
                        timed[BACKFILL_PHASE].append(phase)
                        timed[WHOLE_RUN].append(run)
    return Section(
        name="speed",
        title=f"Speed: x = {CHEAP} in {scale * ROWS_PER_SCALE:,} rows (medians of {effort.repetitions})",
        method=(
            "x is a new column, bigint, NULL. Each way gets a fresh, vacuumed table in memory, after a CHECKPOINT. "
            f"backfilld adds the column with its sync trigger: {LANES} lanes, 2 processes of 1 thread, batch_seconds 0.5. Its "
            "backfill phase is from the event phase.backfill to the event phase.verify, the making of the lanes included; "
            "its whole run is from run.enqueued to run.completed; WAL and growth in both lines are the whole run's. "
            "The batches of 1,000 keys are our own restatement of the SQL pattern that is published for this. "
            "A ratio is rows/s divided by those of one UPDATE in the same repetition."
        ),
        tables=(
            Table(
                columns=("way", "seconds", "rows/s", "ratio", "WAL MB", "heap MB", "index MB"),
                rows=tuple(_row(name, timed, scale * ROWS_PER_SCALE) for name in timed),
            ),
        ),
        figures=(
            _figure("backfill phase, rows/s to one UPDATE", timed, BACKFILL_PHASE, Target(at="least", value=0.8)),
            _figure("whole run, rows/s to one UPDATE", timed, WHOLE_RUN, None),
            _figure("batches of 1,000 keys, rows/s to one UPDATE", timed, KEY_BATCHES, None),
        ),
    )


def _one_update(database: Database) -> Timed:
    database.connection.execute("ALTER TABLE pgbench_accounts ADD COLUMN x bigint")
    before, began = database.sizes(), time.monotonic()
    database.connection.execute("UPDATE pgbench_accounts SET x = abalance * 100")
    return Timed(time.monotonic() - began, database.sizes().since(before))


def _key_batches(database: Database) -> Timed:
    database.connection.execute("ALTER TABLE pgbench_accounts ADD COLUMN x bigint")
    before, began = database.sizes(), time.monotonic()
    last: int | None = 0
    while last is not None:
        last = database.one(NEXT_BATCH, [last])
    return Timed(time.monotonic() - began, database.sizes().since(before))


def _backfilld(stage: Stage, database: Database) -> tuple[Timed, Timed]:
    """The backfill phase, and the whole run."""
    with Daemon(stage, database, processes=2) as daemon:
        before = database.sizes()
        run = daemon.enqueue(lanes=LANES)
        database.until_state(run, "completed")
        grown = database.sizes().since(before)
    return (
        Timed(database.lasted(run, "phase.backfill", "phase.verify"), grown),
        Timed(database.lasted(run, "run.enqueued", "run.completed"), grown),
    )


def _ratios(timed: dict[str, list[Timed]], name: str) -> tuple[float, ...]:
    return tuple(base.seconds / other.seconds for base, other in zip(timed[ONE_UPDATE], timed[name], strict=True))


def _figure(name: str, timed: dict[str, list[Timed]], way: str, target: Target | None) -> Figure:
    return Figure(name=name, values=_ratios(timed, way), unit="times", target=target)


def _row(name: str, timed: dict[str, list[Timed]], rows: int) -> tuple[str, ...]:
    ways = timed[name]
    seconds = statistics.median(way.seconds for way in ways)
    return (
        name,
        number(seconds),
        number(rows / seconds),
        number(statistics.median(_ratios(timed, name))),
        *(
            number(statistics.median(getattr(way.grown, part) for way in ways) / MEGABYTE)
            for part in ("wal", "heap", "indexes")
        ),
    )
