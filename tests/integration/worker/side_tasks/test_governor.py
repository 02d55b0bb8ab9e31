"""Under the governor's verdict: a hold holds, a verdict too old holds, and no more lanes work at once than it allows."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_daemon import until
from fix_runs import expect
from psycopg.types.json import Jsonb

from backfilld.migrations.holds import STALE_SECONDS, blind_because
from backfilld.migrations.postgres.connect import connect
from backfilld.migrations.record import lanes, pace, step_context
from backfilld.migrations.record.states import State
from backfilld.migrations.settings import Limit, Limits, Signal
from backfilld.migrations.telemetry import BatchCommitted, Event, LaneHeld, PaceSet
from backfilld.migrations.wire.messages import LaneMessage
from backfilld.worker.lanes.runner import Runner
from backfilld.worker.side_tasks.activity import Activity
from backfilld.worker.side_tasks.canary import Canary
from backfilld.worker.side_tasks.governor import (
    IDLE_VERDICT_SECONDS,
    LESSON_SECONDS,
    TICK_SECONDS,
    VERDICT_SECONDS,
    Governor,
)
from backfilld.worker.side_tasks.side_task import SideTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_runs import Engine

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.producers.demo.servers import EmbeddedPostgres

ROWS = 80


@pytest.fixture
def run(engine: Engine) -> int:
    engine.execute("CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    engine.execute("INSERT INTO counters (id) SELECT generate_series(1, %s)", ROWS)
    return engine.enqueue(
        'name: inc\noperations: [{backfill: {table: counters, set: {n: "n + 1"}}}]\nsettings: {lanes: 4}'
    )


def untouched(engine: Engine) -> bool:
    return bool(engine.value("SELECT bool_and(n = 0) FROM counters"))


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("sampled_at = clock_timestamp() - interval '20 seconds'", "no load reading for 20 s"),
        ("sampled_at = NULL", "no load reading yet"),
        ("hold_reason = 'replica lag 42 s, limit 30'", "replica lag 42 s, limit 30"),
        ("width = 0", "all 0 permits are taken"),
    ],
)
def test_a_hold_holds_and_says_why(engine: Engine, run: int, statement: str, reason: str) -> None:
    lane = engine.drive_to_lanes(run)[0]
    engine.execute(f"UPDATE backfilld.pace SET {statement}")
    engine.runner(one_step=False).advance(engine.message(run, lane.lane))
    assert untouched(engine)
    (held,) = engine.told(LaneHeld)
    assert held.reason == reason
    after = engine.lane(run, lane.lane)
    assert (after.seq, after.attempts, after.last_error, after.enqueued_at) == (lane.seq, 0, None, None)
    assert after.next_run_at is not None
    assert lane.next_run_at is not None
    assert after.next_run_at > lane.next_run_at
    expect(engine.drive(run), State.COMPLETED)


@pytest.mark.parametrize("statement", ["sampled_at = NULL", "hold_reason = 'busy'"])
def test_a_hold_holds_the_conductor_too(engine: Engine, run: int, statement: str) -> None:
    """DDL is work as well. Permits are for lanes alone."""
    engine.execute(f"UPDATE backfilld.pace SET {statement}")
    engine.runner().advance(engine.message(run))
    expect(engine.run(run), State.QUEUED)
    assert engine.told(LaneHeld)
    engine.set_pace(width=0)
    engine.runner().advance(engine.message(run))
    expect(engine.run(run), State.RUNNING)


def test_a_hold_in_the_middle_of_a_message_ends_it(engine: Engine, run: int) -> None:
    lane = engine.drive_to_lanes(run)[0]
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 5")
    engine.execute(
        "CREATE FUNCTION load() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE backfilld.pace SET hold_reason = 'busy'; RETURN NULL; END $$;"
        "CREATE TRIGGER load AFTER UPDATE ON counters FOR EACH STATEMENT EXECUTE FUNCTION load()"
    )
    engine.runner(one_step=False).advance(engine.message(run, lane.lane))
    assert engine.value("SELECT sum(n) FROM counters") == 5
    assert [event.reason for event in engine.told(LaneHeld)] == ["busy"]


@pytest.mark.parametrize("width", [1, 2])
def test_no_more_batches_at_once_than_the_width(engine: Engine, run: int, width: int) -> None:
    """Each batch writes down how many permits were held beside its own, at its beginning and at its end."""
    engine.drive_to_lanes(run)
    engine.execute(
        "CREATE TABLE seen (at_once bigint);"
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO public.seen SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE l.relation = 'public.counters'::regclass AND l.mode = 'RowExclusiveLock' AND a.application_name LIKE 'backfilld run=%'; "
        "RETURN NULL; END $$;"
        "CREATE TRIGGER look AFTER UPDATE ON counters FOR EACH STATEMENT EXECUTE FUNCTION look()"
    )
    engine.sent.clear()
    engine.set_pace(width=width)
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 3")

    def work(number: int) -> None:
        runner = engine.runner(send=lambda _message: None)
        with engine.connect() as connection:
            while (lane := lanes.read(connection, run, number)) is not None and lane.done_at is None:
                runner.advance(LaneMessage(target="default", run=run, lane=number, seq=lane.seq))

    threads = [threading.Thread(target=work, args=(lane.lane,)) for lane in engine.lanes(run, "backfill")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.value("SELECT max(at_once) FROM seen") <= width
    assert engine.told(LaneHeld), "four lanes wanted to work at once"
    expect(engine.drive(run), State.COMPLETED)
    assert engine.execute("SELECT DISTINCT n FROM counters") == [{"n": 1}]


def test_a_permit_cannot_be_leaked_by_a_crash(engine: Engine, run: int) -> None:
    lane = engine.drive_to_lanes(run)[0]
    with pytest.raises(psycopg.OperationalError), engine.connect() as other, other.transaction():  # noqa: PT012 - it ends at its COMMIT
        other.execute(pace.TAKE_PERMIT)
        engine.set_pace(width=1)
        engine.runner().advance(engine.message(run, lane.lane))
        assert untouched(engine)
        engine.execute("SELECT pg_terminate_backend(%s, 5000)", other.info.backend_pid)
        engine.runner().advance(engine.message(run, lane.lane))
    assert not untouched(engine)


# --- the governor itself -----------------------------------------------------------------------------------------------


def governor(engine: Engine, limits: Limits | None = None) -> Governor:
    return Governor(limits or Limits(), observe=engine.events.append)


def test_the_governor_writes_its_verdict_and_work_may_begin(engine: Engine, run: int) -> None:
    engine.execute("UPDATE backfilld.pace SET sampled_at = NULL, width = 2")
    assert governor(engine).run_once(engine.connection) == 1
    now = pace.read(engine.connection)
    assert now.hold_reason is None
    assert now.age_seconds is not None
    assert now.age_seconds < 5
    assert set(engine.value("SELECT readings FROM backfilld.pace")) == set(Limits.model_fields) - {
        "wal_bytes_per_second"
    }
    (told,) = engine.told(PaceSet)
    assert (told.width, told.hold_signal) == (now.width, None)
    expect_progress(engine, run)


def expect_progress(engine: Engine, run: int) -> None:
    engine.runner().advance(engine.message(run))
    expect(engine.run(run), State.RUNNING)


def test_only_one_worker_governs_at_a_time(engine: Engine) -> None:
    with engine.connect() as other, other.transaction():
        assert pace.take(other) is not None
        assert governor(engine).run_once(engine.connection) == 0
    assert governor(engine).run_once(engine.connection) == 1


def test_a_limit_that_is_passed_holds_and_is_written_down_once(engine: Engine) -> None:
    strict = Limits(commit_seconds=Limit(soft=0.0, hard=1e-9))
    one = governor(engine, strict)
    for _ in range(3):
        one.run_once(engine.connection)
    reason = pace.read(engine.connection).hold_reason
    assert reason is not None
    assert reason.startswith("commit")
    began = engine.execute("SELECT detail FROM backfilld.events WHERE what = 'hold.began'")
    assert began[0]["detail"] | {"reason": ""} == {"signal": "commit_seconds", "reason": ""}
    assert len(began) == 1
    assert engine.told(PaceSet)[-1].hold_signal == "commit_seconds"

    governor(engine).run_once(engine.connection)
    assert pace.read(engine.connection).hold_reason is None
    ended = engine.execute("SELECT detail FROM backfilld.events WHERE what = 'hold.ended'")
    assert [row["detail"]["signal"] for row in ended] == ["commit_seconds"]


def test_readings_are_kept_with_their_limits(engine: Engine) -> None:
    governor(engine).run_once(engine.connection)
    readings = engine.value("SELECT readings FROM backfilld.pace")
    assert readings["replica_lag_seconds"] == {"value": 0, "soft": 5, "hard": 30, "detail": "no standby"}


def test_what_one_governor_learned_the_next_goes_on_with(engine: Engine) -> None:
    engine.execute(
        "UPDATE backfilld.pace SET memory = %s", Jsonb({"duty_cycle": 0.25, "commit_baseline_seconds": 0.5, "x": 1})
    )
    governor(engine).run_once(engine.connection)
    memory = engine.value("SELECT memory FROM backfilld.pace")
    assert 0.25 < memory["duty_cycle"] < 0.6
    assert 0.3 < memory["commit_baseline_seconds"] <= 0.5


def test_beside_others_batches_are_short_and_rest(engine: Engine, run: int) -> None:
    others = [engine.connect() for _ in range(3)]
    for other in others:
        other.execute("SELECT 1")
    governor(engine).run_once(engine.connection)
    standing = step_context.read(engine.connection, run)
    assert standing.settings.batch_seconds == 0.5
    assert standing.target_seconds <= 0.1
    assert standing.rest_ratio > 0
    (changed,) = engine.execute("SELECT detail FROM backfilld.events WHERE what = 'pace.changed'")
    assert "other session" in changed["detail"]["reason"]
    for other in others:
        other.close()


def test_a_lane_keeps_to_the_pace(engine: Engine, run: int) -> None:
    """Between its batches it rests for as long as they took, and they last no longer than the pace lets them."""
    lane = engine.drive_to_lanes(run)[0]
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 10")
    engine.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$;"
        "CREATE TRIGGER slow BEFORE UPDATE ON counters FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    stopping = Pauses()
    runner = Runner(engine.pool, send=engine.sent.append, observe=engine.events.append, stopping=stopping)
    engine.execute("UPDATE backfilld.pace SET batch_seconds = 0.02, rest = 3, sampled_at = clock_timestamp()")
    runner.advance(engine.message(run, lane.lane))
    batches = engine.told(BatchCommitted)
    assert stopping.waited
    for pause, batch in zip(stopping.waited, batches, strict=False):
        assert pause == pytest.approx(3 * (batch.statement_seconds + batch.commit_seconds))
    assert engine.lane(run, lane.lane).batch_rows < 10


def test_beside_others_a_batch_is_paid_for_by_the_wal_it_wrote(engine: Engine, run: int) -> None:
    """A megabyte at four in a second is a quarter of a second, however quickly it was written; two lanes have half of it each."""
    waiting = iter(engine.drive_to_lanes(run))
    engine.execute(
        "CREATE FUNCTION wal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_logical_emit_message(false, 'test', repeat('x', 1000000)); RETURN NULL; END $$;"
        "CREATE TRIGGER wal AFTER UPDATE ON counters FOR EACH STATEMENT EXECUTE FUNCTION wal();"
        "UPDATE backfilld.runs SET settings = settings || '{\"wal_mb_per_second\": 4}'"
    )

    def paces(*, width: int, others: int) -> list[float]:
        """Seconds that each batch took together with its rest."""
        engine.execute(
            "UPDATE backfilld.pace SET rest = 0, sampled_at = clock_timestamp(), width = %s, batch_seconds = 0.05, memory = %s",
            width,
            Jsonb({"others": others}),
        )
        engine.execute("UPDATE backfilld.lanes SET batch_rows = 5")
        stopping, events = Pauses(), list[Event]()
        runner = Runner(engine.pool, send=engine.sent.append, observe=events.append, stopping=stopping)
        runner.advance(engine.message(run, next(waiting).lane))
        batches = [event for event in events if isinstance(event, BatchCommitted)]
        return [
            pause + batch.statement_seconds + batch.commit_seconds
            for pause, batch in zip(stopping.waited or [0.0] * len(batches), batches, strict=False)
        ]

    assert min(paces(width=2, others=2)) == pytest.approx(0.5, rel=0.2)
    assert min(paces(width=1, others=2)) == pytest.approx(0.25, rel=0.2)
    assert min(paces(width=1, others=1)) < 0.2, "one session may be a person, who does not wait for it"


class Pauses(threading.Event):
    """Says at once that the wait is over, and remembers how long it should have been."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        return False


