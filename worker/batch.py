"""One batch: the statements over one range of keys, inside the transaction that holds the lane.

A range in which a row cannot be converted is halved until the row is alone; it goes to quarantine and the rest go on, all
in the same transaction. Only the second attempt at a range pays for the savepoints this takes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from migrations.model import Bounds, Key
from migrations.names import sendable
from migrations.postgres.outcomes import classify, in_words
from migrations.store import lanes, quarantine
from migrations.walks.keys import KeyWalk, fetch_key
from migrations.walks.rewrite import expression
from worker.transform import Transform

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from migrations.model import Lane
    from migrations.operations import Operation
    from migrations.postgres.connect import Connection
    from migrations.walks.rewrite import Rewrite


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a batch did, in rows the database reported."""

    walked: int = 0
    changed: int = 0
    #: For a verifying batch, rows that need work; for another, changed rows that still meet the user's condition, where
    #: it was asked.
    residual: int = 0
    quarantined: int = 0
    #: SQLSTATEs of the rows that were set aside.
    sqlstates: tuple[str, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            walked=self.walked + other.walked,
            changed=self.changed + other.changed,
            residual=self.residual + other.residual,
            quarantined=self.quarantined + other.quarantined,
            sqlstates=self.sqlstates + other.sqlstates,
        )


class TooManyQuarantined(Exception):
    """More rows cannot be converted than the run allows; it pauses, and nothing of this batch is kept."""

    def __init__(self, key: Key, sqlstate: str, message: str, cap: int) -> None:
        super().__init__(f"more than {cap} rows cannot be converted; the latest is {', '.join(key)}: {message}")
        self.key = key
        self.sqlstate = sqlstate
        self.cap = cap


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a lane's batches do, put together once per run and operation."""

    number: int
    operation: Operation
    rewrite: Rewrite
    walk: KeyWalk
    #: The Python function that gives the values, where they do not come from SQL.
    transform: Transform | None = None

    @classmethod
    def of(cls, operation: Operation, number: int, *, transforms: Sequence[str] = ()) -> Work | None:
        """The work of an operation, or None when it moves no data. `transforms` are the modules a function may come from.

        Raises Refused when it comes from another, or is not there.
        """
        rewrite = operation.rewrite()
        if rewrite is None:
            return None
        walk = KeyWalk(table=operation.table, key=operation.facts.key)
        return cls(
            number=number,
            operation=operation,
            rewrite=rewrite,
            walk=walk,
            transform=Transform.of(rewrite, walk, allowed=transforms),
        )


