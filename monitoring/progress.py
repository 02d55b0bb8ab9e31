"""How far a run is, as people and scripts see it: the stable keys of `--json`, rate and time left included.

`measure` decides and is pure; `read` asks the database and does nothing else. All ages are measured by the database's clock,
and the workers' clocks are only compared with each other: a laptop that is five minutes off sees the same rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backfilld.migrations import holds
from backfilld.migrations.identifiers import TARGET
from backfilld.migrations.postgres import indexes
from backfilld.migrations.postgres.safe_path import one_moment
from backfilld.migrations.record import application, structure, workers
from backfilld.migrations.record import pace as pace_store
from backfilld.migrations.record import runs as runs_store
from backfilld.migrations.record.states import ACTIVE, ENDED, RESTING, LaneKind, Phase, State, Wish
from backfilld.monitoring import after_contract, policies
from backfilld.monitoring.after_contract import AfterContract
from backfilld.monitoring.policies import Unexpected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.holds import Hold
    from backfilld.migrations.postgres.connect import Connection, Row
    from backfilld.migrations.postgres.indexes import Work
    from backfilld.migrations.record.model import Pace, Run
    from backfilld.migrations.record.pace import Stop

#: Without a batch for this long, and longer than two batches take, the rate is 0 and not that of the past.
STILL_SECONDS = 10.0

#: Phases in which the walk over the data is not over yet.
WALKING = frozenset({Phase.EXPAND, Phase.BACKFILL})


@dataclass(frozen=True, kw_only=True)
class OldValuesWalk:
    """A walk between two steps that is not over: over old values, to the archive before contract drops them, or back while a run is
    rolled back; or over rows as each persona, before and after other policies come into force.
    """

    kind: LaneKind
    rows_walked: int
    #: An estimate.
    rows_total: int


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
    #: Rows the walk passes over; None until the walk was planned, an estimate until it is over.
    rows_total: int | None
    #: Of the walk, changed or not; 100 once it is over. While an index is built, of the build's present phase; while old values
    #: are archived, or a run is rolled back, of that.
    percent: float
    rows_per_second: float
    #: Until the present walk is over; None when unknown or done.
    eta_seconds: int | None
    #: As many as it may have at work.
    lanes: int
    width: int
    hold_reason: str | None
    residual_rows: int | None
    #: Rows that hold a value of the application's own in a column that was added, at the last look at all rows; None before it.
    own_values: int | None
    #: Never of a run that is rolled back: what was verified is being taken away; nor of one whose proof another session has undone.
    verified: bool
    quarantined: int
    #: `{lane?, class, sqlstate, message, …}`; the run's own error first. Any: JSON for people.
    errors: tuple[dict[str, Any], ...]
    #: Of the rows that were changed, the share that touched no index (HOT updates); None when unknown.
    hot_update_ratio: float | None
    #: Rows that were changed and are not where they were: at most, as an index that holds a written column makes a row count
    #: that is still on its page. None when unknown.
    rows_moved: int | None
    created_at: datetime
    #: When the run last changed its state or moved.
    updated_at: datetime
    #: Whether the run can still be rolled back: `possible`, `because`, `blocked_by`, `keys`, `kept_until`. Asked for one run at a
    #: time; None in a list. Any: JSON.
    rollback: Mapping[str, Any] | None = None
    #: What its journal takes on disk; asked for as `rollback` is.
    journal_bytes: int | None = None
    #: Of a table that is made anew: keys that wait to be brought over to the table that is not in use, and how long the first has
    #: waited; None where there is no such table. Asked for as `rollback` is.
    behind: int | None = None
    behind_seconds: float | None = None
    #: While contract waits for its approval: what the application can no longer do afterwards, and whether it still does it.
    after_contract: tuple[AfterContract, ...] = ()
    #: While a phase waits that puts other policies into force: what nobody expected of them.
    policies: tuple[Unexpected, ...] = ()

    #: The newest check of the application, of a run whose file asks for one: `moment`, `at`, `statements`, `counts`, `findings`. Any:
    #: JSON.
    application: Mapping[str, Any] | None = None

    #: While it waits: what another session has changed since the data was verified, in words; not part of `to_json`.
    changed_since: tuple[str, ...] = ()
    #: Rows the first walk has passed over, and of them those the present verifying walk has; not part of `to_json`.
    rows_walked: int = 0
    rows_verified: int = 0
    #: The walk over old values, while there is one; not part of `to_json`.
    old_values_walk: OldValuesWalk | None = None
    #: Rows that were compared as each persona by the old policies and the new, and how many personas there are; not part of
    #: `to_json`.
    rows_compared: int = 0
    personas: int = 0
    #: Sizes of the tables before the walk and after it, in bytes; not part of `to_json` either. Any: JSON.
    space: Mapping[str, Any] | None = None
    #: The index that is being built or dropped; not part of `to_json` either.
    index_work: Work | None = None
    #: What `hold_reason` says in words; neither are the rest.
    hold: Hold | None = None
    #: What the run paused itself or failed for; None for one that a person paused.
    error_class: str | None = None
    state_seconds: float = 0.0
    phase_seconds: float = 0.0
    #: Seconds since a batch committed, or since the beginning.
    progress_age_seconds: float = 0.0
    #: Lanes of the present walk: open, retrying, asleep, done.
    lanes_by_state: Mapping[str, int] = field(default_factory=dict)
    #: The counts of all lanes there were, as metrics have them.
    rows_changed: int = 0
    rows_unchanged: int = 0
    rows_remaining: int | None = None
    batches_committed: int = 0
    batches_retried: int = 0
    #: Rows written since the switch that do not fit the old column.
    rollback_conflicts: int = 0
    max_quarantined: int = 0
    #: For a run that loads files: `lines`, and what became of them; how far the files are staged; what the check has found. Any: JSON.
    load: Mapping[str, Any] | None = None

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
    "after_contract",
    "application",
    "own_values",
    "rows_moved",
    "journal_bytes",
    "policies",
    "load",
    "behind",
    "behind_seconds",
)


def read(connection: Connection, runs: Sequence[Run]) -> list[Progress]:
    """Where these runs are, all at one moment. The connection must not be in a transaction."""
    with one_moment(connection):
        return read_within(connection, runs)


def read_within(connection: Connection, runs: Sequence[Run]) -> list[Progress]:
    """The same in a transaction of the caller's, which sees one moment only. Runs removed meanwhile are left out."""
    clock = connection.execute(
        "SELECT clock_timestamp() AS now, "
        "pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean AS read_only"
    ).fetchone()
    if clock is None:
        msg = "PostgreSQL has no clock"
        raise LookupError(msg)
    pace, stop = pace_store.read(connection), pace_store.read_stop(connection)
    walks = runs_store.progress(connection, [run.run for run in runs])
    active = any(run.state in ACTIVE for run in runs)
    works = indexes.at_work(connection) if active else {}
    nobody = workers.nobody_works(workers.listed(connection), read_only=clock["read_only"]) if active else None
    ahead = after_contract.read(
        connection, [run for run in runs if run.state is State.WAITING and run.phase is Phase.CONTRACT]
    )
    beyond = policies.unexpected(connection, runs)
    checks = application.last_checks(connection, [run.run for run in runs if "application" in run.definition])
    return [
        replace(
            measure(
                run, walks[run.run], pace, now=clock["now"], stop=stop, index_work=works.get(run.run), nobody=nobody
            ),
            after_contract=ahead.get(run.run, ()),
            policies=beyond.get(run.run, ()),
            application=checks.get(run.run),
            changed_since=_changed_since(connection, run),
        )
        for run in runs
        if run.run in walks
    ]


