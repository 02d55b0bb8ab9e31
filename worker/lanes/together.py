"""What lanes do for several operations on one table at once: one UPDATE writes the columns of all, one look verifies all.

Only where all goes well. A row that cannot be converted, or one that still needs work, belongs to one of the operations: then
each does the range by itself, as it would alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.walks import verify_sql
from backfilld.migrations.walks.together import Several
from backfilld.worker.lanes.batch import Batch, Tally
from backfilld.worker.lanes.kinds import Backfill, Expressions, Verify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.walks.next_batch import BatchRange
    from backfilld.worker.lanes.kinds import LaneWork


@dataclass(frozen=True, kw_only=True)
class BackfillTogether(Backfill):
    """The backfills of several operations."""

    members: tuple[Backfill, ...]

    @classmethod
    def of_members(cls, members: Sequence[Backfill]) -> BackfillTogether:
        """Its lanes are those of the first operation."""
        first, rewrite = members[0], Several.of(*(one.rewrite for one in members))
        return cls(
            number=first.number,
            operation=first.operation,
            walk=first.walk,
            rewrite=rewrite,
            values=Expressions(rewrite=rewrite),
            journals=tuple(journal for one in members for journal in one.journals),
            members=tuple(members),
        )

    @property
    def may_be_repeated(self) -> bool:
        return all(one.may_be_repeated for one in self.members)

    def cover(self, batch: Batch, batch_range: BatchRange, *, rows: int | None, carefully: bool) -> Tally:
        if not carefully:
            return super().cover(batch, batch_range, rows=rows, carefully=False)
        return _each(self.members, batch, batch_range, rows=rows, carefully=True)


@dataclass(frozen=True, kw_only=True)
class VerifyTogether(Verify):
    """Looks at the rows of several operations."""

    members: tuple[Verify, ...]

    @classmethod
    def of_members(cls, backfill: BackfillTogether) -> VerifyTogether:
        members = tuple(Verify.of(one) for one in backfill.members)
        first = members[0]
        return cls(
            number=first.number, operation=first.operation, walk=first.walk, rewrite=backfill.rewrite, members=members
        )

    def cover(self, batch: Batch, batch_range: BatchRange, *, rows: int | None, carefully: bool) -> Tally:
        tally = Tally() if carefully else self.attempt(batch, batch_range, carefully=False)
        if not (carefully or tally.residual):
            return tally
        return _each(self.members, batch, batch_range, rows=rows, carefully=carefully)

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        condition, parameters = batch.within(batch_range)
        wanted = sql.SQL(" OR ").join(
            verify_sql.wanted(one.walk, one.rewrite.needs_work, carefully=carefully) for one in self.members
        )
        own = [one.rewrite.holds_own_value for one in self.members if one.rewrite.keeps_own_values]
        query = verify_sql.count_residual(batch.table, condition, wanted=wanted, own=own)
        operations = [part for one in self.members for part in (batch.lane.run, one.number)]
        row = batch.connection.execute(query, [*operations, *parameters]).fetchone() or {}
        return Tally(walked=row["rows"], residual=row["residual"], own=row["own"])


def _each(
    members: Sequence[LaneWork], batch: Batch, batch_range: BatchRange, *, rows: int | None, carefully: bool
) -> Tally:
    """Let each operation do the range by itself; it is walked once, all the same."""
    tally, walked = Tally(), 0
    for one in members:
        own = Batch(batch.connection, one, batch.lane, cap=batch.cap)
        done = one.cover(own, batch_range, rows=rows, carefully=carefully)
        batch.fired = batch.fired or own.fired
        walked = max(walked, done.walked)
        tally += done
    return replace(tally, walked=walked)
