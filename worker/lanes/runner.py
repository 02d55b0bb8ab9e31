"""One lane, step by step: the file to read first.

    read the lane; a message for another step is stale, so drop it
    take the lane, with a permit, in a transaction        told to stop? leave. held? come back later.
    walk one batch, or let the coordinator do its step
    write the checkpoint, and commit with the rows
    send the next message; if that fails, the reconciler finds the lane

A message is good for several steps, so that the queue is out of the way of a busy lane. What an error does to a lane is decided
in `recovery.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.errors import Refused
from backfilld.migrations.postgres.definitions import PLACE
from backfilld.migrations.postgres.pipelines import pipeline
from backfilld.migrations.postgres.sqlstates import classify
from backfilld.migrations.record import lanes, pace, runs, step_context
from backfilld.migrations.record.model import Checkpoint, Lane, Timing
from backfilld.migrations.record.states import LaneKind
from backfilld.migrations.telemetry import (
    BatchCommitted,
    LaneHeld,
    MessageDropped,
    RowQuarantined,
    SendFailed,
)
from backfilld.migrations.walks.firing import THEIRS
from backfilld.migrations.walks.sizing import REMEMBERED, next_rows, rest_seconds
from backfilld.migrations.wire.messages import SLICE_SECONDS
from backfilld.worker.lanes import balance, claim
from backfilld.worker.lanes.batch import Batch, Tally, TooManyQuarantined, transaction
from backfilld.worker.lanes.known_runs import KnownRuns
from backfilld.worker.lanes.recovery import Recovery
from backfilld.worker.phases import application_check
from backfilld.worker.phases.backup_gate import BackupGates, GateShut
from backfilld.worker.phases.coordinator_step import CoordinatorSteps
from backfilld.worker.phases.late_examination import LOOK_SECONDS, InTheWay
from backfilld.worker.phases.lock_watch import Blocked
from backfilld.worker.phases.staged import NotStaged

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.postgres.connect import Connection, Pool, Row
    from backfilld.migrations.record.lanes import Statement
    from backfilld.migrations.record.step_context import StepContext
    from backfilld.migrations.telemetry import Observer
    from backfilld.migrations.wire.messages import LaneMessage
    from backfilld.migrations.wire.send import Sender
    from backfilld.monitoring.checks.targets import Targets
    from backfilld.worker.lanes.claim import Claimed
    from backfilld.worker.lanes.kinds import LaneWork, Stepped

#: `nice` and the pace's rest are waited for in the thread, between two transactions; longer than this and the lane would look forgotten.
LONGEST_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Advanced:
    """The step committed; there is more to do in this lane."""

    lane: Lane
    context: StepContext
    pause_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The step committed, and these messages are what follows it."""

    messages: tuple[LaneMessage, ...]


class Left:
    """Nothing was done: the message was stale, the run is asked to stop, or the lane comes back by itself."""


