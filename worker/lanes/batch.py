"""One batch: the statements over one range of keys or pages, inside the transaction that holds the lane.

A range in which a row cannot be converted is halved until the row is alone; it goes to quarantine and the rest go on, all
in the same transaction. Only the second attempt at a range pays for the savepoints this takes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from backfilld.migrations.identifiers import TableName, sendable
from backfilld.migrations.postgres.sqlstates import classify, in_words
from backfilld.migrations.record import lanes, quarantine
from backfilld.migrations.record.model import Bounds, Key, PageRange
from backfilld.migrations.rollback import retention
from backfilld.migrations.rollback.archive import in_run
from backfilld.migrations.walks.keys import KeyWalk, fetch_key
from backfilld.migrations.walks.next_batch import BatchRange, Row
from backfilld.migrations.walks.pages import PageBatchRange, PageWalk
from backfilld.migrations.walks.rewrite import Rewrite, expression
from backfilld.worker.lanes import kept_values
from backfilld.worker.lanes.kept_values import Journal
from backfilld.worker.lanes.transform import Transform

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.operations import Archived, Operation, Walk
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Lane
    from backfilld.migrations.walks.keys import Query


#: Rows of a table and its partitions that this session has updated in place so far.
HOT_UPDATES = """
SELECT coalesce(pg_stat_get_xact_tuples_hot_updated(t.oid), 0)
       + coalesce((SELECT sum(pg_stat_get_xact_tuples_hot_updated(p.relid)) FROM pg_partition_tree(t.oid) p
                   WHERE p.relid <> t.oid), 0) AS hot
