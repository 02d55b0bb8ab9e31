"""Lanes: claimed, advanced, postponed, and found when their wake-up was lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg.types.json import Jsonb

from backfilld.migrations.identifiers import TARGET
from backfilld.migrations.queries import queries
from backfilld.migrations.record.model import Bounds, Checkpoint, Lane, LaneBounds, PageRange
from backfilld.migrations.record.states import LaneKind
from backfilld.migrations.wire.messages import LaneMessage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = queries(__package__, "lanes")

#: Statement text that the claim sends in one round trip together with others.
CLAIM = _SQL["claim_lane"]

#: A statement and its parameters, for sending in one round trip together with others.
Statement = tuple[LiteralString, dict[str, Any]]  # Any: whatever psycopg can send


def read_query(run: int, lane: int) -> Statement:
    """A lane, without a lock, as a statement."""
    return _SQL["read_lane"], {"run": run, "lane": lane}


def read(connection: Connection, run: int, lane: int) -> Lane | None:
    """A lane, without a lock."""
    row = connection.execute(*read_query(run, lane)).fetchone()
    return Lane.from_row(row) if row else None


def of_run(connection: Connection, run: int) -> list[Lane]:
    """All lanes of a run, the coordinator first."""
    return [Lane.from_row(row) for row in connection.execute(_SQL["lanes_of"], {"run": run}).fetchall()]


def lock_coordinator(connection: Connection, run: int) -> None:
    """Keep other lanes of the run from adding lanes until this transaction ends."""
    connection.execute(_SQL["lock_coordinator"], {"run": run})


def try_lock_coordinator(connection: Connection, run: int) -> bool:
    """`lock_coordinator` without waiting; False when it is locked."""
    return connection.execute(_SQL["try_lock_coordinator"], {"run": run}).fetchone() is not None


def insert(  # noqa: PLR0913 - one row; each column is named where it is called
    connection: Connection,
    run: int,
    *,
    kind: LaneKind,
    operation: int,
    pass_: int,
    relation: str,
    bounds: LaneBounds,
    cursor: Any = None,  # JSON: where in its bounds it begins
    batch_rows: int = 1000,
    rows_expected: int | None = None,
    awake: bool = True,
) -> LaneMessage:
    """One more lane; returns the message that wakes it. The caller holds the coordinator.

    A lane that is not awake begins when another ends.
    """
    rows = connection.execute(
        _SQL["insert_lane"],
        {
            "run": run,
            "kind": kind,
            "operation": operation,
            "pass": pass_,
            "relation": relation,
            "bounds": Jsonb(bounds.to_json()),
            "cursor": Jsonb(cursor) if cursor is not None else None,
            "batch_rows": batch_rows,
            "rows_expected": rows_expected,
            "awake": awake,
        },
    ).fetchall()
    return messages(rows)[0]


def shorten(
    connection: Connection,
    lane: Lane,
    *,
    bounds: LaneBounds,
    cursor: Any,  # JSON: as in `insert`
    given: int,
) -> None:
    """Take `given` rows, about, from what a lane has before it."""
    connection.execute(
        _SQL["shorten_lane"],
        {
            "run": lane.run,
            "lane": lane.lane,
            "bounds": Jsonb(bounds.to_json()),
            "cursor": Jsonb(cursor) if cursor is not None else None,
            "given": given,
        },
    )


def extend(  # noqa: PLR0913 - which lane, and its new end
    connection: Connection, run: int, *, operation: int, relation: str, pass_: int, bounds: Bounds | PageRange
) -> bool:
    """Let the untouched lane that ends where `bounds` begin continue to their end; False when there is none."""
    begins, edge = ("first", "last") if isinstance(bounds, PageRange) else ("after", "upto")
    values: dict[str, Any] = bounds.to_json()  # Any: keys or pages
    if values[begins] is None:
        return False
    cursor = connection.execute(
        _SQL["extend_lane"],
        {
            "run": run,
            "operation": operation,
            "relation": relation,
            "pass": pass_,
            "edge": edge,
            "begins": Jsonb(values[begins]),
            "ends": Jsonb(values[edge]),
        },
    )
    return cursor.rowcount > 0


def advance_query(lane: Lane, checkpoint: Checkpoint) -> Statement:
    """The checkpoint of a step, as a statement that gives the lane's new row (`Lane.from_row`).

    Gives no row when the step was taken by another worker; a transaction that holds the lane cannot meet that.
    """
    return _SQL["advance_lane"], {
        "run": lane.run,
        "lane": lane.lane,
        "seq": lane.seq,
        "cursor": Jsonb(checkpoint.cursor) if checkpoint.cursor is not None else None,
        "walked": checkpoint.walked,
        "changed": checkpoint.changed,
        "residual": checkpoint.residual,
        "own": checkpoint.own,
        "hot": checkpoint.hot,
        "batch_rows": checkpoint.batch_rows or lane.batch_rows,
        "recent": Jsonb([[timing.rows, timing.seconds, timing.at] for timing in checkpoint.recent]),
        "done": checkpoint.done,
        "sleeps": checkpoint.sleeps,
    }


def postpone(  # noqa: PLR0913 - one row; each column is named where it is called
    connection: Connection,
    lane: Lane,
    *,
    delay_seconds: float,
    attempts: int | None = None,
    batch_rows: int | None = None,
    error: Mapping[str, Any] | None = None,  # Any: JSON for people
    lock_wait: Mapping[str, Any] | None = None,  # Any: JSON, as `lock_policy.Wait` writes it
    retried: bool = False,
) -> None:
    """Let a lane come back by itself in `delay_seconds`. Waiting is written down, not slept."""
    connection.execute(
        _SQL["postpone_lane"],
        {
            "run": lane.run,
            "lane": lane.lane,
            "seq": lane.seq,
            "delay_seconds": delay_seconds,
            "attempts": attempts if attempts is not None else lane.attempts,
            "batch_rows": batch_rows or lane.batch_rows,
            "retried": int(retried),
            "error": Jsonb(dict(error)) if error is not None else None,
            "lock_wait": Jsonb(dict(lock_wait)) if lock_wait is not None else None,
        },
    )


def end_forward(connection: Connection, run: int) -> None:
    """The run turns back: whatever its lanes had still before them is not done any more."""
    connection.execute(_SQL["end_forward"], {"run": run})


def reopen_coordinator(connection: Connection, run: int) -> None:
    """Give the coordinator of a run that was at its end work again."""
    connection.execute(_SQL["reopen_coordinator"], {"run": run})


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What the lanes of a walk between two steps did so far."""

    lanes: int
    #: Those of them that are not at their end.
    open: int
    walked: int
    changed: int
    residual: int
    #: Rows that hold a value of the application's own.
    own: int


