"""The stop of all runs, and windows: holds that no lane and no coordinator passes, and that leave the runs' states alone."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from fix_daemon import backfilld, until
from fix_runs import expect

from backfilld.migrations.record import pace
from backfilld.migrations.record.states import State
from backfilld.migrations.settings import Limits
from backfilld.migrations.telemetry import BatchGaveWay, BatchRetried, ControlApplied, LaneHeld, StopSwitched
from backfilld.monitoring import progress
from backfilld.producers import commands, pacing
from backfilld.worker.lanes.claim import LONGEST_SHUT_SECONDS
from backfilld.worker.side_tasks.control import GRACE_SECONDS, Control
from backfilld.worker.side_tasks.governor import Governor

if TYPE_CHECKING:
    from fix_daemon import Daemon, Record
    from fix_runs import Engine

ROWS = 40
MIGRATION = 'name: {}\noperations: [{{backfill: {{table: counters, set: {{n: "n + 1"}}}}}}]\nsettings: {{lanes: 2}}'
SLEEPERS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
SLOW = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN new; END $$;"
    "CREATE TRIGGER slow BEFORE UPDATE ON counters FOR EACH ROW EXECUTE FUNCTION slow()"
)


@pytest.fixture
def run(engine: Engine) -> int:
    engine.execute("CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    engine.execute("INSERT INTO counters (id) SELECT generate_series(1, %s)", ROWS)
    return engine.enqueue(MIGRATION.format("inc"))


@pytest.fixture
def slow_run(engine: Engine, run: int) -> int:
    """Its batches last a minute. For a daemon that is ready after this."""
    engine.execute(SLOW)
    return run


def untouched(engine: Engine) -> bool:
    return bool(engine.value("SELECT bool_and(n = 0) FROM counters"))


def hold_reason(engine: Engine, run: int) -> str | None:
    return progress.read(engine.connection, [engine.run(run)])[0].hold_reason


# --- the stop of all runs ----------------------------------------------------------------------------------------------


def test_a_stop_holds_lanes_and_conductors_until_it_is_lifted(engine: Engine, run: int) -> None:
    lane = engine.drive_to_lanes(run)[0]
    engine.execute("CREATE TABLE others (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    later = engine.enqueue(MIGRATION.format("later").replace("counters", "others"))
    stop = pacing.stop_all(engine.connection, actor="ann")
    for message in (engine.message(run, lane.lane), engine.message(later)):
        engine.runner(one_step=False).advance(message)
    assert untouched(engine)
    assert [(held.run, held.reason) for held in engine.told(LaneHeld)] == [(run, stop.reason), (later, stop.reason)]
    after = engine.lane(run, lane.lane)
    assert (after.seq, after.attempts, after.last_error) == (lane.seq, 0, None)
    assert (engine.run(run).state, engine.run(later).state) == (State.RUNNING, State.QUEUED)

    assert pacing.resume_all(engine.connection, actor="bob")
    expect(engine.drive(run), State.COMPLETED)
    expect(engine.drive(later), State.COMPLETED)


def test_a_statement_in_flight_is_cancelled_after_its_grace_and_nothing_of_it_is_kept(engine: Engine, run: int) -> None:
    lane = engine.drive_to_lanes(run)[0]
    engine.execute(SLOW)
    thread = threading.Thread(target=engine.runner().advance, args=(engine.message(run, lane.lane),))
    thread.start()
    until("the batch to be under way", lambda: engine.value(SLEEPERS))
    control = Control(observe=engine.events.append)
    # When
    pacing.stop_all(engine.connection, actor="ann")
    while thread.is_alive():
        control.wait(control.run_once(engine.connection), threading.Event())
    # Then nothing is held against the batch
    after = engine.lane(run, lane.lane)
    assert (after.seq, after.attempts, after.last_error, after.batch_rows) == (lane.seq, 0, None, lane.batch_rows)
    assert not engine.told(BatchGaveWay)
    assert not engine.told(BatchRetried)
    assert sum(event.statements_cancelled for event in engine.told(ControlApplied)) == 1
    (switched,) = engine.told(StopSwitched)
    assert switched.stopped
    expect(engine.run(run), State.RUNNING)
    # and the run goes on from there
    engine.execute("DROP TRIGGER slow ON counters")
    pacing.resume_all(engine.connection, actor="ann")
    control.run_once(engine.connection)
    assert [event.stopped for event in engine.told(StopSwitched)] == [True, False]
    expect(engine.drive(run), State.COMPLETED)
    assert engine.execute("SELECT DISTINCT n FROM counters") == [{"n": 1}]


def test_a_stop_gives_a_batch_its_moment_to_commit(engine: Engine, run: int) -> None:
    """What has run for less than the grace is not cancelled, and neither is a session that is none of ours."""
    with engine.connect() as young, engine.connect() as other:
        young.execute("SELECT set_config('application_name', %s, false)", [f"backfilld run={run} lane=1 seq=0"])
        other.execute("SELECT set_config('application_name', 'backfilld run=x', false)")
        sleeping = [threading.Thread(target=one.execute, args=("SELECT pg_sleep(0.2)",)) for one in (young, other)]
        for thread in sleeping:
            thread.start()
        until("both to be under way", lambda: engine.value(SLEEPERS) == 2)
        pacing.stop_all(engine.connection, actor="ann")
        Control(observe=engine.events.append).run_once(engine.connection)
        for thread in sleeping:
            thread.join()
    assert GRACE_SECONDS > 0.2
    assert not engine.told(ControlApplied)


def test_a_pause_under_a_stop_is_settled_and_a_resume_of_all_leaves_it(engine: Engine, run: int) -> None:
    engine.drive_to_lanes(run)
    pacing.stop_all(engine.connection, actor="ann")
    commands.pause(engine.connection, run, actor="ann")
    Control(observe=engine.events.append).run_once(engine.connection)
    expect(engine.run(run), State.PAUSED)
    pacing.resume_all(engine.connection, actor="ann")
    expect(engine.run(run), State.PAUSED)


def test_the_governors_verdict_leaves_the_switch_alone(engine: Engine, run: int) -> None:
    stop = pacing.stop_all(engine.connection, actor="ann")
    assert Governor(Limits(), observe=engine.events.append).run_once(engine.connection) == 1
    assert pace.read_stop(engine.connection) == stop


def test_a_daemon_stops_with_a_statement_in_flight_and_goes_on(
    engine: Engine, slow_run: int, daemon: Daemon, record: Record, redis_url: str
) -> None:
    """Said by the command, without Redis; the next daemon would find the switch as it is."""
    run = slow_run
    until("a batch to be under way", lambda: record.one(SLEEPERS))
    stopped = backfilld("pause", "--all", database_url=engine.url, redis_url=None)
    assert stopped.returncode == 0, stopped.stderr
    until("the batches to be cancelled", lambda: record.one(SLEEPERS) == 0)
    assert daemon.lines("all.stopped")
    until("the stop to be told as the reason", lambda: (hold_reason(engine, run) or "").startswith("stopped for all"))
    assert (record.state("inc"), untouched(engine)) == ("running", True)

    engine.execute("DROP TRIGGER slow ON counters")
    assert backfilld("resume", "--all", database_url=engine.url, redis_url=None).returncode == 0
    until("the run to be completed", lambda: record.state("inc") == "completed")
    assert engine.execute("SELECT DISTINCT n FROM counters") == [{"n": 1}]


# --- windows -----------------------------------------------------------------------------------------------------------


def window_from(engine: Engine, *, hours: int) -> str:
    """A window of two hours that opens so many hours from now, by the database's clock."""
    return str(
        engine.value(
            "SELECT 'daily ' || to_char(t, 'HH24:MI') || '-' || to_char(t + interval '2 hours', 'HH24:MI') || ' UTC' "
            "FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' + make_interval(hours => %s)) AS later (t)",
            hours,
        )
    )


