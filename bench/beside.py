"""What an application feels of it: pgbench at a fixed rate on the table that is being rewritten."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import psycopg

from bench.effort import tell
from bench.figures import Figure, Section, Spans, Table, Target, number
from bench.load import CLIENTS, TRANSACTIONS_PER_SECOND, Latencies, Load, due_within
from bench.matrix import in_another_order
from bench.stage import accounts
from bench.ways import METHOD, PAGES, WAYS, WAYS_QUICK, Change, check

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Stage, Template
    from bench.ways import Way

#: More branches than clients: with fewer, pgbench measures how they wait for each other.
SCALE = 10
IDLE_SECONDS, IDLE_SECONDS_QUICK = 20.0, 4.0
#: Caches of new connections are cold, and what became due while they were made has to be caught up with.
WARM_UP_SECONDS, WARM_UP_SECONDS_QUICK = 5.0, 2.0
#: Until transactions that were due during the way, and waited for it, have ended: the most that 8 clients catch up with.
AFTER_SECONDS, AFTER_SECONDS_QUICK = 5.0, 2.0

#: Of what pgbench does not write, so that every way can be checked at the end.
CHANGE = Change(column="revenue", expression="bid * 100")

COLUMNS = (
    "way", "rows/s", "seconds", "idle p50 ms", "p95", "p99", "max", "beside p50 ms", "p95", "p99", "max", "p99 ratio",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Beside:
    """One way and the application, once."""

    rows_per_second: float
    seconds: float
    idle: Latencies
    busy: Latencies

    @property
    def p99_ratio(self) -> float:
        return self.busy.p99 / self.idle.p99


def measure(stage: Stage, effort: Effort) -> Section:
    template = _template(effort.scale(SCALE))
    warm_up_seconds = WARM_UP_SECONDS_QUICK if effort.is_quick else WARM_UP_SECONDS
    idle_seconds = IDLE_SECONDS_QUICK if effort.is_quick else IDLE_SECONDS
    after_seconds = AFTER_SECONDS_QUICK if effort.is_quick else AFTER_SECONDS
    ways = WAYS_QUICK if effort.is_quick else WAYS
    measured: dict[str, list[Beside]] = {way.name: [] for way in ways}
    alone: list[float] = []
    numbers, of = count(1), (len(ways) + 1) * effort.repetitions
    for repetition in range(effort.repetitions):
        alone.append(_alone(stage, template))
        tell(f"beside {next(numbers)}/{of}: {PAGES.name}, alone: {alone[-1]:,.0f} rows/s")
        for way in in_another_order(ways, repetition):
            one = _measure(
                stage,
                template,
                way,
                warm_up_seconds=warm_up_seconds,
                idle_seconds=idle_seconds,
                after_seconds=after_seconds,
            )
            measured[way.name].append(one)
            tell(f"beside {next(numbers)}/{of}: {way.name}: {one.seconds:.1f} s, p99 {one.p99_ratio:.2f} times idle")
    judged = measured[PAGES.name]
    return Section(
        name="beside",
        title=(
            f"Beside an application: {template.rows:,} rows, pgbench at {TRANSACTIONS_PER_SECOND} transactions/s "
            f"(medians of {effort.repetitions})"
        ),
        method=(
            f"pgbench, its TPC-B transactions from {CLIENTS} clients at {TRANSACTIONS_PER_SECOND} a second on the table whose new "
            f"column is set (revenue = {CHANGE.expression}). The latency is pgbench's own, from when a transaction was due until "
            "its end: one that comes late because those before it had to wait counts as long as a user would wait for it. "
            f"Idle and beside are one run of pgbench on one database: {idle_seconds:.0f} s without the way (backfilld's "
            "daemon is there, with nothing to do), then the way until it is verified, by transactions that were due in that time, "
            f"whenever they ended; pgbench continues for {after_seconds:.0f} s more. Where the way was quicker than that, "
            "idle is the same time immediately before it. Ratios are of one such pair. "
            f"backfilld has no setting for this but its defaults. Alone is {PAGES.name} without pgbench. " + METHOD
        ),
        tables=(
            Table(
                columns=COLUMNS,
                rows=tuple(_row(name, ones) for name, ones in measured.items()),
            ),
        ),
        figures=(
            Figure(
                name=f"{PAGES.name}: p99 beside to p99 idle",
                values=tuple(one.p99_ratio for one in judged),
                unit="times",
                target=Target(at="most", value=1.25),
            ),
            Figure(
                name=f"{PAGES.name}: rows/s beside to rows/s alone",
                values=tuple(100 * one.rows_per_second / other for one, other in zip(judged, alone, strict=True)),
                unit="%",
                target=Target(at="least", value=25),
            ),
        ),
        plots=(
            Spans(
                name="beside-latency",
                title="latency of the application in ms, idle (hollow) and beside (filled): p50, p95, p99, max",
                marks=("p50", "p95", "p99", "max"),
                rows=tuple((name, _medians(ones, "idle"), _medians(ones, "busy")) for name, ones in measured.items()),
            ),
        ),
    )


def _template(scale: int) -> Template:
    """pgbench's table with a column to be filled."""
    plain = accounts(scale)

    def fill(stage: Stage, name: str) -> None:
        plain.fill(stage, name)
        with psycopg.connect(stage.url(name), autocommit=True) as connection:
            connection.execute("ALTER TABLE pgbench_accounts ADD COLUMN revenue bigint")

    return replace(plain, name=f"{plain.name}_revenue", fill=fill)


def _alone(stage: Stage, template: Template) -> float:
    """Rows a second with nobody to give way to."""
    with stage.copy_of(template) as database, PAGES.ready(stage, database, CHANGE) as do:
        return template.rows / do().seconds


def _measure(
    stage: Stage, template: Template, way: Way, *, warm_up_seconds: float, idle_seconds: float, after_seconds: float
) -> Beside:
    with stage.copy_of(template) as database:
        with way.ready(stage, database, CHANGE) as do, Load(stage, database) as load:
            time.sleep(warm_up_seconds + idle_seconds)
            began = time.time()
            done = do()
            time.sleep(after_seconds)
        check(database, CHANGE)
    transactions = load.transactions()
    lasted = min(done.verified - began, idle_seconds)
    return Beside(
        rows_per_second=template.rows / done.seconds,
        seconds=done.seconds,
        idle=Latencies.of(due_within(transactions, began - lasted, began)),
        busy=Latencies.of(due_within(transactions, began, done.verified)),
    )


def _medians(ones: list[Beside], when: str) -> tuple[float, ...]:
    latencies: list[Latencies] = [getattr(one, when) for one in ones]
    return tuple(statistics.median(values) for values in zip(*(one.all for one in latencies), strict=True))


def _row(name: str, ones: list[Beside]) -> tuple[str, ...]:
    return (
        name,
        number(statistics.median(one.rows_per_second for one in ones)),
        number(statistics.median(one.seconds for one in ones)),
        *(number(value) for value in _medians(ones, "idle")),
        *(number(value) for value in _medians(ones, "busy")),
        number(statistics.median(one.p99_ratio for one in ones)),
    )