def test_a_reading_that_fails_holds(engine: Engine) -> None:
    """A view it needs is not what it was: here a column is not there for this role."""
    engine.execute("CREATE SCHEMA shadow; CREATE VIEW shadow.pg_locks AS SELECT 1 AS nothing")
    with engine.connect() as odd:
        odd.execute("SET search_path = shadow, pg_catalog")
        governor(engine).run_once(odd)
    reason = pace.read(engine.connection).hold_reason
    assert reason is not None
    assert "cannot be read" in reason


def test_sessions_that_wait_for_our_batch_stop_the_work(engine: Engine, run: int) -> None:
    """A batch holds its rows; four sessions of the application have waited for one of them for a quarter of a second."""
    engine.drive_to_lanes(run)
    ours = engine.connect()
    others = [engine.connect() for _ in range(4)]
    threads = []
    with ours.transaction(force_rollback=True):
        ours.execute("SET LOCAL application_name = 'backfilld run=1 lane=1 seq=0'")
        ours.execute("UPDATE counters SET n = n WHERE id = 1")
        for other in others:
            threads.append(threading.Thread(target=other.execute, args=("UPDATE counters SET n = n WHERE id = 1",)))
            threads[-1].start()
        one, began = governor(engine), time.monotonic()
        while pace.read(engine.connection).hold_reason is None:
            one.run_once(engine.connection)
            assert time.monotonic() - began < 10
    reason = engine.told(PaceSet)[-1]
    assert reason.hold_signal == "blocked_sessions"
    for thread in threads:
        thread.join()
    one.run_once(engine.connection)
    assert pace.read(engine.connection).hold_reason is None
    for connection in (ours, *others):
        connection.close()


