"""Rules that stand in Python and in SQL say the same."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING

import pytest

from backfilld.migrations.queries import queries
from backfilld.migrations.record import lanes, pulse, runs
from backfilld.migrations.record.model import Reached, Rollback
from backfilld.migrations.record.states import (
    ACTIVE,
    ENDED,
    STOPPING,
    LaneKind,
    Phase,
    State,
    StopReason,
    Wish,
    may_work,
    why_stop,
)

if TYPE_CHECKING:
    from enum import StrEnum

    from fix_runs import Engine


BEGUN = Rollback(requested=True, begun=Reached(phase=Phase.EXPAND, steps=0, pass_=1))
ROLLBACKS = {"forward": Rollback(), "pending": Rollback(requested=True), "begun": BEGUN}


@pytest.fixture
def run(engine: Engine) -> int:
    """A run that may be in any state without breaking a rule of its table."""
    return int(
        engine.value(
            "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by, phase, verified_at, rollback) "
            "VALUES ('any', 'c', '{}', '{\"lanes\": 1}', '[]', 'ann', 'done', now(), '{}') RETURNING run"
        )
    )


def test_which_lanes_may_work(engine: Engine) -> None:
    said = engine.execute(
        "SELECT s, p, k, backfilld.may_work(s, p, k) AS may FROM unnest(%s::text[]) s, unnest(%s::text[]) p, unnest(%s::text[]) k",
        list(State),
        list(Phase),
        list(LaneKind),
    )
    in_sql = {(row["s"], row["p"], row["k"]): row["may"] for row in said}
    assert in_sql == {one: may_work(*one) for one in product(State, Phase, LaneKind)}


@pytest.mark.parametrize(
    ("column", "names"), [("state", State), ("phase", Phase), ("wish", Wish), ("kind", LaneKind)], ids=str
)
def test_which_names_there_are(engine: Engine, column: str, names: type[StrEnum]) -> None:
    """The table's own constraint lists what Python has a name for, and nothing else."""
    text = engine.value(
        "SELECT pg_get_constraintdef(c.oid) FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid "
        "AND c.conkey = ARRAY[a.attnum] WHERE c.connamespace = 'backfilld'::regnamespace AND c.contype = 'c' AND a.attname = %s "
        "AND c.conrelid IN ('backfilld.runs'::regclass, 'backfilld.lanes'::regclass)",
        column,
    )
    assert set(re.findall(r"'(\w+)'", text)) == set(names)


def test_which_states_are_an_end(engine: Engine, run: int) -> None:
    for state in State:
        engine.connection.execute(
            queries("backfilld.migrations.record", "runs")["set_state"],
            {"run": run, "state": state, "wish": None, "error": "{}"},
        )
        assert engine.value("SELECT ended_at IS NOT NULL FROM backfilld.runs WHERE run = %s", run) == (state in ENDED)


def test_which_states_are_woken(engine: Engine, run: int) -> None:
    """A coordinator that is due is found in the states in which workers take steps."""
    engine.execute("INSERT INTO backfilld.lanes (run, lane, kind) VALUES (%s, 0, 'coordinator')", run)
    for state in State:
        set_to(engine, run, state, Rollback(requested=True))
        engine.hurry()
        assert bool(lanes.due(engine.connection, grace_seconds=0)) == (state in ACTIVE), state


@pytest.mark.parametrize("way", ROLLBACKS)
def test_which_runs_are_to_be_stopped(engine: Engine, run: int, way: str) -> None:
    for state in State:
        if state in {State.ROLLING_BACK, State.ROLLED_BACK} and way == "forward":
            continue  # `back_has_a_beginning`
        set_to(engine, run, state, ROLLBACKS[way])
        why = why_stop(state, rollback_pending=ROLLBACKS[way].pending, all_stopped=False)
        found = [row["run"] for row in pulse.stopping(engine.connection)]
        assert (found == [run]) == (why in {StopReason.ASKED, StopReason.TURNING_BACK}), state
        now = pulse.read(engine.connection)
        assert now.stopping == bool(found)
        assert now.at_work == (state in ACTIVE | STOPPING), state


def set_to(engine: Engine, run: int, state: State, rollback: Rollback) -> None:
    engine.execute(
        "UPDATE backfilld.runs SET state = %s, error = '{}', ended_at = CASE WHEN %s THEN now() END WHERE run = %s",
        state,
        state in ENDED,
        run,
    )
    if rollback.requested:
        runs.set_rollback(engine.connection, run, rollback)
    else:
        engine.execute("UPDATE backfilld.runs SET rollback = NULL WHERE run = %s", run)
