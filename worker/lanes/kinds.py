"""What a lane does, a class for each kind: which range its next batch covers, which statements it sends, how many rows it begins
with. Made once per run, and shared by the threads of a process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from backfilld.migrations.postgres.sqlstates import classify, in_words
from backfilld.migrations.record import audit, lanes, quarantine, runs
from backfilld.migrations.record.model import Bounds, Key, PageRange
from backfilld.migrations.record.states import LaneKind
from backfilld.migrations.rollback import deletion
from backfilld.migrations.rollback.deletion import DeletedRows
from backfilld.migrations.rollback.journal import Journal
from backfilld.migrations.walks import copy_sql, firing, next_batch, update_sql, verify_sql
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.migrations.walks.pages import PageBatchRange
from backfilld.migrations.walks.rewrite import Rewrite, expression
from backfilld.migrations.walks.sizing import FIRST_ROWS
from backfilld.migrations.walks.update_sql import Update
from backfilld.worker.lanes.batch import Tally, relation_of, walk_of
from backfilld.worker.lanes.transform import Transform
from backfilld.worker.lanes.write import TableCodes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Operation
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Lane, Quarantined
    from backfilld.migrations.walks.copying import Copying
    from backfilld.migrations.walks.firing import TableCode
    from backfilld.migrations.walks.keys import Query
    from backfilld.migrations.walks.next_batch import After, BatchRange, JournalSlice, Row, Seen
    from backfilld.worker.lanes.batch import Batch

#: SQLSTATE not_null_violation.
_NOT_NULL = "23502"


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """What a step did, and where it leaves its lane."""

    tally: Tally
    after: After
    #: The lane comes back by itself after so long; 0 for at once.
    back_in_seconds: float = 0.0


class Values(Protocol):
    """Where the values of a rewrite come from: expressions, or a Python function."""

    def write(
        self,
        batch: Batch,
        condition: sql.Composable,
        parameters: list[Any],  # Any: key values
        *,
        journals: Sequence[Journal],
    ) -> Tally:
        """Change the rows of a range that need work; what is replaced goes into the journals."""


@dataclass(frozen=True, kw_only=True)
class LaneWork(ABC):
    """What the lanes of one kind do for one operation."""

    #: How many rows the first batch of a lane takes.
    first_rows: ClassVar[int] = FIRST_ROWS
    #: Whether batches change the rows they walk over.
    changes_rows: ClassVar[bool] = True

    number: int
    operation: Operation
    #: What is walked, by its key.
    walk: KeyWalk
    codes: TableCodes = field(default_factory=TableCodes, compare=False)

    @property
    def relation(self) -> str:
        return self.operation.facts.relation

    @property
    def writes(self) -> str:
        """The sync trigger whose work the batches do themselves, so that it need not fire; empty for none."""
        return ""

    @property
    def may_be_repeated(self) -> bool:
        """Whether a batch that a crash took back gives the values again that an application may have read of it."""
        return not (self.changes_rows and self.operation.facts.volatile)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the batches write; none where they write none."""
        return ()

    @property
    def written(self) -> KeyWalk:
        """The table whose rows they change."""
        return self.walk

    def asks_code(self, lane: Lane) -> Mapping[str, object] | None:
        """What to ask in the round trip that takes the lane, to know what the table runs when it is written; None if known."""
        relation = relation_of(self.written, lane)
        if not self.columns or relation in self.codes.seen:
            return None
        return firing.asked(table=self.written.table, relation=relation, columns=self.columns)

    def learn(self, lane: Lane, code: TableCode) -> None:
        """What the table runs when it is written, as it was asked."""
        self.codes.seen[relation_of(self.written, lane)] = code

    def look(self, lane: Lane) -> Query | None:
        """What to ask in the round trip that takes the lane, to know where its batch ends."""
        return next_batch.look(walk_of(self.walk, lane), lane)

    def step(self, batch: Batch, seen: Seen, *, beside_others: bool, carefully: bool) -> Stepped:
        """Do the lane's next batch. Raises psycopg.Error and TooManyQuarantined."""
        lane = batch.lane
        following = next_batch.following(lane, seen, writes=self.changes_rows, beside_others=beside_others)
        if following.batch_range is None:
            audit.record(batch.connection, lane.run, actor=runs.WORKER, what="table.rewritten", lane=lane.lane)
            tally = Tally()
        else:
            tally = self.cover(batch, following.batch_range, rows=following.rows, carefully=carefully)
        return Stepped(tally=tally, after=following.cursor_after(changed=tally.changed, hot=tally.hot or 0))

    def cover(self, batch: Batch, batch_range: BatchRange, *, rows: int | None, carefully: bool) -> Tally:
        """Do the work on a range of about `rows` rows (None: they have to be counted), and say how many that was."""
        tally = batch.run(batch_range, carefully=carefully)
        if rows is None and isinstance(batch_range, Bounds):
            rows = batch.count(batch_range)
        return replace(tally, walked=rows or 0)

    @abstractmethod
    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        """Do the work on a range. Raises psycopg.Error."""

    def rows_of(self, batch: Batch, batch_range: JournalSlice) -> Sequence[Row]:
        """The rows of a slice of the journal."""
        msg = f"lane {batch.lane.lane} of run {batch.lane.run} does not walk {batch_range}"
        raise TypeError(msg)

    def sets_aside(self, connection: Connection, key: Key) -> None:
        """A row of the lane is quarantined."""
        del connection, key


