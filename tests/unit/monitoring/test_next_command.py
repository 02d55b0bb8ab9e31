"""What to type next: in every state a command that helps, and none when all is over."""

from __future__ import annotations

import pytest

from backfilld.migrations.record.states import ACTIVE, ENDED, Phase, State
from backfilld.monitoring.next_command import for_rows_set_aside, next_command


@pytest.mark.parametrize(
    ("state", "phase", "error", "command"),
    [
        (State.QUEUED, Phase.EXPAND, None, "backfilld gate jobs --wait"),
        (State.RUNNING, Phase.SWITCH, None, "backfilld gate jobs --wait"),
        (State.RUNNING, Phase.CONTRACT, None, "backfilld gate jobs --phase contract --wait"),
        (State.WAITING, Phase.SWITCH, None, "backfilld approve jobs --phase switch"),
        (State.PAUSING, Phase.BACKFILL, None, "backfilld resume jobs"),
        (State.PAUSED, Phase.BACKFILL, None, "backfilld resume jobs"),
        (State.PAUSED, Phase.VERIFY, "quarantine", "backfilld quarantine list jobs"),
        (State.PAUSED, Phase.VERIFY, "residual", "backfilld explain jobs"),
        (State.FAILED, Phase.SWITCH, "fatal", "backfilld explain jobs"),
        (State.ROLLING_BACK, Phase.VERIFY, None, "backfilld rollback jobs --wait"),
        (State.ROLLED_BACK, Phase.EXPAND, None, ""),
        (State.COMPLETED, Phase.DONE, None, ""),
    ],
)
def test_the_next_command(state: State, phase: Phase, error: str | None, command: str) -> None:
    assert next_command("jobs", state, phase, error_class=error) == command


@pytest.mark.parametrize("state", list(State))
def test_without_a_worker_it_is_a_worker_that_is_needed_first(state: State) -> None:
    """Where a worker has something to do; a person's turn is a person's turn."""
    told = next_command("jobs", state, Phase.BACKFILL, has_worker=False)
    assert ("backfilld worker" in told) is (state in ACTIVE)


@pytest.mark.parametrize("state", [State.CANCELLING, State.CANCELLED])
def test_a_cancelled_run_may_be_taken_back(state: State) -> None:
    assert next_command("jobs", state, Phase.BACKFILL).startswith("backfilld rollback jobs")


@pytest.mark.parametrize("state", list(State))
def test_a_retry_is_named_only_where_it_is_accepted(state: State) -> None:
    """Lines of a load that has ended are fixed in a file."""
    told = for_rows_set_aside("jobs", state, of_load=True)
    assert ("quarantine retry jobs" in told, "quarantine export jobs" in told) == (state not in ENDED, state in ENDED)
    assert ("quarantine retry jobs" in for_rows_set_aside("jobs", state, of_load=False)) is (state not in ENDED)