@dataclass(frozen=True, kw_only=True)
class Durations:
    """How long the parts of a step took, in seconds."""

    claim: float
    batch: float
    commit: float


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A checkpoint is written and committed."""

    lane: Lane
    #: Lanes that work because of it.
    woken: list[LaneMessage]
    #: Of WAL since the batch began, those of others included; 0 where nobody asks.
    wal_bytes: int = 0


class Runner:
    """Takes steps of lanes, one message at a time; each thread of a worker may call `advance`."""

    def __init__(  # noqa: PLR0913 - what a worker is told, each by its name
        self,
        pool: Pool,
        *,
        send: Sender,
        observe: Observer,
        stopping: threading.Event,
        transforms: Sequence[str] = (),
        refuses_foreign_code: bool = False,
        backups: Place | None = None,
        targets: Targets | None = None,
        replica_url: str | None = None,
    ) -> None:
        self._pool = pool
        self._send = send
        self._observe = observe
        self._stopping = stopping
        self._known = KnownRuns(transforms=transforms)
        self._recovery = Recovery(pool, observe=observe)
        self._coordinators = CoordinatorSteps(
            pool,
            observe=observe,
            stopping=stopping,
            refuses_foreign_code=refuses_foreign_code,
            targets=targets,
            replica_url=replica_url,
            gates=BackupGates(place=backups, stopping=stopping) if backups is not None else None,
        )

    def advance(self, message: LaneMessage) -> None:
        """Take steps of a lane until the time of its message is over, its run is asked to stop, or there is nothing left.

        Errors of PostgreSQL are dealt with here. Raises only when the database cannot be reached at all.
        """
        deadline = time.monotonic() + SLICE_SECONDS
        with self._pool.connection() as connection:
            lane = lanes.read(connection, message.run, message.lane)
            if lane is None or lane.seq != message.seq or lane.done_at is not None:
                self._observe(MessageDropped(run=message.run, lane=message.lane, seq=message.seq))
                return
            context = step_context.read(connection, message.run)
            while True:
                outcome = self._step(connection, lane, context)
                match outcome:
                    case Left():
                        return
                    case Ended(messages=messages):
                        self._send_all(messages)
                        return
                    case Advanced(lane=lane, context=context, pause_seconds=pause_seconds):
                        if pause_seconds:
                            # `nice` or the pace's rest, at most a few seconds, holding nothing; a stop ends it.
                            self._stopping.wait(pause_seconds)
                if self._stopping.is_set() or time.monotonic() > deadline:
                    self._send_all([replace(message, seq=lane.seq)])
                    return

    def _step(  # noqa: C901 - a table, one case for each way in which a step does not commit
        self, connection: Connection, lane: Lane, context: StepContext
    ) -> Advanced | Ended | Left:
        """One transaction. Whatever goes wrong is put on record here, and nothing of it is kept."""
        began = time.monotonic()
        recovery = self._recovery
        try:
            return self._try_twice(connection, lane, context)
        except psycopg.Error as exc:
            recovery.after_error(connection, lane, context, exc, seconds=time.monotonic() - began)
        except TooManyQuarantined as exc:
            recovery.pause(connection, lane, exc)
        except Blocked as exc:
            recovery.wait_for_lock(connection, lane, exc)
        except InTheWay as exc:
            error = {"class": "live_run", "message": str(exc)}
            recovery.postpone(connection, lane, delay_seconds=LOOK_SECONDS, error=error, retried=False)
        except GateShut as exc:
            error = {"class": "backup", "message": str(exc)}
            recovery.postpone(connection, lane, delay_seconds=exc.seconds, error=error, retried=False)
        except NotStaged as exc:
            error = {"class": "staging", "message": str(exc)}
            recovery.postpone(connection, lane, delay_seconds=LOOK_SECONDS, error=error, retried=False)
        except application_check.Held as exc:
            error = {"class": "application", "message": str(exc)}
            delay_seconds = application_check.LOOK_SECONDS
            recovery.postpone(connection, lane, delay_seconds=delay_seconds, error=error, retried=False)
        except runs.ChangedMeanwhile:
            recovery.postpone(connection, lane, delay_seconds=0.0)
        except Refused as exc:
            recovery.fail(connection, lane, str(exc), sqlstate=None)
        except Exception as exc:
            # A mistake of ours would be made again at each wake-up. Stopping the run loses nothing and shows it.
            recovery.fail(connection, lane, f"{type(exc).__name__}: {exc}", sqlstate=None)
            raise
        return Left()

    def _try_twice(self, connection: Connection, lane: Lane, context: StepContext) -> Advanced | Ended | Left:
        """When some row of a batch cannot be converted, the batch is gone over again with care for each row."""
        try:
            return self._try_step(connection, lane, context, carefully=False)
        except psycopg.Error as exc:
            if classify(exc) != "data" or lane.kind is LaneKind.COORDINATOR:
                raise
        return self._try_step(connection, lane, context, carefully=True)

    def _try_step(
        self, connection: Connection, lane: Lane, context: StepContext, *, carefully: bool
    ) -> Advanced | Ended | Left:
        known = self._known.get(connection, lane.run, created_at=context.created_at)
        work = known.work_of(lane)
        look, writes, asks = (work.look(lane), work.writes, work.asks_code(lane)) if work else (None, "", None)
        durable = work is None or context.settings.durable_batches or not work.may_be_repeated
        began = time.monotonic()
        with transaction(connection):
            claimed = claim.take(connection, lane, context, look=look, writes=writes, asks_code=asks, durable=durable)
            match claimed:
                case claim.Drop(stale=stale):
                    if stale:
                        self._observe(MessageDropped(run=lane.run, lane=lane.lane, seq=lane.seq))
                    return Left()
                case claim.Wait(reason=reason, seconds=seconds):
                    connection.rollback()
                    self._recovery.postpone(connection, lane, delay_seconds=seconds)
                    self._observe(LaneHeld(run=lane.run, name=context.name, lane=lane.lane, reason=reason))
                    return Left()
                case claim.Claimed() if work is None:
                    return Ended(messages=tuple(self._coordinators.take(connection, known, claimed)))
                case claim.Claimed():
                    if claimed.code is not None:
                        work.learn(lane, claimed.code)
                    waited = time.monotonic() - began
                    return self._walk(connection, work, claimed, waited_seconds=waited, carefully=carefully)

    def _walk(
        self, connection: Connection, work: LaneWork, claimed: Claimed, *, waited_seconds: float, carefully: bool
    ) -> Advanced | Ended:
        """One batch: its rows, its checkpoint, its commit."""
        lane, context = claimed.lane, claimed.context
        fresh = claimed.code is not None
        # What has no name cannot be set aside.
        cap = 0 if work.walk.key == PLACE else context.settings.max_quarantined
        batch = Batch(connection, work, lane, cap=cap, code_is_fresh=fresh)
        began = time.monotonic()
        stepped = work.step(batch, claimed.seen, beside_others=context.beside_others, carefully=carefully)
        batch_seconds = time.monotonic() - began
        checkpoint = _checkpoint(lane, context, stepped, seconds=batch_seconds, carefully=carefully)
        stays = not (checkpoint.done or checkpoint.sleeps)
        shares = stays and not carefully and balance.gives(lane, context)
        began = time.monotonic()
        written = self._write(batch, work, claimed, checkpoint, shares=shares)
        commit_seconds = time.monotonic() - began
        durations = Durations(claim=waited_seconds, batch=batch_seconds, commit=commit_seconds)
        self._tell(context.name, lane, stepped.tally, durations)
        if not stays:
            return Ended(messages=tuple(written.woken))
        if stepped.back_in_seconds:
            self._recovery.postpone(connection, written.lane, delay_seconds=stepped.back_in_seconds)
            return Ended(messages=())
        self._send_all(written.woken)
        pause = rest_seconds(
            batch_seconds + commit_seconds,
            rest_ratio=context.rest_ratio,
            wal_bytes=written.wal_bytes,
            wal_bytes_per_second=context.wal_bytes_per_second,
        )
        return Advanced(lane=written.lane, context=context, pause_seconds=min(pause, LONGEST_PAUSE_SECONDS))

    def _write(
        self, batch: Batch, work: LaneWork, claimed: Claimed, checkpoint: Checkpoint, *, shares: bool
    ) -> _Written:
        """Write the checkpoint and commit, in one round trip; in more where the lane `shares` its rest with a new one."""
        lane, context, connection = claimed.lane, claimed.context, batch.connection
        with pipeline(connection):
            advanced = connection.execute(*lanes.advance_query(lane, checkpoint))
            woken = [connection.execute(*query) for query in (_at_end(lane, context) if checkpoint.done else ())]
            wal = connection.execute(pace.WAL_POSITION) if context.wal_bytes_per_second else None
            if not shares:
                _commit(batch)
        row = advanced.fetchone()
        if row is None:
            msg = f"lane {lane.lane} of run {lane.run} was held and is gone"
            raise LookupError(msg)
        after = Lane.from_row(row)
        if shares:
            return self._share(batch, work, after, context)
        return _Written(
            lane=after,
            woken=lanes.messages(found for one in woken if (found := one.fetchone())),
            wal_bytes=_wal_since(context, wal.fetchone() if wal else None),
        )

    def _share(self, batch: Batch, work: LaneWork, lane: Lane, context: StepContext) -> _Written:
        """Give half of the lane's rest away, and commit."""
        connection = batch.connection
        message = balance.share(connection, work, lane, context)
        with pipeline(connection):
            now = connection.execute(*lanes.read_query(lane.run, lane.lane))
            _commit(batch)
        row = now.fetchone()
        return _Written(lane=Lane.from_row(row) if row else lane, woken=[message] if message else [])

    def _tell(self, name: str, lane: Lane, tally: Tally, durations: Durations) -> None:
        self._observe(
            BatchCommitted(
                run=lane.run,
                name=name,
                lane=lane.lane,
                kind=lane.kind,
                rows_walked=tally.walked,
                rows_changed=tally.changed,
                rows_residual=tally.residual,
                rows_quarantined=tally.quarantined,
                wait_seconds=durations.claim,
                statement_seconds=durations.batch,
                commit_seconds=durations.commit,
            )
        )
        for sqlstate in tally.sqlstates:
            self._observe(RowQuarantined(run=lane.run, name=name, lane=lane.lane, sqlstate=sqlstate))

    def _send_all(self, messages: Iterable[LaneMessage]) -> None:
        for message in messages:
            try:
                self._send(message)
            except Exception as exc:  # noqa: BLE001 - whatever the broker raises, the reconciler will find the lane
                self._observe(SendFailed(run=message.run, lane=message.lane, message=str(exc)))


