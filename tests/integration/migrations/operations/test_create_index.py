"""`create_index`: built while the application goes on, whatever becomes of the worker, and dropped on the way back."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_daemon import until
from fix_indexes import BUILDING, aside, index, open_snapshot, open_writer, phase_of_build, to_build
from fix_runs import PACE_SECONDS, expect
from psycopg import sql

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.planning.examine import examine
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import BatchGaveWay
from backfilld.monitoring import display, progress
from backfilld.producers import commands, pacing
from backfilld.worker.side_tasks.control import Control
from backfilld.worker.side_tasks.give_way import GiveWay

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_runs import Engine


ROWS = 200
NAME = "jobs_status_idx"


def migration(*operations: dict[str, Any], name: str = "index", approve: tuple[str, ...] = ()) -> str:
    """Any: what a file may say."""
    return json.dumps({"name": name, "operations": operations, "settings": {"lanes": 1, "approve": approve}})


def create(**also: Any) -> dict[str, Any]:
    return {
        "create_index": {
            "table": "jobs",
            "name": NAME,
            **({"columns": ["status"]} if "expressions" not in also else {}),
            **also,
        }
    }


CREATE = migration(create())
UNIQUE = migration(create(unique=True))


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs SELECT n, 'open ' || n FROM generate_series(1, %s) n", ROWS)


def is_valid(engine: Engine) -> bool:
    found = index(engine, NAME)
    return found is not None and found.valid


def drive_to_build(engine: Engine, text: str = CREATE) -> int:
    run = engine.enqueue(text)
    engine.drive(run, until=to_build)
    return run


HOLDERS: dict[str, tuple[Callable[[Engine], Any], str]] = {
    "a writer": (open_writer, "waiting for writers before build"),
    "a snapshot": (open_snapshot, "waiting for old snapshots"),
}


# --- what is built -----------------------------------------------------------------------------------------------------

BUILT: dict[str, tuple[dict[str, Any], str]] = {
    "columns": ({"columns": ["status", "id"]}, "USING btree (status, id)"),
    "unique": ({"unique": True}, "USING btree (status)"),
    "expressions": ({"expressions": "lower(status), id DESC -- newest"}, "USING btree (lower(status), id DESC)"),
    "partial": ({"where": "status LIKE '100%' -- %s"}, "USING btree (status) WHERE (status ~~ '100%'::text)"),
    "include": ({"columns": ["id"], "include": ["status"]}, "USING btree (id) INCLUDE (status)"),
    "method": ({"method": "hash"}, "USING hash (status)"),
}


@pytest.mark.parametrize("case", BUILT)
def test_an_index_is_built_and_dropped_on_the_way_back(engine: Engine, case: str) -> None:
    also, rest = BUILT[case]
    run = engine.enqueue(migration(create(**also)))
    expect(engine.drive(run), State.COMPLETED)
    found = index(engine, NAME)
    assert found is not None
    assert found.valid
    assert found.definition is not None
    assert (found.definition.rest, found.definition.unique) == (rest, also.get("unique", False))
    told = engine.execute("SELECT what, detail FROM backfilld.events WHERE what LIKE 'index.%%'")
    assert [(event["what"], event["detail"]["index"]) for event in told] == [("index.built", NAME)]

    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert index(engine, NAME) is None


@pytest.mark.parametrize(
    "names", [("Order", 'a%b "c" USING (%s)'), ('"a.b"."x"" y"', "é" * 31), ("select", "Mixed.Case")]
)
def test_any_names(engine: Engine, names: tuple[str, str]) -> None:
    table, name = TableName.parse(names[0]), names[1]
    engine.connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(table.schema)))
    engine.connection.execute(sql.SQL('CREATE TABLE {} ("a%b" text PRIMARY KEY, "x""y" int)').format(table.identifier))
    create_ = {"table": names[0], "name": name, "columns": ['x"y', "a%b"], "where": "\"a%b\" <> '%s'", "unique": True}
    run = engine.enqueue(migration({"create_index": create_}))
    expect(engine.drive(run), State.COMPLETED)
    found = index(engine, name, table.schema)
    assert found is not None
    assert (found.table, found.valid) == (table, True)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert index(engine, name, table.schema) is None


def test_a_column_that_the_same_file_adds_is_indexed_after_its_walk(engine: Engine) -> None:
    add = {"add_column": {"table": "jobs", "column": {"name": "shout", "type": "text"}, "backfill": "upper(status)"}}
    run = engine.enqueue(migration(add, create(columns=["shout"])))
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY)
    assert index(engine, NAME) is None, "the walk would pay for it"
    expect(engine.drive(run), State.COMPLETED)
    assert is_valid(engine)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert index(engine, NAME) is None


def test_the_owner_of_the_table_needs_no_other_right(engine: Engine, supabase_url: str) -> None:
    """As on Supabase: NOSUPERUSER, with builds to cancel and sessions to end that are its own."""
    from backfilld.migrations.record import schema  # noqa: PLC0415 - this test alone has a database without the schema

    with (
        psycopg.connect(supabase_url, autocommit=True, row_factory=psycopg.rows.dict_row) as connection,
        open_pool(supabase_url, size=4) as pool,
    ):
        schema.ensure(connection)
        connection.execute("CREATE TABLE public.jobs (id bigint PRIMARY KEY, status text)")
        connection.execute("INSERT INTO public.jobs SELECT n, 'open ' || n FROM generate_series(1, 10) n")
        owner = type(engine)(url=supabase_url, connection=connection, pool=pool)
        owner.set_pace()
        run = drive_to_build(owner, UNIQUE)
        with open_writer(owner), aside(owner, owner.message(run)):
            until("the build to wait", lambda: phase_of_build(owner), patience_seconds=20)
            commands.pause(connection, run, actor="ann")
        expect(owner.drive(run), State.PAUSED)
        commands.resume(connection, run, actor="ann")
        expect(owner.drive(run), State.COMPLETED)
        assert is_valid(owner)


# --- while it is built -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_pause_during_the_build_takes_effect_within_a_second(engine: Engine, holder: str) -> None:
    holds, phase = HOLDERS[holder]
    run = drive_to_build(engine)
    before = engine.lane(run, 0)
    with holds(engine):
        with aside(engine, engine.message(run)) as worker:
            until("the build to wait", lambda: phase_of_build(engine) == phase)
            # When
            commands.pause(engine.connection, run, actor="ann")
            worker.join(timeout=2.5)
            assert not worker.is_alive()
        # Then the step came back as it was
        after = engine.lane(run, 0)
        assert (after.seq, after.attempts, after.last_error) == (before.seq, 0, None)
        assert engine.value(BUILDING) == 0
        Control(observe=engine.events.append).run_once(engine.connection)
        expect(engine.run(run), State.PAUSED)
        if holder == "a snapshot":
            assert index(engine, NAME) is None, "nobody uses the table, so what was INVALID could go at once"
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert is_valid(engine)


def test_what_could_not_be_removed_at_once_is_on_record_and_goes_with_the_next_attempt(engine: Engine) -> None:
    run = drive_to_build(engine)
    with open_writer(engine), aside(engine, engine.message(run)):
        until("the build to wait", lambda: phase_of_build(engine))
        commands.pause(engine.connection, run, actor="ann")
    assert index(engine, NAME) is not None
    assert not is_valid(engine)
    (left,) = engine.execute("SELECT detail FROM backfilld.events WHERE what = 'index.left_invalid'")
    assert left["detail"] == {"index": NAME, "table": "jobs"}
    engine.drive(run)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert index(engine, NAME) is None


def test_the_stop_of_all_runs_and_a_rollback_end_the_build_too(engine: Engine) -> None:
    run = drive_to_build(engine)
    with open_snapshot(engine):
        with aside(engine, engine.message(run)):
            until("the build to wait", lambda: phase_of_build(engine))
            pacing.stop_all(engine.connection, actor="ann")
        assert index(engine, NAME) is None
        pacing.resume_all(engine.connection, actor="ann")
        with aside(engine, engine.message(run)):
            until("the build to wait", lambda: phase_of_build(engine))
            commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
    assert index(engine, NAME) is None


def test_the_lane_is_held_and_nothing_of_it_is_in_the_builds_way(engine: Engine) -> None:
    """The transaction that holds the lane has neither a lock on the table nor a snapshot, and looks up all the time."""
    run = drive_to_build(engine)
    with open_writer(engine), aside(engine, engine.message(run)):
        until("the build to wait", lambda: phase_of_build(engine))
        holder = (
            "SELECT pid, xact_start, state_change, backend_xmin FROM pg_stat_activity "
            "WHERE application_name LIKE 'backfilld waits for an index%%' AND datname = current_database()"
        )
        (first,) = engine.execute(holder)
        until("two more looks", lambda: engine.execute(holder)[0]["state_change"] > first["state_change"])
        locks = engine.execute("SELECT FROM pg_locks WHERE pid = %s AND relation = 'jobs'::regclass", first["pid"])
        assert locks == []
        assert until("the moment between two looks", lambda: engine.execute(holder)[0]["backend_xmin"] is None)
        # Another worker that gets the same message finds the lane held, and leaves it alone
        engine.runner().advance(engine.message(run))
        assert engine.value(BUILDING) == 1
        commands.pause(engine.connection, run, actor="ann")


def test_writers_go_on_during_the_build(engine: Engine) -> None:
    run = drive_to_build(engine)
    stop, failures, written = threading.Event(), [], []

    def write() -> None:
        with engine.connect() as application:
            number = 1000
            while not stop.is_set():
                number += 1
                try:
                    application.execute("SET statement_timeout = '300ms'")
                    application.execute("INSERT INTO jobs VALUES (%s, 'w' || %s)", [number, number])
                    application.execute("DELETE FROM jobs WHERE id = %s", [number - 5])
                    written.append(number)
                except psycopg.Error as exc:
                    failures.append(exc)
                stop.wait(PACE_SECONDS)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        until("the first row", lambda: written)
        with open_snapshot(engine), aside(engine, engine.message(run)):
            until("the build to be at its end", lambda: phase_of_build(engine) == "waiting for old snapshots")
            seen = len(written)
            until("rows that the new index has to take", lambda: len(written) > seen + 20)
            engine.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND state = 'idle in transaction' AND datname = current_database()"
            )
    except psycopg.errors.AdminShutdown:
        pass  # the holder's end
    finally:
        stop.set()
        thread.join()
    expect(engine.drive(run), State.COMPLETED)
    assert failures == []
    assert is_valid(engine)
    engine.execute("SET enable_seqscan = off")
    by_index = engine.value("SELECT count(*) FROM jobs WHERE status > ''")
    engine.execute("SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off")
    assert by_index == engine.value("SELECT count(*) FROM jobs WHERE status > ''")


def test_status_shows_how_far_the_build_is_and_whom_it_waits_for(engine: Engine) -> None:
    run = drive_to_build(engine)
    with open_writer(engine) as writer:
        with aside(engine, engine.message(run)):
            until("the build to wait", lambda: phase_of_build(engine) == "waiting for writers before build")
            (now,) = progress.read(engine.connection, [engine.run(run)])
            commands.pause(engine.connection, run, actor="ann")
        pid = writer.info.backend_pid
    assert now.index_work is not None
    assert now.percent < 100
    told = [now.hold_reason or "", display.line(now)]
    for line in told:
        assert f"waits for pid {pid} (idle in transaction" in line
        assert "UPDATE jobs SET status = status" in line
    assert 'CREATE INDEX CONCURRENTLY "jobs_status_idx"' in told[1]
    assert "waiting for writers before build" in told[1]
    engine.drive(run)
    assert progress.read(engine.connection, [engine.run(run)])[0].index_work is None


def test_the_build_gives_way_to_whoever_waits_for_its_table(engine: Engine) -> None:
    """A writer that then changes the table would be in a deadlock with the build, and might be the one to lose."""
    run = drive_to_build(engine)
    with open_writer(engine) as application, aside(engine, engine.message(run)) as worker:
        until("the build to wait", lambda: phase_of_build(engine))
        changing = threading.Thread(
            target=application.execute, args=("ALTER TABLE jobs ALTER status SET STATISTICS 10",)
        )
        changing.start()
        give_way = GiveWay(observe=engine.events.append)
        until("the build to go", lambda: give_way.run_once(engine.connection) >= 0 and not worker.is_alive())
        changing.join(timeout=5)
        assert not changing.is_alive()
    assert engine.told(BatchGaveWay)
    expect(engine.drive(run), State.COMPLETED)
    assert is_valid(engine)


# --- whatever becomes of the worker ------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["waiting for writers before build", "waiting for old snapshots"])
@pytest.mark.parametrize("lost", ["the lane", "the build", "both"])
def test_a_build_whose_connections_are_lost_is_built_by_the_next_worker(engine: Engine, phase: str, lost: str) -> None:
    """As a killed worker leaves it: INVALID, and perhaps still under way on the server."""
    run = drive_to_build(engine)
    names = {
        "the lane": "backfilld waits for an index%",
        "the build": "backfilld run=% index",
        "both": "backfilld %ind%",
    }
    holder = open_writer if "writers" in phase else open_snapshot
    with holder(engine), aside(engine, engine.message(run)):
        until("the build to wait", lambda: phase_of_build(engine) == phase)
        engine.execute(
            "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity "
            "WHERE application_name LIKE %s AND datname = current_database() OFFSET 0) theirs",
            names[lost],
        )
    assert engine.run(run).state is State.RUNNING
    expect(engine.drive(run), State.COMPLETED)
    assert is_valid(engine)
    assert engine.value(BUILDING) == 0


def test_a_build_that_a_dead_worker_left_running_is_ended_first(engine: Engine) -> None:
    run = drive_to_build(engine)
    orphan = engine.connect()
    orphan.execute("SELECT set_config('application_name', %s, false)", [f"backfilld run={run} lane=0 seq=1 index"])
    failures: list[psycopg.Error] = []

    def build() -> None:
        try:
            orphan.execute('CREATE INDEX CONCURRENTLY "jobs_status_idx" ON public.jobs USING btree (status)')
        except psycopg.Error as exc:
            failures.append(exc)

    with open_snapshot(engine) as holder:
        left = threading.Thread(target=build)
        left.start()
        until("the orphan to wait", lambda: phase_of_build(engine) == "waiting for old snapshots")
        with aside(engine, engine.message(run)):
            left.join(timeout=20)
            assert isinstance(failures[0], psycopg.errors.AdminShutdown)
            until("its successor to wait", lambda: phase_of_build(engine) == "waiting for old snapshots")
            holder.execute("COMMIT")
    expect(engine.drive(run), State.COMPLETED)
    assert is_valid(engine)


def test_an_index_that_is_there_already_is_not_built_twice(engine: Engine) -> None:
    """The worker was killed between the build and its checkpoint."""
    run = drive_to_build(engine)
    engine.execute(f"CREATE INDEX {NAME} ON jobs (status)")
    there = index(engine, NAME)
    expect(engine.drive(run), State.COMPLETED)
    assert index(engine, NAME) == there


@pytest.mark.parametrize(
    "other", ["CREATE INDEX {} ON jobs (id)", "CREATE INDEX {} ON others (status)", "CREATE VIEW {} AS SELECT 1"]
)
def test_what_somebody_else_made_under_the_name_is_left_alone(engine: Engine, other: str) -> None:
    """By the build and by the way back."""
    engine.execute("CREATE TABLE others (status text)")
    run = drive_to_build(engine)
    engine.execute(other.format(NAME))
    there = index(engine, NAME)
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert NAME in now.error["message"]
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert index(engine, NAME) == there


def test_an_invalid_leftover_is_removed_and_built_anew(engine: Engine) -> None:
    run = drive_to_build(engine, UNIQUE)
    engine.execute("UPDATE jobs SET status = 'same' WHERE id < 3")
    with engine.connect() as other, pytest.raises(psycopg.errors.UniqueViolation):
        other.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {NAME} ON jobs (status)")
    there = index(engine, NAME)
    assert there is not None
    assert not there.valid
    engine.execute("UPDATE jobs SET status = id::text WHERE id < 3")
    expect(engine.drive(run), State.COMPLETED)
    now = index(engine, NAME)
    assert now is not None
    assert now.valid
    assert now.oid != there.oid


@pytest.mark.parametrize("phase", [Phase.EXPAND, Phase.BACKFILL, Phase.VERIFY, Phase.SWITCH, Phase.CONTRACT])
def test_back_from_every_phase(engine: Engine, phase: Phase) -> None:
    run = engine.enqueue(CREATE)
    engine.drive(run, until=lambda run: run.phase is phase)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert index(engine, NAME) is None


# --- duplicates --------------------------------------------------------------------------------------------------------


def test_duplicates_pause_the_run_with_their_keys_and_nothing_is_left(engine: Engine) -> None:
    engine.execute("UPDATE jobs SET status = 'same' WHERE id IN (7, 77)")
    run = engine.enqueue(UNIQUE)
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert now.error["class"] == "violated"
    for part in ("Key (status)=(same) is duplicated", "7, 77", "backfilld resume"):
        assert part in now.error["message"]
    assert index(engine, NAME) is None, "one that is INVALID would refuse duplicates of the application's"
    engine.execute("INSERT INTO jobs VALUES (1000, 'same')")

    engine.execute("UPDATE jobs SET status = 'other ' || id WHERE status = 'same'")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    with pytest.raises(psycopg.errors.UniqueViolation):
        engine.execute("INSERT INTO jobs VALUES (1001, 'other 7')")


def test_a_run_paused_by_duplicates_can_be_rolled_back(engine: Engine) -> None:
    """With another index of the same file that was built already."""
    engine.execute("UPDATE jobs SET status = 'same' WHERE id IN (7, 77)")
    first = create(name="first_idx", columns=["status", "id"])
    run = engine.enqueue(migration(first, create(unique=True)))
    expect(engine.drive(run), State.PAUSED)
    assert index(engine, "first_idx") is not None
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert (index(engine, NAME), index(engine, "first_idx")) == (None, None)


# --- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a name in use": (
        {"name": "jobs_pkey"},
        "there is already an index of jobs called jobs_pkey",
        "Choose another name",
    ),
    "a table's name": ({"name": "jobs"}, "there is already a table called jobs", "Choose another name"),
    "the same index": ({"name": "there"}, "there is already an index", "remove the operation"),
    "no column": ({"columns": ["stat"]}, 'column "stat" does not exist', ""),
    "no method": ({"method": "btre"}, 'access method "btre" does not exist', ""),
    "two statements": (
        {"expressions": "status); DROP TABLE jobs; --"},
        "`expressions` is not one list or expression",
        "",
    ),
    "a condition that is none": ({"where": "status"}, "argument of WHERE must be type boolean", ""),
    "partitioned": ({"table": "parts", "columns": ["id"]}, "parts is partitioned", "ATTACH PARTITION"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_remedy(engine: Engine, case: str) -> None:
    engine.execute("CREATE INDEX there ON jobs (status)")
    engine.execute("CREATE TABLE parts (id bigint PRIMARY KEY) PARTITION BY RANGE (id)")
    also, problem, remedy = REFUSED[case]
    with pytest.raises(Refused) as refused:
        engine.enqueue(migration(create(**also)))
    assert problem in str(refused.value)
    assert remedy in str(refused.value)


def test_two_indexes_of_one_name_are_refused(engine: Engine) -> None:
    with pytest.raises(Refused, match="an earlier operation of the file already creates"):
        engine.enqueue(migration(create(), create(columns=["id"])))


def test_an_index_that_does_the_same_is_told_of(engine: Engine) -> None:
    engine.execute("CREATE INDEX there ON jobs (status)")
    found = examine(engine.connection, definition.parse(CREATE))
    assert found.findings == []
    assert any("the index there is the same" in warning for warning in found.warnings)


def test_what_a_cancelled_run_left_is_taken_over(engine: Engine) -> None:
    run = drive_to_build(engine)
    with open_writer(engine), aside(engine, engine.message(run)):
        until("the build to wait", lambda: phase_of_build(engine))
        commands.cancel(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.CANCELLED)
    assert index(engine, NAME) is not None
    again = engine.enqueue(CREATE)
    expect(engine.drive(again), State.COMPLETED)
    assert is_valid(engine)