def test_a_verdict_lives_long_enough_for_its_successor(engine: Engine) -> None:
    engine.set_pace(age_seconds=STALE_SECONDS - 1)
    age = pace.read(engine.connection).age_seconds
    assert age is not None
    assert age < STALE_SECONDS


# --- the operator's own signals ----------------------------------------------------------------------------------------


def signal(name: str, query: str, **changed: float) -> Signal:
    return Signal(**({"name": name, "kind": "sql", "query": query, "soft": 10, "hard": 20} | changed))


def governor_with(engine: Engine, *signals: Signal) -> Governor:
    return Governor(Limits(), observe=engine.events.append, signals=signals, database_url=engine.url)


def test_a_number_of_the_operators_holds_and_lets_go(engine: Engine) -> None:
    engine.execute("CREATE TABLE queue (id int)")
    one = governor_with(engine, signal("queue", "SELECT count(*) FROM public.queue"))
    one.run_once(engine.connection)
    assert pace.read(engine.connection).hold_reason is None
    engine.execute("INSERT INTO queue SELECT generate_series(1, 25)")

    def hold_reason() -> str | None:
        one.run_once(engine.connection)
        return pace.read(engine.connection).hold_reason

    until("the hold", hold_reason)
    assert hold_reason() == "queue 25, limit 20"
    assert engine.told(PaceSet)[-1].hold_signal == "queue"
    engine.execute("TRUNCATE queue")
    until("its end", lambda: hold_reason() is None)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT pg_sleep(60)", "no answer within 0.2 s"),
        ("SELECT 1/0", "division by zero"),
        ("SELECT NULL", "the query returned no number"),
        ("SELECT 'many'", "could not convert string to float"),
        ("DELETE FROM backfilld.pace", "read-only transaction"),
    ],
)
def test_a_query_of_the_operators_that_gives_nothing_holds_by_name_and_delays_nothing(
    engine: Engine, query: str, why: str
) -> None:
    one = governor_with(engine, signal("odd", query, timeout_seconds=0.2), signal("well", "SELECT 1"))
    one.run_once(engine.connection)

    def reason() -> str:
        began = time.monotonic()
        one.run_once(engine.connection)
        assert time.monotonic() - began < 5, "of sixty"
        return pace.read(engine.connection).hold_reason or ""

    until("the reason", lambda: why in reason())
    assert reason().startswith("odd cannot be read: ")
    assert engine.value("SELECT readings -> 'well' ->> 'value' FROM backfilld.pace") == "1.0"