@dataclass(frozen=True, kw_only=True)
class Backfill(LaneWork):
    """Changes the rows that need work, and keeps in the journal what it replaces."""

    rewrite: Rewrite
    values: Values
    #: Where what the lanes replace is kept; none where nothing is.
    journals: tuple[Journal, ...] = ()

    @classmethod
    def of(
        cls, operation: Operation, number: int, *, run: int, journals: bool = True, transforms: Sequence[str] = ()
    ) -> Backfill | None:
        """The backfill of an operation, or None when it moves no data. `transforms` are the modules a function may come from.

        With `journals` an operation that has an undo keeps what it replaces. Raises Refused for a function of another module,
        and for one that is not there.
        """
        rewrite = operation.rewrite()
        if rewrite is None:
            return None
        walk = KeyWalk(table=rewrite.table, key=operation.facts.key)
        kept: tuple[Journal, ...] = ()
        if journals and operation.undo():
            made = DeletedRows if rewrite.deletes else Journal
            kept = (made(run=run, operation=number, walk=walk, targets=operation.facts.targets),)
        values: Values = Transform.of(rewrite, walk, allowed=transforms) or Expressions(rewrite=rewrite)
        if rewrite.deletes:
            values = Deletion(rewrite=rewrite, walk=walk)
        elif rewrite.copies is not None:
            values = CopiedValues(rewrite=rewrite)
        elif rewrite.remakes is not None:
            values = Remade(copying=rewrite.remakes)
        return cls(number=number, operation=operation, walk=walk, rewrite=rewrite, values=values, journals=kept)

    @property
    def table(self) -> TableName:
        """The table whose rows are changed."""
        return self.rewrite.table

    @property
    def writes(self) -> str:
        return self.rewrite.writes

    @property
    def columns(self) -> tuple[str, ...]:
        return self.rewrite.columns

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        del carefully
        condition, parameters = batch.within(batch_range)
        return self.values.write(batch, condition, parameters, journals=self.journals)


@dataclass(frozen=True, kw_only=True)
class Expressions:
    """Values that are expressions over the row."""

    rewrite: Rewrite

    def write(
        self,
        batch: Batch,
        condition: sql.Composable,
        parameters: list[Any],  # Any: key values
        *,
        journals: Sequence[Journal],
    ) -> Tally:
        update = Update(
            table=batch.table,
            values=self.rewrite.values,
            condition=condition,
            parameters=parameters,
            needs_work=self.rewrite.needs_work,
        )
        return batch.write(update, journals=journals, still=self.rewrite.condition_tells)


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """No values: the rows go."""

    rewrite: Rewrite
    walk: KeyWalk

    def write(
        self,
        batch: Batch,
        condition: sql.Composable,
        parameters: list[Any],  # Any: key values
        *,
        journals: Sequence[Journal],
    ) -> Tally:
        query = deletion.delete(
            self.walk,
            batch.table,
            condition,
            parameters,
            needs_work=self.rewrite.needs_work,
            journals=journals,
            pass_=batch.lane.pass_,
        )
        done = batch.execute_firing(query)
        if done["undone"]:
            batch.tell_undone(self.rewrite.table)
        return Tally(changed=done["changed"])


