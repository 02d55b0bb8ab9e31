"""What lanes do for a table that is made anew: copy its rows, bring over what was written since, compare the two tables.

Rows come to the new table by pages, without a look at what is there, and from then on by the keys in the journal. Only one session
brings keys over at a time: two could write an older state over a newer one. The lock on the journal sees to that; it is in nobody
else's way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from backfilld.migrations.operations.ddl.key_journal import MOST_KEYS_FIRST
from backfilld.migrations.postgres.sqlstates import classify, in_words
from backfilld.migrations.queries import queries
from backfilld.migrations.record import quarantine, runs
from backfilld.migrations.record.states import DRAINS, LaneKind
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.migrations.walks.next_batch import After
from backfilld.migrations.walks.sizing import FIRST_ROWS
from backfilld.worker.lanes.batch import Tally
from backfilld.worker.lanes.kinds import LaneWork, Retry, Stepped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.operations import Operation, Walk
    from backfilld.migrations.record.model import Key, Lane, Quarantined
    from backfilld.migrations.walks.copying import Copying
    from backfilld.migrations.walks.next_batch import BatchRange, Seen
    from backfilld.worker.lanes.batch import Batch
    from backfilld.worker.lanes.kinds import Backfill


#: How often the follower looks into the journal.
LOOKS_EVERY_SECONDS = 1.0
_WHERE = queries("backfilld.migrations.walks", "walks")["followed"]


@dataclass(frozen=True, kw_only=True)
class Drain(LaneWork):
    """Brings over the rows that the journal names, until few are left."""

    copying: Copying

    def look(self, lane: Lane) -> None:
        del lane

    def step(self, batch: Batch, seen: Seen, *, beside_others: bool, carefully: bool) -> Stepped:
        del seen, beside_others
        # As much as may be left when the tables are about to change places: an application that writes all the time never leaves none.
        # Not the batch's own size: between two batches a lane rests, and what is written meanwhile may be more than that.
        rows = max(batch.lane.batch_rows, MOST_KEYS_FIRST)
        lock_journal(batch, self.copying)
        if carefully:
            tally, taken = one_by_one(batch, self.copying), 0
        else:
            found = batch.connection.execute(self.copying.drain(rows=rows), []).fetchone() or {}
            tally, taken = Tally(walked=found["keys"], changed=found["written"]), found["taken"]
        release(batch, self.copying)
        return Stepped(tally=tally, after=After(cursor=None, done=taken < rows))

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        msg = f"lane {batch.lane.lane} of run {batch.lane.run} walks a journal of keys, not {batch_range} ({carefully})"
        raise TypeError(msg)


@dataclass(frozen=True, kw_only=True)
class Follow(LaneWork):
    """Brings over what is written until contract: to the new table, and from the switch on to the old one.

    A row that has no place in the old one stands in the way back alone, and is put down as such.
    """

    forward: Copying
    back: Copying

    @classmethod
    def of_both(cls, drain: Drain, back: Drain) -> Follow:
        return cls(
            number=drain.number,
            operation=drain.operation,
            walk=drain.walk,
            forward=drain.copying,
            back=back.copying,
        )

    def look(self, lane: Lane) -> None:
        del lane

    def step(self, batch: Batch, seen: Seen, *, beside_others: bool, carefully: bool) -> Stepped:
        del seen, beside_others
        where = {
            "journal": self.forward.journal.identifier.as_string(),
            "past": self.back.target.identifier.as_string(),
        }
        found = batch.connection.execute(_WHERE, where).fetchone()
        if found is None or not found["journal"]:
            return Stepped(tally=Tally(), after=After(cursor=None, done=True))
        try:
            lock_journal(batch, self.forward)
        except psycopg.errors.UndefinedTable:
            raise runs.ChangedMeanwhile from None
        # The switch holds the journal until it has committed: asked again, the answer stays what it is.
        found = batch.connection.execute(_WHERE, where).fetchone()
        copying = self.back if found is not None and found["switched"] else self.forward
        rows = max(batch.lane.batch_rows, MOST_KEYS_FIRST)
        if carefully:
            tally, taken = one_by_one(batch, copying), 0
        else:
            drained = batch.connection.execute(copying.drain(rows=rows), []).fetchone() or {}
            tally, taken = Tally(walked=drained["keys"], changed=drained["written"]), drained["taken"]
        if not copying.backwards:
            release(batch, copying)
        return Stepped(
            tally=tally,
            after=After(cursor=None, done=False),
            back_in_seconds=0.0 if taken == rows else LOOKS_EVERY_SECONDS,
        )

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        msg = f"lane {batch.lane.lane} of run {batch.lane.run} walks a journal of keys, not {batch_range} ({carefully})"
        raise TypeError(msg)


@dataclass(frozen=True, kw_only=True)
class Match(LaneWork):
    """Compares the two tables range by range. The key of a row that differs goes into the journal, and the row is brought anew."""

    #: Looking at a row costs a small part of writing it.
    first_rows: ClassVar[int] = 20 * FIRST_ROWS
    changes_rows: ClassVar[bool] = False

    copying: Copying
    #: That a key is in the journal is all that is wanted: nothing of it is left to be looked at.
    repairs: bool = False

    @classmethod
    def of(cls, backfill: Backfill, copying: Copying) -> Match:
        return cls(number=backfill.number, operation=backfill.operation, walk=backfill.walk, copying=copying)

    def cover(self, batch: Batch, batch_range: BatchRange, *, rows: int | None, carefully: bool) -> Tally:
        del rows  # they are counted anyway
        return batch.run(batch_range, carefully=carefully)

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        condition, parameters = batch.within(batch_range)
        aside = [batch.lane.run, self.number] * 2
        query = self.copying.compare(condition, carefully=carefully)
        row = batch.connection.execute(
            query, [*parameters, *(aside if carefully else []), *parameters, *aside]
        ).fetchone()
        if row is None:
            return Tally()
        if self.repairs:
            return Tally(walked=row["rows"], changed=row["residual"])
        return Tally(walked=row["rows"], residual=row["residual"])


@dataclass(frozen=True, kw_only=True)
class RetryCopy(Retry):
    """Brings rows of the quarantine over that a person asked for, one in each step."""

    copying: Copying

    @classmethod
    def of_copy(cls, backfill: Backfill, copying: Copying) -> RetryCopy:
        return cls(
            number=backfill.number, operation=backfill.operation, walk=backfill.walk, backfill=backfill, copying=copying
        )

    def _again(self, batch: Batch, row: Quarantined) -> Tally:
        lock_journal(batch, self.copying)
        connection = batch.connection
        connection.execute(*self.copying.remember([row.key]))
        connection.execute(*self.copying.remove([row.key]))
        return Tally(changed=connection.execute(*self.copying.bring([row.key])).rowcount)


def lock_journal(batch: Batch, copying: Copying) -> None:
    """Be the only one who brings keys over, until the transaction ends. The application's statements do not wait for this lock."""
    batch.connection.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(copying.journal.identifier))


