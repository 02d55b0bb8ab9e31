"""What a run has proved, after other sessions have changed what the proof relies on: proved again, or a person is asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from fix_daemon import until
from fix_runs import Engine, expect

from backfilld.migrations.errors import NotFinished, Refused
from backfilld.migrations.operations import Action, bind
from backfilld.migrations.record import runs
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands, waiting
from backfilld.worker.phases import ddl
from backfilld.worker.phases.proof import Proof
from backfilld.worker.side_tasks.reconciler import Reconciler

ADD = """
name: shout
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
settings: {lanes: 2, approve: %s}
"""
RETYPE = """
name: bigger
operations:
  - change_type: {table: jobs, column: n, type: bigint}
settings: {approve: %s}
"""
OFF = {
    "disabled": "ALTER TABLE jobs DISABLE TRIGGER ALL",
    "for a moment": "ALTER TABLE jobs DISABLE TRIGGER ALL",
    "dropped": "DROP FUNCTION {function} CASCADE",
    "with another body": "CREATE OR REPLACE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
}


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text, n integer)")
    engine.execute("INSERT INTO jobs SELECT n, 's' || n, n FROM generate_series(1, 20) n")


def switch_off(engine: Engine, how: str) -> None:
    function = engine.value(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE prorettype = 'trigger'::regtype AND proname LIKE 'sync%%'"
    )
    engine.execute(OFF[how].format(function=function))


def switch_on(engine: Engine, how: str) -> None:
    if how == "for a moment":
        engine.execute("ALTER TABLE jobs ENABLE TRIGGER ALL")


def approved(engine: Engine, run: int, phase: str) -> None:
    commands.approve(engine.connection, run, phase, actor="ann")


def is_open(engine: Engine, run: int) -> bool:
    return waiting.is_open(waiting.find(engine.connection, run))


@pytest.mark.parametrize("how", OFF)
def test_what_was_written_without_the_trigger_before_the_switch_is_not_lost(engine: Engine, how: str) -> None:
    """It was verified, then written, and would have been left behind an older value."""
    run = engine.enqueue(RETYPE % "[switch]")
    expect(engine.drive(run), State.WAITING)
    switch_off(engine, how)
    engine.execute("UPDATE jobs SET n = 777 WHERE id = 3")
    switch_on(engine, how)
    assert engine.run(run).verified_at is None
    approved(engine, run, "switch")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT n FROM jobs WHERE id = 3") == 777
    assert engine.value("SELECT sum(n) FROM jobs") == 210 - 3 + 777


@pytest.mark.parametrize("how", OFF)
def test_rows_that_may_have_missed_an_update_are_asked_about(engine: Engine, how: str) -> None:
    """A value that is not the expression's may be the application's own: nobody but a person can tell."""
    run = engine.enqueue(ADD % "[contract]")
    expect(engine.drive(run), State.WAITING)
    assert is_open(engine, run)
    switch_off(engine, how)
    engine.execute("UPDATE jobs SET status = 'later' WHERE id = 3; INSERT INTO jobs VALUES (100, 'new', 1)")
    switch_on(engine, how)
    assert not is_open(engine, run), "the gate is shut at once"
    with pytest.raises(NotFinished, match="sync trigger" if how == "dropped" else "has changed"):
        waiting.require_open(engine.connection, run, Phase.SWITCH)
    approved(engine, run, "contract")
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert now.error["class"] == "own_values"
    assert engine.value("SELECT shout FROM jobs WHERE id = 100") == "NEW", "what is missing is filled"
    engine.execute("UPDATE jobs SET shout = NULL WHERE id = 3")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT shout FROM jobs WHERE id = 3") == "LATER"


def test_the_old_values_are_made_right_before_they_are_archived(engine: Engine) -> None:
    run = engine.enqueue(RETYPE % "[contract]")
    expect(engine.drive(run), State.WAITING)
    switch_off(engine, "for a moment")
    engine.execute("UPDATE jobs SET n = 777 WHERE id = 3")
    switch_on(engine, "for a moment")
    approved(engine, run, "contract")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT old FROM backfilld.archived(%s) WHERE key = '{3}'", run) == "777"
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value("SELECT n FROM jobs WHERE id = 3") == 777


@pytest.mark.parametrize("change", ["RENAME status TO state", "DROP COLUMN status", "RENAME shout TO loud"])
def test_a_column_that_another_tool_takes_away_stops_the_run_and_harms_nobody(engine: Engine, change: str) -> None:
    run = engine.enqueue(ADD % "[contract]")
    expect(engine.drive(run), State.WAITING)
    engine.execute(f"ALTER TABLE jobs {change}")
    engine.execute("UPDATE jobs SET n = 0; INSERT INTO jobs (id) VALUES (100)")
    column = "loud" if "loud" in change else "shout"
    assert engine.value(f"SELECT count(*) FROM jobs WHERE {column} = 'S' || id") == 20, "no value was destroyed"
    assert not is_open(engine, run)
    # The reconciler finds it, though nobody approves anything.
    assert Reconciler(send=engine.sent.append, observe=engine.events.append).run_once(engine.connection) >= 0
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert now.error["class"] == "structure"
    assert change.split()[-3 if "TO" in change else -1] in now.error["message"]
    if change == "RENAME status TO state":
        engine.execute("ALTER TABLE jobs RENAME state TO status")
        commands.resume(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.PAUSED)
        assert len(engine.quarantined(run)) == 21, "every row that was touched meanwhile"
        commands.retry(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.WAITING)
        assert is_open(engine, run)
        return
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%backfilld%'") == 0


def test_a_row_that_is_put_down_shuts_the_gate_and_stops_contract(engine: Engine) -> None:
    run = engine.enqueue((ADD % "[contract]").replace("upper(status)", "(100 / n)::text"))
    expect(engine.drive(run), State.WAITING)
    engine.execute("UPDATE jobs SET n = 0 WHERE id = 4")
    assert not is_open(engine, run)
    approved(engine, run, "contract")
    expect(engine.drive(run), State.PAUSED)
    assert [(row.key, row.kept) for row in engine.quarantined(run)] == [(("4",), "25")]
    engine.execute("UPDATE jobs SET n = 2 WHERE id = 4")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT shout FROM jobs WHERE id = 4") == "50"


def test_the_trigger_is_looked_at_under_the_lock_of_the_switch(engine: Engine) -> None:
    """The trigger goes between the coordinator's look and its lock."""
    run = engine.enqueue(RETYPE % "[]")
    engine.drive(run, until=lambda run: run.phase is Phase.SWITCH)
    with engine.connect() as other, other.transaction():
        other.execute("ALTER TABLE jobs DISABLE TRIGGER ALL; UPDATE jobs SET n = 777 WHERE id = 3")
        engine.step()  # it does not see what is not committed, and waits for its lock in vain
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT n FROM jobs WHERE id = 3") == 777


