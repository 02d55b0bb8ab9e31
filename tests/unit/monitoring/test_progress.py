"""How far a run is: what is computed from the record, case by case."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backfilld.migrations.file import migration as definition
from backfilld.migrations.record.model import Pace, Reached, Rollback, Run
from backfilld.migrations.record.pace import Stop
from backfilld.migrations.record.states import Phase, State, Wish
from backfilld.monitoring.progress import KEYS, Progress, measure

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=1)
#: The workers' clock, which may be off: an hour and a bit ahead of the database's.
WORKERS_NOW = NOW.timestamp() + 3700.0

MIGRATION = definition.parse("name: jobs\noperations:\n- backfill: {table: jobs, set: {a: b}}\n")

RUN = Run(
    run=7,
    name="jobs",
    checksum=MIGRATION.checksum,
    definition=MIGRATION.canonical(),
    settings_json=MIGRATION.settings.model_dump(mode="json"),
    facts=(),
    phase=Phase.BACKFILL,
    state=State.RUNNING,
    wish=None,
    approved=frozenset(),
    pass_=1,
    rows_total=1000,
    residual_rows=None,
    verified_at=None,
    own_values=None,
    error=None,
    space=None,
    rollback=Rollback(),
    kept_until=None,
    purged_at=None,
    requested_by="ann@laptop",
    created_at=EARLIER,
    updated_at=EARLIER,
    state_since=EARLIER,
    phase_since=EARLIER,
    started_at=EARLIER,
    ended_at=None,
)
PACE = Pace(width=3, max_width=8, hold_reason=None, age_seconds=1.0)
WALK: dict[str, Any] = {
    "rows_hot": None,
    "rows_changed_counted": 0,
    "rows_changed": 0,
    "rows_walked": 0,
    "rows_verified": 0,
    "rows_changed_by_all": 0,
    "rows_changed_in_pass": 0,
    "rows_unchanged": 0,
    "rollback_conflicts": 0,
    "load": None,
    "lanes_retrying": 0,
    "lanes_asleep": 0,
    "lanes_done": 0,
    "lanes_back_done": 0,
    "rows_compared": 0,
    "old_values_kind": None,
    "old_values_walked": 0,
    "old_values_total": 0,
    "batches_committed": 0,
    "batches_retried": 0,
    "lanes_open": 2,
    "progressed_at": NOW,
    "recent": [],
    "errors": [],
    "quarantined": 0,
}


def measured(run: Run = RUN, pace: Pace = PACE, **walk: Any) -> Progress:
    return measure(run, {**WALK, **walk}, pace, now=NOW)


def timings(*, batches: int, rows: int, seconds: float, ended: float = WORKERS_NOW) -> list[list[float]]:
    """`batches` batches, one right after the other, the last of which ended at `ended`."""
    return [[rows, seconds, ended - seconds * number] for number in reversed(range(batches))]


def test_the_json_has_exactly_the_documented_keys_in_their_order() -> None:
    run = replace(
        RUN, state=State.PAUSING, wish=Wish.PAUSE, error={"class": "fatal", "message": "boom", "sqlstate": None}
    )
    told = measured(run, rows_changed=5, rows_walked=10).to_json()
    assert ", ".join(told) == (
        "run, name, target, phase, state, wish, rows_done, rows_total, percent, rows_per_second, eta_seconds, lanes, width, "
        "hold_reason, residual_rows, verified, quarantined, errors, hot_update_ratio, created_at, updated_at, "
        "rollback, after_contract, application, own_values, rows_moved, journal_bytes, policies, load, behind, behind_seconds"
    )
    assert json.loads(json.dumps(told)) == {
        "run": 7,
        "name": "jobs",
        "target": "default",
        "phase": "backfill",
        "state": "pausing",
        "wish": "pause",
        "rows_done": 5,
        "rows_total": 1000,
        "percent": 1.0,
        "rows_per_second": 0.0,
        "eta_seconds": None,
        "lanes": 2,
        "width": 3,
        "hold_reason": None,
        "residual_rows": None,
        "verified": False,
        "quarantined": 0,
        "errors": [{"class": "fatal", "sqlstate": None, "message": "boom"}],
        "hot_update_ratio": None,
        "created_at": "2026-05-04T11:00:00+00:00",
        "updated_at": "2026-05-04T12:00:00+00:00",
        "rollback": None,
        "after_contract": [],
        "application": None,
        "own_values": None,
        "rows_moved": None,
        "journal_bytes": None,
        "policies": [],
        "load": None,
        "behind": None,
        "behind_seconds": None,
    }
    assert tuple(told) == KEYS


@pytest.mark.parametrize(
    ("phase", "total", "walked", "lanes_open", "percent"),
    [
        pytest.param(Phase.EXPAND, None, 0, 0, 0.0, id="nothing is known yet"),
        pytest.param(Phase.BACKFILL, 1000, 0, 2, 0.0, id="nothing is done"),
        pytest.param(Phase.BACKFILL, 1000, 452, 2, 45.2, id="under way"),
        pytest.param(Phase.BACKFILL, 3000, 1000, 2, 33.3, id="rounded"),
        pytest.param(Phase.BACKFILL, 100_000, 99_999, 1, 99.9, id="rounded down: not done is not 100"),
        pytest.param(Phase.BACKFILL, 1000, 1400, 1, 99.9, id="more rows than estimated, and not at the end"),
        pytest.param(Phase.BACKFILL, 1000, 1400, 0, 100.0, id="more rows than estimated, at the end"),
        pytest.param(Phase.BACKFILL, 0, 0, 0, 100.0, id="an empty table"),
        pytest.param(Phase.VERIFY, 1000, 900, 2, 100.0, id="the walk is over, rows were deleted meanwhile"),
        pytest.param(Phase.DONE, None, 0, 0, 100.0, id="nothing was to be walked"),
    ],
)
def test_percent_is_of_the_walk_and_100_only_at_its_end(
    phase: Phase, total: int | None, walked: int, lanes_open: int, percent: float
) -> None:
    run = replace(RUN, phase=phase, rows_total=total)
    assert measured(run, rows_walked=walked, lanes_open=lanes_open).percent == percent


@pytest.mark.parametrize(
    ("recent", "still_seconds", "rate"),
    [
        pytest.param([], 0, 0.0, id="no lanes"),
        pytest.param([[]], 0, 0.0, id="a lane without a batch"),
        pytest.param([timings(batches=10, rows=500, seconds=0.5)], 0, 1000.0, id="one lane"),
        pytest.param([timings(batches=4, rows=500, seconds=0.5)] * 3, 0, 3000.0, id="three lanes add up"),
        pytest.param([timings(batches=10, rows=500, seconds=0.5)], 5, 500.0, id="a lull counts as time"),
        pytest.param([timings(batches=10, rows=500, seconds=0.5)], 11, 0.0, id="nothing moved for ten seconds"),
        pytest.param([timings(batches=2, rows=3000, seconds=30)], 15, 80.0, id="long batches are not a standstill"),
        pytest.param([timings(batches=2, rows=3000, seconds=30)], 61, 0.0, id="longer than two long batches is"),
        pytest.param(
            [
                timings(batches=2, rows=500, seconds=0.5),
                timings(batches=2, rows=500, seconds=0.5, ended=WORKERS_NOW - 9),
            ],
            0,
            1100.0,
            id="a lane that lags behind counts for less",
        ),
    ],
)
def test_rows_per_second_is_recent_rows_over_the_time_since_they_began(
    recent: list[list[list[float]]], still_seconds: float, rate: float
) -> None:
    moved_at = NOW - timedelta(seconds=still_seconds)
    assert measured(recent=recent, progressed_at=moved_at).rows_per_second == rate


@pytest.mark.parametrize("state", [State.PAUSED, State.FAILED, State.WAITING, State.COMPLETED, State.CANCELLED])
def test_a_run_at_rest_has_no_rate(state: State) -> None:
    error = {"class": "fatal", "message": "boom"}
    now = measured(replace(RUN, state=state, error=error), recent=[timings(batches=10, rows=500, seconds=0.5)])
    assert (now.rows_per_second, now.eta_seconds) == (0.0, None)


@pytest.mark.parametrize(
    ("phase", "walk", "eta"),
    [
        (Phase.BACKFILL, {"rows_walked": 400}, 6),
        (Phase.BACKFILL, {"rows_walked": 999}, 1),
        (Phase.BACKFILL, {"rows_walked": 1000}, None),
        (Phase.BACKFILL, {"rows_walked": 1200}, None),
        (Phase.BACKFILL, {"rows_walked": 400, "recent": []}, None),
        (Phase.VERIFY, {"rows_walked": 1000, "rows_verified": 500}, 5),
        (Phase.EXPAND, {}, None),
        (Phase.SWITCH, {}, None),
        (Phase.CONTRACT, {}, None),
    ],
)
def test_eta_is_the_rest_of_the_present_walk(phase: Phase, walk: dict[str, Any], eta: int | None) -> None:
    walk = {"recent": [timings(batches=10, rows=10, seconds=0.1)], **walk}
    assert measured(replace(RUN, phase=phase), **walk).eta_seconds == eta


def test_a_pause_does_not_count_as_slow_work() -> None:
    """Ten batches before an hour's pause, one after it: the rate is that of the one."""
    before = timings(batches=10, rows=500, seconds=0.5, ended=WORKERS_NOW - 3600)
    after = timings(batches=1, rows=500, seconds=0.5)
    resumed = replace(RUN, state_since=NOW - timedelta(seconds=2))
    assert measured(resumed, recent=[[*before, *after]], rows_walked=500).eta_seconds == 1
    just_resumed = replace(RUN, state_since=NOW)
    known = measured(just_resumed, recent=[before], progressed_at=NOW - timedelta(hours=1), rows_walked=500)
    assert (known.rows_per_second, known.eta_seconds) == (0.0, None), "nothing is known of it yet"


