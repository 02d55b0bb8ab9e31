"""Taking a lane for one step: its lock, where its run stands, a permit and a look ahead, in one round trip.

The transaction is the lease. There is no heartbeat and no token that expires: the worker that holds the lane's row works, and a
worker that dies or freezes loses it when the server ends its transaction.

A batch need not be on disk when it has committed. Its rows, its journal and its cursor are one transaction, and WAL reaches the
disk, a standby and a backup in its own order: after a crash the lane is where an earlier batch left it, with the rows and the
journal of that moment, and goes on from there. Nobody outside of the database acts upon a batch. What they act upon (a phase, a
gate, `paused`, a notification) is a step of the coordinator or a command, whose COMMIT waits until all WAL before it is on disk,
that of the batches it has seen included.

A crash takes `seq` back, so that a message, or a worker behind a pooler, may know a step that was never to be, and another batch
has its number by now. A message does no harm: it only wakes. A worker's range might: the lane must be as it was read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg.rows import tuple_row

from backfilld.migrations import holds
from backfilld.migrations.postgres.connect import apply_settings, begin_settings
from backfilld.migrations.postgres.pipelines import pipeline
from backfilld.migrations.record import lanes, pace, step_context
from backfilld.migrations.record.model import Lane
from backfilld.migrations.record.states import LaneKind, StopReason, may_work
from backfilld.migrations.record.step_context import StepContext
from backfilld.migrations.walks.firing import TABLE_CODE, TableCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.walks.keys import Query
    from backfilld.migrations.walks.next_batch import Seen

#: A batch waits this long for a row the application holds before it gives way. Below `deadlock_timeout` (1 s), so that in a
#: deadlock it is always we who go.
LOCK_TIMEOUT_SECONDS = 0.2
#: A statement may take this many times its target before it is cancelled and the batch made smaller.
STATEMENT_TIMEOUT_FACTOR = 10
#: Even a batch of one row may meet a slow disk.
LEAST_STATEMENT_TIMEOUT_SECONDS = 5.0
#: A batch's transaction may take so many times as long as one of its statements.
#: Above what batches take that are gone over again for a row that cannot be converted; for what no limit of a statement sees.
TRANSACTION_TIMEOUT_FACTOR = 10
#: DDL that does not scan is quick or blocked; making lanes reads a sample of the table.
COORDINATOR_STATEMENT_TIMEOUT_SECONDS = 60.0
#: A lane whose windows are closed looks again after this at the latest, in case the settings were edited by hand.
LONGEST_SHUT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A lane that this transaction holds, and what is known for its step."""

    lane: Lane
    context: StepContext
    #: What the walk asked to know before its batch.
    seen: Seen
    #: What the table runs when the batch writes it, where that was asked.
    code: TableCode | None


@dataclass(frozen=True, kw_only=True)
class Wait:
    """The lane may not work now, and comes back by itself."""

    reason: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Drop:
    """The message has nothing to wake: its step was taken, or its run is asked to stop."""

    stale: bool


def take(  # noqa: PLR0913 - one round trip; each part is named where it is called
    connection: Connection,
    lane: Lane,
    context: StepContext,
    *,
    look: Query | None,
    writes: str,
    asks_code: Mapping[str, object] | None = None,
    durable: bool = True,
) -> Claimed | Wait | Drop:
    """Begin a transaction and take the lane in it.

    `lane` and `context` are as last read; they give the batch's range and the time limits. `asks_code` are the parameters of
    `TABLE_CODE`, where that is to be asked. On Wait and Drop the transaction is to be rolled back. Raises psycopg.Error, also when another session holds the lane or the table.
    """
    with pipeline(connection):
        connection.execute("BEGIN")
        apply_settings(connection, _settings(lane, context, writes, durable=durable))
        claimed = connection.execute(lanes.CLAIM, {"run": lane.run, "lane": lane.lane, "seq": lane.seq})
        # Read after the lock is held, so that a wish written before it cannot be missed.
        found = connection.execute(step_context.QUERY, {"run": lane.run})
        # The coordinator does no batches: a VALIDATE that takes an hour must not keep other runs from working.
        permit = connection.execute(pace.TAKE_PERMIT) if lane.kind is not LaneKind.COORDINATOR else None
        seen = connection.cursor(row_factory=tuple_row).execute(*look) if look else None
        code = connection.execute(TABLE_CODE, asks_code) if asks_code else None
    row, now = claimed.fetchone(), found.fetchone()
    if row is None or now is None:
        return Drop(stale=True)
    taken = Lane.from_row(row)
    if look is not None and not taken.is_at(lane):
        return Drop(stale=True)  # what was looked at is not its next batch
    context = StepContext.from_row(now)
    if not _wanted(lane, context):
        return Drop(stale=False)
    if wait := _hold(context):
        return wait
    if permit is not None and permit.fetchone() is None:
        return Wait(reason=f"all {context.width} permits are taken", seconds=0.25)
    return Claimed(
        lane=taken,
        context=context,
        seen=seen.fetchone() if seen else None,
        code=TableCode.from_row(code.fetchone()) if code else None,
    )


def _wanted(lane: Lane, context: StepContext) -> bool:
    """Whether there is a step for the lane to take; the stop of all runs is a hold, which it waits for."""
    if not may_work(context.state, context.phase, lane.kind):
        return False
    if lane.kind in {LaneKind.COORDINATOR, LaneKind.FOLLOW}:
        return True
    return lane.pass_ == context.pass_ and context.why_stop is not StopReason.TURNING_BACK


def _hold(context: StepContext) -> Wait | None:
    """What holds every lane of the run, its coordinator included."""
    found = holds.in_force(
        stop=context.stop,
        windows=context.settings.windows,
        age_seconds=context.age_seconds,
        hold_reason=context.hold_reason,
        now=context.now,
        awaited=context.awaited,
    )
    if found is None:
        return None
    if found.ends_in_seconds is not None:
        return Wait(reason=found.reason, seconds=min(found.ends_in_seconds, LONGEST_SHUT_SECONDS))
    return Wait(reason=found.reason, seconds=1.0)


def statement_timeout_seconds(lane: Lane, context: StepContext) -> float:
    """How long one statement of the lane's step may take."""
    if lane.kind is LaneKind.COORDINATOR:
        return COORDINATOR_STATEMENT_TIMEOUT_SECONDS
    return max(context.settings.batch_seconds * STATEMENT_TIMEOUT_FACTOR, LEAST_STATEMENT_TIMEOUT_SECONDS)


def transaction_timeout_seconds(lane: Lane, context: StepContext) -> float:
    """How long the transaction of the lane's step may take, where the server has a limit for it; 0: a scan may take hours."""
    if lane.kind is LaneKind.COORDINATOR:
        return 0.0
    return TRANSACTION_TIMEOUT_FACTOR * statement_timeout_seconds(lane, context)


def _settings(lane: Lane, context: StepContext, writes: str, *, durable: bool) -> dict[str, str]:
    # What the coordinator waits for is a table, and later sessions wait behind it: `lock_policy.py` says how often.
    for_a_table = context.settings.lock_timeout_ms / 1000
    return begin_settings(
        run=lane.run,
        lane=lane.lane,
        seq=lane.seq,
        lock_timeout_seconds=for_a_table if lane.kind is LaneKind.COORDINATOR else LOCK_TIMEOUT_SECONDS,
        statement_timeout_seconds=statement_timeout_seconds(lane, context),
        transaction_timeout_seconds=transaction_timeout_seconds(lane, context),
        writes=writes,
        durable=durable,
    )
