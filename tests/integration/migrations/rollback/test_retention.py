"""What is kept so that a run can go back: how long, what its end costs others, and what is refused without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused, UsageError
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.rollback import check as rollback_check
from backfilld.producers import commands
from backfilld.producers.client import Client
from backfilld.worker.side_tasks import retention

if TYPE_CHECKING:
    from fix_runs import Engine

IN_PLACE = """
name: in-place
operations: [{backfill: {table: jobs, set: {n: "n + 1"}}}]
settings: {lanes: 2, walk: keys, journal: %s, retention_days: %s}
"""
ADD = """
name: add
operations: [{add_column: {table: jobs, column: {name: shout, type: text}, %s}}]
settings: {lanes: 2, approve: [%s]}
"""
ROWS = 40


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n bigint)")
    engine.execute("INSERT INTO jobs SELECT n, n FROM generate_series(1, %s) n", ROWS)


def done(engine: Engine, text: str) -> int:
    run = engine.enqueue(text)
    expect(engine.drive(run, batch_rows=15), State.COMPLETED)
    return run


def has(engine: Engine, what: str, run: int) -> bool:
    return bool(engine.value("SELECT to_regclass(%s) IS NOT NULL", f"backfilld.{what}_{run}"))


def pass_retention(engine: Engine, run: int) -> None:
    engine.execute("UPDATE backfilld.runs SET kept_until = clock_timestamp() - interval '1 second' WHERE run = %s", run)


# --- the archive of what an added column held --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["backfill: \"'v' || id\"", "default: \"'v'\"", 'default: "gen_random_uuid()::text"'])
def test_what_the_application_wrote_into_an_added_column_is_archived_before_it_goes(engine: Engine, how: str) -> None:
    run = done(engine, ADD % (how, ""))
    engine.execute("UPDATE jobs SET shout = 'mine %s' WHERE id = 7")
    engine.execute("INSERT INTO jobs VALUES (100, 100, 'mine too')")
    # What the expression gives again need not be kept.
    own = "WHERE shout LIKE 'mine%%'" if how.startswith("backfill") else ""
    held = engine.execute(f"SELECT id, shout FROM jobs {own} ORDER BY id")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=15), State.ROLLED_BACK)
    with pytest.raises(psycopg.errors.UndefinedColumn):
        engine.execute("SELECT shout FROM jobs")
    kept = engine.execute("SELECT key[1]::bigint AS id, old AS shout FROM backfilld.archived(%s) ORDER BY 1", run)
    assert kept == held
    assert engine.run(run).kept_until is not None


def test_what_the_application_wrote_before_contract_is_archived_and_nothing_else(engine: Engine) -> None:
    run = engine.enqueue(ADD % ("backfill: \"'v' || id\"", "contract"))
    expect(engine.drive(run), State.WAITING)
    engine.execute("UPDATE jobs SET shout = 'mine' WHERE id = 7")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.execute("SELECT key, old FROM backfilld.archived(%s)", run) == [{"key": ["7"], "old": "mine"}]


def test_an_own_value_is_archived_where_the_expression_is_an_error(engine: Engine) -> None:
    run = engine.enqueue(ADD % ('backfill: "(100 / n)::text"', "contract"))
    expect(engine.drive(run), State.WAITING)
    engine.execute("UPDATE jobs SET n = 0, shout = 'mine' WHERE id = 7")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value("SELECT old FROM backfilld.archived(%s) WHERE key = '{7}'", run) == "mine"


def test_a_column_without_a_sync_trigger_is_archived_from_the_first_phase_on(engine: Engine) -> None:
    run = engine.enqueue(ADD % ('default: "gen_random_uuid()::text"', ""))
    engine.drive(run, until=lambda run: run.phase is Phase.BACKFILL)
    engine.execute("UPDATE jobs SET shout = 'mine' WHERE id = 7")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=15), State.ROLLED_BACK)
    assert engine.value("SELECT old FROM backfilld.archived(%s) WHERE key = '{7}'", run) == "mine"


# --- retention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", [True, False])
def test_old_values_end_with_their_retention(engine: Engine, *, by_hand: bool) -> None:
    over, fresh = (
        done(engine, IN_PLACE % ("true", 7)),
        done(engine, IN_PLACE.replace("in-place", "fresh") % ("true", 7)),
    )
    pass_retention(engine, over)
    engine.execute(
        "INSERT INTO backfilld.rollback_conflicts (run, operation, key, sqlstate, error) VALUES (%s, 0, '{1}', '22P02', 'x')",
        over,
    )
    if by_hand:
        purged = Client(engine.url).purge()
        assert [(one.run, one.rollback_conflicts, one.journal_bytes > 0) for one in purged] == [(over, 1, True)]
    else:
        assert retention.run_once(engine.connection) == 1
    assert (has(engine, "journal", over), has(engine, "journal", fresh)) == (False, True)
    assert engine.value("SELECT count(*) FROM backfilld.rollback_conflicts") == 0
    assert engine.run(over).purged_at is not None
    assert engine.value("SELECT count(*) FROM backfilld.events WHERE run = %s AND what = 'run.purged'", over) == 1
    assert retention.run_once(engine.connection) == 0

    with pytest.raises(Refused, match=r"were dropped on .* by `backfilld purge`"):
        commands.rollback(engine.connection, over, actor="ann")
    expect(engine.run(over), State.COMPLETED)
    commands.rollback(engine.connection, fresh, actor="ann")
    expect(engine.drive(fresh), State.ROLLED_BACK)


def test_a_run_is_purged_before_its_time_only_when_that_is_asked_for(engine: Engine) -> None:
    run = done(engine, IN_PLACE % ("true", 7))
    with pytest.raises(UsageError, match="purge in-place --now"):
        commands.purge(engine.connection, run, now=False, actor="ann")
    with pytest.raises(UsageError, match="name it"):
        commands.purge(engine.connection, None, now=True, actor="ann")
    assert commands.purge(engine.connection, None, now=False, actor="ann") == []
    assert has(engine, "journal", run)
    assert [one.run for one in commands.purge(engine.connection, run, now=True, actor="ann")] == [run]
    assert commands.purge(engine.connection, run, now=True, actor="ann") == [], "twice is once"


def test_a_run_that_has_not_ended_keeps_what_it_needs(engine: Engine) -> None:
    run = engine.enqueue(IN_PLACE % ("true", 0))
    engine.drive_to_lanes(run)
    with pytest.raises(UsageError, match="has ended"):
        commands.purge(engine.connection, run, now=True, actor="ann")
    commands.cancel(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.CANCELLED)
    assert retention.run_once(engine.connection) == 0, "a cancelled run keeps until it is rolled back or purged"
    assert commands.purge(engine.connection, run, now=True, actor="ann")


def test_a_rollback_that_is_going_on_is_not_purged(engine: Engine) -> None:
    run = done(engine, IN_PLACE % ("true", 7))
    commands.rollback(engine.connection, run, actor="ann")
    pass_retention(engine, run)
    assert retention.run_once(engine.connection) == 0
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM jobs WHERE n = id") == ROWS


def test_a_purge_waits_for_nobody_and_nobody_for_it(engine: Engine) -> None:
    """Another run's batch is open all the while; only who looks at what is dropped is in the way."""
    over = done(engine, IN_PLACE % ("true", 7))
    pass_retention(engine, over)
    other = engine.enqueue(IN_PLACE.replace("in-place", "other") % ("true", 7))
    engine.drive(other, until=lambda run: any(lane.seq for lane in engine.lanes(run.run, "backfill")), batch_rows=15)
    write = f"INSERT INTO backfilld.journal_{other} (operation, pass, rows) VALUES (9, %s, 0)"
    with engine.connect() as batch:
        batch.execute(write.encode() % b"1")  # the session's first row is over
        with batch.transaction():
            batch.execute(write.encode() % b"2")
            with engine.connect() as person, person.transaction():
                person.execute(f"SELECT count(*) FROM backfilld.journal_{over}".encode())
                assert retention.run_once(engine.connection) == 0
                assert has(engine, "journal", over)
            assert retention.run_once(engine.connection) == 1
    assert not has(engine, "journal", over)
    engine.execute(f"DELETE FROM backfilld.journal_{other} WHERE operation = 9")
    expect(engine.drive(other, batch_rows=15), State.COMPLETED)


