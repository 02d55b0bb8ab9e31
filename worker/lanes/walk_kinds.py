"""What a lane does in a walk between two steps, a class for each kind: the archive that a contract needs, and the way back."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from backfilld.migrations.operations.replace_policies.steps import ReplacePolicies
from backfilld.migrations.record.model import JournalShare
from backfilld.migrations.record.states import LaneKind
from backfilld.migrations.rollback import archive, undo
from backfilld.migrations.rollback.deletion import DeletedRows, Reinsertion
from backfilld.migrations.rollback.journal import Journal
from backfilld.migrations.rollback.undo import Next, Place
from backfilld.migrations.walks import firing
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.migrations.walks.next_batch import After, JournalSlice, Row
from backfilld.migrations.walks.update_sql import Update, hold
from backfilld.worker.lanes.batch import Tally
from backfilld.worker.lanes.kinds import Expressions, LaneWork, Stepped, Verify
from backfilld.worker.lanes.persona_kinds import Compare, Confirm
from backfilld.worker.lanes.write import Change

if TYPE_CHECKING:
    from backfilld.migrations.operations import Archived, Operation, Walk
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Key, Lane
    from backfilld.migrations.walks.keys import Query
    from backfilld.migrations.walks.next_batch import BatchRange, Seen
    from backfilld.migrations.walks.rewrite import Rewrite
    from backfilld.worker.lanes.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Recheck(LaneWork):
    """Looks at all rows again after the switch, where what was proved does not hold any longer."""

    rewrite: Rewrite
    #: Rows that are not as they should be are written; otherwise they are only counted.
    fixes: bool

    @property
    def writes(self) -> str:
        return self.rewrite.writes

    @property
    def columns(self) -> tuple[str, ...]:
        return self.rewrite.columns if self.fixes else ()

    def cover(self, batch: Batch, batch_range: BatchRange, *, rows: int | None, carefully: bool) -> Tally:
        del rows  # they are counted anyway
        return batch.run(batch_range, carefully=carefully)

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        changed = 0
        if self.fixes:
            condition, parameters = batch.within(batch_range)
            changed = Expressions(rewrite=self.rewrite).write(batch, condition, parameters, journals=()).changed
        look = Verify(number=self.number, operation=self.operation, walk=self.walk, rewrite=self.rewrite)
        return replace(look.attempt(batch, batch_range, carefully=carefully), changed=changed)


@dataclass(frozen=True, kw_only=True)
class Archive(LaneWork):
    """Copies into the archive what it does not have as it is."""

    archived: Archived
    archive: archive.Archive

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        del carefully
        condition, parameters = batch.within(batch_range)
        if self.archived.only is not None:
            with suppress(psycopg.errors.DataError, psycopg.errors.ProgrammingError), batch.connection.transaction():
                return self._copy(batch, sql.SQL("{} AND {}").format(condition, self.archived.only), parameters)
        return self._copy(batch, condition, parameters)

    def _copy(
        self,
        batch: Batch,
        condition: sql.Composable,
        parameters: list[Any],  # Any: key values
    ) -> Tally:
        query = self.archive.copy(condition, old=self.archived.old, new=self.archived.new)
        row = batch.connection.execute(query, parameters).fetchone() or {}
        return Tally(changed=row["changed"], residual=row["missing"])


@dataclass(frozen=True, kw_only=True)
class Restore(LaneWork):
    """Gives rows the value they had when they were archived, and counts those that have come since."""

    rewrite: Rewrite
    archive: archive.Archive

    @property
    def writes(self) -> str:
        return self.rewrite.writes

    @property
    def columns(self) -> tuple[str, ...]:
        return self.rewrite.columns

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        del carefully
        condition, parameters = batch.within(batch_range)
        if self.rewrite.reads_others:
            batch.connection.execute(*hold(batch.table, condition, parameters))
        update = Update(
            table=batch.table,
            values=self.rewrite.values,
            # The range stands in the source alone. Where the planner takes it for a few rows, it would go through the source for each.
            condition=self.archive.same,
            parameters=(),
            needs_work=self.rewrite.needs_work,
            source=self.archive.source(condition),
            source_parameters=parameters,
        )
        change = Change(
            table=self.walk.table,
            relation=self.walk.table,
            columns=self.columns,
            plain=update.query,
            firing=lambda code: firing.firing(
                update, self.walk, self.walk.table, code, still=None, beside=firing.Beside(), by_key=True
            ),
        )
        batch.connection.execute(firing.JOIN_BY_KEY)
        written = batch.change(change)
        row = batch.connection.execute(self.archive.unarchived(condition), parameters).fetchone()
        return Tally(changed=written.changed, residual=int(row["rows"]) if row else 0)


@dataclass(frozen=True, kw_only=True)
class LookUp(LaneWork):
    """Gives rows what the rows that they refer to have; nothing of them was archived."""

    rewrite: Rewrite

    @property
    def writes(self) -> str:
        return self.rewrite.writes

    @property
    def columns(self) -> tuple[str, ...]:
        return self.rewrite.columns

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        del carefully
        condition, parameters = batch.within(batch_range)
        return Expressions(rewrite=self.rewrite).write(batch, condition, parameters, journals=())


@dataclass(frozen=True, kw_only=True)
class Undo(LaneWork):
    """Gives rows back what the journal says they were; it is the journal that is walked."""

    journal: Journal

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(target.column for target in self.journal.targets)

    def look(self, lane: Lane) -> Query:
        return self._undo(lane).look(Place.from_json(lane.cursor))

    def step(self, batch: Batch, seen: Seen, *, beside_others: bool, carefully: bool) -> Stepped:
        del beside_others
        lane = batch.lane
        if seen is None:
            return Stepped(tally=Tally(), after=After(cursor=lane.cursor, done=True))
        parts = self._undo(lane).share.parts
        following = Next.of(Place.from_json(lane.cursor), seen, rows=lane.batch_rows * parts)
        tally = self.cover(batch, following.slice, rows=round(following.slice.rows / parts), carefully=carefully)
        return Stepped(tally=tally, after=After(cursor=following.after.to_json(), done=False))

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        del carefully
        covered = self.slice_of(batch, batch_range)
        way_back, table = self._undo(batch.lane), self.walk.table
        batch.connection.execute(firing.JOIN_BY_KEY)
        change = Change(
            table=table,
            relation=table,
            columns=self.columns,
            plain=way_back.query(covered),
            firing=lambda code: way_back.firing(covered, code),
        )
        written = batch.change(change)
        return Tally(changed=written.changed, hot=written.hot)

    def rows_of(self, batch: Batch, batch_range: JournalSlice) -> list[Row]:
        return [Row(key=key) for key in self._undo(batch.lane).keys(batch.connection, batch_range)]

    def sets_aside(self, connection: Connection, key: Key) -> None:
        undo.leave(connection, self.journal.run, operation=self.number, key=key)

    def slice_of(self, batch: Batch, batch_range: BatchRange) -> JournalSlice:
        if not isinstance(batch_range, JournalSlice):
            msg = f"lane {batch.lane.lane} of run {batch.lane.run} does not walk {batch_range}"
            raise TypeError(msg)
        return batch_range

    def share_of(self, lane: Lane) -> JournalShare:
        if not isinstance(lane.bounds, JournalShare):
            msg = f"lane {lane.lane} of run {lane.run} does not walk a journal"
            raise TypeError(msg)
        return lane.bounds

    def _undo(self, lane: Lane) -> undo.Undo:
        return undo.Undo(journal=self.journal, share=self.share_of(lane))


@dataclass(frozen=True, kw_only=True)
class Reinsert(Undo):
    """Inserts the rows again that the journal has."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ()  # of an UPDATE

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        del carefully
        batch.connection.execute(firing.JOIN_BY_KEY)
        inserted = batch.execute_firing(self._undo(batch.lane).query(self.slice_of(batch, batch_range)))
        return Tally(changed=inserted["changed"])

    def _undo(self, lane: Lane) -> undo.Undo:
        return Reinsertion(journal=self.journal, share=self.share_of(lane))