class Batch:
    """The statements of one lane's batch. `connection` is in the transaction that holds the lane."""

    def __init__(self, connection: Connection, work: Work, lane: Lane, *, cap: int) -> None:
        self._connection = connection
        self._work = work
        self._lane = lane
        self._cap = cap

    def run(self, bounds: Bounds, *, carefully: bool) -> Tally:
        """Do the lane's work on `bounds`; `carefully` after a first attempt met a row that cannot be converted.

        Raises psycopg.Error on the first attempt, and TooManyQuarantined.
        """
        if carefully:
            # A constraint that waits for COMMIT would name no row.
            self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            return self._halve(bounds)
        return self._attempt(bounds, carefully=False)

    def retry_one(self) -> Tally | None:
        """Try one row of the quarantine again; None when none is left to try."""
        row = quarantine.next_retry(self._connection, self._lane.run, operation=self._work.number)
        if row is None:
            return None
        condition, parameters = self._work.walk.at(row.key)
        try:
            with self._connection.transaction():
                self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                changed = self._change(condition, parameters).changed
                self._check_not_null(condition, parameters)
        except psycopg.Error as exc:
            if classify(exc) != "data":
                raise
            self._set_aside(row.key, exc.sqlstate or "", in_words(exc))
            return Tally(quarantined=0)
        quarantine.release(self._connection, self._lane.run, operation=self._work.number, key=row.key)
        return Tally(changed=changed)

    def add_residual_lane(self, bounds: Bounds) -> None:
        """Let the range be walked again in the next pass: residual rows next to residual rows make one lane."""
        lane, number = self._lane, self._work.number
        lanes.lock_conductor(self._connection, lane.run)
        next_pass = lane.pass_ + 1
        if not lanes.extend(
            self._connection, lane.run, operation=number, pass_=next_pass, after=bounds.after, upto=bounds.upto
        ):
            lanes.insert(
                self._connection,
                lane.run,
                kind="backfill",
                operation=number,
                pass_=next_pass,
                relation=self._work.operation.facts.relation,
                bounds=bounds,
                batch_rows=lane.batch_rows,
            )

    def _attempt(self, bounds: Bounds, *, carefully: bool) -> Tally:
        condition, parameters = self._work.walk.within(bounds)
        if self._lane.kind == "verify":
            residual = self._count_residual(condition, parameters, carefully=carefully)
            nulls = self._tell_nulls_apart(condition, parameters, carefully=carefully) if residual else 0
            return Tally(residual=residual - nulls, quarantined=nulls, sqlstates=(_NOT_NULL,) * nulls)
        return self._change(condition, parameters)

    def _change(self, condition: sql.Composable, parameters: list[Any]) -> Tally:  # Any: key values
        """Change the rows that need work, by SQL or by a function."""
        if self._work.transform is not None:
            written = self._work.transform.apply(self._connection, self._lane.run, condition, parameters)
            return Tally(changed=written.changed, residual=written.still)
        still = self._work.rewrite.condition_tells
        if still is None:
            return Tally(changed=self._connection.execute(self._update(condition), parameters).rowcount)
        query = sql.SQL(
            "WITH changed AS ({} RETURNING {} AS still) "
            "SELECT count(*) AS changed, count(*) FILTER (WHERE still) AS residual FROM changed"
        ).format(self._update(condition), still)
        row = self._connection.execute(query, parameters).fetchone() or {}
        return Tally(changed=row["changed"], residual=row["residual"])

    def _halve(self, bounds: Bounds) -> Tally:
        try:
            with self._connection.transaction():
                return self._attempt(bounds, carefully=True)
        except psycopg.Error as exc:
            if classify(exc) != "data":
                raise
            failure = exc
        key = fetch_key(self._connection, self._work.walk.bound(bounds, 1))
        if key is None:
            return Tally()  # the row went away meanwhile
        rows = self._connection.execute(*self._work.walk.count(bounds)).fetchone() or {"rows": 1}
        if rows["rows"] <= 1:
            self._set_aside(key, failure.sqlstate or "", in_words(failure))
            return Tally(quarantined=1, sqlstates=(failure.sqlstate or "",))
        middle = fetch_key(self._connection, self._work.walk.bound(bounds, rows["rows"] // 2))
        if middle is None:
            return self._halve(
                bounds
            )  # rows went away between the two looks; without an end, a range goes to the table's
        return self._halve(Bounds(after=bounds.after, upto=middle)) + self._halve(
            Bounds(after=middle, upto=bounds.upto)
        )

    def _update(self, condition: sql.Composable) -> sql.Composed:
        return sql.SQL("UPDATE {} SET {} WHERE {} AND {}").format(
            self._table, self._work.rewrite.set_clause, condition, self._work.rewrite.needs_work
        )

    def _count_residual(self, condition: sql.Composable, parameters: list[str], *, carefully: bool) -> int:
        """Rows that still need work, but for those known to be unconvertible."""
        query = sql.SQL("SELECT count(*) AS residual FROM {} WHERE {} AND {}").format(
            self._table,
            condition,
            self._not_in_quarantine(self._work.rewrite.needs_work, carefully=carefully),
        )
        row = self._connection.execute(query, [*parameters, self._lane.run, self._work.number]).fetchone()
        return int(row["residual"]) if row else 0

    def _not_in_quarantine(self, wanted: sql.Composable, *, carefully: bool) -> sql.Composed:
        """The condition `wanted`, for rows that are not set aside."""
        # CASE keeps the expression from being evaluated, and from raising again, for a row that is; it costs a look into
        # the quarantine for every row, where the other form is one join.
        form = "CASE WHEN EXISTS {} THEN false ELSE {} END" if carefully else "(NOT EXISTS {} AND {})"
        held = sql.SQL(
            "(SELECT FROM backfilld.quarantine q "
            "WHERE q.run = %s::bigint AND q.operation = %s::integer AND q.key = pg_catalog.jsonb_build_array({}))"
        ).format(self._key_texts())
        return sql.SQL(form).format(held, wanted)

    def _key_texts(self) -> sql.Composed:
        # With the schema: a bare table name could mean the quarantine, where it stands beside it.
        table = self._work.walk.table
        return sql.SQL(", ").join(
            sql.SQL("{}::text").format(sendable(sql.Identifier(table.schema, table.name, column.name)))
            for column in self._work.walk.key
        )

    @property
    def _table(self) -> sql.SQL:
        return sendable(self._work.walk.table.identifier)

    def _tell_nulls_apart(self, condition: sql.Composable, parameters: list[str], *, carefully: bool) -> int:
        """Rows whose value is NULL although it must not be would be residual for ever: set them aside. Returns how many."""
        if not self._work.rewrite.not_null:
            return 0
        value = expression(self._work.rewrite.assignments[0].expression)
        wanted = sql.SQL("({} AND {} IS NULL)").format(self._work.rewrite.needs_work, value)
        query = sql.SQL("SELECT {} FROM {} WHERE {} AND {} LIMIT %s").format(
            self._key_texts(),
            self._table,
            condition,
            self._not_in_quarantine(wanted, carefully=carefully),
        )
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            found: list[Key] = cursor.execute(
                query, [*parameters, self._lane.run, self._work.number, self._cap + 1]
            ).fetchall()
        column = self._work.rewrite.assignments[0].target.column
        for key in found:
            self._set_aside(key, _NOT_NULL, f"the expression gives NULL, and {column} is to be NOT NULL")
        return len(found)

    def _check_not_null(self, condition: sql.Composable, parameters: list[Any]) -> None:  # Any: key values
        if not self._work.rewrite.not_null:
            return
        column = sendable(sql.Identifier(self._work.rewrite.assignments[0].target.column))
        query = sql.SQL("SELECT 1 AS one FROM {} WHERE {} AND {} IS NULL").format(self._table, condition, column)
        if self._connection.execute(query, parameters).fetchone():
            msg = "the expression gives NULL, and the column is to be NOT NULL"
            raise psycopg.errors.NotNullViolation(msg)

    def _set_aside(self, key: Key, sqlstate: str, message: str) -> None:
        lane = self._lane
        quarantine.set_aside(
            self._connection,
            lane.run,
            operation=self._work.number,
            relation=self._work.operation.facts.relation,
            key=key,
            sqlstate=sqlstate,
            error=message,
        )
        if quarantine.count(self._connection, lane.run) > self._cap:
            raise TooManyQuarantined(key, sqlstate, message, self._cap)


#: SQLSTATE not_null_violation.
_NOT_NULL = "23502"


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