@pytest.mark.parametrize(
    ("run", "walk", "percent", "eta"),
    [
        (
            replace(RUN, phase=Phase.CONTRACT),
            {"old_values_kind": "archive", "old_values_walked": 400, "old_values_total": 1000},
            40.0,
            6,
        ),
        (
            replace(RUN, state=State.ROLLING_BACK, rollback=Rollback(requested=True)),
            {"old_values_kind": "undo", "old_values_walked": 999, "old_values_total": 1000, "rows_walked": 1000},
            99.9,
            1,
        ),
        (
            replace(RUN, state=State.ROLLING_BACK, phase=Phase.CONTRACT, rollback=Rollback(requested=True)),
            {"old_values_kind": "archive", "old_values_walked": 1400, "old_values_total": 1000},
            99.9,
            None,
        ),
        (replace(RUN, state=State.ROLLING_BACK, rollback=Rollback(requested=True)), {"rows_walked": 1000}, 0.0, None),
        (replace(RUN, state=State.ROLLING_BACK, rollback=Rollback(requested=True)), {"lanes_back_done": 2}, 99.9, None),
        (replace(RUN, state=State.ROLLED_BACK, rollback=Rollback(requested=True)), {"rows_walked": 993}, 100.0, None),
    ],
    ids=["contract archives", "going back", "more than estimated", "before the walk back", "after it", "rolled back"],
)
def test_an_archive_and_the_way_back_have_a_progress_and_a_time_left(
    run: Run, walk: dict[str, Any], percent: float, eta: int | None
) -> None:
    recent = [timings(batches=10, rows=10, seconds=0.1)]
    now = measured(run, recent=recent, **walk)
    assert (now.percent, now.eta_seconds) == (percent, eta)