# --- can it still go back ----------------------------------------------------------------------------------------------


def test_status_says_that_it_can(engine: Engine) -> None:
    run = done(engine, IN_PLACE % ("true", 7))
    status = Client(engine.url).status(run).to_json()
    told = status["rollback"]
    assert status["journal_bytes"] > 0
    kept_until = engine.run(run).kept_until
    assert kept_until is not None
    assert told == {
        "possible": True,
        "because": None,
        "blocked_by": 0,
        "keys": [],
        "kept_until": kept_until.isoformat(),
    }


def test_without_a_journal_there_is_no_way_back_once_rows_were_changed(engine: Engine) -> None:
    run = engine.enqueue(IN_PLACE % ("false", 7))
    assert rollback_check.look(engine.connection, engine.run(run)).possible
    expect(engine.drive(run, batch_rows=15), State.COMPLETED)
    assert not has(engine, "journal", run)
    with pytest.raises(Refused, match=f"{ROWS} rows were changed in place without a journal"):
        commands.rollback(engine.connection, run, actor="ann")
    assert engine.value("SELECT count(*) FROM jobs WHERE n = id + 1") == ROWS


def test_rows_that_block_it_are_named_and_count_while_they_are_there(engine: Engine) -> None:
    run = engine.enqueue(ADD % ("backfill: \"'v' || id\"", "contract"))
    expect(engine.drive(run), State.WAITING)
    engine.execute(
        "INSERT INTO backfilld.rollback_conflicts (run, operation, key, sqlstate, error) "
        "SELECT %s, 0, ARRAY[n::text], '22003', 'out of range' FROM (VALUES (7), (9), (1000)) v (n)",
        run,
    )
    with pytest.raises(Refused, match="2 rows") as refused:
        commands.rollback(engine.connection, run, actor="ann")
    assert refused.value.exit_code == 3
    told = Client(engine.url).status(run).to_json()["rollback"]
    assert (told["possible"], told["blocked_by"], sorted(told["keys"])) == (False, 2, [["7"], ["9"]])
    engine.execute("DELETE FROM jobs WHERE id IN (7, 9)")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    told = Client(engine.url).status(run).to_json()["rollback"]
    assert (told["possible"], told["because"]) == (False, "it is already rolled back")


def test_rows_without_a_value_block_the_return_of_not_null(engine: Engine) -> None:
    engine.execute("ALTER TABLE jobs ALTER n SET NOT NULL")
    run = engine.enqueue("name: drop\noperations: [{drop_column: {table: jobs, column: n}}]")
    expect(engine.drive(run), State.WAITING)
    engine.execute("INSERT INTO jobs (id) VALUES (100)")
    with pytest.raises(Refused, match=r"1 rows hold .*: 100"):
        commands.rollback(engine.connection, run, actor="ann")
    engine.execute("UPDATE jobs SET n = 100 WHERE id = 100")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
