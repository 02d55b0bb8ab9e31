"""A table without a key: pages find its rows, the sync trigger gives those that are written their value, and nothing is set aside."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

ADD = """
name: loud
operations: [{add_column: {table: lines, column: {name: loud, type: integer}, backfill: "%s", not_null: %s}}]
settings: {approve: [contract], lanes: 2, walk: %s}
"""
ROWS = 4_000


@pytest.fixture(autouse=True)
def lines(engine: Engine) -> None:
    engine.execute("CREATE TABLE lines (at timestamptz DEFAULT now(), line text)")
    # Of each row there are four that are the same.
    engine.execute("INSERT INTO lines SELECT '2026-01-01Z', (n / 4)::text FROM generate_series(1, %s) n", ROWS)


def test_rows_that_move_and_come_meanwhile_are_filled_too(engine: Engine) -> None:
    chance = random.Random(3)
    run = engine.enqueue(ADD % ("line::integer * 2", "true", "auto"))
    engine.drive_to_lanes(run)
    state = State.RUNNING
    while state is State.RUNNING:
        engine.step(batch_rows=150)
        engine.execute("UPDATE lines SET line = (line::integer + 1)::text WHERE line = %s", str(chance.randrange(1000)))
        engine.execute("DELETE FROM lines WHERE line = %s", str(chance.randrange(1000)))
        engine.execute("INSERT INTO lines (line) SELECT n::text FROM generate_series(1, 3) n")
        state = engine.run(run).state
    expect(engine.run(run), State.WAITING)
    assert engine.run(run).verified_at is not None
    assert engine.value("SELECT count(*) FROM lines WHERE loud IS DISTINCT FROM line::integer * 2") == 0
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    again = engine.enqueue(ADD.replace("loud", "again") % ("line::integer * 3", "true", "pages"))
    engine.drive(again)
    commands.approve(engine.connection, again, "contract", actor="ann")
    expect(engine.drive(again), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM lines WHERE again IS DISTINCT FROM line::integer * 3") == 0


def test_a_row_that_cannot_be_computed_pauses_the_run_and_is_named_by_where_it_is(engine: Engine) -> None:
    engine.execute("UPDATE lines SET line = 'many' WHERE ctid = '(3,7)'")
    place = engine.value("SELECT ctid::text FROM lines WHERE line = 'many'")
    run = engine.enqueue(ADD % ("line::integer * 2", "true", "auto"))
    expect(engine.drive(run), State.PAUSED)
    error = engine.run(run).error
    assert error is not None
    assert (error["key"], engine.quarantined(run)) == ([place], [])
    # One that comes meanwhile is found by verify.
    engine.execute("UPDATE lines SET line = '1' WHERE line = 'many'; INSERT INTO lines (line) VALUES ('too many')")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.PAUSED)
    engine.execute("UPDATE lines SET line = '2' WHERE line = 'too many'")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.WAITING)
    assert engine.value("SELECT count(*) FROM lines WHERE loud IS DISTINCT FROM line::integer * 2") == 0


@pytest.mark.parametrize("why", ["nullable", "random", "keys", "trigger"])
def test_what_needs_a_key_is_refused(engine: Engine, why: str) -> None:
    if why == "trigger":
        engine.execute(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            "CREATE TRIGGER nothing BEFORE UPDATE ON lines FOR EACH ROW EXECUTE FUNCTION nothing()"
        )
    expression = "(random() * 9)::integer" if why == "random" else "line::integer"
    with pytest.raises(Refused) as refused:
        engine.enqueue(
            ADD % (expression, "false" if why == "nullable" else "true", "keys" if why == "keys" else "auto")
        )
    assert [finding.check for finding in refused.value.findings] == ["key"]
