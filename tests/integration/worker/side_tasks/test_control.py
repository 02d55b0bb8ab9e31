"""Pause, resume and cancel: whatever is in flight, whoever is alive, within about a second."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import UsageError
from backfilld.migrations.record.states import STOPPING, Phase, State, Wish
from backfilld.migrations.telemetry import BatchRetried, ControlApplied, StateChanged
from backfilld.migrations.wire.messages import ControlMessage
from backfilld.producers import commands
from backfilld.worker.side_tasks.control import GRACE_SECONDS, Control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

    from backfilld.migrations.wire.messages import LaneMessage

VERBS = {
    "pause": (commands.pause, State.PAUSING, State.PAUSED),
    "cancel": (commands.cancel, State.CANCELLING, State.CANCELLED),
}
ROWS = 60
GATE_IS_WAITED_FOR = (
    "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def run(engine: Engine) -> int:
    engine.execute("CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    engine.execute("INSERT INTO counters (id) SELECT generate_series(1, %s)", ROWS)
    return engine.enqueue(
        'name: inc\noperations: [{backfill: {table: counters, set: {n: "n + 1"}}}]\nsettings: {lanes: 2}'
    )


def counted(engine: Engine) -> dict[int, int]:
    return {row["n"]: row["rows"] for row in engine.execute("SELECT n, count(*) AS rows FROM counters GROUP BY n")}


def control(engine: Engine) -> Control:
    return Control(observe=engine.events.append)


def settle(engine: Engine, run: int, *, within_seconds: float) -> float:
    """Look as the control's loop does until the run has stopped; returns how long it took."""
    one, began = control(engine), time.monotonic()
    while engine.run(run).state in STOPPING:
        assert time.monotonic() - began < within_seconds, engine.run(run)
        one.wait(one.run_once(engine.connection), threading.Event())
    return time.monotonic() - began


@contextmanager
def in_flight(engine: Engine, message: LaneMessage) -> Iterator[None]:
    """The message's step is under way in another thread, and stays in the middle of its batch until it is cancelled or let go."""
    engine.execute(
        "CREATE OR REPLACE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN "
        "PERFORM pg_advisory_xact_lock_shared(1); RETURN new; END $$"
    )
    engine.execute("CREATE OR REPLACE TRIGGER linger BEFORE UPDATE ON counters FOR EACH ROW EXECUTE FUNCTION linger()")
    with engine.connect() as gate:
        gate.execute("SELECT pg_advisory_lock(1)")
        thread = threading.Thread(target=engine.runner().advance, args=(message,))
        thread.start()
        try:
            while not engine.value(GATE_IS_WAITED_FOR):
                assert thread.is_alive()
            yield
        finally:
            gate.execute("SELECT pg_advisory_unlock(1)")
            thread.join(timeout=10)
            assert not thread.is_alive()
            engine.execute("DROP TRIGGER linger ON counters")


@pytest.mark.parametrize("verb", VERBS)
def test_a_batch_in_flight_is_cancelled_after_its_grace_and_nothing_of_it_is_kept(
    engine: Engine, run: int, verb: str
) -> None:
    # Given
    ask, on_the_way, there = VERBS[verb]
    lane = engine.drive_to_lanes(run)[0]
    with in_flight(engine, engine.message(run, lane.lane)):
        # When
        ask(engine.connection, run, actor="ann")
        expect(engine.run(run), on_the_way)
        assert control(engine).run_once(engine.connection) == 1, "the batch has a moment to commit"
        seconds = settle(engine, run, within_seconds=30)
        # Then
        expect(engine.run(run), there)
    assert seconds + 0.05 >= GRACE_SECONDS
    assert seconds < 5, "and not only when it would have ended by itself"
    assert sum(event.statements_cancelled for event in engine.told(ControlApplied)) >= 1
    assert engine.told(StateChanged)[-1].state is there
    assert counted(engine) == {0: ROWS}


def test_a_paused_run_goes_on_where_it_was(engine: Engine, run: int) -> None:
    lane = engine.drive_to_lanes(run)[0]
    engine.sent[:] = [engine.message(run, lane.lane)]
    engine.step(batch_rows=10)
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 12 WHERE lane = %s", lane.lane)
    with in_flight(engine, engine.message(run, lane.lane)):
        commands.pause(engine.connection, run, actor="ann")
        settle(engine, run, within_seconds=30)
    # A batch that was cancelled because somebody said stop was not too large.
    assert not engine.told(BatchRetried)
    assert engine.lane(run, lane.lane).batch_rows == 12
    assert counted(engine) == {0: ROWS - 10, 1: 10}
    now = engine.run(run)
    assert (now.wish, now.ended_at) == (Wish.PAUSE, None)

    commands.resume(engine.connection, run, actor="ann")
    assert engine.run(run).wish is None
    expect(engine.drive(run, batch_rows=10), State.COMPLETED)
    assert counted(engine) == {1: ROWS}


