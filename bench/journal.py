"""What the journal costs: the same in-place change with it and without, of values that compress and of values that do not."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.daemon import Daemon
from bench.figures import MEGABYTE, Figure, Section, Table, Target, number
from bench.stage import BenchBroken
from bench.tables import Kind

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Database, Stage

ROWS, ROWS_QUICK = 500_000, 60_000


@dataclass(frozen=True, kw_only=True)
class Values:
    """What is written, over what."""

    name: str
    column: str
    expression: str
    #: Of the figures: of values that do not compress there is none.
    compress: bool = True


VALUES = (
    Values(name="numbers", column="revenue", expression="total * 100"),
    Values(name="short texts", column="status", expression="'state ' || mod(total, 100)"),
    Values(
        name="64 random characters",
        column="payload",
        expression="md5((id * 7)::text) || md5((id * 11)::text)",
        compress=False,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Walked:
    """One run over all rows."""

    seconds: float
    wal: int
    #: Bytes of the journal at its end.
    kept: int


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    runs: dict[tuple[Values, bool], list[Walked]] = {(values, on): [] for values in VALUES for on in (False, True)}
    for repetition in range(effort.repetitions):
        for values in VALUES:
            for on in (True, False) if repetition % 2 else (False, True):  # the one before leaves its work to the disk
                runs[values, on].append(_walk(stage, rows, values, journal=on))
    return Section(
        name="journal",
        title=f"Journal: an in-place change of {rows:,} rows with it and without (medians of {effort.repetitions})",
        method=(
            "backfill by pages with 2 lanes on 2 processes, on a table of 150 bytes a row with 2 secondary indexes that do not "
            "hold the column; with `journal: on` and `journal: off` in turns. Seconds are those from the event phase.backfill to "
            "the event phase.verify, WAL is that of the whole run. On disk is the journal's table with its TOAST table and its "
            "index. Afterwards every row is compared."
        ),
        tables=(
            Table(
                columns=("values", "journal", "rows/s", "WAL MB", "WAL bytes a row", "journal bytes a row"),
                rows=tuple(
                    (
                        values.name,
                        "on" if on else "off",
                        number(rows / _median(ones, "seconds")),
                        number(_median(ones, "wal") / MEGABYTE),
                        number(_median(ones, "wal") / rows),
                        number(_median(ones, "kept") / rows),
                    )
                    for (values, on), ones in runs.items()
                ),
            ),
        ),
        figures=tuple(
            figure
            for values in VALUES
            for figure in _figures(values, runs[values, True], runs[values, False], rows=rows)
        ),
    )


def _figures(values: Values, with_: list[Walked], without: list[Walked], *, rows: int) -> tuple[Figure, ...]:
    pairs = list(zip(with_, without, strict=True))
    judged = values.compress
    return (
        Figure(
            name=f"{values.name}: rows/s with the journal, without it = 1",
            values=tuple(off.seconds / on.seconds for on, off in pairs),
            target=Target(at="least", value=0.93) if judged else None,
        ),
        Figure(
            name=f"{values.name}: WAL with the journal, without it = 1",
            values=tuple(on.wal / off.wal for on, off in pairs),
            target=Target(at="most", value=1.05) if judged else None,
        ),
        Figure(
            name=f"{values.name}: journal on disk",
            values=tuple(on.kept / rows for on in with_),
            unit="bytes a row",
            target=Target(at="most", value=15) if judged else None,
        ),
    )


def _walk(stage: Stage, rows: int, values: Values, *, journal: bool) -> Walked:
    with stage.copy_of(Kind(name="base").template(rows)) as database, Daemon(stage, database, processes=2) as daemon:
        database.do(f"CREATE TABLE wanted AS SELECT id, {values.expression} AS value FROM jobs")
        before = database.sizes()
        run = daemon.rewrite(database.table, values.column, values.expression, walk="pages", lanes=2, journal=journal)
        database.until_state(run, "completed")
        wal = database.sizes().since(before).wal
        wrong = f"SELECT count(*) FROM jobs JOIN wanted USING (id) WHERE {values.column} IS DISTINCT FROM value"
        if database.one(wrong):
            raise BenchBroken("rows are not as they should be")
        return Walked(
            seconds=database.lasted(run, "phase.backfill", "phase.verify"),
            wal=wal,
            kept=journal_bytes(database, run) if journal else 0,
        )


def journal_bytes(database: Database, run: int) -> int:
    return int(database.one(f"SELECT pg_total_relation_size('backfilld.journal_{run}')"))


def _median(ones: list[Walked], what: str) -> float:
    values: list[float] = [getattr(one, what) for one in ones]
    return statistics.median(values)