def _changed_since(connection: Connection, run: Run) -> tuple[str, ...]:
    if run.state is not State.WAITING or run.verified_at is not None:
        return ()
    return tuple(str(change) for change in structure.changes(connection, run.run))


def measure(  # noqa: PLR0913 - each is named where it is called
    run: Run,
    walk: Row,
    pace: Pace,
    *,
    now: datetime,
    stop: Stop | None = None,
    index_work: Work | None = None,
    nobody: str | None = None,
) -> Progress:
    """Put the numbers together: `walk` is the row of the query `progress`."""
    rate = 0.0 if run.state in RESTING else _rows_per_second(walk, now, since=run.state_since)
    kept = _kept_walk(walk)
    moved_at: datetime | None = walk["progressed_at"]
    hold = holds.of_run(run, walk, pace, stop, work=index_work, now=now, nobody=nobody)
    return Progress(
        run=run.run,
        name=run.name,
        target=TARGET,
        phase=run.phase,
        state=run.state,
        wish=run.wish,
        rows_done=walk["rows_changed"],
        rows_total=run.rows_total,
        percent=_percent(run, walk, kept) if index_work is None else min(math.floor(index_work.percent or 0), 99.9),
        rows_per_second=round(rate, 1),
        eta_seconds=_eta_seconds(run, walk, kept, rate),
        lanes=int(run.settings_json["lanes"]),
        width=pace.width,
        hold_reason=hold.reason if hold else None,
        residual_rows=run.residual_rows,
        own_values=run.own_values,
        verified=run.verified_at is not None and not run.rollback.requested,
        quarantined=walk["quarantined"],
        errors=_errors(run, walk),
        hot_update_ratio=_hot_update_ratio(walk),
        rows_moved=_rows_moved(walk),
        created_at=run.created_at,
        updated_at=max(run.updated_at, moved_at) if moved_at is not None else run.updated_at,
        rows_walked=walk["rows_walked"],
        rows_verified=walk["rows_verified"],
        old_values_walk=kept,
        rows_compared=walk["rows_compared"],
        personas=len((run.definition.get("application") or {}).get("personas", {})),
        space=run.space,
        index_work=index_work,
        hold=hold,
        error_class=run.error_class,
        state_seconds=_seconds_since(run.state_since, now),
        phase_seconds=_seconds_since(run.phase_since, now),
        progress_age_seconds=_seconds_since(moved_at or run.created_at, now),
        lanes_by_state=_lanes_by_state(walk),
        rows_changed=walk["rows_changed_by_all"],
        rows_unchanged=walk["rows_unchanged"],
        rows_remaining=_rows_remaining(run, walk),
        batches_committed=walk["batches_committed"],
        batches_retried=walk["batches_retried"],
        rollback_conflicts=walk["rollback_conflicts"],
        max_quarantined=int(run.settings_json["max_quarantined"]),
        load=walk["load"],
    )


