"""What a run waits for, case by case, each with the command that would let it continue; the words are in golden/explain.txt."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fix_progress import RUNNING

from backfilld.migrations.application.checked import Checked, Kind, Moment, Told
from backfilld.migrations.holds import Cause, Hold
from backfilld.migrations.policies.results import Counted
from backfilld.migrations.record.lanes import Waiting
from backfilld.migrations.record.model import Pace
from backfilld.migrations.record.states import LaneKind, Phase, State
from backfilld.migrations.settings import Limits
from backfilld.monitoring.after_contract import AfterContract
from backfilld.monitoring.explain import explain
from backfilld.monitoring.explain.facts import ASKED, Facts
from backfilld.monitoring.explain.load import AGAINST
from backfilld.monitoring.pace import Signal
from backfilld.monitoring.policies import Unexpected
from backfilld.monitoring.progress import OldValuesWalk, Progress

if TYPE_CHECKING:
    from fix_golden import Golden

    from backfilld.monitoring.explain.explanation import Explanation

RUN = replace(
    RUNNING, name="jobs", width=4, hot_update_ratio=None, state_seconds=200.0, phase_seconds=180.0, max_quarantined=100
)
PACE = Pace(width=4, max_width=8, hold_reason=None, age_seconds=0.5)
LAG = Signal(name="replica_lag_seconds", value=41.0, soft=5.0, hard=30.0, detail="walreceiver is 41.0 s behind")
SLOTS = Signal(name="slot_retained_bytes", value=9 * 2.0**30, soft=2.0**30, hard=8 * 2.0**30)
BLOCKER = {"pid": 4711, "application_name": "psql", "state": "idle in transaction", "seconds": 73.0, "query": "UPDATE"}
PREPARED = {"pid": None, "application_name": "order-17"}
HELD_BY_LOAD = replace(PACE, hold_reason="replica lag 41 s", hold_signal="replica_lag_seconds", held_seconds=40.0)


def told(run: Progress = RUN, **facts: Any) -> Explanation:
    """Any: whatever a fact is."""
    known: dict[str, Any] = {
        "pace": PACE,
        "signals": (),
        "waiting": Waiting(lanes=0, seconds=0.0),
        "working_sessions": 4,
        "asked_by": None,
    }
    return explain(Facts(run=run, **{**known, **facts}))


def held(cause: Cause, reason: str, **known: Any) -> Progress:
    return replace(RUN, hold=Hold(cause=cause, reason=reason, seconds=40.0), hold_reason=reason, **known)


def stopped(state: State, error: dict[str, Any], **known: Any) -> Progress:
    """A run that stopped by itself. Any: JSON."""
    return replace(RUN, state=state, errors=(error,), error_class=error["class"], **known)


#: A check of the application with something to hold contract for, and something else.
APPLICATION = Checked.of(
    Moment.AFTER_SWITCH,
    [
        Told(
            kind=Kind.REGRESSION,
            problem="it reads 650 pages, and read 4 before",
            remedy="Switch back, which loses nothing: backfilld rollback jobs",
            statement="SELECT id FROM jobs WHERE status = $1",
            plan_before="Index Scan jobs by jobs_status_idx",
            plan_after="Seq Scan jobs",
        ),
        Told(kind=Kind.UNKNOWN, problem="pg_stat_statements is not installed", remedy="Install it"),
        Told(kind=Kind.UNCHECKED, problem="it is in PL/pgSQL", source="function public.f()"),
    ],
    statements=12,
).to_json()

CASES: dict[str, Explanation] = {
    "at work": told(),
    "queued": told(replace(RUN, state=State.QUEUED)),
    "held by a stop": told(held(Cause.STOP, "stopped for all runs by ann")),
    "held by another run": told(
        held(Cause.AFTER, "it begins after jobs-new-field, which is running in phase backfill")
    ),
    "held by its window": told(held(Cause.WINDOW, "outside its window; opens Tue 01:00 UTC")),
    "held without a reading": told(held(Cause.BLIND, "no load reading yet: is a worker running?")),
    "held by an index": told(held(Cause.INDEX, "the index waits for pid 12")),
    "held as nobody works": told(held(Cause.WORKERS, "no worker is running for this database")),
    "held by a backup": told(held(Cause.BACKUP, "takes a backup of jobs (12 MB) before it begins; it must be proved")),
    "held by a backup that fails": told(held(Cause.BACKUP, "has no backup, and tries again in 15 s: store west: away")),
    "held by the application": told(
        held(
            Cause.APPLICATION,
            "it fails after contract: SELECT total FROM jobs",
            phase=Phase.CONTRACT,
            application=APPLICATION,
        )
    ),
    "waiting for an approval with findings": told(
        replace(RUN, state=State.WAITING, phase=Phase.CONTRACT, verified=True, application=APPLICATION)
    ),
    "held by an error": told(held(Cause.ERROR, "deadlock detected")),
    "held by the load": told(held(Cause.LOAD, "replica lag 41 s, limit 30 s"), pace=HELD_BY_LOAD, signals=(LAG, SLOTS)),
    "held by a signal that cannot be read": told(
        held(Cause.LOAD, "queue cannot be read"), signals=(replace(LAG, value=None, detail="no answer within 2 s"),)
    ),
    "held by a lock": told(
        held(Cause.LOCK, "waiting for the lock on public.jobs", errors=({"message": "w", "blockers": [BLOCKER]},))
    ),
    "held by a prepared transaction": told(
        held(Cause.LOCK, "waiting for the lock on public.jobs", errors=({"message": "w", "blockers": [PREPARED]},))
    ),
    "held by an approval": told(held(Cause.APPROVAL, "waiting for approval of backfill")),
    "slowed": told(signals=(replace(LAG, value=8.0),), pace=replace(PACE, width=1)),
    "held by a lost connection": told(
        held(
            Cause.ERROR, "the connection was lost 2.0 s into the step: server closed", errors=({"class": "connection"},)
        )
    ),
    "slowed by what a batch costs": told(batch_fixed_seconds=0.062, batch_target_seconds=0.1),
    "not slowed by it": told(batch_fixed_seconds=0.02, batch_target_seconds=0.1),
    "not taken": told(waiting=Waiting(lanes=1, seconds=42.0), working_sessions=0),
    "not moving": told(replace(RUN, progress_age_seconds=300.0), working_sessions=0),
    "waiting for approval": told(replace(RUN, state=State.WAITING, phase=Phase.CONTRACT, verified=True)),
    "waiting for an approval that makes statements fail": told(
        replace(
            RUN,
            state=State.WAITING,
            phase=Phase.CONTRACT,
            verified=True,
            after_contract=(
                AfterContract(operation=0, fails="an INSERT that leaves out jobs.total_eur fails", last_seconds=3.2),
                AfterContract(operation=1, fails="a statement that names jobs.total fails"),
            ),
        )
    ),
    "waiting, with policies that do more than is expected": told(
        replace(
            RUN,
            state=State.WAITING,
            phase=Phase.SWITCH,
            verified=True,
            policies=(
                Unexpected(
                    operation=0,
                    said="ann sees 12 rows that it could not before",
                    counted=Counted(
                        phase=Phase.SWITCH,
                        relation="jobs",
                        persona="ann",
                        command="select",
                        gained=12,
                        gained_keys=(("7", "a"), ("9", "b")),
                    ),
                ),
            ),
        )
    ),
    "pausing": told(replace(RUN, state=State.PAUSING), asked_by="ann@laptop", working_sessions=1),
    "cancelling": told(replace(RUN, state=State.CANCELLING, state_seconds=0.7), asked_by="ann@laptop"),
    "paused by a person": told(
        replace(RUN, state=State.PAUSED, errors=({"class": "transient", "message": "deadlock"},)), asked_by="ann@laptop"
    ),
    "paused by quarantined rows": told(stopped(State.PAUSED, {"class": "quarantine", "message": "101 rows"})),
    "paused by quarantined rows at the end": told(
        stopped(State.PAUSED, {"class": "quarantine", "message": "2 rows"}, phase=Phase.VERIFY, quarantined=2)
    ),
    "paused by a rule": told(stopped(State.PAUSED, {"class": "violated", "message": "rows break it"})),
    "paused by blockers": told(stopped(State.PAUSED, {"class": "blocked", "message": "waited", "blockers": [BLOCKER]})),
    "paused by what is left": told(stopped(State.PAUSED, {"class": "residual", "message": "8 rows still need work"})),
    "failed": told(
        stopped(State.FAILED, {"class": "fatal", "sqlstate": "42883", "message": "no function f.", "lane": 2})
    ),
    "rolling back": told(
        replace(
            RUN,
            state=State.ROLLING_BACK,
            percent=40.0,
            old_values_walk=OldValuesWalk(kind=LaneKind.UNDO, rows_walked=400, rows_total=1000),
        )
    ),
    "completed": told(replace(RUN, state=State.COMPLETED, phase=Phase.DONE)),
    "completed, and the application is slower": told(
        replace(RUN, state=State.COMPLETED, phase=Phase.DONE, verified=True, application=APPLICATION)
    ),
    "completed, with lines set aside": told(
        replace(RUN, state=State.COMPLETED, phase=Phase.DONE, load={"lines": 9, "set_aside": 3})
    ),
    "cancelled": told(replace(RUN, state=State.CANCELLED), asked_by="ann@laptop"),
    "rolled back": told(replace(RUN, state=State.ROLLED_BACK), asked_by="ann@laptop"),
    "with rows to look at": told(replace(RUN, quarantined=1, rollback_conflicts=2)),
}

#: What a person can type in each case.
COMMANDS = {
    "held by a stop": {"resume --all"},
    "held by its window": {"pace jobs --any-time"},
    "held without a reading": {"worker"},
    "held as nobody works": {"worker"},
    "held by a backup": {"backup list"},
    "held by a backup that fails": {"backup list"},
    "held by an error": {"events jobs"},
    "held by a lost connection": {"events jobs"},
    "slowed by what a batch costs": {"pace jobs --batch-seconds 0.7"},
    "held by the load": {"pace"},
    "held by a signal that cannot be read": {"pace"},
    "held by a lock": {"pace jobs --cancel-blockers idle"},
    "held by a prepared transaction": {"pace jobs --cancel-blockers idle"},
    "held by an approval": {"approve jobs --phase backfill", "rollback jobs"},
    "not taken": {"worker"},
    "not moving": {"events jobs"},
    "waiting for approval": {"approve jobs --phase contract", "rollback jobs"},
    "waiting for an approval that makes statements fail": {
        "approve jobs --phase contract",
        "approve jobs --phase contract --yes",
        "rollback jobs",
    },
    "waiting, with policies that do more than is expected": {"approve jobs --phase switch", "rollback jobs"},
    "waiting for an approval with findings": {
        "approve jobs --phase contract",
        "approve jobs --phase contract --yes",
        "rollback jobs",
    },
    "held by the application": {"approve jobs --phase contract --yes", "rollback jobs"},
    "pausing": {"worker"},
    "paused by a person": {"resume jobs"},
    "paused by quarantined rows": {
        "quarantine list jobs",
        "quarantine retry jobs",
        "pace jobs --max-quarantined 200",
        "resume jobs",
        "rollback jobs",
    },
    # Nothing else is left to do there, so neither more of them nor a resume would help.
    "paused by quarantined rows at the end": {"quarantine list jobs", "quarantine retry jobs", "rollback jobs"},
    "paused by a rule": {"resume jobs", "rollback jobs"},
    "paused by blockers": {"pace jobs --cancel-blockers idle", "resume jobs", "rollback jobs"},
    "paused by what is left": {"resume jobs", "rollback jobs"},
    "failed": {"resume jobs", "rollback jobs", "events jobs"},
    "completed": {"status jobs"},
    "completed, and the application is slower": {"status jobs"},
    "completed, with lines set aside": {"status jobs", "quarantine export jobs --format csv > fix.csv"},
    "cancelled": {"rollback jobs"},
    "with rows to look at": {"quarantine list jobs", "quarantine retry jobs", "status jobs"},
}


def commands(explanation: Explanation) -> set[str]:
    return {found for one in explanation.remedies for found in re.findall(r"backfilld ([a-z].*)$", one)}


@pytest.mark.parametrize("case", CASES)
def test_each_case_has_the_commands_that_help(case: str) -> None:
    assert commands(CASES[case]) == COMMANDS.get(case, set())


def test_the_words_are_those_of_the_golden_file(golden: Golden) -> None:
    shown = {case: [*found.sentences, *(f"> {one}" for one in found.remedies)] for case, found in CASES.items()}
    assert golden.holds_cases("explain.txt", shown), "look at what `pytest --write-golden` writes, and commit it"


def test_every_state_and_every_cause_has_a_case() -> None:
    seen = {found.cause for found in CASES.values()}
    assert seen == {None, *Cause}
    assert {*COMMANDS} <= {*CASES}
    states = {State.RUNNING, *(State(case.replace(" ", "_")) for case in CASES if case.replace(" ", "_") in set(State))}
    others = {State.WAITING, State.PAUSED}  # these have cases of other names
    assert states | others == set(State)


@pytest.mark.parametrize("case", ["pausing", "cancelling", "paused by a person", "cancelled", "rolled back"])
def test_the_person_who_asked_is_named_and_not_the_worker(case: str) -> None:
    assert "ann@laptop" in " ".join(CASES[case].sentences)


def test_who_asked_for_a_state_is_asked_of_the_event_of_the_wish() -> None:
    assert ASKED == {
        State.PAUSED: State.PAUSING,
        State.CANCELLED: State.CANCELLING,
        State.ROLLED_BACK: State.ROLLING_BACK,
    }


def test_a_hold_by_load_names_the_limit_in_the_units_of_the_signal() -> None:
    pace = replace(HELD_BY_LOAD, hold_signal="slot_retained_bytes")
    found = told(held(Cause.LOAD, "slot retained 9.0 GB, limit 8.0 GB"), pace=pace, signals=(SLOTS,))
    assert "8.0 GB" in found.remedies[0]
    assert AGAINST["slot_retained_bytes"] in found.remedies


@pytest.mark.parametrize(
    "blocker", [(BLOCKER, "SELECT pg_terminate_backend(4711)"), (PREPARED, "ROLLBACK PREPARED 'order-17'")]
)
def test_a_blocker_is_named_with_the_statement_that_ends_it(blocker: tuple[dict[str, Any], str]) -> None:
    known, statement = blocker
    run = held(Cause.LOCK, "waiting for the lock", errors=({"message": "w", "blockers": [known]},))
    assert any(one.endswith(statement) for one in told(run).remedies)


def test_one_of_anything_is_not_several() -> None:
    shown = " ".join(one for found in CASES.values() for one in (*found.sentences, *found.remedies))
    assert not re.search(r"\b1 (lanes|rows|batches|sessions|steps)\b", shown)


def test_a_worker_at_work_is_no_reason_to_start_one() -> None:
    assert told(waiting=Waiting(lanes=3, seconds=42.0), working_sessions=1).remedies == ()


def test_what_was_left_aside_is_not_told_of_a_run_that_ended() -> None:
    run = replace(RUN, state=State.COMPLETED, quarantined=1, rollback_conflicts=2)
    assert commands(told(run)) == {"status jobs"}


def test_there_is_advice_for_every_signal() -> None:
    assert set(AGAINST) == set(Limits.model_fields)


def test_the_json_has_the_documented_keys() -> None:
    found = told(held(Cause.BLIND, "no reading"))
    assert found.to_json() == {
        "run": 12,
        "name": "jobs",
        "cause": "blind",
        "sentences": list(found.sentences),
        "remedies": list(found.remedies),
    }
