"""Two operations on one table against one: whether the second costs a second pass."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.daemon import Daemon
from bench.figures import MEGABYTE, Figure, Section, Table, Target, number
from bench.stage import BenchBroken
from bench.tables import Kind

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Stage

ROWS, ROWS_QUICK = 500_000, 60_000
#: Any: what a migration file takes.
Operations = tuple[dict[str, Any], ...]


def _added(name: str, expression: str) -> dict[str, Any]:
    return {"add_column": {"table": "jobs", "column": {"name": name, "type": "bigint"}, "backfill": expression}}


def _written(column: str, expression: str) -> dict[str, Any]:
    return {"backfill": {"table": "jobs", "set": {column: expression}}}


CASES: dict[str, tuple[Operations, Operations]] = {
    "add_column": ((_added("a", "total * 100"),), (_added("a", "total * 100"), _added("b", "user_id * 2"))),
    "backfill": (
        (_written("revenue", "total * 100"),),
        (_written("revenue", "total * 100"), _written("payload", "'p' || user_id")),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Walked:
    """One run over all rows."""

    seconds: float
    wal: int


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    runs: dict[tuple[str, int], list[Walked]] = {(name, many): [] for name in CASES for many in (1, 2)}
    for _ in range(effort.repetitions):
        for name, (one, two) in CASES.items():
            for operations in (one, two):
                runs[name, len(operations)].append(_walk(stage, rows, operations))
    return Section(
        name="together",
        title=f"Two operations on one table of {rows:,} rows against one (medians of {effort.repetitions})",
        method=(
            "by pages with 2 lanes on 2 processes and default settings, on a table of 150 bytes a row with 2 secondary indexes that "
            "hold none of the columns; the file has one operation or two of a kind. Seconds are those from the event phase.backfill "
            "to phase.verify, WAL is that of the whole run."
        ),
        tables=(
            Table(
                columns=("operations", "rows/s", "WAL MB", "WAL bytes a row"),
                rows=tuple(
                    (
                        f"{many} {name}",
                        number(rows / statistics.median(one.seconds for one in ones)),
                        number(statistics.median(one.wal for one in ones) / MEGABYTE),
                        number(statistics.median(one.wal for one in ones) / rows),
                    )
                    for (name, many), ones in runs.items()
                ),
            ),
        ),
        figures=tuple(
            Figure(
                name=f"{name}: WAL of two, of one = 1",
                values=tuple(two.wal / one.wal for one, two in zip(runs[name, 1], runs[name, 2], strict=True)),
                target=Target(at="most", value=1.2),
            )
            for name in CASES
        ),
    )


def _walk(stage: Stage, rows: int, operations: Operations) -> Walked:
    with stage.copy_of(Kind(name="base").template(rows)) as database, Daemon(stage, database, processes=2) as daemon:
        before = database.sizes()
        run = daemon.start(*operations, settings={"walk": "pages", "lanes": 2})
        database.until_state(run, "completed")
        if database.one("SELECT count(*) FROM backfilld.lanes WHERE kind = 'verify' AND rows_walked = 0"):
            raise BenchBroken("a lane has looked at nothing")
        return Walked(
            seconds=database.lasted(run, "phase.backfill", "phase.verify"), wal=database.sizes().since(before).wal
        )