def test_a_run_that_is_told_to_stop_finishes_the_batch_in_hand(engine: Engine, run: int) -> None:
    """One that commits within the grace is not cancelled."""
    lane = engine.drive_to_lanes(run)[0]
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 10 WHERE lane = %s", lane.lane)
    with in_flight(engine, engine.message(run, lane.lane)):
        commands.pause(engine.connection, run, actor="ann")
        assert control(engine).run_once(engine.connection) == 1
        assert not engine.told(ControlApplied)
    assert control(engine).run_once(engine.connection) == 0
    expect(engine.run(run), State.PAUSED)
    assert counted(engine) == {0: ROWS - 10, 1: 10}


@pytest.mark.parametrize("verb", VERBS)
def test_no_batch_begins_once_a_stop_is_asked_for(engine: Engine, run: int, verb: str) -> None:
    ask, on_the_way, _ = VERBS[verb]
    lane = engine.drive_to_lanes(run)[0]
    message = engine.message(run, lane.lane)
    ask(engine.connection, run, actor="ann")
    engine.runner(one_step=False).advance(message)
    assert counted(engine) == {0: ROWS}
    assert engine.lane(run, lane.lane).seq == lane.seq
    assert engine.due() == []
    expect(engine.run(run), on_the_way)


def test_a_message_of_many_batches_ends_at_the_wish(engine: Engine, run: int) -> None:
    """The wish comes while a message is in the middle of its slice: a trigger of the test writes it with the second batch."""
    lane = engine.drive_to_lanes(run)[0]
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 3")
    with engine.connect() as other:
        asked = threading.Event()

        def observe(event: object) -> None:
            engine.events.append(event)  # type: ignore[arg-type]  # only the runner calls it
            if not asked.is_set():
                asked.set()
                commands.pause(other, run, actor="ann")

        runner = engine.runner(one_step=False)
        runner._observe = observe
        runner.advance(engine.message(run, lane.lane))
    assert asked.is_set()
    assert counted(engine) == {0: ROWS - 3, 1: 3}


@pytest.mark.parametrize("verb", VERBS)
def test_a_stop_with_no_worker_alive_settles(engine: Engine, run: int, verb: str) -> None:
    ask, _, there = VERBS[verb]
    ask(engine.connection, run, actor="ann")
    assert control(engine).run_once(engine.connection) == 0
    now = engine.run(run)
    expect(now, there)
    assert (now.ended_at is not None) == (there is State.CANCELLED)


@pytest.mark.parametrize("verb", VERBS)
def test_a_control_message_without_a_wish_on_record_is_written_down(engine: Engine, run: int, verb: str) -> None:
    """Somebody with Redis only."""
    _, on_the_way, there = VERBS[verb]
    one = control(engine)
    message = ControlMessage(target="default", run=run, verb=verb, actor="bob")
    one.apply(engine.connection, message)
    expect(engine.run(run), on_the_way)
    one.apply(engine.connection, message)
    assert one.run_once(engine.connection) == 0
    expect(engine.run(run), there)
    assert [event["actor"] for event in engine.execute("SELECT actor FROM backfilld.events ORDER BY event")] == [
        "test",
        "bob",
        "worker",
    ]


def test_a_resume_by_message_alone(engine: Engine, run: int) -> None:
    one = control(engine)
    commands.pause(engine.connection, run, actor="ann")
    one.run_once(engine.connection)
    one.apply(engine.connection, ControlMessage(target="default", run=run, verb="resume", actor="bob"))
    expect(engine.drive(run), State.COMPLETED)
    one.apply(engine.connection, ControlMessage(target="default", run=run, verb="resume", actor="bob"))
    one.apply(engine.connection, ControlMessage(target="default", run=run, verb="pause", actor="bob"))
    one.apply(engine.connection, ControlMessage(target="default", run=9999, verb="pause", actor="bob"))
    expect(engine.run(run), State.COMPLETED)


def test_a_control_message_cannot_ask_for_anything_else(engine: Engine, run: int) -> None:
    with pytest.raises(UsageError, match="drop everything"):
        control(engine).apply(
            engine.connection, ControlMessage(target="default", run=run, verb="drop everything", actor="eve")
        )
    expect(engine.run(run), State.QUEUED)


def test_a_message_wakes_the_control_at_once(engine: Engine, run: int) -> None:
    one = control(engine)
    one.apply(engine.connection, ControlMessage(target="default", run=run, verb="wake", actor="ann"))
    began = time.monotonic()
    one.wait(0, threading.Event())
    assert time.monotonic() - began < 0.05