def test_six_names_on_one_table(engine: Engine) -> None:
    """Which names two runs' triggers have is nothing that a person can choose: any of them may be the later one."""
    for number in range(6):
        run = engine.enqueue((ADD % "[contract]").replace("shout", f"shout{number}"))
        expect(engine.drive(run), State.WAITING)
    engine.execute("UPDATE jobs SET status = 'x'")
    assert (
        engine.value(
            "SELECT count(*) FROM jobs WHERE 'X' = ALL (ARRAY[shout0, shout1, shout2, shout3, shout4, shout5])"
        )
        == 20
    )
    for number in (3, 0, 5):
        approved(engine, number + 1, "contract")
        expect(engine.drive(number + 1), State.COMPLETED)
    for number in (1, 4, 2):
        commands.rollback(engine.connection, number + 1, actor="ann")
        expect(engine.drive(number + 1), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%backfilld%'") == 0
    with pytest.raises(Refused, match="shout3"):
        engine.enqueue((ADD % "[contract]").replace("name: shout\n", "name: again\n").replace("shout", "shout3"))


def test_a_steps_proof_is_asked_for_under_its_lock(engine: Engine) -> None:
    """What another session commits while the step waits for its lock is seen."""
    run = engine.enqueue(RETYPE % "[switch]")
    expect(engine.drive(run), State.WAITING)
    known = engine.run(run)
    operations = bind(known.migration, known.facts)
    (switch,) = operations[0].switch()
    assert isinstance(switch, Action)
    with engine.connect() as other, engine.connect() as worker, ThreadPoolExecutor(1) as thread:
        with other.transaction():
            other.execute("ALTER TABLE jobs DISABLE TRIGGER ALL")
            proof = Proof(worker, known, operations)
            proof.require()
            worker.execute("BEGIN")
            waiting_for_it = thread.submit(ddl.execute, worker, switch, under_lock=proof.require)
            until(
                "the step waits for its lock",
                lambda: bool(engine.value("SELECT count(*) FROM pg_locks WHERE NOT granted")),
            )
        with pytest.raises(runs.ChangedMeanwhile):
            waiting_for_it.result()
        worker.execute("ROLLBACK")


def test_a_table_that_another_tool_renames_stops_the_run(engine: Engine) -> None:
    run = engine.enqueue(ADD % "[contract]")
    engine.drive_to_lanes(run)
    engine.execute("ALTER TABLE jobs RENAME TO tasks")
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert (now.error["class"], "the table jobs is gone" in now.error["message"]) == ("structure", True)
    engine.execute("ALTER TABLE tasks RENAME TO jobs")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.WAITING)
    assert engine.value("SELECT count(*) FROM jobs WHERE shout = upper(status)") == 20