@dataclass(frozen=True, kw_only=True)
class CopiedValues:
    """Values that go into another table."""

    rewrite: Rewrite

    def write(
        self,
        batch: Batch,
        condition: sql.Composable,
        parameters: list[Any],  # Any: key values
        *,
        journals: Sequence[Journal],
    ) -> Tally:
        del journals  # nothing that was there is replaced
        done = batch.execute_firing(copy_sql.copy(self.rewrite, batch.table, condition, parameters))
        return Tally(changed=done["changed"])


@dataclass(frozen=True, kw_only=True)
class Remade:
    """No values: the rows come to another table, as that is to have them."""

    copying: Copying

    def write(
        self,
        batch: Batch,
        condition: sql.Composable,
        parameters: list[Any],  # Any: key values
        *,
        journals: Sequence[Journal],
    ) -> Tally:
        del journals
        cursor = batch.connection.execute(self.copying.copy(batch.table, condition), parameters)
        return Tally(changed=cursor.rowcount)


@dataclass(frozen=True, kw_only=True)
class Verify(LaneWork):
    """Counts the rows that still need work, and has lanes made that will do it."""

    #: Looking at a row costs a small part of writing it.
    first_rows: ClassVar[int] = 20 * FIRST_ROWS
    changes_rows: ClassVar[bool] = False

    rewrite: Rewrite

    @classmethod
    def of(cls, backfill: Backfill) -> Verify:
        return cls(number=backfill.number, operation=backfill.operation, walk=backfill.walk, rewrite=backfill.rewrite)

    def cover(self, batch: Batch, batch_range: BatchRange, *, rows: int | None, carefully: bool) -> Tally:
        del rows  # they are counted anyway
        tally = batch.run(batch_range, carefully=carefully)
        if tally.residual:
            self._add_residual_lane(batch, batch_range)
        return tally

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        """Rows of the range that need work, but for those known to be unconvertible.

        A value that is NULL although it must not be would be residual for ever: such rows are quarantined.
        """
        condition, parameters = batch.within(batch_range)
        wanted = verify_sql.wanted(self.walk, self.rewrite.needs_work, carefully=carefully)
        # A value of the application's own may stand where the expression is an error: it is not asked again then.
        own = [self.rewrite.holds_own_value] if self.rewrite.keeps_own_values and not carefully else []
        query = verify_sql.count_residual(batch.table, condition, wanted=wanted, own=own)
        row = batch.connection.execute(query, [batch.lane.run, self.number, *parameters]).fetchone() or {}
        walked, residual, own_values = row["rows"], row["residual"], row["own"]
        nulls = 0
        if residual and self.rewrite.not_null:
            nulls = self._set_nulls_aside(batch, condition, parameters, carefully=carefully)
        return Tally(
            walked=walked, residual=residual - nulls, own=own_values, quarantined=nulls, sqlstates=(_NOT_NULL,) * nulls
        )

    def _set_nulls_aside(
        self, batch: Batch, condition: sql.Composable, parameters: list[str], *, carefully: bool
    ) -> int:
        assignment = self.rewrite.assignments[0]
        value = expression(assignment.expression)
        needs_null = sql.SQL("({} AND {} IS NULL)").format(self.rewrite.needs_work, value)
        wanted = verify_sql.wanted(self.walk, needs_null, carefully=carefully)
        query = verify_sql.keys_wanted(self.walk, batch.table, condition, wanted=wanted)
        with batch.connection.cursor(row_factory=tuple_row) as cursor:
            found: list[Key] = cursor.execute(
                query, [*parameters, batch.lane.run, self.number, batch.cap + 1]
            ).fetchall()
        for key in found:
            batch.set_aside(
                key, _NOT_NULL, f"the expression returns NULL, and {assignment.target.column} will be NOT NULL"
            )
        return len(found)

    def _add_residual_lane(self, batch: Batch, batch_range: BatchRange) -> None:
        """Let the next pass walk this range again. Residual rows of neighbouring batches share one lane."""
        connection, lane, next_pass = batch.connection, batch.lane, batch.lane.pass_ + 1
        lanes.lock_coordinator(connection, lane.run)
        bounds: Bounds | PageRange
        match batch_range, lane.bounds:
            case PageBatchRange(), PageRange():
                bounds = replace(lane.bounds, first=batch_range.first, last=batch_range.last)
            case Bounds(), _:
                bounds = batch_range
            case _:
                msg = f"lane {lane.lane} of run {lane.run} has looked at {batch_range}"
                raise TypeError(msg)
        relation = lane.relation or self.relation
        if not lanes.extend(
            connection, lane.run, operation=self.number, relation=relation, pass_=next_pass, bounds=bounds
        ):
            lanes.insert(
                connection,
                lane.run,
                kind=LaneKind.BACKFILL,
                operation=self.number,
                pass_=next_pass,
                relation=relation,
                bounds=bounds,
                batch_rows=lane.batch_rows,
                awake=False,  # the coordinator lets as many begin as the run wants
            )


