"""What a run waits for, in words: case by case, each with what would let it go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fix_progress import AT, RUNNING

from backfilld.migrations.holds import Cause, Hold
from backfilld.migrations.record.lanes import Waiting
from backfilld.migrations.record.model import Pace
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.settings import Limits
from backfilld.monitoring.explain import AGAINST, Explanation, Facts, explain
from backfilld.monitoring.pace import Signal
from backfilld.monitoring.progress import Progress

RUN = replace(
    RUNNING, name="jobs", width=4, hot_update_ratio=None, state_seconds=200.0, phase_seconds=180.0, max_quarantined=100
)
PACE = Pace(width=4, max_width=8, hold_reason=None, age_seconds=0.5)
LAG = Signal(name="replica_lag_seconds", value=41.0, soft=5.0, hard=30.0, detail="walreceiver is 41.0 s behind")
BLOCKER = {"pid": 4711, "application_name": "psql", "state": "idle in transaction", "seconds": 73.0, "query": "UPDATE"}
BY_ANN = {"at": AT, "actor": "ann@laptop", "detail": {}}


def told(run: Progress = RUN, **facts: Any) -> Explanation:
    """Any: whatever a fact is."""
    known: dict[str, Any] = {
        "pace": PACE,
        "signals": (),
        "waiting": Waiting(lanes=0, seconds=0.0),
        "working_sessions": 4,
        "since": None,
    }
    return explain(Facts(run=run, **{**known, **facts}))


def held(cause: Cause, reason: str, seconds: float = 40.0) -> Progress:
    return replace(RUN, hold=Hold(cause=cause, reason=reason, seconds=seconds), hold_reason=reason)


def says(explanation: Explanation, *parts: str) -> bool:
    text = " ".join([*explanation.sentences, *explanation.remedies])
    return all(part in text for part in parts)


def test_a_run_at_work_needs_nobody() -> None:
    explanation = told()
    assert explanation.sentences == (
        "It is in phase backfill, for 3 min 00 s, 45.2 % done.",
        "Nothing holds it: 12,346 rows/s, about 44 s left.",
    )
    assert explanation.remedies == ()
    assert explanation.cause is None


HELD = {
    Cause.STOP: ("stopped for all runs by ann", ("backfilld resume --all",)),
    Cause.WINDOW: ("outside its window; opens Tue 01:00 UTC", ("by itself", "backfilld pace jobs --any-time")),
    Cause.BLIND: ("no load reading for 17 s", ("backfilld worker",)),
    Cause.INDEX: ("the index waits for pid 12", ("by itself",)),
    Cause.ERROR: ("deadlock detected", ("tries again by itself", "backfilld events jobs")),
    Cause.LOAD: ("replica lag 41, limit 30", ("40 s", "by itself", "backfilld pace")),
    Cause.LOCK: ("waiting for the lock on public.jobs", ("40 s so far", "by itself")),
    Cause.APPROVAL: ("waiting for approval of backfill", ("backfilld approve jobs --phase backfill",)),
}


@pytest.mark.parametrize("cause", Cause)
def test_each_cause_of_a_hold_is_told_with_its_reason_and_a_way_on(cause: Cause) -> None:
    reason, parts = HELD[cause]
    explanation = told(held(cause, reason))
    assert explanation.cause is cause
    assert cause is Cause.APPROVAL or says(explanation, reason)
    assert says(explanation, *parts)
    assert explanation.remedies


def test_a_hold_by_load_names_the_limit_below_which_work_goes_on_and_what_helps() -> None:
    pace = replace(PACE, hold_reason="replica lag 41, limit 30", hold_signal="replica_lag_seconds", held_seconds=40.0)
    explanation = told(held(Cause.LOAD, "replica lag 41, limit 30"), pace=pace, signals=(LAG,))
    assert "it goes on by itself once it is below 30" in explanation.remedies
    assert AGAINST["replica_lag_seconds"] in explanation.remedies


def test_a_signal_that_cannot_be_read_is_told_with_its_reason() -> None:
    blind = replace(LAG, value=None, detail="no answer within 2 s")
    explanation = told(held(Cause.LOAD, "queue cannot be read"), signals=(blind,))
    assert says(explanation, "Replica lag seconds cannot be read: no answer within 2 s.")


def test_whoever_is_in_the_way_of_a_lock_is_named_with_the_statement_that_ends_him() -> None:
    run = replace(held(Cause.LOCK, "waiting for the lock"), errors=({"message": "w", "blockers": [BLOCKER]},))
    assert says(told(run), "SELECT pg_terminate_backend(4711)", "--cancel-blockers idle")


def test_a_prepared_transaction_in_the_way_is_ended_by_its_name() -> None:
    blocker = {"pid": None, "application_name": "order-17"}
    run = replace(held(Cause.LOCK, "waiting for the lock"), errors=({"message": "w", "blockers": [blocker]},))
    assert says(told(run), "ROLLBACK PREPARED 'order-17'")


def test_what_slows_a_run_is_told_though_it_is_not_held() -> None:
    slow = replace(LAG, value=8.0)
    explanation = told(signals=(slow,), pace=replace(PACE, width=2))
    assert says(explanation, "Nothing holds it", "Replica lag seconds slows it down: 8", "2 lanes may work at once")


def test_lanes_that_nobody_takes_are_the_workers_fault() -> None:
    explanation = told(waiting=Waiting(lanes=3, seconds=42.0), working_sessions=0)
    assert says(explanation, "3 lanes have been due for up to 42 s, and no worker takes them", "backfilld worker")
    assert says(told(waiting=Waiting(lanes=3, seconds=42.0), working_sessions=1), "Nothing holds it")


def test_a_run_that_stands_still_without_a_reason_says_so() -> None:
    still = replace(RUN, progress_age_seconds=300.0)
    assert says(told(still, working_sessions=0), "no batch has committed for 5 min 00 s", "backfilld events jobs")


@pytest.mark.parametrize(
    ("run", "parts"),
    [
        (replace(RUN, state=State.QUEUED), ("enqueued 3 min 20 s ago", "no worker has taken")),
        (replace(RUN, state=State.ROLLING_BACK), ("being rolled back",)),
        (
            replace(RUN, state=State.WAITING, phase=Phase.CONTRACT, verified=True),
            ("Contract waits", "is verified", "backfilld approve jobs --phase contract", "backfilld rollback jobs"),
        ),
        (replace(RUN, state=State.PAUSING), ("It is pausing", "4 batches or steps are in flight", "backfilld worker")),
        (replace(RUN, state=State.CANCELLING, state_seconds=1.0), ("It is being cancelled",)),
        (replace(RUN, state=State.PAUSED), ("It was paused by ann@laptop, 3 min 20 s ago", "backfilld resume jobs")),
        (
            replace(RUN, state=State.PAUSED, errors=({"class": "quarantine", "message": "too many rows"},)),
            (
                "paused itself",
                "too many rows",
                "backfilld quarantine retry jobs",
                "--max-quarantined 200",
                "resume jobs",
            ),
        ),
        (
            replace(RUN, state=State.PAUSED, errors=({"class": "violated", "message": "rows break it"},)),
            ("mend the rows", "backfilld resume jobs"),
        ),
        (
            replace(
                RUN, state=State.PAUSED, errors=({"class": "blocked", "message": "waited", "blockers": [BLOCKER]},)
            ),
            ("waited", "pg_terminate_backend(4711)", "backfilld resume jobs"),
        ),
        (
            replace(
                RUN,
                state=State.FAILED,
                errors=({"class": "fatal", "sqlstate": "42883", "message": "no function f.", "lane": 2},),
            ),
            ("failed", "in lane 2", "no function f (SQLSTATE 42883).", "Nothing is lost", "resume", "rollback"),
        ),
        (replace(RUN, state=State.COMPLETED, phase=Phase.DONE), ("It is completed", "backfilld status jobs")),
        (replace(RUN, state=State.CANCELLED), ("cancelled", "ann@laptop", "backfilld rollback jobs")),
        (replace(RUN, state=State.ROLLED_BACK), ("rolled back", "ann@laptop")),
    ],
    ids=lambda value: str(value.state) if isinstance(value, Progress) else None,
)
def test_each_state_is_told(run: Progress, parts: tuple[str, ...]) -> None:
    assert says(told(run, since=BY_ANN), *parts)


def test_every_state_has_a_case_above() -> None:
    (mark,) = test_each_state_is_told.pytestmark  # type: ignore[attr-defined] # set by the decorator
    assert {case[0].state for case in mark.args[1]} | {State.RUNNING} == set(State)


def test_more_rows_are_not_allowed_where_nothing_else_is_left_to_do() -> None:
    run = replace(
        RUN,
        state=State.PAUSED,
        phase=Phase.VERIFY,
        errors=({"class": "quarantine", "message": "2 rows"},),
        quarantined=2,
    )
    assert says(told(run), "which lets it go on: backfilld quarantine retry jobs")
    assert not says(told(run), "--max-quarantined")
    assert not says(told(run), "backfilld resume")


def test_a_stop_that_is_a_second_old_needs_nobody() -> None:
    assert told(replace(RUN, state=State.PAUSING, state_seconds=0.7)).remedies == ()


def test_rows_that_are_set_aside_and_rows_that_do_not_fit_are_told() -> None:
    run = replace(RUN, quarantined=1, rollback_conflicts=2)
    assert says(told(run), "1 row is set aside", "more than 100", "backfilld quarantine list jobs", "2 rows do not fit")
    assert not says(told(replace(run, state=State.COMPLETED)), "set aside")


def test_there_is_advice_for_every_signal() -> None:
    assert set(AGAINST) == set(Limits.model_fields)


def test_the_json_has_the_documented_keys() -> None:
    assert told(held(Cause.BLIND, "no reading")).to_json() == {
        "run": 12,
        "name": "jobs",
        "cause": "blind",
        "sentences": [
            "It is in phase backfill, for 3 min 00 s, 45.2 % done.",
            "It is held: no reading. Without a reading of the load nothing works.",
        ],
        "remedies": [
            "start a worker, or look why the one there is cannot read (its log says loop.failed): backfilld worker"
        ],
    }
