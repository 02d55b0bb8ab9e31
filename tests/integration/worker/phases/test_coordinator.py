"""The coordinator: each step once, by whatever process; and the end of all lanes noticed once."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import lanes, step_context
from backfilld.migrations.record.states import RESTING, Phase, State
from backfilld.migrations.telemetry import BatchRetried, PhaseEntered, StateChanged
from backfilld.migrations.wire.messages import LaneMessage
from backfilld.producers import commands

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_proxy import Proxy
    from fix_runs import Engine

EVERYTHING = """
name: everything
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}
  - add_column: {table: jobs, column: {name: token, type: uuid}, default: gen_random_uuid(), not_null: true}
  - backfill: {table: counters, set: {n: "n + 1"}}
settings: {lanes: 4, walk: keys, approve: %s}
"""
PHASES = [Phase.BACKFILL, Phase.VERIFY, Phase.SWITCH, Phase.CONTRACT]
ROWS = 32
LANES = 4


@pytest.fixture(autouse=True)
def tables(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, %s) n", ROWS)
    engine.execute("CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    engine.execute("INSERT INTO counters (id) SELECT generate_series(1, %s)", ROWS)


def assert_done_once(engine: Engine, run: int) -> None:
    expect(engine.run(run), State.COMPLETED)
    assert engine.execute("SELECT DISTINCT n FROM counters") == [{"n": 1}]
    assert engine.value("SELECT count(*) FROM jobs WHERE shout = 'OPEN' AND token IS NOT NULL") == ROWS
    entered = engine.execute(
        "SELECT what FROM backfilld.events WHERE what LIKE 'phase.%' AND what <> 'phase.approved' ORDER BY event"
    )
    assert [event["what"] for event in entered] == [f"phase.{phase}" for phase in (*PHASES, Phase.DONE)]
    assert len(engine.lanes(run, "backfill")) == 2 * LANES, "both columns of jobs in one pass"
    assert len(engine.lanes(run, "verify")) == LANES
    assert (
        engine.value(
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'backfilld'::regnamespace AND prorettype = 'trigger'::regtype"
        )
        == 0
    )
    assert engine.value("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'backfilld%'") == 0


def test_every_step_by_another_process_with_its_messages_lost(engine: Engine) -> None:
    """A fresh runner for each message, which knows nothing but the record; and nothing that was sent arrives."""
    run = engine.enqueue(EVERYTHING % "[]")
    for _ in range(500):
        if engine.run(run).state is State.COMPLETED:
            break
        engine.sent.clear()
        engine.set_pace()
        for message in engine.due():
            engine.runner().advance(message)
    assert_done_once(engine, run)
    assert [event.phase for event in engine.told(PhaseEntered)] == PHASES
    assert [event.state for event in engine.told(StateChanged)] == [State.RUNNING, State.COMPLETED]


def test_a_run_goes_through_on_its_messages_alone(engine: Engine) -> None:
    """No reconciler is needed when nothing is lost: each step sends what follows it, the last lane's the coordinator."""
    run = engine.enqueue(EVERYTHING % "[]")
    while engine.sent:
        engine.step()
    assert_done_once(engine, run)


@pytest.mark.parametrize("committed", [True, False])
def test_a_connection_cut_at_the_commit_of_every_step(
    engine: Engine, proxy: Callable[[str], Proxy], *, committed: bool
) -> None:
    run = engine.enqueue(EVERYTHING % "[]")
    between = proxy(engine.url)
    with open_pool(between.url(engine.url), size=2) as pool:
        for number in range(800):
            if engine.run(run).state is State.COMPLETED:
                break
            if committed:
                between.drop_reply(b"COMMIT")
            elif number % 2:
                between.drop_request(b"COMMIT")
            engine.step(runner=engine.runner(pool=pool))
    assert_done_once(engine, run)


@pytest.mark.parametrize("seed", range(2))
def test_messages_in_any_order(engine: Engine, seed: int) -> None:
    run = engine.enqueue(EVERYTHING % "[]")
    engine.drive(run, batch_rows=3, shuffle=random.Random(seed))
    assert_done_once(engine, run)


def test_many_tiny_lanes_that_end_at_once_lead_on_once(engine: Engine) -> None:
    """Eight threads take whatever is sent or due until the run is done."""
    run = engine.enqueue(EVERYTHING % "[]")
    engine.sent.clear()
    failures: list[BaseException] = []
    queue_is_free = threading.Lock()
    queue: list[LaneMessage] = [LaneMessage(target="default", run=run, lane=0, seq=0)]

    def work() -> None:
        runner = engine.runner(send=queue.append)
        try:
            with engine.connect() as connection:
                while step_context.read(connection, run).state not in RESTING:
                    connection.execute("UPDATE backfilld.pace SET sampled_at = clock_timestamp(), width = 8")
                    with queue_is_free:
                        message = queue.pop(0) if queue else None
                    if message is not None:
                        runner.advance(message)
                        runner.advance(message)  # twice: the second is stale
                    else:
                        for due in lanes.due(connection, grace_seconds=0.2):
                            runner.advance(due)
        except BaseException as exc:  # noqa: BLE001 - told by the test
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    assert_done_once(engine, run)
    assert [event.phase for event in engine.told(PhaseEntered)] == PHASES
    assert all(event.error_class == "transient" for event in engine.told(BatchRetried))


