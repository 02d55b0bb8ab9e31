"""What a walk makes of the order of a table's rows on disk, and what that costs who reads in it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

from bench.effort import tell
from bench.figures import MEGABYTE, Bars, Figure, Section, Table, Target, number
from bench.matrix import in_another_order
from bench.stage import BenchBroken, Template
from bench.tables import TABLE, Kind
from bench.ways import METHOD, ONE_UPDATE, PAGES, Backfilld, Change, check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.effort import Effort
    from bench.stage import Database, Sizes, Stage
    from bench.ways import Way

ROWS, ROWS_QUICK = 1_000_000, 100_000
#: 2 MB of heap; PostgreSQL's default of 128 pages is for tables larger than these.
PAGES_PER_RANGE = 32
#: Where in the table the ranges of 1 % begin that are read.
BEGIN_PERCENT = (10, 33, 57, 81)
OPERATIONS = (Change(column="revenue", expression="total"), Change(column="revenue", expression="total + 1"))
KEYS = Backfilld(walk="keys", lanes=2)
ORDERED = Backfilld(walk="ordered", lanes=2)
WAYS: tuple[Way, ...] = (ONE_UPDATE, KEYS, Backfilld(walk="pages", lanes=1), PAGES, ORDERED)
#: 1 % of the rows in key order, by the index; the same rows by BRIN.
BY_KEY: LiteralString = "SELECT count(payload) FROM jobs WHERE id > %s AND id <= %s"
BY_BRIN: LiteralString = (
    "SELECT count(payload) FROM jobs WHERE created_at > timestamptz '2026-01-01' + %s * interval '7 seconds' "
    "AND created_at <= timestamptz '2026-01-01' + %s * interval '7 seconds'"
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What reads in key order find; means over the ranges."""

    correlation: float
    #: Shared buffers that an index scan of 1 % asks for: one is asked for again whenever the page changes.
    buffers: float
    #: Pages of the table on which those rows are.
    pages: float
    #: Of the table, read by a BRIN index for 1 %; NaN without one.
    brin_pages: float


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One way on one table, once: two operations, with a VACUUM after each."""

    rows: int
    seconds: float
    sizes: Sizes
    grown: Sizes
    orders: tuple[Order, ...]

    def ratio(self, part: str, operations: int = 1) -> float:
        before, after = (float(getattr(self.orders[at], part)) for at in (0, operations))
        return after / before


def kind_of(*, brin: bool) -> Kind:
    return Kind(name="BRIN index" if brin else "b-tree indexes", indexes=1 if brin else 2)


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    kept: dict[bool, dict[str, list[Kept]]] = {brin: {way.name: [] for way in WAYS} for brin in (False, True)}
    numbers, of = count(1), len(kept) * len(WAYS) * effort.repetitions
    for repetition in range(effort.repetitions):
        for brin, ways in kept.items():
            for way in in_another_order(WAYS, repetition):
                one = _measure(stage, way, rows, brin=brin)
                ways[way.name].append(one)
                tell(f"order {next(numbers)}/{of}: {kind_of(brin=brin).name}, {way.name}: {one.seconds:.1f} s")
    return Section(
        name="order",
        title=f"Order on disk: 1 % of {rows:,} rows read in key order (medians of {effort.repetitions})",
        method=(
            "Rows are in the order of id and created_at; one table has b-tree indexes on user_id and created_at, the other a BRIN "
            f"index on created_at (pages_per_range = {PAGES_PER_RANGE}) in place of the latter. After the first operation (revenue "
            "= total), and after a second one (total + 1), the table is vacuumed and analyzed; then four ranges of 1 % are read by "
            "the key's index, and by the BRIN index. Buffers are those of EXPLAIN (ANALYZE, BUFFERS), the index's own included; a "
            "page counts again whenever the scan comes back to it. Pages are different pages of the table. Where there is a BRIN "
            "index, `ordered` leaves rows where they are as far as it can; without one it moves all of them, in order. "
            + METHOD
        ),
        tables=tuple(_table(brin=brin, ways=ways) for brin, ways in kept.items()),
        figures=_figures(kept),
        plots=(_plot(kept),),
    )


def _measure(stage: Stage, way: Way, rows: int, *, brin: bool) -> Kept:
    with stage.copy_of(_template(rows, brin=brin)) as database:
        orders = [_order(database, brin=brin)]
        sizes = database.sizes()
        done, grown = None, sizes
        for change in OPERATIONS:
            with way.ready(stage, database, change) as do:
                before = database.sizes()
                found = do()
                if done is None:
                    done, grown = found, database.sizes().since(before)
            check(database, change)
            orders.append(_order(database, brin=brin))
    if done is None:
        raise BenchBroken("no operation was measured")
    return Kept(rows=rows, seconds=done.seconds, sizes=sizes, grown=grown, orders=tuple(orders))


def _order(database: Database, *, brin: bool) -> Order:
    database.do(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(TABLE)))
    width = database.rows // 100
    ranges = [(database.rows * percent // 100, database.rows * percent // 100 + width) for percent in BEGIN_PERCENT]
    return Order(
        correlation=database.one("SELECT correlation FROM pg_stats WHERE tablename = %s AND attname = 'id'", [TABLE]),
        buffers=statistics.mean(_buffers(_explain(database, BY_KEY, one, without="bitmapscan")) for one in ranges),
        pages=statistics.mean(
            database.one(
                "SELECT count(DISTINCT (ctid::text::point)[0]) FROM jobs WHERE id > %s AND id <= %s", list(one)
            )
            for one in ranges
        ),
        brin_pages=statistics.mean(_brin_pages(_explain(database, BY_BRIN, one, without="indexscan")) for one in ranges)
        if brin
        else float("nan"),
    )


def _explain(database: Database, query: LiteralString, within: tuple[int, int], *, without: str) -> dict[str, Any]:
    """The plan, executed. Any: JSON."""
    with database.connection.transaction():
        for name in ("enable_seqscan", f"enable_{without}"):
            database.do("SELECT set_config(%s, 'off', true)", [name])
        database.do("SET LOCAL max_parallel_workers_per_gather = 0")
        database.one(query, within)
        # The client's cursor: EXPLAIN takes no parameters.
        cursor = psycopg.ClientCursor(database.connection)
        plan = cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query, within).fetchone()
    found: dict[str, Any] = plan["QUERY PLAN"][0]["Plan"] if plan else {}
    return found


def _buffers(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def _brin_pages(plan: dict[str, Any]) -> int:
    (scan,) = plan["Plans"]
    return int(scan.get("Exact Heap Blocks", 0) + scan.get("Lossy Heap Blocks", 0))


def _template(rows: int, *, brin: bool) -> Template:
    kind = kind_of(brin=brin)
    base = kind.template(rows)

    def fill(stage: Stage, name: str) -> None:
        base.fill(stage, name)
        if brin:
            with psycopg.connect(stage.url(name), autocommit=True) as connection:
                connection.execute(
                    sql.SQL("CREATE INDEX ON {} USING brin (created_at) WITH (pages_per_range = {})").format(
                        sql.Identifier(TABLE), sql.Literal(PAGES_PER_RANGE)
                    )
                )
                connection.execute(sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(sql.Identifier(TABLE)))

    return Template(name=f"order_{base.name}", table=TABLE, key="id", rows=rows, fill=fill)


def _median(ones: Sequence[Kept], value: Callable[[Kept], float]) -> float:
    return statistics.median(value(one) for one in ones)


def _table(*, brin: bool, ways: dict[str, list[Kept]]) -> Table:
    parts = ("correlation", "buffers", "pages", *(("brin_pages",) if brin else ()))
    titles = {"correlation": "correlation", "buffers": "buffers", "pages": "pages", "brin_pages": "BRIN pages"}

    def orders(ones: Sequence[Kept], operations: int) -> list[str]:
        return [number(statistics.median(getattr(one.orders[operations], part) for one in ones)) for part in parts]

    some = next(iter(ways.values()))
    return Table(
        columns=(
            kind_of(brin=brin).name,
            *("rows/s", "WAL MB", "heap +%", "indexes +%"),
            *(titles[part] for part in parts),
            *(f"{titles[part]}, two operations" for part in parts),
        ),
        rows=(
            ("before", "", "", "", "", *orders(some, 0), *("" for _ in parts)),
            *(
                (
                    name,
                    number(_median(ones, lambda one: one.rows / one.seconds)),
                    number(_median(ones, lambda one: one.grown.wal / MEGABYTE)),
                    number(_median(ones, lambda one: 100 * one.grown.heap / one.sizes.heap)),
                    number(_median(ones, lambda one: 100 * one.grown.indexes / one.sizes.indexes)),
                    *orders(ones, 1),
                    *orders(ones, 2),
                )
                for name, ones in ways.items()
            ),
        ),
    )


def _figures(kept: dict[bool, dict[str, list[Kept]]]) -> tuple[Figure, ...]:
    def values(way: Way, part: str, *, brin: bool) -> tuple[float, ...]:
        return tuple(one.ratio(part) for one in kept[brin][way.name])

    return (
        Figure(
            name="ordered, b-tree indexes: buffers of a 1 % range in key order, to before",
            values=values(ORDERED, "buffers", brin=False),
            unit="times",
            target=Target(at="most", value=1.3),
        ),
        Figure(
            name="ordered, BRIN index: pages that BRIN reads for 1 %, to before",
            values=values(ORDERED, "brin_pages", brin=True),
            unit="times",
            target=Target(at="most", value=1.5),
        ),
        Figure(
            name=f"{PAGES.name}: buffers of a 1 % range, to before",
            values=values(PAGES, "buffers", brin=False),
            unit="times",
        ),
        Figure(
            name=f"{PAGES.name}: pages that hold 1 %, to before",
            values=values(PAGES, "pages", brin=False),
            unit="times",
        ),
    )


def _plot(kept: dict[bool, dict[str, list[Kept]]]) -> Bars:
    def panel(name: str, part: str, *, brin: bool) -> tuple[str, tuple[tuple[str, float], ...]]:
        return name, tuple((way, _median(ones, lambda one: one.ratio(part))) for way, ones in kept[brin].items())

    return Bars(
        name="order",
        title="Reading 1 % of the rows in key order after one operation, to before (1 = as before)",
        panels=(
            panel("buffers, b-tree", "buffers", brin=False),
            panel("pages, b-tree", "pages", brin=False),
            panel("pages, BRIN", "brin_pages", brin=True),
        ),
        line=1,
    )
