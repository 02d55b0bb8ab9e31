"""`add_column`, phase by phase: the sync trigger keeps what the application writes right, and NOT NULL comes without a scan."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import PACE_SECONDS, expect
from psycopg import sql

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands, enqueueing

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_runs import Engine

    from backfilld.migrations.record.model import Run
    from backfilld.producers.enqueueing import Enqueued

ADD = """
name: shout
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)", not_null: %s}
settings: {lanes: 2, approve: %s}
"""
ROWS = 40


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs SELECT n, 'open ' || n FROM generate_series(1, %s) n", ROWS)


def wrong(engine: Engine) -> int:
    return int(engine.value("SELECT count(*) FROM jobs WHERE shout IS DISTINCT FROM upper(status)"))


def leftovers(engine: Engine) -> list[str]:
    """What the change itself needed and must not stay."""
    rows = engine.execute(
        "SELECT tgname AS name FROM pg_trigger WHERE tgname LIKE '%backfilld%' "
        "UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'backfilld'::regnamespace AND prorettype = 'trigger'::regtype "
        "UNION ALL SELECT conname FROM pg_constraint WHERE conname LIKE 'backfilld%'"
    )
    return [row["name"] for row in rows]


def during(phase: Phase) -> Callable[[Run], bool]:
    return lambda run: run.phase is phase


#: What an application may do to a row, as statements; `wrong` must stay 0 after each.
WRITES = {
    "INSERT": "INSERT INTO jobs VALUES (100, 'new')",
    "INSERT with a value of its own": "INSERT INTO jobs (id, status, shout) VALUES (100, 'new', 'mine')",
    "UPDATE of what is read": "UPDATE jobs SET status = 'changed' WHERE id = 7",
    "UPDATE of the new column": "UPDATE jobs SET shout = 'mine' WHERE id = 7",
    "UPDATE of both": "UPDATE jobs SET shout = 'mine', status = 'x' WHERE id > 20",
    "UPDATE of the key": "UPDATE jobs SET id = id + 1000 WHERE id = 7",
    "ON CONFLICT DO UPDATE": "INSERT INTO jobs VALUES (7, 'again') ON CONFLICT (id) DO UPDATE SET status = excluded.status",
    "MERGE": "MERGE INTO jobs USING (VALUES (7, 'merged'), (101, 'merged')) v (id, status) ON v.id = jobs.id "
    "WHEN MATCHED THEN UPDATE SET status = v.status WHEN NOT MATCHED THEN INSERT (id, status) VALUES (v.id, v.status)",
    "NULL": "UPDATE jobs SET status = NULL WHERE id = 7",
    "as a replica does": "SET session_replication_role = replica; UPDATE jobs SET status = 'replicated' WHERE id = 7; "
    "INSERT INTO jobs VALUES (102, 'replicated'); RESET session_replication_role",
    "with an odd search_path": "SET search_path = ''; UPDATE public.jobs SET status = 'odd' WHERE id = 7; RESET search_path",
    "DELETE": "DELETE FROM jobs WHERE id = 7",
}


def test_a_computed_column_is_right_at_once_whatever_the_application_writes(engine: Engine) -> None:
    """During expand, backfill and verify, and while contract waits: the trigger is there all the time."""
    run = engine.enqueue(ADD.replace("not_null", "computed: true, not_null") % ("false", "[contract]"))
    engine.drive(run, until=during(Phase.BACKFILL))
    for phase in (Phase.BACKFILL, Phase.VERIFY, Phase.CONTRACT):
        engine.drive(run, batch_rows=5, until=during(phase))
        for name, statement in WRITES.items():
            if name == "MERGE" and engine.version < 15:
                continue
            before = engine.execute("SELECT id, status FROM jobs WHERE shout IS DISTINCT FROM upper(status)")
            with engine.connect() as application, application.transaction(force_rollback=True):
                for part in statement.split("; "):
                    application.execute(part.encode())
                written = application.execute(
                    "SELECT id, status FROM jobs WHERE shout IS DISTINCT FROM upper(status) AND (id = 7 OR id > 99)"
                ).fetchall()
            assert all(row in before for row in written), (phase, name)
        with engine.connect() as application:
            with application.cursor().copy("COPY jobs (id, status, shout) FROM STDIN") as copy:
                copy.write_row((200 + list(Phase).index(phase), "copied", "mine"))
            application.execute(WRITES["UPDATE of both"])
    now = engine.drive(run)
    expect(now, State.WAITING)
    assert wrong(engine) == 0


#: What an application may write into the column that is added, and what it finds there ever after.
OWN_WORDS = {
    "INSERT INTO jobs (id, status, shout) VALUES ({key}, 'new', 'typed')": "typed",
    "INSERT INTO jobs (id, status) VALUES ({key}, 'new'); UPDATE jobs SET shout = 'typed' WHERE id = {key}": "typed",
    "INSERT INTO jobs (id, status, shout) VALUES ({key}, 'new', 'typed'); UPDATE jobs SET status = 'x' WHERE id = {key}": "typed",
    "INSERT INTO jobs (id, status) VALUES ({key}, 'new'); UPDATE jobs SET status = 'x', shout = 'typed' WHERE id = {key}": "typed",
    "INSERT INTO jobs (id, status) VALUES ({key}, 'new'); UPDATE jobs SET status = 'x' WHERE id = {key}": "X",
    "INSERT INTO jobs (id, status, shout) VALUES ({key}, 'new', NULL)": "NEW",
}


def test_what_the_application_writes_is_never_replaced(engine: Engine) -> None:
    """Before its batch has come by, behind it, while verify looks, and while contract waits; to the end of the run."""
    run = engine.enqueue(ADD % ("true", "[contract]"))
    engine.drive(run, until=during(Phase.BACKFILL))
    expected: dict[int, str] = {}
    for phase in (Phase.BACKFILL, Phase.VERIFY, Phase.CONTRACT):
        engine.drive(run, batch_rows=5, until=during(phase))
        for number, (statements, found) in enumerate(OWN_WORDS.items()):
            # Between the rows that are there, too: some of them the walk has yet to come to.
            key = 100 * (list(Phase).index(phase) + 1) + number
            engine.execute(statements.format(key=key))
            expected[key] = found
        engine.execute("UPDATE jobs SET shout = 'typed' WHERE id = %s", 10 + number)
        expected[10 + number] = "typed"
    now = engine.drive(run)
    expect(now, State.WAITING)
    assert (now.residual_rows, now.own_values) == (0, 9), "those of the phases before, as verify found them"
    commands.approve(engine.connection, run, "contract", actor="ann", yes=True)
    expect(engine.drive(run), State.COMPLETED)
    found_now = {row["id"]: row["shout"] for row in engine.execute("SELECT id, shout FROM jobs")}
    assert {key: found_now[key] for key in expected} == expected
    assert engine.value("SELECT count(*) FROM jobs WHERE shout NOT IN ('typed', upper(status))") == 0


def test_a_row_that_could_not_be_computed_keeps_what_it_has_until_it_can(engine: Engine) -> None:
    """And one that the application has given a value of its own meanwhile keeps that."""
    run = engine.enqueue(
        "name: n\noperations: [{add_column: {table: jobs, column: {name: n, type: integer}, "
        "backfill: \"replace(status, 'open ', '')::integer\"}}]\nsettings: {approve: []}"
    )
    engine.drive(run, until=during(Phase.VERIFY))
    engine.execute("UPDATE jobs SET status = 'no number' WHERE id IN (3, 4)")
    expect(engine.drive(run), State.PAUSED)
    assert [(row.key, row.kept) for row in engine.quarantined(run)] == [(("3",), "3"), (("4",), "4")]

    engine.execute("UPDATE jobs SET status = 'open 33' WHERE id IN (3, 4)")
    engine.execute("UPDATE jobs SET n = 44 WHERE id = 4")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert [row["n"] for row in engine.execute("SELECT n FROM jobs WHERE id IN (3, 4) ORDER BY id")] == [33, 44]


def test_a_cancelled_run_that_computed_in_another_way_is_not_adopted(engine: Engine) -> None:
    """Its values could not be told from the application's."""
    run = engine.enqueue(ADD % ("false", "[contract]"))
    expect(engine.drive(run), State.WAITING)
    commands.cancel(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.CANCELLED)
    with pytest.raises(Refused, match="backfilld rollback shout"):
        engine.enqueue((ADD % ("false", "[contract]")).replace("upper", "lower"))
    assert engine.enqueue(ADD % ("true", "[contract]"))