def of_walk(connection: Connection, run: int, *, kind: str, operation: int) -> Walked:
    """The lanes of a walk between two steps, summed up."""
    row = connection.execute(_SQL["lanes_of_walk"], {"run": run, "kind": kind, "operation": operation}).fetchone()
    return Walked(**(row or {}))


def has_follower(connection: Connection, run: int, *, operation: int) -> bool:
    """Whether a lane of an operation follows what is written."""
    row = connection.execute(_SQL["has_follower"], {"run": run, "operation": operation}).fetchone()
    return bool(row and row["there"])


def forget_walk(connection: Connection, run: int, *, kind: str, operation: int) -> None:
    """Let a walk between two steps begin anew; all of its lanes are at their end."""
    connection.execute(_SQL["forget_walk"], {"run": run, "kind": kind, "operation": operation})


def wake_coordinator_query(run: int) -> Statement:
    """A lane has ended: let the coordinator look whether all have. Gives the row of its message, for after the commit."""
    return _SQL["wake_coordinator"], {"run": run}


def wake_sleeper_query(run: int) -> Statement:
    """A lane has ended: let the next that waits for its turn begin. Gives the row of its message, if there is one."""
    return _SQL["wake_sleepers"], {"run": run, "lanes": 1}


def wake_sleepers(connection: Connection, run: int, *, lanes: int) -> list[LaneMessage]:
    """Let so many lanes that wait for their turn begin; returns their messages."""
    return messages(connection.execute(_SQL["wake_sleepers"], {"run": run, "lanes": lanes}).fetchall())


def wake_run(connection: Connection, run: int, *, coordinator: bool = True) -> None:
    """Let every open lane of a run work now, and forget its past errors."""
    connection.execute(_SQL["wake_run"], {"run": run, "coordinator": coordinator})


def count_open(connection: Connection, run: int, *, pass_: int, kinds: Iterable[LaneKind]) -> int:
    row = connection.execute(_SQL["open_lanes"], {"run": run, "pass": pass_, "kinds": list(kinds)}).fetchone()
    return int(row["open"]) if row else 0


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """What the lanes of a pass did: rows they walked, and rows that still need work."""

    residual: int
    walked: int
    #: Rows that hold a value of the application's own.
    own: int


def pass_result(connection: Connection, run: int, *, pass_: int, kind: LaneKind) -> PassResult:
    """What the lanes of a pass found and did."""
    row = connection.execute(_SQL["pass_result"], {"run": run, "pass": pass_, "kind": kind}).fetchone()
    return PassResult(**(row or {"residual": 0, "walked": 0, "own": 0}))


def residual_of(connection: Connection, run: int, *, pass_: int) -> frozenset[int]:
    """The operations, by number, of which the look at all rows in a pass found some that still need work."""
    return frozenset(
        lane.operation
        for lane in of_run(connection, run)
        if lane.kind is LaneKind.VERIFY and lane.pass_ == pass_ and lane.rows_residual and lane.operation is not None
    )


def due(connection: Connection, *, grace_seconds: float) -> list[LaneMessage]:
    """Messages for lanes that should be working and that no message woke for `grace_seconds`."""
    return messages(connection.execute(_SQL["due_lanes"], {"grace_seconds": grace_seconds}).fetchall())


def end_frozen(connection: Connection, *, seconds: float) -> list[str]:
    """End sessions of ours that have held a lane for so long without doing anything; returns their names."""
    return [row["application_name"] for row in connection.execute(_SQL["end_frozen"], {"seconds": seconds}).fetchall()]


def startable(connection: Connection, run: int) -> list[LaneMessage]:
    """Messages for the lanes of a run that may work now."""
    return messages(connection.execute(_SQL["startable"], {"run": run}).fetchall())


def in_flight(connection: Connection, run: int) -> int:
    """How many lanes of a run are locked at this moment. The caller holds the run."""
    row = connection.execute(_SQL["in_flight"], {"run": run}).fetchone()
    return int(row["held"]) if row else 0


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Lanes that are due at this moment, and for how many seconds the oldest has been."""

    lanes: int
    seconds: float


def waiting(connection: Connection) -> Waiting:
    """What waits for a worker."""
    row = connection.execute(_SQL["waiting"]).fetchone()
    return Waiting(**row) if row else Waiting(lanes=0, seconds=0.0)


def messages(rows: Iterable[Row]) -> list[LaneMessage]:
    """Rows of `run, lane, seq` as messages."""
    return [LaneMessage(target=TARGET, run=row["run"], lane=row["lane"], seq=row["seq"]) for row in rows]