# --- while no run is at work -------------------------------------------------------------------------------------------


def idle_governor(engine: Engine) -> tuple[Governor, Activity]:
    """One that has given its first verdict, and has been told that no run is at work."""
    activity = Activity()
    one = Governor(Limits(), observe=engine.events.append, activity=activity)
    activity.tell(at_work=False)
    assert one.tick(engine.connection) == 1
    return one, activity


def test_without_a_run_verdicts_are_rare_and_one_comes_at_once_when_a_run_begins(engine: Engine) -> None:
    one, activity = idle_governor(engine)
    one._judged_at -= VERDICT_SECONDS
    assert one.tick(engine.connection) == 0

    activity.tell(at_work=True)

    assert one.tick(engine.connection) == 1
    activity.tell(at_work=False)
    one._judged_at -= IDLE_VERDICT_SECONDS
    assert one.tick(engine.connection) == 1


def test_the_last_verdict_of_an_idle_daemon_is_never_too_old_to_begin_on() -> None:
    assert blind_because(IDLE_VERDICT_SECONDS + TICK_SECONDS) is None


def test_without_a_run_nothing_is_committed_and_signals_of_what_runs_do_are_not_asked(engine: Engine) -> None:
    idle_governor(engine)
    readings = engine.value("SELECT readings FROM backfilld.pace")
    assert "commit_seconds" not in readings
    assert readings["dead_tuples"]["value"] == 0
    assert readings["dead_tuples"]["detail"] == "no run is at work"


