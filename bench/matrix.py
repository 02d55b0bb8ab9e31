"""Every way on every table: how fast, how much WAL, and how much the table has grown by it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from bench.effort import tell
from bench.figures import MEGABYTE, Bars, Figure, Section, Table, Target, number
from bench.tables import BASE, FIVE_INDEXES, KINDS, KINDS_QUICK, NO_INDEX
from bench.ways import METHOD, ONE_UPDATE, PAGES, WAYS, WAYS_QUICK, Change, check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.effort import Effort
    from bench.stage import Counters, Sizes, Stage
    from bench.tables import Kind
    from bench.ways import Way

ROWS, ROWS_QUICK = 500_000, 30_000
COLUMNS = (
    "seconds", "verified", "rows/s", "ratio", "WAL MB", "ratio", "full pages", "records", "heap +%", "indexes +%", "HOT %",
)  # fmt: skip
CHANGE = Change(column="revenue", expression="total")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way on one table, once."""

    rows: int
    seconds: float
    verified_seconds: float
    before: Sizes
    grown: Sizes
    counted: Counters

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def heap_percent(self) -> float:
        return 100 * self.grown.heap / self.before.heap

    @property
    def index_percent(self) -> float:
        return 100 * self.grown.indexes / self.before.indexes

    @property
    def hot_percent(self) -> float:
        return 100 * self.counted.hot_updates / max(self.counted.updates, 1)


@dataclass(frozen=True)
class OnKind:
    """All ways on one table; the measurements of a way in the order of the repetitions."""

    kind: Kind
    ways: dict[str, list[Measured]]

    def values(self, way: str, value: Callable[[Measured], float]) -> tuple[float, ...]:
        return tuple(value(one) for one in self.ways[way])

    def median(self, way: str, value: Callable[[Measured], float]) -> float:
        return statistics.median(self.values(way, value))

    def ratios(self, way: str, value: Callable[[Measured], float]) -> tuple[float, ...]:
        """To one UPDATE in the same repetition."""
        pairs = zip(self.values(way, value), self.values(ONE_UPDATE.name, value), strict=True)
        return tuple(mine / base for mine, base in pairs)

    def table(self) -> Table:
        return Table(
            columns=(self.kind.name, *COLUMNS),
            rows=tuple(
                (
                    way,
                    number(self.median(way, lambda one: one.seconds)),
                    number(self.median(way, lambda one: one.verified_seconds)),
                    number(self.median(way, lambda one: one.rows_per_second)),
                    number(statistics.median(self.ratios(way, lambda one: one.rows_per_second))),
                    number(self.median(way, lambda one: one.grown.wal) / MEGABYTE),
                    number(statistics.median(self.ratios(way, lambda one: one.grown.wal))),
                    number(self.median(way, lambda one: one.counted.full_pages)),
                    number(self.median(way, lambda one: one.counted.wal_records)),
                    number(self.median(way, lambda one: one.heap_percent)),
                    number(self.median(way, lambda one: one.index_percent)),
                    number(self.median(way, lambda one: one.hot_percent)),
                )
                for way in self.ways
            ),
        )


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    kinds = KINDS_QUICK if effort.is_quick else KINDS
    ways = WAYS_QUICK if effort.is_quick else WAYS
    measured = [OnKind(kind, {way.name: [] for way in ways}) for kind in kinds]
    numbers, of = count(1), len(kinds) * len(ways) * effort.repetitions
    for repetition in range(effort.repetitions):
        for on_kind in measured:
            for way in in_another_order(ways, repetition):
                one = _measure(stage, on_kind.kind, way, rows)
                on_kind.ways[way.name].append(one)
                tell(f"ways {next(numbers)}/{of}: {on_kind.kind.name}, {way.name}: {one.seconds:.1f} s")
    return Section(
        name="ways",
        title=f"Ways: revenue = total in {rows:,} rows (medians of {effort.repetitions})",
        method=(
            "revenue is a column that is there, bigint, NULL, in no index. About 150 bytes a row. Each way gets a fresh, "
            "vacuumed copy in memory, after a CHECKPOINT, and in each repetition the ways come in another order. Ratios are to "
            "one UPDATE in the same repetition. Full pages and records are counted by the server (pg_stat_wal), HOT is the "
            "share of updates that needed no new index entry (pg_stat_user_tables). " + METHOD
        ),
        tables=tuple(on_kind.table() for on_kind in measured),
        figures=_figures(measured),
        plots=_plots(measured),
    )


