"""Whether a row costs the same in a large table as in a small one."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from bench.effort import tell
from bench.figures import MEGABYTE, Figure, Section, Table, Target, number
from bench.stage import Template
from bench.ways import METHOD, PAGES, Change, check

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.effort import Effort
    from bench.stage import Stage

ROWS = (300_000, 1_000_000, 3_000_000, 10_000_000)
ROWS_QUICK = (30_000, 100_000, 300_000)
#: A walk of minutes is its own median.
ONCE_FROM_ROWS = 3_000_000
CHANGE = Change(column="revenue", expression="total")


@dataclass(frozen=True, kw_only=True)
class Walked:
    """One table, once."""

    rows: int
    seconds: float
    wal: int

    @property
    def microseconds_per_row(self) -> float:
        return 1e6 * self.seconds / self.rows

    @property
    def wal_per_row(self) -> float:
        return self.wal / self.rows


def measure(stage: Stage, effort: Effort) -> Section:
    sizes = ROWS_QUICK if effort.is_quick else ROWS
    walked: dict[int, list[Walked]] = {rows: [] for rows in sizes}
    repetitions = {rows: effort.repetitions if rows < ONCE_FROM_ROWS else 1 for rows in sizes}
    numbers, of = count(1), sum(repetitions.values())
    for rows in sizes:  # one size after the other, so that a template can go before the next is made
        for _ in range(repetitions[rows]):
            one = _walk(stage, rows)
            walked[rows].append(one)
            tell(f"scale {next(numbers)}/{of}: {rows:,} rows: {one.seconds:.1f} s")
        stage.forget(_template(rows))
    return Section(
        name="scale",
        title=f"Scale: {sizes[0]:,} to {sizes[-1]:,} rows, {PAGES.name} (medians of {effort.repetitions})",
        method=(
            f"Tables of {ONCE_FROM_ROWS:,} rows and more are walked once. revenue = total in a table of four columns (id, total, status, revenue) with its key and one index, about 60 bytes a "
            "row. Flat: how much more a row costs in the table where it costs most than in the one where it costs least, "
            "with what a phase costs whatever the table; for a row more: without that, from one size to the next. "
            + METHOD
        ),
        tables=(
            Table(
                columns=("rows", "seconds", "rows/s", "µs/row", "µs for a row more", "WAL MB", "WAL bytes/row"),
                rows=tuple(_row(walked, rows) for rows in walked),
            ),
        ),
        figures=(
            _flat("time for a row, dearest to cheapest", walked, lambda one: one.microseconds_per_row),
            _flat("WAL for a row, dearest to cheapest", walked, lambda one: one.wal_per_row),
        ),
    )


def dearer_percent(costs: list[float]) -> float:
    """How much more than the least the greatest is."""
    return 100 * (max(costs) / min(costs) - 1)


def _flat(name: str, walked: dict[int, list[Walked]], cost: Callable[[Walked], float]) -> Figure:
    medians = [statistics.median(cost(one) for one in ones) for ones in walked.values()]
    return Figure(name=name, values=(dearer_percent(medians),), unit="%", target=Target(at="most", value=15))


def _walk(stage: Stage, rows: int) -> Walked:
    with stage.copy_of(_template(rows)) as database:
        with PAGES.ready(stage, database, CHANGE) as do:
            before = database.sizes()
            done = do()
            grown = database.sizes().since(before)
        check(database, CHANGE)
    return Walked(rows=rows, seconds=done.seconds, wal=grown.wal)


def _template(rows: int) -> Template:
    def fill(stage: Stage, name: str) -> None:
        with psycopg.connect(stage.url(name), autocommit=True) as connection:
            connection.execute(
                "CREATE TABLE narrow (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, total bigint NOT NULL, "
                "status text NOT NULL, revenue bigint) WITH (autovacuum_enabled = off)"
            )
            connection.execute(
                sql.SQL(
                    "INSERT INTO narrow (total, status) "
                    "SELECT n % 100000, (ARRAY['new', 'running', 'done', 'failed'])[1 + n % 4] FROM generate_series(1, {}) n"
                ).format(rows)
            )
            connection.execute("CREATE INDEX ON narrow (status)")
            connection.execute("VACUUM (FREEZE, ANALYZE) narrow")

    return Template(name=f"narrow_{rows}", table="narrow", key="id", rows=rows, fill=fill)


def _row(walked: dict[int, list[Walked]], rows: int) -> tuple[str, ...]:
    seconds, wal = _median(walked[rows], "seconds"), _median(walked[rows], "wal")
    smaller = max((other for other in walked if other < rows), default=None)
    more = 1e6 * (seconds - _median(walked[smaller], "seconds")) / (rows - smaller) if smaller else None
    return (
        f"{rows:,}",
        number(seconds),
        number(rows / seconds),
        number(1e6 * seconds / rows),
        number(more) if more is not None else "",
        number(wal / MEGABYTE),
        number(wal / rows),
    )


def _median(ones: list[Walked], what: str) -> float:
    values: list[float] = [getattr(one, what) for one in ones]
    return statistics.median(values)
