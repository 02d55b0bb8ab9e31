"""The table of transitions: what may follow what."""

from __future__ import annotations

import pytest

from backfilld.migrations.record.states import ACTIVE, ENDED, RESTING, STOPPING, TRANSITIONS, Phase, State, allowed


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize("state", State)
def test_a_run_ends_for_good_or_can_get_to_an_end(state: State) -> None:
    reached, new = {state}, {state}
    while new:
        new = {after for before in new for after in TRANSITIONS[before]} - reached
        reached |= new
    ways_on = TRANSITIONS[state] - {State.ROLLING_BACK}
    assert bool(ways_on) is (state not in ENDED)
    assert reached & ENDED
    assert not allowed(state, state)


def test_states_are_active_stopping_or_resting_and_never_two_of_them() -> None:
    groups = [ACTIVE, STOPPING, RESTING]
    assert set().union(*groups) == set(State)
    assert sum(len(group) for group in groups) == len(State)


def test_only_a_running_run_completes() -> None:
    assert {before for before in State if allowed(before, State.COMPLETED)} == {State.RUNNING}


def test_a_stop_is_a_wish_before_it_is_a_fact() -> None:
    assert {before for before in State if allowed(before, State.CANCELLED)} == {State.CANCELLING}
    assert {before for before in State if allowed(before, State.PAUSED)} == {State.PAUSING, State.RUNNING, State.QUEUED}


def test_whatever_is_not_over_can_be_cancelled() -> None:
    for state in set(State) - ENDED - {State.CANCELLING, State.ROLLING_BACK}:
        assert allowed(state, State.CANCELLING)


def test_phases_follow_each_other() -> None:
    order = [Phase.EXPAND]
    while order[-1] is not order[-1].next:
        order.append(order[-1].next)
    assert order == list(Phase)
    assert Phase.SWITCH.is_past(Phase.VERIFY)
    assert not Phase.VERIFY.is_past(Phase.VERIFY)