def in_another_order(ways: Sequence[Way], repetition: int) -> list[Way]:
    """Each way comes first once in a while: the one before leaves its work to the disk."""
    first = repetition % len(ways)
    return [*ways[first:], *ways[:first]]


def _measure(stage: Stage, kind: Kind, way: Way, rows: int) -> Measured:
    with stage.copy_of(kind.template(rows)) as database:
        with way.ready(stage, database, CHANGE) as do:
            sizes, counters = database.sizes(), database.counters_now()
            done = do()
            grown = database.sizes().since(sizes)
        counted = database.counters().since(counters)
        check(database, CHANGE)
    return Measured(
        rows=rows,
        seconds=done.seconds,
        verified_seconds=done.verified_seconds,
        before=sizes,
        grown=grown,
        counted=counted,
    )


def _figures(measured: list[OnKind]) -> tuple[Figure, ...]:
    of = {on_kind.kind: on_kind for on_kind in measured}
    way = PAGES.name

    def speed(kind: Kind, at_least: float) -> Figure:
        return Figure(
            name=f"{kind.name}: {way}, rows/s to one UPDATE",
            values=of[kind].ratios(way, lambda one: one.rows_per_second),
            unit="times",
            target=Target(at="least", value=at_least),
        )

    def heap(kind: Kind, at_most: float) -> Figure:
        return Figure(
            name=f"{kind.name}: {way}, growth of the heap",
            values=of[kind].values(way, lambda one: one.heap_percent),
            unit="%",
            target=Target(at="most", value=at_most),
        )

    return (
        speed(BASE, 1.5),
        Figure(
            name=f"{BASE.name}: {way}, WAL to one UPDATE",
            values=of[BASE].ratios(way, lambda one: one.grown.wal),
            unit="times",
            target=Target(at="most", value=0.6),
        ),
        heap(BASE, 20),
        Figure(
            name=f"{BASE.name}: {way}, growth of the indexes",
            values=of[BASE].values(way, lambda one: one.index_percent),
            unit="%",
            target=Target(at="most", value=20),
        ),
        speed(NO_INDEX, 1.0),
        heap(NO_INDEX, 30),
        speed(FIVE_INDEXES, 3.0),
    )


def _plots(measured: list[OnKind]) -> tuple[Bars, ...]:
    def bars(name: str, title: str, value: Callable[[OnKind, str], float], *, line: float | None = None) -> Bars:
        return Bars(
            name=f"ways-{name}",
            title=title,
            panels=tuple(
                (on_kind.kind.name, tuple((way, value(on_kind, way)) for way in on_kind.ways)) for on_kind in measured
            ),
            line=line,
        )

    return (
        bars(
            "speed",
            "rows/s, one UPDATE = 1 (more is better)",
            lambda on, way: statistics.median(on.ratios(way, lambda one: one.rows_per_second)),
            line=1,
        ),
        bars(
            "wal",
            "WAL, one UPDATE = 1 (less is better)",
            lambda on, way: statistics.median(on.ratios(way, lambda one: one.grown.wal)),
            line=1,
        ),
        bars(
            "heap",
            "growth of the heap in % (less is better)",
            lambda on, way: on.median(way, lambda one: one.heap_percent),
        ),
        bars(
            "indexes",
            "growth of the indexes in % (less is better)",
            lambda on, way: on.median(way, lambda one: one.index_percent),
        ),
    )
