"""Since when a run is in its state and in its phase: what is told of runs, and told again, goes by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.record import runs
from backfilld.migrations.record.states import Phase
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

TEXT = "name: jobs\noperations:\n  - backfill: {table: jobs, set: {n: '1'}, where: n IS NULL}\n"
OLD = "clock_timestamp() - {} > interval '30 minutes'"


def test_a_change_of_state_or_phase_begins_anew_and_the_same_again_does_not(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer)")
    run = engine.enqueue(TEXT)
    engine.execute(
        "UPDATE backfilld.runs SET state_since = state_since - interval '1 hour', phase_since = phase_since - interval '1 hour'"
    )

    def old(column: str) -> bool:
        return bool(engine.value(f"SELECT {OLD.format(column)} FROM backfilld.runs WHERE run = %s", run))

    commands.pause(engine.connection, run, actor="ann")
    assert (old("state_since"), old("phase_since")) == (False, True)

    runs.set_phase(engine.connection, run, Phase.EXPAND)
    assert old("phase_since"), "it is in that phase already"
    runs.set_phase(engine.connection, run, Phase.BACKFILL)
    assert not old("phase_since")