def test_what_others_take_is_learned_now_and_then_though_no_run_is_at_work(engine: Engine) -> None:
    """Or the first run would have nothing to compare with."""
    one, _ = idle_governor(engine)
    one._on_duty = one._others_present = True

    one.tick(engine.connection)
    one._judged_at -= VERDICT_SECONDS
    assert one.tick(engine.connection) == 1

    one._learned_at -= LESSON_SECONDS
    one._judged_at -= VERDICT_SECONDS
    assert one.tick(engine.connection) == 0


# --- the canary --------------------------------------------------------------------------------------------------------


def test_the_canary_knows_when_a_batch_of_ours_is_under_way(engine: Engine) -> None:
    canary = Canary()
    canary.warm_up(engine.connection)
    assert not canary.working
    assert canary.latency.rested_share == 1
    assert canary.latency.seconds is not None
    with engine.connect() as batch, batch.transaction():
        batch.execute("SET LOCAL application_name = 'backfilld run=1 lane=1 seq=0'")
        for _ in range(8):
            canary.commit(engine.connection)
    assert canary.working
    assert canary.latency.rested_share == 0.5
    assert [reading.value for reading in canary.readings] == [canary.latency.seconds]


def test_a_canary_that_fails_is_a_signal_that_cannot_be_read(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "CANARY", "SELECT 1/0")
    one = governor(engine)
    one.run_once(engine.connection)
    assert pace.read(engine.connection).hold_reason == "commit cannot be read: division by zero"
    monkeypatch.undo()
    one.tick(engine.connection)
    one._canary.commit(engine.connection)
    one.run_once(engine.connection)
    assert pace.read(engine.connection).hold_reason is None