BEGUN = Reached(phase=Phase.SWITCH, steps=0, pass_=1)


@pytest.mark.parametrize(
    ("rollback", "verified"),
    [(Rollback(), True), (Rollback(requested=True), False), (Rollback(requested=True, begun=BEGUN), False)],
)
def test_a_run_that_is_taken_back_is_not_verified(rollback: Rollback, verified: bool) -> None:  # noqa: FBT001 - a case
    assert measured(replace(RUN, phase=Phase.CONTRACT, verified_at=NOW, rollback=rollback)).verified is verified


APPROVAL = "waiting for approval of contract: backfilld approve jobs --phase contract"
BLOCKED = [{"lane": 2, "class": "transient", "sqlstate": "40P01", "message": "deadlock"}]
BLOCKED_CONDUCTOR = [*BLOCKED, {"lane": 0, "class": "transient", "sqlstate": "55P03", "message": "blocked by 4711"}]


@pytest.mark.parametrize(
    ("state", "hold", "age", "errors", "reason"),
    [
        (State.RUNNING, None, 1.0, [], None),
        (State.RUNNING, "replica lag 4.2 s", 1.0, BLOCKED, "replica lag 4.2 s"),
        (State.RUNNING, "replica lag 4.2 s", 17.0, [], "no load reading for 17 s: is a worker running?"),
        (State.RUNNING, None, 15.0, [], None),
        (State.RUNNING, None, 17.2, BLOCKED, "no load reading for 17 s: is a worker running?"),
        (State.RUNNING, None, None, [], "no load reading yet: is a worker running?"),
        (State.QUEUED, None, None, [], "no load reading yet: is a worker running?"),
        (State.RUNNING, None, 1.0, BLOCKED, "deadlock"),
        (State.RUNNING, None, 1.0, BLOCKED_CONDUCTOR, "blocked by 4711"),
        (State.WAITING, None, 1.0, [], APPROVAL),
        (State.WAITING, "replica lag 4.2 s", None, [], APPROVAL),
        (State.PAUSED, "replica lag 4.2 s", None, BLOCKED, None),
        (State.COMPLETED, "replica lag 4.2 s", None, [], None),
    ],
)
def test_hold_reason_is_what_a_person_has_to_know_first(
    state: State, hold: str | None, age: float | None, errors: list[dict[str, Any]], reason: str | None
) -> None:
    phase = Phase.CONTRACT if state is State.WAITING else RUN.phase
    pace = replace(PACE, hold_reason=hold, age_seconds=age)
    assert measured(replace(RUN, state=state, phase=phase), pace, errors=errors).hold_reason == reason