def test_rows_written_during_the_walk_are_right_at_its_end(engine: Engine) -> None:
    run = engine.enqueue(ADD % ("true", "[]"))
    engine.drive(run, until=during(Phase.BACKFILL))
    number = 1000
    while engine.run(run).state is not State.COMPLETED:
        engine.step(batch_rows=4)
        if engine.run(run).phase is not Phase.DONE and not engine.run(run).phase.is_past(Phase.SWITCH):
            number += 1
            engine.execute("INSERT INTO jobs VALUES (%s, 'new')", number)
            engine.execute("UPDATE jobs SET status = status || '!' WHERE id = %s", number % ROWS + 1)
    assert wrong(engine) == 0
    assert engine.run(run).pass_ == 1, "nothing was left for a second walk"


def test_contract_takes_the_trigger_and_its_function_away(engine: Engine) -> None:
    run = engine.enqueue(ADD % ("true", "[contract]"))
    now = engine.drive(run)
    expect(now, State.WAITING)
    assert (now.phase, now.verified_at is not None) == (Phase.CONTRACT, True)
    assert len(leftovers(engine)) == 2, "the sync trigger and its function"

    commands.approve(engine.connection, run, "contract", actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert leftovers(engine) == []
    assert wrong(engine) == 0
    engine.execute("INSERT INTO jobs VALUES (100, 'new', 'the column is an ordinary one now')")


def test_contract_begins_with_the_functions_body(engine: Engine) -> None:
    """Between the two steps the trigger is there and does nothing."""
    run = engine.enqueue(ADD % ("false", "[]"))
    engine.drive(run, until=lambda run: run.phase is Phase.CONTRACT and engine.lane(run.run, 0).cursor == 1)
    engine.execute("INSERT INTO jobs VALUES (100, 'new', 'mine')")
    assert engine.value("SELECT shout FROM jobs WHERE id = 100") == "mine"


def test_a_value_that_cannot_be_computed_fails_no_statement_of_the_application(engine: Engine) -> None:
    run = engine.enqueue(
        "name: n\noperations: [{add_column: {table: jobs, column: {name: n, type: integer}, "
        "backfill: \"replace(status, 'open ', '')::integer\"}}]\nsettings: {approve: []}"
    )
    engine.drive(run, until=during(Phase.VERIFY))
    engine.execute("INSERT INTO jobs VALUES (100, 'not a number')")
    engine.execute("UPDATE jobs SET status = 'nor this' WHERE id = 3")
    assert [row["n"] for row in engine.execute("SELECT n FROM jobs WHERE id IN (3, 100) ORDER BY id")] == [3, None]

    expect(engine.drive(run), State.PAUSED)
    assert {row.key: row.sqlstate for row in engine.quarantined(run)} == {("3",): "22P02", ("100",): "22P02"}

    engine.execute("UPDATE jobs SET status = 'open 5' WHERE id IN (3, 100)")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM jobs WHERE n::text = replace(status, 'open ', '')") == ROWS + 1


def test_a_value_that_does_not_fit_its_type_is_quarantined_not_cut(engine: Engine) -> None:
    engine.execute("UPDATE jobs SET status = 'much too long' WHERE id = 9")
    run = engine.enqueue(
        "name: n\noperations: [{add_column: {table: jobs, column: {name: short, type: varchar(7)}, backfill: status}}]"
    )
    engine.drive(run, batch_rows=10, until=during(Phase.VERIFY))
    engine.execute("INSERT INTO jobs VALUES (100, 'this one too')")
    expect(engine.drive(run), State.PAUSED)
    assert {row.key: row.sqlstate for row in engine.quarantined(run)} == {("9",): "22001", ("100",): "22001"}
    assert engine.value("SELECT count(*) FROM jobs WHERE short = status") == ROWS - 1


def test_the_new_column_is_not_null_without_a_scan_under_an_exclusive_lock(engine: Engine) -> None:
    """PostgreSQL says at DEBUG1 what proves the column NOT NULL; and VALIDATE leaves the table to others meanwhile."""
    run = engine.enqueue(ADD % ("true", "[]"))
    engine.drive(run, until=during(Phase.SWITCH))
    name = engine.value("SELECT current_database()")
    engine.connection.execute(
        sql.SQL("ALTER DATABASE {} SET client_min_messages = debug1").format(sql.Identifier(name))
    )
    notices: list[str] = []
    with open_pool(engine.url, size=1) as pool:
        with pool.connection() as connection:
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        engine.set_pace()
        engine.sent.clear()
        while engine.run(run).phase is Phase.SWITCH:
            engine.step(runner=engine.runner(pool=pool))
    assert any("existing constraints on column" in notice and "are sufficient" in notice for notice in notices), notices
    assert not any("verifying table" in notice for notice in notices)
    expect(engine.drive(run), State.COMPLETED)
    with pytest.raises(psycopg.errors.NotNullViolation):
        engine.execute("INSERT INTO jobs VALUES (100, NULL, NULL)")
    assert leftovers(engine) == []


def test_rows_without_a_value_are_quarantined_when_the_column_is_to_be_not_null(engine: Engine) -> None:
    engine.execute("UPDATE jobs SET status = NULL WHERE id IN (3, 33)")
    run = engine.enqueue(ADD % ("true", "[]"))
    now = engine.drive(run, batch_rows=10)
    expect(now, State.PAUSED)
    assert {row.key: row.sqlstate for row in engine.quarantined(run)} == {("3",): "23502", ("33",): "23502"}
    assert now.phase is Phase.VERIFY

    engine.execute("UPDATE jobs SET status = 'mended' WHERE status IS NULL")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert wrong(engine) == 0


def test_a_column_that_may_be_null_takes_nulls(engine: Engine) -> None:
    engine.execute("UPDATE jobs SET status = NULL WHERE id IN (3, 33)")
    run = engine.enqueue(ADD % ("false", "[]"))
    expect(engine.drive(run, batch_rows=10), State.COMPLETED)
    assert wrong(engine) == 0


def test_a_row_without_a_value_that_comes_during_validate(engine: Engine) -> None:
    """After the walk has judged, and before the constraint is there to refuse it."""
    run = engine.enqueue(ADD % ("true", "[]"))
    engine.drive(run, until=lambda run: run.verified_at is not None)
    engine.execute("INSERT INTO jobs VALUES (100, NULL)")
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert {row.key: row.sqlstate for row in engine.quarantined(run)} == {("100",): "23502"}
    assert now.verified_at is None

    engine.execute("DELETE FROM jobs WHERE id = 100")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert leftovers(engine) == []


def test_from_the_constraint_on_the_application_cannot_write_null(engine: Engine) -> None:
    """NOT VALID refuses new rows at once; those are errors of the application, not of ours."""
    run = engine.enqueue(ADD % ("true", "[]"))
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY and engine.lane(run.run, 0).cursor == 3)
    with pytest.raises(psycopg.errors.CheckViolation):
        engine.execute("INSERT INTO jobs VALUES (100, NULL)")


