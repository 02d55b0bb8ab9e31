"""How far a run is, as people and scripts see it: the stable keys of `--json`, rate and time left included.

`measure` decides and is pure; `read` asks the database and does nothing else. All ages are taken from the database's own
clock, and the workers' clocks are only ever compared with each other: a laptop that is five minutes off sees the same rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from migrations import windows
from migrations.postgres import indexes
from migrations.settings import TARGET
from migrations.sql import queries
from migrations.states import ACTIVE, ENDED, RESTING, Phase, State, Wish
from migrations.store import pace as pace_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from migrations.model import Pace, Row, Run
    from migrations.postgres.connect import Connection
    from migrations.postgres.indexes import Work
    from migrations.store.pace import Stop

#: A reading older than this holds every lane (they fail closed), so it is the reason to show.
STALE_SECONDS = 15.0
#: Nothing moved for this long, and longer than two batches take: the rate is 0 rather than a memory.
STILL_SECONDS = 10.0

#: Phases in which the walk over the data is not over yet.
WALKING = frozenset({Phase.EXPAND, Phase.BACKFILL})

_SQL = queries("runs")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One run at one moment."""

    run: int
    name: str
    target: str
    phase: Phase
    state: State
    wish: Wish | None
    #: Rows that were really changed.
    rows_done: int
    #: Rows the walk passes over; None until the walk was planned.
    rows_total: int | None
    #: Of the walk, changed or not; 100 once it is over. While an index is built, of the build's present phase.
    percent: float
    rows_per_second: float
    #: Until the present walk (backfill, or verify) is over; None when unknown or done.
    eta_seconds: int | None
    #: As many as it may have at work.
    lanes: int
    width: int
    hold_reason: str | None
    residual_rows: int | None
    verified: bool
    quarantined: int
    #: `{lane?, class, sqlstate, message, …}`; the run's own error first. Any: JSON for people.
    errors: tuple[dict[str, Any], ...]
    #: Of the rows that were changed, the share that touched no index (HOT updates); None when unknown.
    hot_update_ratio: float | None
    created_at: datetime
    #: When the run last changed its state or moved.
    updated_at: datetime
    #: Whether the run can still be rolled back: `possible`, `because`, `blocked_by`, `keys`, `kept_until`. Asked for one run at a
    #: time; None in a list. Any: JSON.
    rollback: Mapping[str, Any] | None = None

    #: Rows the first walk has passed over, and of them those the present verifying walk has; not part of `to_json`.
    rows_walked: int = 0
    rows_verified: int = 0
    #: Sizes of the tables before the walk and after it, in bytes; not part of `to_json` either. Any: JSON.
    space: Mapping[str, Any] | None = None
    #: The index that is being built or dropped; not part of `to_json` either.
    index_work: Work | None = None

    def to_json(self) -> dict[str, Any]:
        """The documented keys, in their documented order. Any: JSON."""
        return {key: _plain(getattr(self, key)) for key in KEYS}


#: What `--json` prints. Scripts rely on these: add to them, never rename or remove.
KEYS = (
    "run",
    "name",
    "target",
    "phase",
    "state",
    "wish",
    "rows_done",
    "rows_total",
    "percent",
    "rows_per_second",
    "eta_seconds",
    "lanes",
    "width",
    "hold_reason",
    "residual_rows",
    "verified",
    "quarantined",
    "errors",
    "hot_update_ratio",
    "created_at",
    "updated_at",
    "rollback",
)