STOP = Stop(at=EARLIER, by="ann@laptop")
AT_NIGHT = {**RUN.settings_json, "windows": ["daily 01:00-05:00 Europe/Berlin"]}
SHUT = "outside its window; opens Tue 01:00 Europe/Berlin"


@pytest.mark.parametrize(
    ("state", "stop", "reason"),
    [
        (State.RUNNING, STOP, "stopped for all runs by ann@laptop at 2026-05-04 11:00 UTC: backfilld resume --all"),
        (State.QUEUED, STOP, STOP.reason),
        (State.RUNNING, None, SHUT),
        (State.QUEUED, None, SHUT),
        (State.PAUSED, STOP, None),
    ],
)
def test_a_stop_of_all_runs_is_told_before_a_window_and_both_before_the_load(
    state: State, stop: Stop | None, reason: str | None
) -> None:
    """Whether or not a lane has tried since."""
    held, run = replace(PACE, hold_reason="replica lag 4.2 s"), replace(RUN, state=state, settings_json=AT_NIGHT)
    assert measure(run, WALK, held, now=NOW, stop=stop).hold_reason == reason


def test_the_errors_of_the_run_come_before_those_of_its_lanes_and_keep_what_else_is_known() -> None:
    error = {"message": "no such function", "sqlstate": "42883", "class": "fatal", "statement": "UPDATE jobs"}
    errors = measured(replace(RUN, state=State.FAILED, error=error), errors=BLOCKED).errors
    assert list(errors) == [error, BLOCKED[0]]
    assert [list(one) for one in errors] == [
        ["class", "sqlstate", "message", "statement"],
        ["lane", "class", "sqlstate", "message"],
    ]


def test_what_lanes_stumbled_over_is_not_an_error_of_a_run_that_ended() -> None:
    assert measured(replace(RUN, state=State.COMPLETED), errors=BLOCKED).errors == ()


@pytest.mark.parametrize(
    ("changed", "hot", "ratio"), [(0, None, None), (0, 0, None), (10, None, None), (200, 150, 0.75), (3, 1, 0.3333)]
)
def test_hot_update_ratio_is_of_the_rows_that_were_changed(changed: int, hot: int | None, ratio: float | None) -> None:
    now = measured(rows_hot=hot, rows_changed_counted=changed)
    assert now.hot_update_ratio == ratio
    assert now.rows_moved == (None if ratio is None or hot is None else changed - hot)


@pytest.mark.parametrize(
    ("moved_at", "updated_at"),
    [(None, EARLIER), (EARLIER - timedelta(minutes=1), EARLIER), (NOW, NOW)],
)
def test_updated_at_is_the_last_change_of_state_or_the_last_batch(
    moved_at: datetime | None, updated_at: datetime
) -> None:
    assert measured(progressed_at=moved_at).updated_at == updated_at