@pytest.mark.parametrize("name", ["~~late", "~zzz", "🐘"])
def test_a_trigger_that_would_fire_after_ours_fails_the_run_and_leaves_nothing(engine: Engine, name: str) -> None:
    engine.execute("CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$")
    engine.connection.execute(
        sql.SQL("CREATE TRIGGER {} BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION late()").format(
            sql.Identifier(name)
        )
    )
    run = engine.enqueue(ADD % ("true", "[]"))
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert name in now.error["message"]
    assert "Rename it" in now.error["message"]
    assert leftovers(engine) == []
    assert (
        engine.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND attname = 'shout'") == 0
    )

    engine.connection.execute(sql.SQL("ALTER TRIGGER {} ON jobs RENAME TO early").format(sql.Identifier(name)))
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


def test_a_users_trigger_may_change_what_is_read(engine: Engine) -> None:
    """It fires before ours, so ours sees what it made of the row."""
    engine.execute(
        "CREATE FUNCTION trimmed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.status := trim(new.status); RETURN new; END $$;"
        "CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION trimmed()"
    )
    run = engine.enqueue(ADD % ("true", "[contract]"))
    engine.drive(run, until=during(Phase.BACKFILL))
    engine.execute("INSERT INTO jobs VALUES (100, '  new  ')")
    assert engine.value("SELECT shout FROM jobs WHERE id = 100") == "NEW"
    expect(engine.drive(run), State.WAITING)
    assert wrong(engine) == 0