def test_outside_its_windows_a_run_waits_and_says_until_when(engine: Engine, run: int) -> None:
    lane = engine.drive_to_lanes(run)[0]
    window = window_from(engine, hours=3)
    pacing.tune(engine.connection, run, {"windows": [window]}, width=None, actor="ann")
    reason = hold_reason(engine, run)
    assert reason is not None, "before any lane has tried"
    assert reason.startswith("outside its window; opens ")
    assert reason.endswith(f" {window.split()[1][:5]} UTC")

    engine.runner(one_step=False).advance(engine.message(run, lane.lane))
    assert untouched(engine)
    assert [held.reason for held in engine.told(LaneHeld)] == [reason]
    after = engine.lane(run, lane.lane)
    assert (after.seq, after.attempts, after.last_error, after.enqueued_at) == (lane.seq, 0, None, None)
    seconds = engine.value(
        "SELECT extract(epoch FROM next_run_at - clock_timestamp())::float8 FROM backfilld.lanes WHERE run = %s AND lane = %s",
        run,
        lane.lane,
    )
    assert 0 < seconds <= LONGEST_SHUT_SECONDS

    pacing.tune(engine.connection, run, {"windows": [window, window_from(engine, hours=-1)]}, width=None, actor="ann")
    assert hold_reason(engine, run) is None
    expect(engine.drive(run), State.COMPLETED)