def of_walk(operation: Operation, walk: Walk, *, run: int) -> LaneWork:
    """The work of a walk between two steps."""
    number, by_key = walk.operation, KeyWalk(table=walk.table, key=walk.key)
    kept = archive.Archive(run=run, operation=number, walk=by_key)
    match LaneKind(walk.kind):
        case LaneKind.ARCHIVE if walk.archived is not None:
            return Archive(number=number, operation=operation, walk=by_key, archived=walk.archived, archive=kept)
        case LaneKind.RESTORE if walk.rewrite is not None:
            looked_up = LookUp(number=number, operation=operation, walk=by_key, rewrite=walk.rewrite)
            restored = Restore(number=number, operation=operation, walk=by_key, rewrite=walk.rewrite, archive=kept)
            return looked_up if walk.looks_up else restored
        case LaneKind.RECHECK if walk.rewrite is not None:
            return Recheck(number=number, operation=operation, walk=by_key, rewrite=walk.rewrite, fixes=walk.writes)
        case LaneKind.COMPARE if isinstance(operation, ReplacePolicies):
            return Compare(number=number, operation=operation, walk=by_key, policies=operation)
        case LaneKind.CONFIRM if isinstance(operation, ReplacePolicies):
            return Confirm(number=number, operation=operation, walk=by_key, policies=operation)
        case LaneKind.UNDO:
            own = operation.rewrite()
            deletes = own is not None and own.deletes
            journal = (DeletedRows if deletes else Journal)(
                run=run, operation=number, walk=by_key, targets=operation.facts.targets
            )
            return (Reinsert if deletes else Undo)(number=number, operation=operation, walk=by_key, journal=journal)
    msg = f"operation {number} has a walk of kind {walk.kind} without what it needs"
    raise TypeError(msg)
