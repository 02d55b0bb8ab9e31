"""The ways to give a column of every row a value, as they are compared.

What others do is our own restatement of the SQL pattern that they publish, from one connection, with nothing between two
statements but the round trip; it is not their program.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from psycopg import sql

from bench.daemon import Daemon
from bench.stage import BenchBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from bench.stage import Database, Stage

#: Before every key of its type.
BEFORE_ALL: dict[str, int | UUID] = {"bigint": 0, "integer": 0, "uuid": UUID(int=0)}

BATCH_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is to be done: this value in this column of every row."""

    column: str
    expression: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """When it was done, by the clock of the machine."""

    began: float
    ended: float
    #: With the proof that it is right, and all that belongs to a run; the same as `ended` for a statement by hand.
    verified: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def verified_seconds(self) -> float:
        return self.verified - self.began


class Way(Protocol):
    """One of the ways; `ready` has all of it running but the work, and gives what does the work."""

    @property
    def name(self) -> str: ...

    def ready(self, stage: Stage, database: Database, change: Change) -> AbstractContextManager[Callable[[], Done]]: ...


@dataclass(frozen=True)
class ByHand:
    """Statements from one connection."""

    name: str
    do: Callable[[Database, Change], None]

    @contextmanager
    def ready(self, stage: Stage, database: Database, change: Change) -> Iterator[Callable[[], Done]]:
        del stage
        yield partial(self._timed, database, change)

    def _timed(self, database: Database, change: Change) -> Done:
        began = time.time()
        self.do(database, change)
        ended = time.time()
        return Done(began=began, ended=ended, verified=ended)


@dataclass(frozen=True, kw_only=True)
class Backfilld:
    """The daemon, a process of one thread for each lane, and a `backfill` with the settings that nobody has changed."""

    walk: str
    lanes: int

    @property
    def name(self) -> str:
        return f"backfilld by {self.walk}, {self.lanes} lane{'s' if self.lanes > 1 else ''}"

    @contextmanager
    def ready(self, stage: Stage, database: Database, change: Change) -> Iterator[Callable[[], Done]]:
        with Daemon(stage, database, processes=self.lanes) as daemon:
            # As wide as a daemon is that has run for a while: its pace grows by a lane every few seconds from its start on.
            database.do("UPDATE backfilld.pace SET width = greatest(width, %s)", [self.lanes])
            yield partial(self._run, daemon, database, change)

    def _run(self, daemon: Daemon, database: Database, change: Change) -> Done:
        run = daemon.rewrite(database.table, change.column, change.expression, walk=self.walk, lanes=self.lanes)
        database.until_state(run, "completed")
        times = {what: database.event_at(run, what) for what in ("phase.backfill", "phase.verify", "run.completed")}
        began, ended, verified = times.values()
        if began is None or ended is None or verified is None:
            raise BenchBroken(f"run {run} lacks an event of {times}")
        return Done(began=began, ended=ended, verified=verified)


def _one_update(database: Database, change: Change) -> None:
    database.do(
        sql.SQL("UPDATE {table} SET {column} = {value}").format(**_names(database, change)),
    )


def _key_batches(database: Database, change: Change) -> None:
    """The pattern that pgroll publishes: a CTE locks the next thousand keys in order, another one updates their rows."""
    next_batch = sql.SQL(
        "WITH batch AS (SELECT {key} FROM {table} WHERE {key} > %(last)s ORDER BY {key} LIMIT {rows} FOR NO KEY UPDATE), "
        "done AS (UPDATE {table} SET {column} = {value} FROM batch WHERE {table}.{key} = batch.{key} RETURNING 1) "
        "SELECT {key} AS last FROM batch ORDER BY {key} DESC LIMIT 1"
    ).format(rows=sql.Literal(BATCH_ROWS), **_names(database, change))
    row: dict[str, Any] | None = {"last": _before_all(database)}  # Any: a key
    while row is not None:
        row = database.connection.execute(next_batch, row).fetchone()


#: As published: https://docs.gitlab.com/development/database/batched_background_migrations/
SUB_BATCH_ROWS = 100
SMALLEST_JOB_ROWS, LARGEST_JOB_ROWS = 1000, 2_000_000
GROWTH = 1.2
ENOUGH, FULL = 0.90, 0.95
RECENT_JOBS, OLDER_COUNTS = 20, 0.6
#: Two minutes there, and jobs are as far apart; on tables this small no job would ever be changed in size.
JOB_SECONDS = 2.0