UUID = "shout ~ '^[0-9a-f-]{36}$'"

#: What the operation says besides, what every row must hold in the end, and whether lanes have to walk for it.
DEFAULTS: dict[str, tuple[dict[str, object], str, bool]] = {
    "a constant": ({"default": "'x'"}, "shout = 'x'", False),
    "a constant, not null": ({"default": "'x'", "not_null": True}, "shout = 'x'", False),
    "a volatile one": ({"default": "gen_random_uuid()::text"}, UUID, True),
    "a volatile one, not null": ({"default": "gen_random_uuid()::text", "not_null": True}, UUID, True),
    "with a backfill": ({"default": "'new'", "backfill": "upper(status)"}, "shout = upper(status)", True),
    "with a volatile backfill": (
        {"default": "'new'", "backfill": "gen_random_uuid()::text"},
        f"CASE WHEN id < 100 THEN {UUID} ELSE shout = 'new' END",
        True,
    ),
    "a volatile backfill": ({"backfill": "gen_random_uuid()::text", "not_null": True}, UUID, True),
    "nothing": ({}, "shout IS NULL", False),
}


@pytest.mark.parametrize("case", DEFAULTS)
def test_defaults(engine: Engine, case: str) -> None:
    also, rule, walks = DEFAULTS[case]
    add = {"table": "jobs", "column": {"name": "shout", "type": "text"}, **also}
    run = engine.enqueue(
        json.dumps({"name": "d", "operations": [{"add_column": add}], "settings": {"approve": ["switch"]}})
    )
    before = engine.value("SELECT pg_relation_filenode('jobs')")
    engine.drive(run, until=during(Phase.BACKFILL))
    engine.execute("INSERT INTO jobs (id, status) VALUES (100, 'while it runs')")
    engine.drive(run, until=during(Phase.VERIFY))
    engine.execute("INSERT INTO jobs (id, status) VALUES (101, 'later')")
    if engine.drive(run).state is State.WAITING:
        commands.approve(engine.connection, run, "switch", actor="ann")
    expect(engine.drive(run), State.COMPLETED)

    assert engine.value(f"SELECT count(*) FROM jobs WHERE {rule}") == ROWS + 2
    assert engine.value("SELECT pg_relation_filenode('jobs')") == before, "the table was rewritten"
    assert bool(engine.lanes(run, "backfill")) is walks
    if rule is UUID:
        assert engine.value("SELECT count(DISTINCT shout) FROM jobs") == ROWS + 2
    if "default" in also:
        engine.execute("INSERT INTO jobs (id, status) VALUES (102, 'after')")
        assert engine.value("SELECT shout IS NOT NULL FROM jobs WHERE id = 102")
    not_null = engine.value(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND attname = 'shout'"
    )
    assert not_null is ("not_null" in also)
    assert leftovers(engine) == []