def test_outside_its_windows_a_run_does_not_begin_but_can_be_cancelled(engine: Engine) -> None:
    """DDL is work as well; what a person asks for is not."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY)")
    run = engine.enqueue(
        "name: add\noperations: [{add_column: {table: jobs, column: {name: note, type: text}}}]\n"
        f"settings: {{windows: ['{window_from(engine, hours=3)}']}}"
    )
    engine.runner().advance(engine.message(run))
    expect(engine.run(run), State.QUEUED)
    assert engine.told(LaneHeld)
    commands.cancel(engine.connection, run, actor="ann")
    Control(observe=engine.events.append).run_once(engine.connection)
    expect(engine.run(run), State.CANCELLED)


def test_a_batch_in_hand_is_finished_when_its_window_closes(engine: Engine, run: int) -> None:
    """It closes in the middle of a message: a trigger of the test closes it with the first batch."""
    lane = engine.drive_to_lanes(run)[0]
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 5")
    closed = window_from(engine, hours=3)
    engine.execute(
        "CREATE FUNCTION close() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE backfilld.runs "
        f"SET settings = jsonb_set(settings, '{{windows}}', '[\"{closed}\"]'); RETURN NULL; END $$;"
        "CREATE TRIGGER close AFTER UPDATE ON counters FOR EACH STATEMENT EXECUTE FUNCTION close()"
    )
    engine.runner(one_step=False).advance(engine.message(run, lane.lane))
    assert engine.value("SELECT sum(n) FROM counters") == 5
    assert [held.reason[:18] for held in engine.told(LaneHeld)] == ["outside its window"]


def test_batch_seconds_count_from_the_next_batch_on(engine: Engine, run: int) -> None:
    """In the middle of a message, too: what was known of the run when it began is read again at each claim."""
    lane = engine.drive_to_lanes(run)[0]
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 5")
    engine.execute(
        "CREATE TABLE limits (ms text);"
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO public.limits SELECT current_setting('statement_timeout'); UPDATE backfilld.runs "
        "SET settings = jsonb_set(settings, '{batch_seconds}', '2'); RETURN NULL; END $$;"
        "CREATE TRIGGER look AFTER UPDATE ON counters FOR EACH STATEMENT EXECUTE FUNCTION look()"
    )
    engine.runner(one_step=False).advance(engine.message(run, lane.lane))
    seen = [row["ms"] for row in engine.execute("SELECT ms FROM limits")]
    assert (seen[0], seen[-1]) == ("5s", "20s")
