"""A table made anew: what the copy and its indexes cost, and how long the application waits for the switch."""

from __future__ import annotations

import random
import statistics
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from bench.daemon import Daemon
from bench.figures import MEGABYTE, Figure, Section, Table, Target, number
from bench.stage import BenchBroken, until
from bench.tables import FIVE_INDEXES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.effort import Effort
    from bench.stage import Database, Stage

ROWS, ROWS_QUICK = 300_000, 60_000
WRITERS = 4
#: What hangs on the table when it changes places.
BELONGINGS = """
CREATE TABLE parts_a (job bigint REFERENCES jobs); CREATE TABLE parts_b (job bigint REFERENCES jobs); CREATE TABLE parts_c (job bigint REFERENCES jobs);
CREATE INDEX ON parts_a (job); CREATE INDEX ON parts_b (job); CREATE INDEX ON parts_c (job);
CREATE VIEW running AS SELECT id, total FROM jobs WHERE status = 'running'; CREATE VIEW sums AS SELECT sum(total) AS total FROM running;
CREATE VIEW users AS SELECT DISTINCT user_id FROM jobs;
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY; CREATE POLICY one ON jobs USING (true); CREATE POLICY two ON jobs FOR SELECT USING (total >= 0);
"""


@dataclass(frozen=True, kw_only=True)
class Made:
    """One table made anew, in one of two ways."""

    seconds: float
    wal: int
    #: The longest statement of the application, beside it.
    longest_seconds: float = 0.0
    errors: int = 0


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    at_once, alone, beside = list[Made](), list[Made](), list[Made]()
    for _ in range(effort.repetitions):
        at_once.append(_in_one_statement(stage, rows))
        alone.append(_rebuilt(stage, rows, writers=0))
        beside.append(_rebuilt(stage, rows, writers=WRITERS))
    ways = {"INSERT … SELECT into a table with its indexes": at_once, "rebuild, 2 lanes": alone}
    return Section(
        name="rebuild",
        title=f"A table of {rows:,} rows with 5 indexes made anew (medians of {effort.repetitions})",
        method=(
            "rebuild with 2 lanes on 2 processes, from the event phase.backfill to the event phase.verify, which is the copy, the "
            "indexes and all that belongs to the table; WAL of the same time. Against one INSERT … SELECT, in the order of the "
            f"key, into a table that has them. The longest wait: {WRITERS} sessions that update rows by their key all the while, on "
            "a table to which 3 foreign keys refer and which 3 views and 2 policies are about, over the switch and the way back."
        ),
        tables=(
            Table(
                columns=("way", "seconds", "WAL MB"),
                rows=tuple(
                    (
                        way,
                        number(statistics.median(one.seconds for one in ones)),
                        number(statistics.median(one.wal for one in ones) / MEGABYTE),
                    )
                    for way, ones in ways.items()
                ),
            ),
        ),
        figures=(
            Figure(
                name="rebuild: time of copy and indexes, INSERT … SELECT = 1",
                values=tuple(one.seconds / other.seconds for one, other in zip(alone, at_once, strict=True)),
                target=Target(at="most", value=0.6),
            ),
            Figure(
                name="rebuild: WAL of copy and indexes, INSERT … SELECT = 1",
                values=tuple(one.wal / other.wal for one, other in zip(alone, at_once, strict=True)),
                target=Target(at="most", value=0.6),
            ),
            Figure(
                name="rebuild: the longest statement of the application, there and back",
                values=tuple(one.longest_seconds * 1000 for one in beside),
                unit="ms",
                target=Target(at="most", value=300),
            ),
            Figure(
                name="rebuild: statements of the application that failed",
                values=tuple(float(one.errors) for one in beside),
                target=Target(at="most", value=0),
            ),
        ),
    )


def _in_one_statement(stage: Stage, rows: int) -> Made:
    with stage.copy_of(FIVE_INDEXES.template(rows)) as database:
        database.do("CREATE TABLE other (LIKE jobs INCLUDING ALL)")
        database.settle()
        before, began = database.sizes(), time.monotonic()
        database.do("INSERT INTO other OVERRIDING SYSTEM VALUE SELECT * FROM jobs ORDER BY id")
        return Made(seconds=time.monotonic() - began, wal=database.sizes().since(before).wal)


def _rebuilt(stage: Stage, rows: int, *, writers: int) -> Made:
    with stage.copy_of(FIVE_INDEXES.template(rows)) as database, Daemon(stage, database, processes=2) as daemon:
        database.do(BELONGINGS)
        database.settle()
        total, before = database.one("SELECT sum(total)::bigint FROM jobs"), database.sizes()
        application = Application(database, rows, writers)
        with application.writing():
            run = daemon.start({"rebuild": {"table": "jobs"}}, settings={"lanes": 2, "approve": ["switch", "contract"]})
            database.until_state(run, "waiting")
            wal = database.sizes().since(before).wal
            daemon.client.approve(run, "switch")
            until("the switch", lambda: database.event_at(run, "phase.contract"))
            database.until_state(run, "waiting")
            daemon.client.rollback(run)
            database.until_state(run, "rolled_back")
        if database.one("SELECT sum(total)::bigint FROM jobs") != total + application.updated:
            raise BenchBroken("rows are not as the application wrote them")
        seconds = database.lasted(run, "phase.backfill", "phase.verify")
        return Made(seconds=seconds, wal=wal, longest_seconds=application.longest, errors=application.errors)


class Application:
    """Sessions that add one to rows by their key, one row a statement, all the while."""

    def __init__(self, database: Database, rows: int, writers: int) -> None:
        self.updated, self.errors, self.longest = 0, 0, 0.0
        self._url, self._rows, self._writers = database.url, rows, writers
        self._stop, self._lock = threading.Event(), threading.Lock()

    @contextmanager
    def writing(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._write, args=(number,)) for number in range(self._writers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _write(self, number: int) -> None:
        updated, errors, longest, chance = 0, 0, 0.0, random.Random(number)
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    cursor = connection.execute(
                        "UPDATE jobs SET total = total + 1 WHERE id = %s", [chance.randrange(1, self._rows)]
                    )
                    updated += cursor.rowcount
                except psycopg.Error:
                    errors += 1
                longest = max(longest, time.monotonic() - began)
                self._stop.wait(0.002)
        with self._lock:
            self.updated, self.errors = self.updated + updated, self.errors + errors
            self.longest = max(self.longest, longest)