def test_a_null_written_over_a_default_is_named_before_the_rule_stands(engine: Engine) -> None:
    """No lane walks for a constant default, so none would mend it; and the application may go on writing the row."""
    add = {"table": "jobs", "column": {"name": "shout", "type": "text"}, "default": "'x'", "not_null": True}
    run = engine.enqueue(json.dumps({"name": "d", "operations": [{"add_column": add}]}))
    engine.drive(run, until=during(Phase.VERIFY))
    engine.execute("UPDATE jobs SET shout = NULL WHERE id = 7")
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert now.error["message"].startswith("jobs: rows break NOT NULL of shout (one row, by key: 7)")
    engine.execute("UPDATE jobs SET status = 'seen' WHERE id = 7")
    engine.execute("UPDATE jobs SET shout = 'y' WHERE id = 7")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


def test_a_run_enqueued_again_after_a_cancel_takes_the_column_over(engine: Engine) -> None:
    run = engine.enqueue(ADD % ("true", "[]"))
    engine.drive(run, batch_rows=5, until=lambda _run: any(lane.seq for lane in engine.lanes(run, "backfill")))
    commands.cancel(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.CANCELLED)
    again = engine.enqueue(ADD % ("true", "[]"))
    assert again != run
    expect(engine.drive(again), State.COMPLETED)
    assert wrong(engine) == 0
    assert leftovers(engine) == []


