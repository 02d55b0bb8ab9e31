"""One batch: the statements over one range of keys or pages, inside the transaction that holds the lane.

A range in which a row cannot be converted is halved until the row is alone; it goes to quarantine and the rest is done, all in
the same transaction. Only the second attempt at a range pays for the savepoints this takes. What the statements are is said by
the kind of the lane: `kinds.py`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import psycopg
from psycopg.rows import tuple_row

from backfilld.migrations.identifiers import TableName, sendable
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.sqlstates import classify, in_words
from backfilld.migrations.record import audit, quarantine, runs
from backfilld.migrations.record.model import Bounds, Key, PageRange, Unconverted
from backfilld.migrations.rollback.journal import beside_firing, told_query
from backfilld.migrations.walks import update_sql
from backfilld.migrations.walks.firing import firing
from backfilld.migrations.walks.keys import KeyWalk, fetch_key
from backfilld.migrations.walks.next_batch import BatchRange, JournalSlice, Row
from backfilld.migrations.walks.pages import PageBatchRange, PageWalk
from backfilld.worker.lanes.write import UNDONE, Change, TableCodes, Written, tell_undone, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg import sql

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Lane
    from backfilld.migrations.rollback.journal import Journal
    from backfilld.migrations.walks.firing import TableCode
    from backfilld.migrations.walks.keys import Query
    from backfilld.migrations.walks.update_sql import Update


#: As many rows of a batch that is given up are kept with the run's error.
EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a batch did, in rows the database reported."""

    #: Rows that were looked at; a verifying batch counts them, another does not.
    walked: int = 0
    changed: int = 0
    #: Of the changed rows, those that stayed on their page and touched no index; None when they were not counted.
    hot: int | None = None
    #: For a verifying batch, rows that need work; for one that archives or restores, rows that the archive did not have; for
    #: another, changed rows that still meet the user's condition, where it was asked.
    residual: int = 0
    #: For a verifying batch, rows that hold a value of the application's own.
    own: int = 0
    quarantined: int = 0
    #: SQLSTATEs of the rows that were quarantined.
    sqlstates: tuple[str, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            walked=self.walked + other.walked,
            changed=self.changed + other.changed,
            hot=self.hot if other.hot is None else (self.hot or 0) + other.hot,
            residual=self.residual + other.residual,
            own=self.own + other.own,
            quarantined=self.quarantined + other.quarantined,
            sqlstates=self.sqlstates + other.sqlstates,
        )


class TooManyQuarantined(Exception):
    """More rows cannot be converted than the run allows; it pauses, and nothing of this batch is kept."""

    def __init__(self, latest: Unconverted, cap: int, examples: Sequence[Unconverted]) -> None:
        super().__init__(
            f"more than {cap} rows cannot be converted; the latest is {', '.join(latest.key)}: {latest.error}"
        )
        self.key = latest.key
        self.sqlstate = latest.sqlstate
        self.cap = cap
        #: Rows of the batch, which goes with its quarantine: a person must see some of them.
        self.examples = tuple(examples[:EXAMPLES])


class Work(Protocol):
    """What a batch must know of its lane's kind."""

    @property
    def number(self) -> int:
        """The operation, by its number in the file."""

    @property
    def walk(self) -> KeyWalk:
        """What is walked, by its key."""

    @property
    def relation(self) -> str:
        """The table of the operation, as the quarantine names it."""

    @property
    def codes(self) -> TableCodes:
        """What the walked tables were last seen to run when they are written."""

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        """Do the lane's work on a range; `carefully` where a row in it may be known to be an error."""
        ...

    def rows_of(self, batch: Batch, batch_range: JournalSlice) -> Sequence[Row]:
        """The rows of a slice of the journal."""
        ...

    def sets_aside(self, connection: Connection, key: Key) -> None:
        """A row of the lane is quarantined."""
        ...


def walk_of(walk: KeyWalk, lane: Lane) -> KeyWalk | PageWalk:
    """How a lane walks: by pages where that is what its bounds are."""
    if isinstance(lane.bounds, PageRange) and lane.relation is not None:
        return PageWalk(relation=TableName.parse(lane.relation), alias=walk.table.name)
    return walk