@dataclass(frozen=True, kw_only=True)
class Retry(LaneWork):
    """Tries the rows of the quarantine again that a person asked for, one in each step."""

    backfill: Backfill

    @classmethod
    def of(cls, backfill: Backfill) -> Retry:
        return cls(number=backfill.number, operation=backfill.operation, walk=backfill.walk, backfill=backfill)

    @property
    def writes(self) -> str:
        return self.backfill.writes

    @property
    def columns(self) -> tuple[str, ...]:
        return self.backfill.columns

    def look(self, lane: Lane) -> None:
        del lane

    def step(self, batch: Batch, seen: Seen, *, beside_others: bool, carefully: bool) -> Stepped:
        del seen, beside_others, carefully
        row = quarantine.next_retry(batch.connection, batch.lane.run, operation=self.number)
        if row is None:
            return Stepped(tally=Tally(), after=next_batch.After(cursor=None, done=True))
        tally = Tally()
        try:
            with batch.connection.transaction():
                batch.check_constraints_now()
                tally = self._again(batch, row)
        except psycopg.Error as exc:
            if classify(exc) != "data":
                raise
            batch.set_aside(row.key, exc.sqlstate or "", in_words(exc))
        else:
            quarantine.release(batch.connection, batch.lane.run, operation=self.number, key=row.key)
        return Stepped(tally=tally, after=next_batch.After(cursor=None, done=False))

    def _again(self, batch: Batch, row: Quarantined) -> Tally:
        """Convert the row; one that the sync trigger left as it was, while it still holds what was left in it."""
        backfill, rewrite = self.backfill, self.backfill.rewrite
        if row.kept is not None and rewrite.keeps_own_values:
            left = Expressions(rewrite=replace(rewrite, left=row.kept))
            return replace(self, backfill=replace(backfill, values=left)).attempt(
                batch, next_batch.Row(key=row.key), carefully=True
            )
        return self.attempt(batch, next_batch.Row(key=row.key), carefully=True)

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        changed = self.backfill.attempt(batch, batch_range, carefully=carefully).changed
        rewrite = self.backfill.rewrite
        if rewrite.not_null:
            condition, parameters = batch.within(batch_range)
            query = update_sql.without_value(batch.table, rewrite.assignments[0].target.column, condition)
            if batch.connection.execute(query, parameters).fetchone():
                msg = "the expression returns NULL, and the column will be NOT NULL"
                raise psycopg.errors.NotNullViolation(msg)
        return Tally(changed=changed)
