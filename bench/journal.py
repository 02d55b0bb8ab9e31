"""What the journal costs: the same in-place change with it and without, and what its undo takes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.daemon import Daemon
from bench.figures import MEGABYTE, Figure, Section, Table, number
from bench.stage import BenchBroken
from bench.tables import Kind

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Stage

ROWS, ROWS_QUICK = 500_000, 60_000
EXPRESSION = "total * 100"


@dataclass(frozen=True)
class Timed:
    """One run over all rows."""

    seconds: float
    wal: int
    #: Of the way back; 0 where there is none.
    undo_seconds: float


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    runs: dict[bool, list[Timed]] = {True: [], False: []}
    for repetition in range(effort.repetitions):
        for journal in (True, False) if repetition % 2 else (False, True):  # the one before leaves its work to the disk
            runs[journal].append(_timed(stage, rows, journal=journal))
    seconds = {journal: statistics.median(one.seconds for one in timed) for journal, timed in runs.items()}
    wal = {journal: statistics.median(one.wal for one in timed) for journal, timed in runs.items()}
    undo = statistics.median(one.undo_seconds for one in runs[True])
    return Section(
        name="journal",
        title=f"Journal: `revenue = {EXPRESSION}` in {rows:,} rows with it and without (medians of {effort.repetitions})",
        method=(
            "backfill by pages with 2 lanes on 2 processes, on a table of 150 bytes a row with 2 secondary indexes; with `journal: "
            "on` and `journal: off` in turns. Seconds are those from the event phase.backfill to the event phase.verify, WAL is "
            "that of the whole run; of undo, those from the event run.rolling_back to run.rolled_back. Afterwards the table is "
            "compared with what it was."
        ),
        tables=(
            Table(
                columns=("journal", "rows/s", "WAL MB", "WAL bytes a row"),
                rows=tuple(
                    (
                        "on" if journal else "off",
                        number(rows / seconds[journal]),
                        number(wal[journal] / MEGABYTE),
                        number(wal[journal] / rows),
                    )
                    for journal in (False, True)
                ),
            ),
        ),
        figures=(
            Figure(name="rows/s with the journal, without it = 1", values=(seconds[False] / seconds[True],)),
            Figure(name="WAL with the journal, without it = 1", values=(wal[True] / wal[False],)),
            Figure(name="rows/s of the undo", values=(rows / undo,), unit="rows/s"),
        ),
    )


def _timed(stage: Stage, rows: int, *, journal: bool) -> Timed:
    with stage.copy_of(Kind(name="base").template(rows)) as database, Daemon(stage, database, processes=2) as daemon:
        before = database.sizes()
        run = daemon.rewrite(database.table, "revenue", EXPRESSION, walk="pages", lanes=2, journal=journal)
        database.until_state(run, "completed")
        wal = database.sizes().since(before).wal
        seconds = database.lasted(run, "phase.backfill", "phase.verify")
        if database.one("SELECT count(*) FROM jobs WHERE revenue IS DISTINCT FROM total * 100"):
            raise BenchBroken("rows are not as they should be")
        if not journal:
            return Timed(seconds, wal, 0)
        daemon.client.rollback(run)
        database.until_state(run, "rolled_back")
        if database.one("SELECT count(*) FROM jobs WHERE revenue IS NOT NULL"):
            raise BenchBroken("rows did not go back")
        return Timed(seconds, wal, database.lasted(run, "run.rolling_back", "run.rolled_back"))