def test_a_deploy_that_comes_second_gets_the_run_though_its_column_is_there_by_now(engine: Engine) -> None:
    """It looked for the run before there was one, and at the table after the run had begun."""
    migration = definition.parse(ADD % ("true", "[]"))
    found: list[Enqueued] = []

    def enqueue() -> None:
        with engine.connect() as second:
            found.append(enqueueing.enqueue(second, migration, actor="the second"))

    deploy = threading.Thread(target=enqueue)
    with engine.connect() as first, first.transaction():
        first.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        deploy.start()
        while not engine.value("SELECT count(*) FROM pg_locks WHERE relation = 'jobs'::regclass AND NOT granted"):
            assert deploy.is_alive()
        run = enqueueing.enqueue(first, migration, actor="the first").run.run
        first.execute("ALTER TABLE public.jobs ADD COLUMN shout text")  # what the run's first step does
    deploy.join()
    assert [(one.run.run, one.is_new) for one in found] == [(run, False)]


@pytest.mark.parametrize(
    "body",
    ["'$body$'", "'$body_$' || '$body$'", "status || ' -- no comment'", "'it''s; \" %s %% {} \\ '", "'a' -- a comment"],
)
def test_an_expression_is_taken_as_it_stands(engine: Engine, body: str) -> None:
    """By the batch, by the trigger and by verify."""
    add = {"table": "jobs", "column": {"name": "shout", "type": "text"}, "backfill": body, "not_null": True}
    run = engine.enqueue(json.dumps({"name": "x", "operations": [{"add_column": add}], "settings": {"approve": []}}))
    engine.drive(run, until=during(Phase.BACKFILL))
    engine.execute("INSERT INTO jobs VALUES (100, 'new')")
    expect(engine.drive(run), State.COMPLETED)
    wanted = engine.connection.execute(f"SELECT count(*) AS n FROM jobs WHERE shout = (\n{body}\n)".encode()).fetchone()
    assert wanted == {"n": ROWS + 1}