FROM (SELECT to_regclass(%s::text) AS oid) t
"""


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
    quarantined: int = 0
    #: SQLSTATEs of the rows that were set aside.
    sqlstates: tuple[str, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            walked=self.walked + other.walked,
            changed=self.changed + other.changed,
            hot=self.hot if other.hot is None else (self.hot or 0) + other.hot,
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
    #: Where what the lanes replace is kept; None where nothing is.
    journal: Journal | None = None
    #: What an archiving lane copies.
    archived: Archived | None = None
    #: The table whose rows an undoing lane gives back what they were, while it walks the journal.
    undoes: KeyWalk | None = None

    @classmethod
    def of(
        cls, operation: Operation, number: int, *, run: int, journals: bool = True, transforms: Sequence[str] = ()
    ) -> Work | None:
        """The work of an operation, or None when it moves no data. `transforms` are the modules a function may come from.

        With `journals` an operation that has an undo keeps what it replaces.

        Raises Refused when it comes from another, or is not there.
        """
        rewrite = operation.rewrite()
        if rewrite is None:
            return None
        walk = KeyWalk(table=rewrite.table, key=operation.facts.key)
        return cls(
            number=number,
            operation=operation,
            rewrite=rewrite,
            walk=walk,
            transform=Transform.of(rewrite, walk, allowed=transforms),
            journal=Journal(run=run, operation=number, walk=walk, columns=_columns(operation))
            if journals and operation.undo()
            else None,
        )

    @classmethod
    def of_walk(cls, operation: Operation, walk: Walk, *, run: int) -> Work:
        """The work of a walk between two steps."""
        rewrite = walk.rewrite or Rewrite(table=walk.table, facts=operation.facts, assignments=())
        by_key = KeyWalk(table=walk.table, key=walk.key)
        undoes = walk.kind == "undo"
        return cls(
            number=walk.operation,
            operation=operation,
            rewrite=in_run(rewrite, run),
            walk=retention.journal_walk(run) if undoes else by_key,
            archived=walk.archived,
            undoes=by_key if undoes else None,
        )

    @property
    def table(self) -> TableName:
        """The table whose rows are changed."""
        return self.rewrite.table

    def walk_of(self, lane: Lane) -> KeyWalk | PageWalk:
        """How this lane walks."""
        if isinstance(lane.bounds, PageRange) and lane.relation is not None:
            return PageWalk(relation=TableName.parse(lane.relation), alias=self.table.name)
        return self.walk


class Batch:
    """The statements of one lane's batch. `connection` is in the transaction that holds the lane."""

    def __init__(self, connection: Connection, work: Work, lane: Lane, *, cap: int) -> None:
        self._connection = connection
        self._work = work
        self._lane = lane
        self._cap = cap
        self._walk = work.walk_of(lane)

    def run(self, reach: BatchRange, *, carefully: bool) -> Tally:
        """Do the lane's work on what `reach` covers; `carefully` after a first attempt met a row that cannot be converted.

        Raises psycopg.Error on the first attempt, and TooManyQuarantined.
        """
        if carefully:
            # A constraint that waits for COMMIT would name no row.
            self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            return self._halve(reach)
        return self._attempt(reach, carefully=False)

    def count(self, bounds: Bounds) -> int:
        """How many rows a range of keys holds."""
        row = self._connection.execute(*self._work.walk.count(bounds)).fetchone()
        return int(row["rows"]) if row else 0

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

    def add_residual_lane(self, reach: BatchRange) -> None:
        """Let what `reach` covers be walked again in the next pass: residual rows next to residual rows make one lane."""
        lane, number = self._lane, self._work.number
        lanes.lock_conductor(self._connection, lane.run)
        next_pass = lane.pass_ + 1
        bounds: Bounds | PageRange
        match reach, lane.bounds:
            case PageBatchRange(), PageRange():
                bounds = replace(lane.bounds, first=reach.first, last=reach.last)
            case Bounds(), _:
                bounds = reach
            case _:
                msg = f"lane {lane.lane} of run {lane.run} has looked at {reach}"
                raise TypeError(msg)
        if not lanes.extend(self._connection, lane.run, operation=number, pass_=next_pass, bounds=bounds):
            lanes.insert(
                self._connection,
                lane.run,
                kind="backfill",
                operation=number,
                pass_=next_pass,
                relation=lane.relation or self._work.operation.facts.relation,
                bounds=bounds,
                batch_rows=lane.batch_rows,
                awake=False,  # the coordinator lets as many begin as the run wants
            )

    def _attempt(self, reach: BatchRange, *, carefully: bool) -> Tally:
        condition, parameters = self._within(reach)
        if self._lane.kind == "verify":
            walked, residual = self._count_residual(condition, parameters, carefully=carefully)
            nulls = self._tell_nulls_apart(condition, parameters, carefully=carefully) if residual else 0
            return Tally(walked=walked, residual=residual - nulls, quarantined=nulls, sqlstates=(_NOT_NULL,) * nulls)
        if self._work.archived is not None:
            return self._archive(self._work.archived, condition, parameters)
        if self._work.undoes is not None:
            return self._undo(self._work.undoes, condition, parameters)
        tally = self._change(condition, parameters)
        if self._lane.kind == "restore":
            tally = replace(tally, residual=self._count_unarchived(condition, parameters))
        return tally

    def _archive(self, archived: Archived, condition: sql.Composable, parameters: list[str]) -> Tally:
        """Copy into the archive what it does not have as it is."""
        query = kept_values.archiving(
            self._work.walk, archived, condition, run=self._lane.run, operation=self._work.number
        )
        row = self._connection.execute(query, parameters).fetchone() or {}
        return Tally(changed=row["changed"], residual=row["missing"])

    def _undo(self, table: KeyWalk, condition: sql.Composable, parameters: list[str]) -> Tally:
        """Give rows back what the journal says they were."""
        targets = self._work.operation.facts.targets
        query = kept_values.undoing(self._work.walk, table, targets, condition, operation=self._work.number)
        self._connection.execute(kept_values.BY_KEY)
        row = self._connection.execute(query, parameters).fetchone()
        return Tally(changed=int(row["changed"]) if row else 0)

    def _count_unarchived(self, condition: sql.Composable, parameters: list[str]) -> int:
        """Rows that have come since the archive was made."""
        query = kept_values.unarchived(self._work.walk, condition, run=self._lane.run, operation=self._work.number)
        row = self._connection.execute(query, parameters).fetchone()
        return int(row["rows"]) if row else 0

    def _change(self, condition: sql.Composable, parameters: list[Any]) -> Tally:  # Any: key values
        """Change the rows that need work, by SQL or by a function."""
        if self._work.transform is not None:
            written = self._work.transform.apply(
                self._connection, self._lane.run, condition, parameters, journal=self._journal
            )
            return Tally(changed=written.changed, residual=written.still)
        query, sent = self._statement(condition, parameters)
        with self._connection.pipeline():
            # PostgreSQL's counters go on from earlier transactions, so what this one did is a difference.
            before = self._connection.execute(HOT_UPDATES, [self._relation])
            changed = self._connection.execute(query, sent)
            after = self._connection.execute(HOT_UPDATES, [self._relation])
        hot = _hot(after) - _hot(before)
        if self._journal is None and self._work.rewrite.condition_tells is None:
            return Tally(changed=changed.rowcount, hot=hot)
        row = changed.fetchone() or {}
        return Tally(changed=row["changed"], residual=row["residual"], hot=hot)

    def _statement(self, condition: sql.Composable, parameters: list[Any]) -> Query:  # Any: key values
        """The statement that does the work, keeps what it replaces, and tells what is still to do where the user's condition can."""
        rewrite = self._work.rewrite
        update = kept_values.Update(
            table=self._table,
            sets=rewrite.set_clause,
            condition=condition,
            parameters=parameters,
            also=rewrite.needs_work,
        )
        still = rewrite.condition_tells
        if self._journal is None and still is None:
            return update.query
        returning = sql.SQL("{} AS still").format(still if still is not None else sql.SQL("false"))
        counted = sql.SQL(" SELECT count(*) AS changed, count(*) FILTER (WHERE still) AS residual FROM changed")
        if self._journal is None:
            query, sent = update.query
            return sql.SQL("WITH changed AS ({} RETURNING {})").format(query, returning) + counted, sent
        query, sent = self._journal.written(update, returning=returning, version=self._connection.info.server_version)
        return query + counted, sent

    @property
    def _journal(self) -> Journal | None:
        return self._work.journal if self._lane.kind in {"backfill", "retry"} else None

    def _within(self, reach: BatchRange) -> tuple[sql.Composable, list[str]]:
        match reach:
            case Bounds():
                return self._work.walk.within(reach)
            case Row(key=key):
                return self._work.walk.at(key)
            case PageBatchRange():
                if isinstance(self._walk, PageWalk):
                    return self._walk.within(reach)
                msg = f"lane {self._lane.lane} of run {self._lane.run} walks keys, not pages"
                raise TypeError(msg)

    def _halve(self, reach: BatchRange) -> Tally:
        try:
            with self._connection.transaction():
                return self._attempt(reach, carefully=True)
        except psycopg.Error as exc:
            if classify(exc) != "data":
                raise
            failure = exc
        if isinstance(reach, Row):
            self._set_aside(reach.key, failure.sqlstate or "", in_words(failure))
            return Tally(walked=1, quarantined=1, sqlstates=(failure.sqlstate or "",))
        tally = Tally()
        for part in self._parts(reach):
            if isinstance(part, Row) and isinstance(reach, Bounds):
                # It was alone in its range and was tried just now.
                self._set_aside(part.key, failure.sqlstate or "", in_words(failure))
                tally += Tally(walked=1, quarantined=1, sqlstates=(failure.sqlstate or "",))
            else:
                tally += self._halve(part)
        return tally

    def _parts(self, reach: Bounds | PageBatchRange) -> list[BatchRange]:
        """Smaller parts of what could not be done at once, down to single rows; none when its rows went away meanwhile."""
        match reach:
            case PageBatchRange(last=last) if last is None or last - reach.first > 1:
                middle = self._middle_page(reach)
                return [replace(reach, last=middle), replace(reach, first=middle)] if middle else self._rows(reach)
            case PageBatchRange():
                return self._rows(reach)
            case Bounds():
                walk = self._work.walk
                key = fetch_key(self._connection, walk.bound(reach, 1))
                if key is None:
                    return []
                rows = max(self.count(reach), 1)
                if rows == 1:
                    return [Row(key=key)]
                middle_key = fetch_key(self._connection, walk.bound(reach, rows // 2))
                if middle_key is None:
                    return [reach]  # rows went away between the two looks; without an end, a range goes to the table's
                return [Bounds(after=reach.after, upto=middle_key), Bounds(after=middle_key, upto=reach.upto)]

    def _middle_page(self, reach: PageBatchRange) -> int | None:
        """A page between the ends; None when only one is left."""
        last = reach.last
        if last is None and isinstance(self._walk, PageWalk):
            with self._connection.cursor(row_factory=tuple_row) as cursor:
                row = cursor.execute(*self._walk.look()).fetchone()
            last = row[1] if row else None
        middle = (reach.first + (last or 0)) // 2
        return middle if middle > reach.first else None

    def _rows(self, reach: PageBatchRange) -> list[BatchRange]:
        condition, parameters = self._within(reach)
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(self._key_texts(), self._table, condition)
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            keys: list[Key] = cursor.execute(query, parameters).fetchall()
        return [Row(key=key) for key in keys]

    def _count_residual(self, condition: sql.Composable, parameters: list[str], *, carefully: bool) -> tuple[int, int]:
        """(rows, those of them that still need work), but for those known to be unconvertible."""
        query = sql.SQL("SELECT count(*) AS rows, count(*) FILTER (WHERE {}) AS residual FROM {} WHERE {}").format(
            self._not_in_quarantine(self._work.rewrite.needs_work, carefully=carefully), self._table, condition
        )
        row = self._connection.execute(query, [self._lane.run, self._work.number, *parameters]).fetchone()
        return (int(row["rows"]), int(row["residual"])) if row else (0, 0)

    def _not_in_quarantine(self, wanted: sql.Composable, *, carefully: bool) -> sql.Composed:
        """The condition `wanted`, for rows that are not set aside."""
        held = sql.SQL(
            '(SELECT FROM backfilld.quarantine "~backfilld" WHERE "~backfilld".run = %s::bigint '
            'AND "~backfilld".operation = %s::integer AND "~backfilld".key = pg_catalog.jsonb_build_array({}))'
        ).format(self._key_texts())
        if carefully:
            # CASE keeps the expression from being evaluated, and from raising again, for a row that is set aside; it costs
            # a look into the quarantine for every row, where the other form looks for those that need work.
            return sql.SQL("CASE WHEN EXISTS {} THEN false ELSE {} END").format(held, wanted)
        return sql.SQL("({} AND NOT EXISTS {})").format(wanted, held)

    def _key_texts(self) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL("{}::text").format(sendable(sql.Identifier(self._work.walk.table.name, column.name)))
            for column in self._work.walk.key
        )

    @property
    def _table(self) -> sql.Composable:
        if isinstance(self._walk, PageWalk):
            # By the name that expressions know, which is the partitioned table's where this is a leaf of it.
            return sql.SQL("{} AS {}").format(
                sendable(self._walk.relation.identifier), sendable(sql.Identifier(self._walk.alias))
            )
        return sendable(self._work.walk.table.identifier)

    @property
    def _relation(self) -> str:
        relation = self._walk.relation if isinstance(self._walk, PageWalk) else self._work.walk.table
        return relation.identifier.as_string()

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
        if self._work.undoes is not None:
            key = retention.key_of(self._connection, key)
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


def _columns(operation: Operation) -> tuple[str, ...]:
    return tuple(target.column for target in operation.facts.targets)


#: SQLSTATE not_null_violation.
_NOT_NULL = "23502"


def _hot(cursor: psycopg.Cursor[dict[str, Any]]) -> int:  # Any: a row
    row = cursor.fetchone()
    return int(row["hot"]) if row else 0


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