def test_what_a_transaction_of_others_takes_is_their_number_by_their_rate(engine: Engine) -> None:
    """Three sessions wait for a row; a hundred transactions a second end: each takes thirty milliseconds."""
    canary = Canary()
    others = [engine.connect() for _ in range(3)]
    for other in others:
        other.execute("BEGIN")
    assert canary.latency.response_seconds is None, "nothing was counted yet"
    canary.count(1000)
    canary._ended[0] = (time.monotonic() - 2, 1000)
    canary.count(1200)
    for _ in range(20):
        canary.count_sessions(engine.connection)
    assert canary.latency.response_seconds == pytest.approx(0.03, rel=0.2)
    assert canary.latency.seconds is None, "no commit of ours"
    canary.count(7)
    assert canary.latency.response_seconds is None, "the counters were reset"
    for other in others:
        other.close()


def test_the_canary_leaves_nothing_to_vacuum(engine: Engine) -> None:
    canary = Canary()
    size = "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relnamespace = 'backfilld'::regnamespace"
    before = engine.value(size)
    for _ in range(50):
        canary.commit(engine.connection)
    assert engine.value(size) == before


def test_between_verdicts_only_the_canary_sings_and_only_where_runs_are(engine: Engine, run: int) -> None:
    one = governor(engine)
    assert one.tick(engine.connection) == 1
    sung = len(one._canary._samples)
    assert [one.tick(engine.connection) for _ in range(3)] == [0, 0, 0]
    assert len(one._canary._samples) == sung + 3
    engine.execute("UPDATE backfilld.runs SET state = 'failed', error = '{}'")
    one.run_once(engine.connection)
    sung = len(one._canary._samples)
    assert one.tick(engine.connection) == 0
    assert len(one._canary._samples) == sung


# --- a real standby ----------------------------------------------------------------------------------------------------


@pytest.fixture
def governed(embedded_database_url: str) -> Iterator[Callable[[Limits], Connection]]:
    """Starts the governor's own task with these limits; gives a connection to look at its verdicts."""
    stopping = threading.Event()
    started: list[SideTask] = []
    with connect(embedded_database_url, application_name="backfilld test") as connection:

        def start(limits: Limits) -> Connection:
            one = Governor(limits, observe=lambda _event: None)
            task = SideTask(
                "governor",
                one.tick,
                database_url=embedded_database_url,
                stopping=stopping,
                wait=lambda _: stopping.wait(TICK_SECONDS),
                observe=lambda _event: None,
            )
            task.start()
            started.append(task)
            return connection

        yield start
        stopping.set()
        for task in started:
            task.join()


def test_a_standby_that_falls_behind_stops_the_work_in_time_and_lets_it_go_on_by_itself(
    governed: Callable[[Limits], Connection], standby: EmbeddedPostgres
) -> None:
    """Held within two seconds of passing the hard limit, and going on within five of the recovery."""
    hard_seconds = 1.0
    watch = governed(Limits(replica_lag_seconds=Limit(soft=0.5, hard=hard_seconds)))
    until("the first verdict", lambda: pace.read(watch).age_seconds is not None and not pace.read(watch).hold_reason)
    with connect(standby.url()) as replica:
        replica.execute("SELECT pg_wal_replay_pause()")
        state = "SELECT pg_get_wal_replay_pause_state() AS s"
        until("the pause", lambda: replica.execute(state).fetchone() == {"s": "paused"})
        began = time.monotonic()
        watch.execute("SELECT pg_logical_emit_message(true, 'test', 'x')")
        until("the hold", lambda: "replica lag" in (pace.read(watch).hold_reason or ""))
        held_after = time.monotonic() - began
        replica.execute("SELECT pg_wal_replay_resume()")
        began = time.monotonic()
        until("the end of the hold", lambda: pace.read(watch).hold_reason is None)
        released_after = time.monotonic() - began
    assert held_after <= hard_seconds + 2
    assert released_after <= 5
    story = watch.execute("SELECT what, detail ->> 'signal' AS signal FROM backfilld.events ORDER BY event").fetchall()
    assert story[-2:] == [
        {"what": "hold.began", "signal": "replica_lag_seconds"},
        {"what": "hold.ended", "signal": "replica_lag_seconds"},
    ]