def one_by_one(batch: Batch, copying: Copying) -> Tally:
    """Bring over all that the journal names, where a row among it cannot be: that one is put aside.

    All at once, because a part of it may take a unique value whose holder gives it away in another part. It may take as long as it
    takes.
    """
    connection = batch.connection
    connection.execute("SET LOCAL statement_timeout = 0")
    with connection.cursor(row_factory=tuple_row) as cursor:
        taken: set[Key] = set(cursor.execute(copying.taken(), []).fetchall())
    keys = sorted(key for key in taken if None not in key)
    if len(keys) < len(taken):
        connection.execute(copying.empty(), [])
    if not keys:
        return Tally()
    connection.execute(*copying.remember(keys))
    connection.execute(*copying.remove(keys))
    return _bring(batch, copying, keys)


def _bring(batch: Batch, copying: Copying, keys: Sequence[Key]) -> Tally:
    try:
        with batch.connection.transaction():
            written = batch.connection.execute(*copying.bring(keys)).rowcount
        return Tally(walked=len(keys), changed=written)
    except psycopg.Error as exc:
        if classify(exc) != "data":
            raise
        failure = exc
    if len(keys) == 1 and copying.backwards and batch.lane.kind is LaneKind.FOLLOW:
        quarantine.blocks_way_back(
            batch.connection,
            batch.lane.run,
            operation=batch.lane.operation or 0,
            key=keys[0],
            sqlstate=failure.sqlstate or "",
            error=in_words(failure),
        )
        return Tally(walked=1)
    if len(keys) == 1:
        return batch.set_aside(keys[0], failure.sqlstate or "", in_words(failure))
    middle = len(keys) // 2
    return _bring(batch, copying, keys[:middle]) + _bring(batch, copying, keys[middle:])


def release(batch: Batch, copying: Copying) -> None:
    """Rows that were put aside, have been written since and are in the other table now, or are gone, are as they should be."""
    if quarantine.count(batch.connection, batch.lane.run):
        batch.connection.execute(copying.release(), [batch.lane.run, batch.lane.operation])


def of_walk(operation: Operation, walk: Walk, copying: Copying) -> LaneWork:
    """The work of a walk between two steps that is about two tables."""
    by_key = KeyWalk(table=walk.table, key=walk.key)
    if LaneKind(walk.kind) in DRAINS:
        return Drain(number=walk.operation, operation=operation, walk=by_key, copying=copying)
    return Match(number=walk.operation, operation=operation, walk=by_key, copying=copying, repairs=True)


def followers(works: Mapping[tuple[LaneKind, int], LaneWork]) -> dict[tuple[LaneKind, int], LaneWork]:
    """What the lanes do that follow until contract, by what those do that drain in both directions."""
    found: dict[tuple[LaneKind, int], LaneWork] = {}
    for (kind, number), drain in works.items():
        back = works.get((LaneKind.DRAIN_BACK, number))
        if kind is LaneKind.DRAIN and isinstance(drain, Drain) and isinstance(back, Drain):
            found[LaneKind.FOLLOW, number] = Follow.of_both(drain, back)
    return found