def test_the_application_needs_no_right_in_our_schema(engine: Engine, plain_role_url: str) -> None:
    """Nor in the tables that the expression reads: the trigger reads them as the role of the run."""
    role = psycopg.conninfo.conninfo_to_dict(plain_role_url)["user"]
    engine.connection.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON jobs TO {}").format(sql.Identifier(str(role))))
    engine.execute("CREATE TABLE suffixes AS SELECT ''::text AS suffix")
    text = ADD.replace("upper(status)", "upper(status) || (SELECT s.suffix FROM public.suffixes s)")
    run = engine.enqueue(text % ("true", "[contract]"))
    engine.drive(run, until=during(Phase.BACKFILL))
    with psycopg.connect(plain_role_url, autocommit=True) as application:
        application.execute("INSERT INTO jobs VALUES (100, 'new')")
        application.execute("UPDATE jobs SET status = 'mine' WHERE id = 5")
    assert engine.value("SELECT count(*) FROM jobs WHERE id IN (5, 100) AND shout = upper(status)") == 2
    expect(engine.drive(run), State.WAITING)
    assert wrong(engine) == 0
    with (
        psycopg.connect(plain_role_url, autocommit=True) as application,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        application.execute("SELECT FROM backfilld.quarantine")
    engine.connection.execute(sql.SQL("REVOKE ALL ON jobs FROM {}").format(sql.Identifier(str(role))))


def test_an_expression_means_the_same_whoever_evaluates_it(engine: Engine) -> None:
    """Batch, trigger and verify, in a database and for an application with settings of their own."""
    name = engine.value("SELECT current_database()")
    for setting in (
        "TimeZone = 'Asia/Tokyo'",
        "DateStyle = 'ISO, DMY'",
        "IntervalStyle = 'iso_8601'",
        "extra_float_digits = -5",
    ):
        engine.connection.execute(f'ALTER DATABASE "{name}" SET {setting}'.encode())
    engine.execute("ALTER TABLE jobs ADD at timestamptz, ADD gone interval, ADD f float8")
    engine.execute("UPDATE jobs SET at = timestamptz '2024-05-06 22:00+00', gone = '1 day 2 hours', f = 1.0 / 3")
    text = "concat_ws(' ', at::text, at::date::text, gone::text, f::text)"
    add = {"table": "jobs", "column": {"name": "told", "type": "text"}, "backfill": text, "not_null": True}
    run = engine.enqueue(json.dumps({"name": "x", "operations": [{"add_column": add}], "settings": {"approve": []}}))
    engine.drive(run, batch_rows=10, until=during(Phase.VERIFY))
    with engine.connect() as application:
        application.execute("SET TimeZone = 'America/Lima'; SET DateStyle = 'German'")
        application.execute("UPDATE jobs SET status = 'x' WHERE id < 10")
    expect(engine.drive(run, batch_rows=10), State.COMPLETED)
    assert engine.run(run).pass_ == 1, "verify agreed with the trigger and the batch"
    wanted = "2024-05-06 22:00:00+00 2024-05-06 1 day 02:00:00 0.3333333333333333"
    assert engine.execute("SELECT DISTINCT told FROM jobs") == [{"told": wanted}]


def test_writers_meet_no_half_of_contract(engine: Engine) -> None:
    """Applications write all through the phases that change the table; none of their statements fails."""
    run = engine.enqueue(ADD % ("true", "[]"))
    stop, failures = threading.Event(), []

    def write(number: int) -> None:
        with engine.connect() as application:
            while not stop.is_set():
                try:
                    application.execute(
                        "INSERT INTO jobs (id, status) VALUES (%s, 'w') ON CONFLICT (id) DO UPDATE SET status = 'v'",
                        [number],
                    )
                except psycopg.errors.NotNullViolation:
                    return  # contract is over: the column is the application's to fill
                except psycopg.Error as exc:
                    failures.append(exc)
                stop.wait(PACE_SECONDS)

    threads = [threading.Thread(target=write, args=(1000 + number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        expect(engine.drive(run), State.COMPLETED)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