def relation_of(walk: KeyWalk, lane: Lane) -> TableName:
    """The table or the leaf whose rows a lane walks."""
    walked = walk_of(walk, lane)
    return walked.relation if isinstance(walked, PageWalk) else walked.table


class Batch:
    """The statements of one lane's batch. `connection` is in the transaction that holds the lane."""

    def __init__(
        self, connection: Connection, work: Work, lane: Lane, *, cap: int, code_is_fresh: bool = False
    ) -> None:
        self.connection = connection
        self.lane = lane
        #: So many rows of the run may be quarantined.
        self.cap = cap
        #: Code of a table's own has run, and what of it waits for COMMIT is to run as it does in the application's transactions.
        self.fired = False
        #: What the table runs was asked in this transaction, and not known from the batch before.
        self._code_is_fresh = code_is_fresh
        self._work = work
        self._walk = walk_of(work.walk, lane)
        self._unconverted: list[Unconverted] = []

    def run(self, batch_range: BatchRange, *, carefully: bool) -> Tally:
        """Do the lane's work on what `batch_range` covers; `carefully` after a first attempt met a row that cannot be converted.

        Raises psycopg.Error on the first attempt, and TooManyQuarantined.
        """
        if carefully:
            self.check_constraints_now()
            return self._halve(batch_range)
        return self._work.attempt(self, batch_range, carefully=False)

    def check_constraints_now(self) -> None:
        """A constraint that waits for COMMIT would name no row."""
        self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")

    def count(self, bounds: Bounds) -> int:
        """How many rows a range of keys holds."""
        row = self.connection.execute(*self._work.walk.count(bounds)).fetchone()
        return int(row["rows"]) if row else 0

    def within(self, batch_range: BatchRange) -> tuple[sql.Composable, list[str]]:
        """The condition for the rows that `batch_range` covers, and its parameters."""
        match batch_range:
            case Bounds():
                return self._work.walk.within(batch_range)
            case Row(key=key):
                return self._work.walk.at(key)
            case PageBatchRange():
                if isinstance(self._walk, PageWalk):
                    return self._walk.within(batch_range)
        msg = f"lane {self.lane.lane} of run {self.lane.run} does not walk {batch_range}"
        raise TypeError(msg)

    @property
    def table(self) -> sql.Composable:
        """The table, under the name that expressions know: the partitioned table's where this is a leaf of it."""
        if isinstance(self._walk, PageWalk):
            return self._walk.table
        return sendable(self._work.walk.table.identifier)

    @property
    def relation(self) -> TableName:
        """The table or the leaf whose rows are walked."""
        return self._walk.relation if isinstance(self._walk, PageWalk) else self._walk.table

    def write(self, update: Update, *, journals: Sequence[Journal], still: sql.Composable | None) -> Tally:
        """Change rows of the range that is walked; what is replaced goes into the journals.

        `still` is asked of every row that was changed. Raises psycopg.Error and ChangedMeanwhile.
        """
        pass_ = self.lane.pass_
        beside = beside_firing(journals, pass_=pass_)

        def when_it_fires(code: TableCode) -> Query:
            return firing(update, self._work.walk, self.relation, code, still=still, beside=beside)

        change = Change(
            table=self._work.walk.table,
            relation=self.relation,
            columns=tuple(target.column for target, _ in update.values),
            plain=told_query(update, journals, still=still, pass_=pass_, version=self.connection.info.server_version),
            firing=when_it_fires,
        )
        written = self.change(change)
        return Tally(changed=written.changed, residual=written.residual, hot=written.hot)

    def execute_firing(self, query: Query) -> dict[str, int]:
        """Send a statement after which the application's settings are in force, for the table's own code; gives what it counts."""
        row = self.connection.execute(*query).fetchone() or {}
        apply_settings(self.connection, SEMANTICS)
        self.fired = True
        return row

    def tell_undone(self, table: TableName) -> None:
        """Put on record, once in each pass, that rows were kept by triggers that should have gone."""
        detail: dict[str, object] = {
            "operation": self.lane.operation,
            "pass": self.lane.pass_,
            "relation": str(table),
            "triggers": [],
        }
        latest = audit.latest(self.connection, self.lane.run, what=UNDONE)
        if latest is None or latest["detail"] != detail:
            audit.record(self.connection, self.lane.run, actor=runs.WORKER, what=UNDONE, **detail)

    def change(self, change: Change) -> Written:
        """Send an UPDATE, in the form that its table asks for. Raises psycopg.Error and ChangedMeanwhile."""
        written, code = write(self.connection, self._work.codes, change, is_fresh=self._code_is_fresh)
        self.fired = self.fired or code.fires
        if written.undone:
            tell_undone(self.connection, self.lane, change, code)
        return written

    def set_aside(self, key: Key, sqlstate: str, message: str) -> Tally:
        """Put a row into the quarantine. Raises TooManyQuarantined when it is one too many."""
        self._work.sets_aside(self.connection, key)
        quarantine.set_aside(
            self.connection,
            self.lane.run,
            operation=self._work.number,
            relation=self._work.relation,
            key=key,
            sqlstate=sqlstate,
            error=message,
        )
        latest = Unconverted(
            operation=self._work.number, relation=self._work.relation, key=key, sqlstate=sqlstate, error=message
        )
        self._unconverted.append(latest)
        if quarantine.count(self.connection, self.lane.run) > self.cap:
            raise TooManyQuarantined(latest, self.cap, self._unconverted)
        return Tally(walked=1, quarantined=1, sqlstates=(sqlstate,))

    def _halve(self, batch_range: BatchRange) -> Tally:
        try:
            with self.connection.transaction():
                return self._work.attempt(self, batch_range, carefully=True)
        except psycopg.Error as exc:
            if classify(exc) != "data":
                raise
            failure = exc
        if isinstance(batch_range, Row):
            return self.set_aside(batch_range.key, failure.sqlstate or "", in_words(failure))
        tally = Tally()
        for part in self._parts(batch_range):
            if isinstance(part, Row) and isinstance(batch_range, Bounds | JournalSlice):
                # It was alone in its range and was tried just now.
                tally += self.set_aside(part.key, failure.sqlstate or "", in_words(failure))
            else:
                tally += self._halve(part)
        return tally

    def _parts(self, batch_range: Bounds | PageBatchRange | JournalSlice) -> list[BatchRange]:
        """Smaller parts of what could not be done at once, down to single rows; none when its rows went away meanwhile."""
        match batch_range:
            case PageBatchRange(last=last) if last is None or last - batch_range.first > 1:
                middle = self._middle_page(batch_range)
                return (
                    [replace(batch_range, last=middle), replace(batch_range, first=middle)]
                    if middle
                    else self._rows(batch_range)
                )
            case PageBatchRange():
                return self._rows(batch_range)
            case JournalSlice():
                return [*(batch_range.halves or self._work.rows_of(self, batch_range))]
            case Bounds():
                return self._halves(batch_range)

    def _halves(self, bounds: Bounds) -> list[BatchRange]:
        walk = self._work.walk
        key = fetch_key(self.connection, walk.bound(bounds, 1))
        if key is None:
            return []
        rows = max(self.count(bounds), 1)
        if rows == 1:
            return [Row(key=key)]
        middle_key = fetch_key(self.connection, walk.bound(bounds, rows // 2))
        if middle_key is None:
            return [bounds]  # rows went away between the two looks; without an end, a range goes to the table's
        return [Bounds(after=bounds.after, upto=middle_key), Bounds(after=middle_key, upto=bounds.upto)]

    def _middle_page(self, batch_range: PageBatchRange) -> int | None:
        """A page between the ends; None when only one is left."""
        last = batch_range.last
        if last is None and isinstance(self._walk, PageWalk):
            with self.connection.cursor(row_factory=tuple_row) as cursor:
                row = cursor.execute(*self._walk.look()).fetchone()
            last = row[1] if row else None
        middle = (batch_range.first + (last or 0)) // 2
        return middle if middle > batch_range.first else None

    def _rows(self, batch_range: BatchRange) -> list[BatchRange]:
        condition, parameters = self.within(batch_range)
        query = update_sql.keys(self._work.walk, self.table, condition)
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            keys: list[Key] = cursor.execute(query, parameters).fetchall()
        return [Row(key=key) for key in keys]


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Roll back whatever was begun, unless it was committed; a connection that is gone needs no rollback."""
    try:
        yield
    finally:
        if not connection.closed and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            try:
                connection.rollback()
            except psycopg.Error:
                # The server ends what a lost connection leaves open; the pool will replace the connection.
                connection.close()