def _seconds_since(moment: datetime, now: datetime) -> float:
    return max((now - moment).total_seconds(), 0.0)


def _lanes_by_state(walk: Row) -> dict[str, int]:
    retrying, asleep = walk["lanes_retrying"], walk["lanes_asleep"]
    return {
        "open": max(walk["lanes_open"] - retrying - asleep, 0),
        "retrying": retrying,
        "asleep": asleep,
        "done": walk["lanes_done"],
    }


def _rows_remaining(run: Run, walk: Row) -> int | None:
    """Rows that the walk has still before it; None until they have been counted."""
    if run.phase not in WALKING:
        return 0
    if run.pass_ > 1:
        return max((run.residual_rows or 0) - int(walk["rows_changed_in_pass"]), 0)
    return None if run.rows_total is None else max(run.rows_total - int(walk["rows_walked"]), 0)


def _kept_walk(walk: Row) -> OldValuesWalk | None:
    if walk["old_values_kind"] is None:
        return None
    return OldValuesWalk(
        kind=LaneKind(walk["old_values_kind"]),
        rows_walked=walk["old_values_walked"],
        rows_total=walk["old_values_total"],
    )


def _percent(run: Run, walk: Row, kept: OldValuesWalk | None) -> float:
    """Rounded down, and 100 only when nothing is left: a bar that is full while work continues is a lie."""
    if kept is not None:
        return min(_share(kept.rows_walked, kept.rows_total), 99.9)
    if run.rollback.requested and run.state is not State.ROLLED_BACK:
        return 99.9 if walk["lanes_back_done"] else 0.0
    if run.phase not in WALKING or run.state is State.ROLLED_BACK:
        return 100.0
    if run.rows_total is None:
        load = walk["load"]
        return min(_share(load["bytes_read"], load["bytes_total"]), 99.9) if load and load["bytes_total"] else 0.0
    most = 99.9 if walk["lanes_open"] else 100.0  # the total may be an estimate, and too small
    return min(_share(walk["rows_walked"], run.rows_total), most)


def _share(rows: int, total: int) -> float:
    return math.floor(max(rows / total if total else 1.0, 0.0) * 1000) / 10


def _rows_per_second(walk: Row, now: datetime, *, since: datetime) -> float:
    """Rows of each open lane's last batches over the time since the oldest of them began, summed over the lanes.

    Batches from before the run came into its state are left out: a pause in between is no slow work.
    """
    lanes: list[list[list[float]]] = [timings for timings in walk["recent"] if timings]
    if not lanes or walk["progressed_at"] is None:
        return 0.0
    # The newest batch ended at `progressed_at` by the database's clock; the others as long before it as the workers say.
    last = max(at for timings in lanes for _, _, at in timings)
    span = (walk["progressed_at"] - since).total_seconds()
    lanes = [recent for timings in lanes if (recent := [one for one in timings if last - one[2] < span])]
    if not lanes:
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


def _eta_seconds(run: Run, walk: Row, kept: OldValuesWalk | None, rate: float) -> int | None:
    if run.state not in ACTIVE:
        return None
    if rate <= 0:
        return _staging_eta_seconds(run, walk)
    if kept is not None:
        left = kept.rows_total - kept.rows_walked
        return math.ceil(left / rate) if left > 0 else None
    if run.rows_total is None or run.state is State.ROLLING_BACK:
        return None
    match run.phase:
        case Phase.BACKFILL:
            left = run.rows_total - walk["rows_walked"]
        case Phase.VERIFY:
            left = run.rows_total - walk["rows_verified"]
        case Phase.EXPAND | Phase.SWITCH | Phase.CONTRACT | Phase.DONE:
            return None
    return math.ceil(left / rate) if left > 0 else None


def _staging_eta_seconds(run: Run, walk: Row) -> int | None:
    """Until the files of a load are staged, at the speed so far."""
    seconds = walk["load"]["seconds_left"] if walk["load"] and run.phase is Phase.EXPAND else None
    return int(seconds) if seconds is not None else None


def _errors(run: Run, walk: Row) -> tuple[dict[str, Any], ...]:
    found = [dict(run.error)] if run.error else []
    if run.state not in ENDED:  # the error of a lane no longer matters then
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


def _rows_moved(walk: Row) -> int | None:
    if walk["rows_hot"] is None or not walk["rows_changed_counted"]:
        return None
    return int(max(walk["rows_changed_counted"] - walk["rows_hot"], 0))


def _plain(value: Any) -> Any:  # Any: one field of Progress, as JSON has it
    match value:
        case datetime():
            return value.isoformat()
        case Phase() | State() | Wish():
            return str(value)
        case tuple():
            return [_plain(one) for one in value]
        case AfterContract() | Unexpected():
            return value.to_json()
        case _:
            return value