def next_job_rows(rows: int, recent_seconds: list[float]) -> int:
    """GitLab's published rule: from 90 to 95 % of the interval a job is as large as it should be.

    The mean is weighted, the newest job counting most; a job grows by a fifth at most, and shrinks as far as it has to.
    """
    recent = recent_seconds[: -RECENT_JOBS - 1 : -1]
    weights = [OLDER_COUNTS**age for age in range(len(recent))]
    share = sum(w * s for w, s in zip(weights, recent, strict=True)) / sum(weights) / JOB_SECONDS
    if ENOUGH <= share <= FULL:
        return rows
    return max(SMALLEST_JOB_ROWS, min(LARGEST_JOB_ROWS, round(rows * min(FULL / share, GROWTH))))


def _timed_batches(database: Database, change: Change) -> None:
    """The pattern that GitLab publishes: jobs over ranges of keys, each in sub-batches that are transactions.

    Without the pause of 100 ms after each sub-batch, and the next job begins when the last one ends.
    """
    names = _names(database, change)
    after = sql.SQL("SELECT {key} AS key FROM {table} WHERE {key} >= %s ORDER BY {key} OFFSET %s LIMIT 1").format(
        **names
    )
    update = sql.SQL("UPDATE {table} SET {column} = {value} WHERE {key} >= %s AND {key} < %s").format(**names)
    update_rest = sql.SQL("UPDATE {table} SET {column} = {value} WHERE {key} >= %s").format(**names)

    def key_after(key: int | UUID, rows: int) -> int | UUID | None:
        row = database.connection.execute(after, [key, rows]).fetchone()
        return row["key"] if row else None

    rows, seconds = SMALLEST_JOB_ROWS, list[float]()
    at: int | UUID | None = _before_all(database)
    while at is not None:
        began = time.monotonic()
        job_end = key_after(at, rows)
        while at is not None and at != job_end:
            end = key_after(at, SUB_BATCH_ROWS)
            if end is not None and job_end is not None:
                end = min(end, job_end)
            if end is None:
                database.do(update_rest, [at])
            else:
                database.do(update, [at, end])
            at = end
        seconds.append(time.monotonic() - began)
        rows = next_job_rows(rows, seconds)


def _names(database: Database, change: Change) -> dict[str, sql.Composable]:
    return {
        "table": sql.Identifier(database.table),
        "key": sql.Identifier(database.key),
        "column": sql.Identifier(change.column),
        "value": sql.SQL(change.expression),
    }


def _before_all(database: Database) -> int | UUID:
    type_ = database.one(
        "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = CAST(%s AS regclass) AND attname = %s",
        [database.table, database.key],
    )
    return BEFORE_ALL[type_]


def check(database: Database, change: Change) -> None:
    """A way that leaves a row out is not compared."""
    left = database.connection.execute(
        sql.SQL("SELECT count(*) AS left FROM {table} WHERE {column} IS DISTINCT FROM {value}").format(
            **_names(database, change)
        )
    ).fetchone()
    if left is None or left["left"] != 0:
        raise BenchBroken(f"{left} rows are not as they should be")


ONE_UPDATE = ByHand("one UPDATE", _one_update)
KEY_BATCHES = ByHand(f"keys, {BATCH_ROWS:,} a batch", _key_batches)
#: The way that is judged.
PAGES = Backfilld(walk="pages", lanes=2)

WAYS: tuple[Way, ...] = (
    ONE_UPDATE,
    KEY_BATCHES,
    ByHand("keys, sized by time", _timed_batches),
    Backfilld(walk="keys", lanes=2),
    Backfilld(walk="pages", lanes=1),
    PAGES,
    Backfilld(walk="pages", lanes=4),
)

WAYS_QUICK: tuple[Way, ...] = (ONE_UPDATE, KEY_BATCHES, PAGES)

#: What is said of them wherever they are measured.
METHOD = (
    "The strategies of others are our own restatements of the published SQL pattern, not their programs, each from one "
    f"connection without a pause. Keys, {BATCH_ROWS:,} a batch: as pgroll publishes, a statement and transaction for each "
    "thousand keys that locks them in order (FOR NO KEY UPDATE) and updates their rows. Keys, sized by time: as GitLab publishes, "
    f"jobs over ranges of keys in sub-batches of {SUB_BATCH_ROWS} rows, each a transaction, the next job larger or smaller by the "
    f"share of its interval that the last ones took (here {JOB_SECONDS:.0f} s instead of two minutes), and without its pause of "
    "100 ms after each sub-batch, which would be most of its time. "
    "backfilld is the daemon with a process of one thread for each lane and a plain `backfill` with "
    "default settings, the journal included, but the number of lanes and the walk; its seconds are those from the event phase.backfill to the event phase.verify, the making of "
    'the lanes included; "verified" are those until run.completed, with the pass over all rows that proves them right. '
    "Its WAL, growth and HOT updates are the whole run's, its record and the proof included. After each way all rows are checked."
)