@pytest.mark.parametrize("phase", [Phase.EXPAND, *PHASES])
def test_a_phase_waits_for_approval_before_it_begins(engine: Engine, phase: Phase) -> None:
    run = engine.enqueue(EVERYTHING % f"[{phase}]")
    now = engine.drive(run)
    expect(now, State.WAITING)
    assert now.phase is phase
    if phase is Phase.EXPAND:
        assert (
            engine.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND attname = 'shout'")
            == 0
        )
    if phase is Phase.BACKFILL:
        assert not engine.lanes(run, "backfill")
    assert engine.due() == [], "nothing comes back by itself"
    commands.approve(engine.connection, run, phase, actor="ann")
    engine.drive(run)
    assert_done_once(engine, run)


def test_an_approval_in_advance(engine: Engine) -> None:
    run = engine.enqueue(EVERYTHING % "[verify, switch, contract]")
    for phase in ("verify", "switch", "contract"):
        commands.approve(engine.connection, run, phase, actor="ann")
    engine.drive(run)
    assert_done_once(engine, run)


def test_a_paused_run_that_waited_for_approval_waits_again(engine: Engine) -> None:
    run = engine.enqueue(EVERYTHING % "[contract]")
    expect(engine.drive(run), State.WAITING)
    commands.pause(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.PAUSED)
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.WAITING)
    assert engine.run(run).phase is Phase.CONTRACT


def test_a_plain_backfill_has_nothing_to_approve(engine: Engine) -> None:
    run = engine.enqueue(
        'name: plain\noperations: [{backfill: {table: counters, set: {n: "n + 1"}}}]\nsettings: {approve: [contract, switch]}'
    )
    expect(engine.drive(run), State.COMPLETED)


def test_a_table_that_is_gone_fails_the_run_with_a_remedy(engine: Engine) -> None:
    run = engine.enqueue('name: gone\noperations: [{backfill: {table: counters, set: {n: "n + 1"}}}]')
    engine.drive(run, until=lambda run: run.phase is Phase.BACKFILL)
    engine.execute("ALTER TABLE counters RENAME TO elsewhere")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "the table counters no longer exists" in now.error["message"]
    engine.execute("ALTER TABLE elsewhere RENAME TO counters")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.execute("SELECT DISTINCT n FROM counters") == [{"n": 1}]


def test_a_person_who_stopped_the_run_is_not_overruled_by_its_failure(engine: Engine) -> None:
    run = engine.enqueue('name: gone\noperations: [{backfill: {table: counters, set: {n: "n + 1"}}}]')
    lane = engine.drive_to_lanes(run)[0]
    engine.execute("ALTER TABLE counters DROP COLUMN n")
    engine.set_pace()
    with engine.connect() as person, person.transaction():
        person.execute("UPDATE backfilld.runs SET state = 'pausing', wish = 'pause'")
        step = threading.Thread(target=engine.runner().advance, args=(engine.message(run, lane.lane),))
        step.start()
        while not engine.value("SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"):
            assert step.is_alive()
    step.join()
    expect(engine.run(run), State.PAUSING)


def test_the_totals_are_what_was_walked(engine: Engine) -> None:
    run = engine.enqueue(EVERYTHING % "[]")
    engine.drive(run)
    now = engine.run(run)
    assert (now.rows_total, now.residual_rows) == (2 * ROWS, 0)


def test_an_error_of_the_database_that_goes_away_does_not_fail_the_run(engine: Engine) -> None:
    """A database that takes no writes for a while, as Supabase does with a full disk."""
    run = engine.enqueue('name: ro\noperations: [{backfill: {table: counters, set: {n: "n + 1"}}}]')
    engine.drive_to_lanes(run)
    engine.execute(
        "CREATE FUNCTION disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '25006'; END $$;"
        "CREATE TRIGGER disk BEFORE UPDATE ON counters FOR EACH STATEMENT EXECUTE FUNCTION disk()"
    )
    for _ in range(4):
        engine.step()
    assert {event.sqlstate for event in engine.told(BatchRetried)} == {"25006"}
    expect(engine.run(run), State.RUNNING)
    engine.execute("DROP TRIGGER disk ON counters")
    expect(engine.drive(run), State.COMPLETED)
