"""The way back: from every phase and from the middle of every phase, by the steps that are on record as done."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import UsageError
from backfilld.migrations.record.model import Reached, Rollback
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.wire.messages import ControlMessage, LaneMessage
from backfilld.producers import commands
from backfilld.worker.side_tasks.control import Control

if TYPE_CHECKING:
    from fix_runs import Engine

ADD = """
name: shout
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}
  - add_column: {table: jobs, column: {name: rank, type: integer}, default: "7", not_null: true}
settings: {lanes: 2, approve: [contract]}
"""
ROWS = 40


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs SELECT n, 'open ' || n FROM generate_series(1, %s) n", ROWS)


def picture(engine: Engine) -> list[dict[str, object]]:
    """All that is in the catalog of the table, and all of ours that is left anywhere."""
    return engine.execute(
        "SELECT 'column' AS what, attname || ' ' || atttypid::regtype || ' ' || attnotnull AS value FROM pg_attribute "
        "WHERE attrelid = 'jobs'::regclass AND attnum > 0 AND NOT attisdropped "
        "UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE tgrelid = 'jobs'::regclass "
        "UNION ALL SELECT 'constraint', conname FROM pg_constraint WHERE conrelid = 'jobs'::regclass "
        "UNION ALL SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'backfilld'::regnamespace "
        "ORDER BY 1, 2"
    )


def steps_to_the_end(engine: Engine) -> int:
    """How many steps a run of ADD takes until it waits for its contract."""
    run = engine.enqueue(ADD)
    steps = 0
    while engine.run(run).state is not State.WAITING:
        engine.step(batch_rows=15)
        steps += 1
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    return steps


def test_from_after_every_other_step(engine: Engine) -> None:
    """Each time the catalog is as it was before, what the application wrote is kept, and the name is free again."""
    before = picture(engine)
    end = steps_to_the_end(engine)
    for written, number in enumerate((*range(0, end, 2), end), start=1):
        run = engine.enqueue(ADD)
        for _ in range(number):
            engine.step(batch_rows=15)
        engine.execute("INSERT INTO jobs VALUES (%s, 'written meanwhile')", 1000 + number)
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
        assert picture(engine) == before, f"after {number} steps"
        assert engine.value("SELECT count(*) FROM jobs") == ROWS + written
        engine.sent.clear()


def test_each_phase_is_entered_backwards(engine: Engine) -> None:
    run = engine.enqueue(ADD)
    expect(engine.drive(run), State.WAITING)
    commands.rollback(engine.connection, run, actor="ann")
    assert engine.run(run).rollback.pending
    now = engine.drive(run)
    expect(now, State.ROLLED_BACK)
    assert (now.phase, now.rollback) == (
        Phase.EXPAND,
        Rollback(requested=True, begun=Reached(phase=Phase.CONTRACT, steps=0, pass_=1)),
    )
    story = [row["what"] for row in engine.execute("SELECT what FROM backfilld.events ORDER BY event")]
    turned = story.index("run.rolling_back")
    assert [what for what in story[turned:] if what.startswith(("phase.", "run."))] == [
        "run.rolling_back",
        "phase.switch",
        "phase.verify",
        "phase.expand",
        "run.rolled_back",
    ]
    assert engine.value("SELECT actor FROM backfilld.events WHERE what = 'run.rolling_back'") == "ann"


@pytest.mark.parametrize("state", ["paused", "failed", "cancelled", "queued"])
def test_from_every_state(engine: Engine, state: str) -> None:
    before = picture(engine)
    run = engine.enqueue(ADD)
    if state != "queued":
        engine.drive(run, until=lambda run: run.phase is Phase.BACKFILL)
        if state == "failed":
            engine.execute("UPDATE backfilld.runs SET state = 'failed', error = '{\"message\": \"a test\"}'")
        else:
            (commands.pause if state == "paused" else commands.cancel)(engine.connection, run, actor="ann")
            expect(engine.drive(run), State(state))
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert picture(engine) == before


def test_a_batch_in_flight_ends_before_anything_is_taken_back(engine: Engine) -> None:
    """The lane is held by somebody: the coordinator waits, and does not even write down where it begins."""
    run = engine.enqueue(ADD)
    lane = engine.drive_to_lanes(run)[0]
    with engine.connect() as other, other.transaction():
        other.execute("SELECT FROM backfilld.lanes WHERE run = %s AND lane = %s FOR UPDATE", [run, lane.lane])
        commands.rollback(engine.connection, run, actor="ann")
        engine.sent = [engine.message(run)]
        engine.step()
        assert engine.run(run).rollback.pending
        assert Control(observe=engine.events.append).run_once(engine.connection) == 1, "it is still stopping"
    assert Control(observe=engine.events.append).run_once(engine.connection) == 0
    expect(engine.drive(run), State.ROLLED_BACK)


def test_no_lane_of_the_way_forward_works_any_more(engine: Engine) -> None:
    run = engine.enqueue(ADD)
    forward = [engine.message(run, lane.lane) for lane in engine.drive_to_lanes(run)]
    commands.rollback(engine.connection, run, actor="ann")
    walked = [lane.rows_walked for lane in engine.lanes(run, "backfill")]
    for message in forward:
        engine.runner().advance(message)
    assert [lane.rows_walked for lane in engine.lanes(run, "backfill")] == walked
    expect(engine.drive(run), State.ROLLED_BACK)


def test_a_statement_in_flight_is_cancelled(engine: Engine) -> None:
    """The scan that proves NOT NULL would take long: somebody who wants to go back does not wait for it."""
    run = engine.enqueue(ADD)
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY and engine.lane(run.run, 0).cursor == 3)
    with engine.connect() as reader, reader.transaction():
        # VALIDATE takes SHARE UPDATE EXCLUSIVE, which conflicts with itself.
        reader.execute("LOCK TABLE jobs IN SHARE UPDATE EXCLUSIVE MODE")
        step = threading.Thread(target=engine.step)
        step.start()
        commands.rollback(engine.connection, run, actor="ann")
        step.join(30)
        assert not step.is_alive()
    expect(engine.drive(run), State.ROLLED_BACK)


def test_a_way_back_that_fails_goes_on_where_it_stopped(engine: Engine) -> None:
    """A view was made on the new column meanwhile: it is not dropped with it. Once it is gone, either verb goes on."""
    before = picture(engine)
    run = engine.enqueue(ADD)
    expect(engine.drive(run), State.WAITING)
    engine.execute("CREATE VIEW shouting AS SELECT shout FROM jobs")
    commands.rollback(engine.connection, run, actor="ann")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert "shouting" in str(now.error)
    engine.execute("DROP VIEW shouting")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert picture(engine) == before


def test_asked_twice_it_is_asked_once(engine: Engine) -> None:
    run = engine.enqueue(ADD)
    commands.rollback(engine.connection, run, actor="ann")
    commands.rollback(engine.connection, run, actor="ben")
    assert engine.value("SELECT count(*) FROM backfilld.events WHERE what = 'run.rolling_back'") == 1
    expect(engine.drive(run), State.ROLLED_BACK)
    commands.rollback(engine.connection, run, actor="ben")
    with pytest.raises(UsageError):
        commands.resume(engine.connection, run, actor="ben")
    expect(engine.run(run), State.ROLLED_BACK)


def test_not_by_message_alone(engine: Engine) -> None:
    """Who has only Redis may stop a run, which harms nothing, and not take a finished one back."""
    run = engine.enqueue(ADD)
    expect(engine.drive(run), State.WAITING)
    message = ControlMessage(target="default", run=run, verb="rollback", actor="redis")
    with pytest.raises(UsageError, match="asks for 'rollback'"):
        Control(observe=engine.events.append).apply(engine.connection, message)
    expect(engine.run(run), State.WAITING)


def test_a_stale_message_of_the_way_forward_changes_nothing(engine: Engine) -> None:
    run = engine.enqueue(ADD)
    engine.drive(run, until=lambda run: run.phase is Phase.BACKFILL)
    stale = LaneMessage(target="default", run=run, lane=0, seq=engine.lane(run, 0).seq)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    engine.runner().advance(stale)
    expect(engine.run(run), State.ROLLED_BACK)


def test_the_name_may_be_used_again_at_once(engine: Engine) -> None:
    run = engine.enqueue(ADD)
    expect(engine.drive(run), State.WAITING)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    again = engine.enqueue(ADD)
    assert again != run
    expect(engine.drive(again), State.WAITING)
    assert engine.value("SELECT count(*) FROM jobs WHERE shout IS DISTINCT FROM upper(status) OR rank <> 7") == 0


def test_a_cancelled_run_whose_name_is_in_use_stays_cancelled(engine: Engine) -> None:
    run = engine.enqueue(ADD)
    commands.cancel(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.CANCELLED)
    newer = engine.enqueue(ADD)
    with pytest.raises(UsageError, match=f"backfilld rollback {newer}"):
        commands.rollback(engine.connection, run, actor="ann")
    expect(engine.run(run), State.CANCELLED)