def test_a_run_that_turns_back_is_woken_as_soon_as_no_batch_is_in_flight(engine: Engine, run: int) -> None:
    """Not when the reconciler comes by, seconds later."""
    engine.drive_to_lanes(run)
    commands.rollback(engine.connection, run, actor="ann")
    sent: list[LaneMessage] = []

    Control(observe=engine.events.append, send=sent.append).run_once(engine.connection)

    assert 0 in [message.lane for message in sent]


def test_a_pause_is_undone_before_it_was_complete(engine: Engine, run: int) -> None:
    lane = engine.drive_to_lanes(run)[0]
    with in_flight(engine, engine.message(run, lane.lane)):
        commands.pause(engine.connection, run, actor="ann")
        commands.resume(engine.connection, run, actor="ann")
        assert control(engine).run_once(engine.connection) == 0
    expect(engine.drive(run), State.COMPLETED)
    assert counted(engine) == {1: ROWS}


def test_a_resume_that_meets_the_conductor_locked_is_not_lost(engine: Engine) -> None:
    """A late message looks at lane 0 in the very moment of the resume, sees a paused run, and leaves."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, total text, n integer)")
    engine.execute("INSERT INTO jobs VALUES (1, 'abc')")
    run = engine.enqueue('name: m\noperations: [{backfill: {table: jobs, set: {n: "total::integer"}}}]')
    expect(engine.drive(run), State.PAUSED)
    engine.execute("DELETE FROM backfilld.quarantine")
    with engine.connect() as late, late.transaction():
        late.execute("SELECT FROM backfilld.lanes WHERE run = %s AND lane = 0 FOR UPDATE", [run])
        commands.resume(engine.connection, run, actor="ann")
    expect(engine.run(run), State.RUNNING)
    assert [message.lane for message in engine.due()] == [0]
    expect(engine.drive(run), State.COMPLETED)


def test_a_conductor_that_waits_for_lanes_is_left_asleep(engine: Engine, run: int) -> None:
    lanes = engine.drive_to_lanes(run)
    assert sorted(message.lane for message in engine.due()) == [lane.lane for lane in lanes]


def test_a_pause_turns_into_a_cancel(engine: Engine, run: int) -> None:
    engine.drive_to_lanes(run)
    commands.pause(engine.connection, run, actor="ann")
    control(engine).run_once(engine.connection)
    commands.cancel(engine.connection, run, actor="ann")
    control(engine).run_once(engine.connection)
    expect(engine.run(run), State.CANCELLED)
    with pytest.raises(UsageError):
        commands.resume(engine.connection, run, actor="ann")


def test_only_our_own_batches_of_that_run_are_cancelled(engine: Engine, run: int) -> None:
    """A session of the application that calls itself like us, and another run's batch, go on."""
    lane = engine.drive_to_lanes(run)[0]
    with engine.connect() as other, in_flight(engine, engine.message(run, lane.lane)):
        other.execute("SELECT set_config('application_name', %s, false)", [f"backfilld run={run}0 lane=1 seq=1"])
        busy = threading.Thread(target=other.execute, args=("SELECT pg_advisory_lock(1)",))
        busy.start()
        commands.pause(engine.connection, run, actor="ann")
        settle(engine, run, within_seconds=30)
        assert busy.is_alive()
    busy.join(timeout=5)
    assert not busy.is_alive()


def test_a_validate_under_way_is_cancelled_by_a_pause(engine: Engine) -> None:
    """The coordinator's own long statement, which has no time limit; it scans again after the resume."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, 20) n")
    run = engine.enqueue(
        "name: add\noperations: [{add_column: {table: jobs, column: {name: shout, type: text}, "
        'backfill: "upper(status)", not_null: true}}]\nsettings: {approve: []}'
    )
    # Given the coordinator about to VALIDATE, which a lock of the test keeps waiting
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY and engine.lane(run.run, 0).cursor == 3)
    engine.execute("UPDATE backfilld.lanes SET attempts = 0")
    engine.execute(
        "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN "
        "PERFORM pg_advisory_xact_lock_shared(1); END $$;"
        "CREATE EVENT TRIGGER slow ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION slow()"
    )
    with engine.connect() as gate:
        gate.execute("SELECT pg_advisory_lock(1)")
        thread = threading.Thread(target=engine.runner().advance, args=(engine.message(run),))
        thread.start()
        while not engine.value(GATE_IS_WAITED_FOR):
            assert thread.is_alive()
        # When
        commands.pause(engine.connection, run, actor="ann")
        settle(engine, run, within_seconds=30)
        thread.join(timeout=10)
        # Then
        expect(engine.run(run), State.PAUSED)
        assert engine.value("SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND NOT convalidated") == 1
    engine.execute("DROP EVENT TRIGGER slow")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