def _commit(batch: Batch) -> None:
    """Commit a batch; triggers that waited for it run under the application's settings, as those before did."""
    if batch.fired:
        batch.connection.execute(THEIRS)
    batch.connection.execute("COMMIT")


def _wal_since(context: StepContext, now: Row | None) -> int:
    """Bytes of WAL between two looks."""
    return now["wal_position"] - context.wal_position if now and context.wal_position is not None else 0


def _checkpoint(lane: Lane, context: StepContext, stepped: Stepped, *, seconds: float, carefully: bool) -> Checkpoint:
    """What a batch leaves in its lane. What its rows cost decides how many the next one takes."""
    tally = stepped.tally
    recent = (*lane.recent, Timing(rows=tally.walked, seconds=seconds, at=time.time()))[-REMEMBERED:]
    return Checkpoint(
        cursor=stepped.after.cursor,
        walked=tally.walked,
        changed=tally.changed,
        residual=tally.residual,
        own=tally.own,
        hot=tally.hot,
        # The time of a repeated, halved batch says nothing about the rows.
        batch_rows=None if carefully else next_rows(lane.batch_rows, recent, target_seconds=context.target_seconds),
        recent=recent,
        done=stepped.after.done,
        sleeps=not stepped.after.done and balance.steps_back(lane, context),
    )


def _at_end(lane: Lane, context: StepContext) -> list[Statement]:
    """A lane has ended: the coordinator looks whether all have, and the next one that waits for its turn begins."""
    coordinator = lanes.wake_coordinator_query(lane.run)
    wanted = balance.is_divisible(lane) and context.lanes_awake <= context.settings.lanes
    return [coordinator, lanes.wake_sleeper_query(lane.run)] if wanted else [coordinator]
