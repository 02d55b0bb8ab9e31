"""What the way back takes: an in-place change of a million rows, and its undo."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.daemon import Daemon
from bench.effort import tell
from bench.figures import MEGABYTE, Figure, Section, Table, Target, number
from bench.stage import BenchBroken
from bench.tables import Kind

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Sizes, Stage

ROWS, ROWS_QUICK = 1_000_000, 60_000
KINDS = (Kind(name="2 indexes"), Kind(name="random UUID key", key="uuid"))
EXPRESSION = "total * 100"
LANES = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of a run."""

    seconds: float
    before: Sizes
    grown: Sizes

    @property
    def heap_percent(self) -> float:
        return 100 * self.grown.heap / self.before.heap

    @property
    def index_percent(self) -> float:
        return 100 * self.grown.indexes / self.before.indexes


@dataclass(frozen=True, kw_only=True)
class There:
    """A run and its undo."""

    there: Way
    back: Way


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    runs: dict[tuple[Kind, int], list[There]] = {(kind, lanes): [] for kind in KINDS for lanes in LANES}
    for _ in range(effort.repetitions):
        for (kind, lanes), ones in runs.items():
            ones.append(_there_and_back(stage, kind, rows, lanes=lanes))
            tell(
                f"undo: {kind.name}, lanes: {lanes}: {ones[-1].there.seconds:.1f} s there, {ones[-1].back.seconds:.1f} s back"
            )
    return Section(
        name="undo",
        title=f"Undo: an in-place change of {rows:,} rows, and its rollback (medians of {effort.repetitions})",
        method=(
            f"revenue = {EXPRESSION} by pages, with a process for each lane and default settings, on a table of 150 bytes a row with "
            "2 secondary indexes; then its rollback. Seconds are those from the event phase.backfill to phase.verify, and from "
            "run.rolling_back to run.rolled_back. WAL of the way there is that of the whole run, the pass that proves it included. "
            "Growth is in per cent of what was before each way. Afterwards the table is compared with what it was."
        ),
        tables=(
            Table(
                columns=("table", "lanes", "way", "rows/s", "WAL bytes a row", "WAL MB", "heap + %", "indexes + %"),
                rows=tuple(
                    row for (kind, lanes), ones in runs.items() for row in _rows(kind.name, lanes, ones, rows=rows)
                ),
            ),
        ),
        figures=tuple(
            figure
            for (kind, lanes), ones in runs.items()
            for figure in (
                Figure(
                    name=f"{kind.name}, lanes: {lanes}: rows/s back, there = 1",
                    values=tuple(one.there.seconds / one.back.seconds for one in ones),
                    target=Target(at="least", value=0.8),
                ),
                Figure(
                    name=f"{kind.name}, lanes: {lanes}: WAL back, there = 1",
                    values=tuple(one.back.grown.wal / one.there.grown.wal for one in ones),
                    target=Target(at="most", value=1.1),
                ),
            )
        ),
    )


def _there_and_back(stage: Stage, kind: Kind, rows: int, *, lanes: int) -> There:
    with stage.copy_of(kind.template(rows)) as database, Daemon(stage, database, processes=lanes) as daemon:
        database.do("UPDATE backfilld.pace SET width = greatest(width, %s)", [lanes])
        before = database.sizes()
        run = daemon.rewrite(database.table, "revenue", EXPRESSION, walk="pages", lanes=lanes)
        database.until_state(run, "completed")
        between = database.sizes()
        if database.one(f"SELECT count(*) FROM jobs WHERE revenue IS DISTINCT FROM {EXPRESSION}"):
            raise BenchBroken("rows are not as they should be")
        daemon.client.rollback(run)
        database.until_state(run, "rolled_back")
        after = database.sizes()
        if database.one("SELECT count(*) FROM jobs WHERE revenue IS NOT NULL"):
            raise BenchBroken("rows did not go back")
        return There(
            there=Way(
                seconds=database.lasted(run, "phase.backfill", "phase.verify"),
                before=before,
                grown=between.since(before),
            ),
            back=Way(
                seconds=database.lasted(run, "run.rolling_back", "run.rolled_back"),
                before=between,
                grown=after.since(between),
            ),
        )


def _rows(name: str, lanes: int, ones: list[There], *, rows: int) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for way in ("there", "back"):
        ways: list[Way] = [getattr(one, way) for one in ones]
        wal = statistics.median(one.grown.wal for one in ways)
        found.append(
            (
                name,
                str(lanes),
                way,
                number(rows / statistics.median(one.seconds for one in ways)),
                number(wal / rows),
                number(wal / MEGABYTE),
                number(statistics.median(one.heap_percent for one in ways)),
                number(statistics.median(one.index_percent for one in ways)),
            )
        )
    return found