def read(connection: Connection, runs: Sequence[Run]) -> list[Progress]:
    """Where these runs are, all at one moment. The connection must not be in a transaction."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        clock = connection.execute("SELECT clock_timestamp() AS now").fetchone()
        pace, stop = pace_store.read(connection), pace_store.read_stop(connection)
        # A list of a hundred runs on a database 20 ms away is two round trips, not two hundred.
        with connection.pipeline():
            cursors = [connection.execute(_SQL["progress"], {"run": run.run}) for run in runs]
        rows = [walk.fetchone() for walk in cursors]
        works = indexes.at_work(connection) if any(run.state in ACTIVE for run in runs) else {}
    if clock is None:
        msg = "PostgreSQL has no clock"
        raise LookupError(msg)
    return [
        measure(run, walk, pace, now=clock["now"], stop=stop, index_work=works.get(run.run))
        for run, walk in zip(runs, rows, strict=True)
        if walk is not None  # removed between being found and being read
    ]


def measure(  # noqa: PLR0913 - each is named where it is called
    run: Run, walk: Row, pace: Pace, *, now: datetime, stop: Stop | None = None, index_work: Work | None = None
) -> Progress:
    """Put the numbers together: `walk` is the row of the query `progress`."""
    rate = 0.0 if run.state in RESTING else _rows_per_second(walk, now)
    moved_at: datetime | None = walk["progressed_at"]
    return Progress(
        run=run.run,
        name=run.name,
        target=TARGET,
        phase=run.phase,
        state=run.state,
        wish=run.wish,
        rows_done=walk["rows_changed"],
        rows_total=run.rows_total,
        percent=_percent(run, walk) if index_work is None else min(math.floor(index_work.percent or 0), 99.9),
        rows_per_second=round(rate, 1),
        eta_seconds=_eta_seconds(run, walk, rate),
        lanes=run.settings.lanes,
        width=pace.width,
        hold_reason=_hold_reason(run, walk, pace, stop, now) or _holds_up(index_work),
        residual_rows=run.residual_rows,
        verified=run.verified_at is not None,
        quarantined=walk["quarantined"],
        errors=_errors(run, walk),
        hot_update_ratio=_hot_update_ratio(walk),
        created_at=run.created_at,
        updated_at=max(run.updated_at, moved_at) if moved_at is not None else run.updated_at,
        rows_walked=walk["rows_walked"],
        rows_verified=walk["rows_verified"],
        space=run.space,
        index_work=index_work,
    )


def _holds_up(work: Work | None) -> str | None:
    return f"the index waits for {work.waits_for}" if work is not None and work.waits_for else None


def _percent(run: Run, walk: Row) -> float:
    """Rounded down, and 100 only when nothing is left: a bar that is full while work goes on is a lie."""
    if run.phase not in WALKING:
        return 100.0
    if run.rows_total is None:
        return 0.0
    share = walk["rows_walked"] / run.rows_total if run.rows_total else 1.0
    most = 99.9 if walk["lanes_open"] else 100.0  # the total may be an estimate, and too small
    return min(math.floor(max(share, 0.0) * 1000) / 10, most)


def _rows_per_second(walk: Row, now: datetime) -> float:
    """Rows of each open lane's last batches over the time since the oldest of them began, summed over the lanes."""
    lanes: list[list[list[float]]] = [timings for timings in walk["recent"] if timings]
    if not lanes or walk["progressed_at"] is None:
        return 0.0
    still = max((now - walk["progressed_at"]).total_seconds(), 0.0)
    longest = max(seconds for timings in lanes for _, seconds, _ in timings)
    if still > max(STILL_SECONDS, 2 * longest):
        return 0.0
    # "Now" on the workers' clock is when the newest batch ended there, and as long after it as the database's clock says.
    newest = max(at for timings in lanes for _, _, at in timings)
    rate = 0.0
    for timings in lanes:
        began = min(at - seconds for _, seconds, at in timings)
        span = newest - began + still
        rate += sum(rows for rows, _, _ in timings) / span if span > 0 else 0.0
    return rate


def _eta_seconds(run: Run, walk: Row, rate: float) -> int | None:
    if run.state not in ACTIVE or run.rows_total is None or rate <= 0:
        return None
    match run.phase:
        case Phase.BACKFILL:
            left = run.rows_total - walk["rows_walked"]
        case Phase.VERIFY:
            left = run.rows_total - walk["rows_verified"]
        case Phase.EXPAND | Phase.SWITCH | Phase.CONTRACT | Phase.DONE:
            return None
    return math.ceil(left / rate) if left > 0 else None


def _hold_reason(run: Run, walk: Row, pace: Pace, stop: Stop | None, now: datetime) -> str | None:
    """Why nothing moves, by what a person would have to know first."""
    if run.state is State.WAITING:
        return f"waiting for approval of {run.phase}: backfilld approve {run.name} --phase {run.phase}"
    if run.state not in ACTIVE:
        return None  # the state, the wish or the error says it
    if stop is None and (shut := windows.shut(run.settings.windows, now)):
        return shut[0]
    if held := hold_of_all(pace, stop):
        return held
    waiting = sorted(walk["errors"], key=lambda error: int(error.get("lane", 0)))  # the conductor holds up all others
    return str(waiting[0].get("message") or waiting[0].get("reason") or "") or None if waiting else None


def hold_of_all(pace: Pace, stop: Stop | None) -> str | None:
    """Why no run of the database may work, or None."""
    if stop is not None:
        return stop.reason
    if pace.hold_reason:
        return pace.hold_reason
    if pace.age_seconds is None:
        return "no load reading yet: is a worker running?"
    if pace.age_seconds > STALE_SECONDS:
        return f"no load reading for {pace.age_seconds:.0f} s"
    return None


def _errors(run: Run, walk: Row) -> tuple[dict[str, Any], ...]:
    found = [dict(run.error)] if run.error else []
    if run.state not in ENDED:  # what a lane stumbled over does not matter any more
        found += [dict(error) for error in walk["errors"]]
    return tuple(_error(error) for error in found)


def _error(error: dict[str, Any]) -> dict[str, Any]:
    """The keys every error has first, whatever else is known (statement, key range) after them."""
    lane = {"lane": error["lane"]} if error.get("lane") is not None else {}
    known = {"class": error.get("class"), "sqlstate": error.get("sqlstate"), "message": str(error.get("message", ""))}
    return lane | known | {key: value for key, value in error.items() if key not in {"lane", *known}}


def _hot_update_ratio(walk: Row) -> float | None:
    if walk["rows_hot"] is None or not walk["rows_changed_counted"]:
        return None
    return float(round(min(walk["rows_hot"] / walk["rows_changed_counted"], 1.0), 4))


def _plain(value: Any) -> Any:  # Any: one field of Progress, as JSON has it
    match value:
        case datetime():
            return value.isoformat()
        case Phase() | State() | Wish():
            return str(value)
        case tuple():
            return list(value)
        case _:
            return value
