"""`set_not_null`: NULLs are filled or named, and the column is NOT NULL without a scan that stops the application."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_rules import application, back_from_every_other_step, engine_at, rules
from fix_runs import expect
from psycopg import sql

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands
from backfilld.worker.phases.coordinator import MAX_PASSES

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.planning.examine import Examination

USERS = """
CREATE TABLE users (id bigint PRIMARY KEY, name text, email text);
INSERT INTO users SELECT n, 'n' || n, CASE WHEN n % 4 > 0 THEN n || '@example.com' END FROM generate_series(1, 40) n;
"""


@pytest.fixture(autouse=True)
def users(engine: Engine) -> None:
    engine.execute(USERS)


def not_null(table: str = "users", column: str = "email", **also: str) -> dict[str, Any]:
    return {"set_not_null": {"table": table, "column": column, **also}}


def file(*operations: dict[str, Any]) -> str:
    return json.dumps({"name": "m", "operations": operations, "settings": {"approve": [], "lanes": 2}})


FILLED = file(not_null(backfill="name || '@unknown.invalid'"))


def examined(engine: Engine, *operations: dict[str, Any]) -> Examination:
    return examine.examine(engine.connection, definition.parse(file(*operations)))


def told(found: Examination) -> str:
    return "\n".join(map(str, found.findings))


def is_not_null(engine: Engine, table: str = "users", column: str = "email") -> bool:
    return bool(
        engine.value(
            "SELECT attnotnull FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s", table, column
        )
    )


def test_nulls_are_filled_and_values_are_left(engine: Engine) -> None:
    run = engine.enqueue(FILLED)
    now = engine.drive(run, batch_rows=5)
    expect(now, State.COMPLETED)
    assert is_not_null(engine)
    assert rules(engine, "users") == {}, "the check that proved it is gone"
    wanted = "CASE WHEN id % 4 > 0 THEN id || '@example.com' ELSE name || '@unknown.invalid' END"
    assert engine.value(f"SELECT count(*) FROM users WHERE email = {wanted}") == 40
    assert sum(lane.rows_changed for lane in engine.lanes(run, "backfill")) == 10


def test_without_a_backfill_no_lane_walks(engine: Engine) -> None:
    engine.execute("UPDATE users SET email = 'x' WHERE email IS NULL")
    run = engine.enqueue(file(not_null()))
    expect(engine.drive(run), State.COMPLETED)
    assert is_not_null(engine)
    assert engine.lanes(run, "backfill", "verify") == []


def test_without_a_backfill_nulls_are_named(engine: Engine) -> None:
    engine.execute("UPDATE users SET email = 'x' WHERE email IS NULL AND id <> 4")
    run = engine.enqueue(file(not_null()))
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error == {
        "class": "violated",
        "message": "users: rows break NOT NULL of email (one row, by key: 4). The rule is not in place meanwhile: fix the "
        "rows, then: backfilld resume m",
    }
    engine.execute("UPDATE users SET name = 'an old row can be written' WHERE id = 4")
    engine.execute("UPDATE users SET email = 'x' WHERE id = 4")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert is_not_null(engine)


def test_a_backfill_of_the_same_file_may_fill_them(engine: Engine) -> None:
    fill = {"backfill": {"table": "users", "set": {"email": "'x'"}, "where": "email IS NULL"}}
    expect(engine.drive(engine.enqueue(file(fill, not_null()))), State.COMPLETED)
    assert is_not_null(engine)


def test_the_application_goes_on(engine: Engine) -> None:
    """Rows with a value and rows in which it writes over a NULL, all through the phases."""
    with application(
        engine,
        "INSERT INTO users VALUES ({n}, 'w', 'w') ON CONFLICT (id) DO UPDATE SET email = users.email || '!'",
        "UPDATE users SET name = name || '' WHERE id = 4",
        "UPDATE users SET email = coalesce(email, 'mine') WHERE id = 8",
        "DELETE FROM users WHERE id = {n}",
    ) as failures:
        expect(engine.drive(engine.enqueue(FILLED), batch_rows=3), State.COMPLETED)
    assert failures == []
    assert is_not_null(engine)


def test_a_null_that_comes_between_the_walk_and_the_check_is_walked_again(engine: Engine) -> None:
    """And while lanes walk, no rule stands that would fail the application."""
    run = engine.enqueue(FILLED)
    engine.drive(run, until=lambda run: run.verified_at is not None)
    engine.execute("UPDATE users SET email = NULL WHERE id = 7")
    stood = False
    while engine.run(run).state is not State.COMPLETED:
        engine.step()
        stood |= bool(rules(engine, "users"))
        if any(lane.done_at is None for lane in engine.lanes(run, "backfill", "verify")):
            assert rules(engine, "users") == {}
    assert stood
    assert engine.value("SELECT email FROM users WHERE id = 7") == "n7@unknown.invalid"
    assert is_not_null(engine)


def test_an_application_that_never_stops_writing_nulls_is_told_of(engine: Engine) -> None:
    run = engine.enqueue(FILLED)
    while engine.drive(run, until=lambda run: run.verified_at is not None).state is not State.PAUSED:
        engine.execute("UPDATE users SET email = NULL WHERE id = 7")
        engine.drive(run, until=lambda run: run.verified_at is None)
    now = engine.run(run)
    assert now.error is not None
    assert "the application keeps writing them" in now.error["message"]
    assert now.pass_ == MAX_PASSES + 1
    assert rules(engine, "users") == {}


def test_a_row_whose_expression_gives_null_is_quarantined(engine: Engine) -> None:
    engine.execute("UPDATE users SET name = NULL WHERE id IN (8, 9)")
    run = engine.enqueue(FILLED)
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert {row.key: row.sqlstate for row in engine.quarantined(run)} == {("8",): "23502"}
    assert rules(engine, "users") == {}
    engine.execute("UPDATE users SET name = 'eight' WHERE id = 8")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT email FROM users WHERE id = 8") == "eight@unknown.invalid"


def test_a_value_of_its_own_for_each_row(engine: Engine) -> None:
    """An expression that answers differently each time fills each NULL once."""
    engine.execute("ALTER TABLE users ADD COLUMN token uuid")
    expect(engine.drive(engine.enqueue(file(not_null(column="token", backfill="gen_random_uuid()")))), State.COMPLETED)
    assert engine.value("SELECT count(DISTINCT token) FROM users") == 40


def test_the_switch_scans_nothing(engine: Engine) -> None:
    """PostgreSQL says at DEBUG1 what proves the column NOT NULL."""
    run = engine.enqueue(FILLED)
    engine.drive(run, until=lambda run: run.phase is Phase.SWITCH)
    name = sql.Identifier(engine.value("SELECT current_database()"))
    engine.connection.execute(sql.SQL("ALTER DATABASE {} SET client_min_messages = debug1").format(name))
    notices: list[str] = []
    with open_pool(engine.url, size=1) as pool:
        with pool.connection() as connection:
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        while engine.run(run).phase is Phase.SWITCH:
            engine.step(runner=engine.runner(pool=pool))
    assert any("existing constraints on column" in notice and "are sufficient" in notice for notice in notices), notices
    assert not any("verifying table" in notice for notice in notices)


@pytest.mark.parametrize("operation", [not_null(), not_null(backfill="'x'")])
def test_the_way_back_from_every_other_step(engine: Engine, operation: dict[str, Any]) -> None:
    if "backfill" not in operation["set_not_null"]:
        engine.execute("UPDATE users SET email = 'x' WHERE email IS NULL")
    assert back_from_every_other_step(engine, file(operation), "users") > 8


def test_a_partitioned_table(engine: Engine) -> None:
    engine.execute(
        "CREATE TABLE parts (id bigint PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);"
        "CREATE TABLE parts_2a PARTITION OF parts_2 FOR VALUES FROM (100) TO (200);"
        "INSERT INTO parts SELECT n, CASE WHEN n % 3 > 0 THEN 'v' END FROM generate_series(1, 199) n"
    )
    text = file(not_null("parts", "v", backfill="'filled'"))
    back_from_every_other_step(engine, text, "parts")
    engine.execute("UPDATE parts SET v = NULL WHERE id IN (99, 100)")
    engine.sent.clear()
    expect(engine.drive(engine.enqueue(text), batch_rows=20), State.COMPLETED)
    for table in ("parts", "parts_1", "parts_2", "parts_2a"):
        assert is_not_null(engine, table, "v")
        assert rules(engine, table) == {}
    assert engine.value("SELECT count(*) FROM parts WHERE v = 'filled'") == 67


def test_what_a_partition_has_of_its_own_is_kept_or_told(engine: Engine) -> None:
    """From PostgreSQL 18 on a rollback leaves a partition its own NOT NULL; before, plan says that it does not."""
    engine.execute(
        "CREATE TABLE parts (id bigint PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);"
        "ALTER TABLE parts_1 ALTER v SET NOT NULL"
    )
    warnings = "\n".join(examined(engine, not_null("parts", "v")).warnings)
    if engine.connection.info.server_version < 180_000:
        assert "public.parts_1" in warnings
        return
    assert warnings == ""
    run = engine.enqueue(file(not_null("parts", "v")))
    expect(engine.drive(run), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert (is_not_null(engine, "parts", "v"), is_not_null(engine, "parts_1", "v")) == (False, True)


def test_odd_names(engine: Engine) -> None:
    engine.execute('CREATE TABLE "Odd %s" ("%s ""{}" text, "Key {}" text PRIMARY KEY)')
    engine.execute("""INSERT INTO "Odd %s" VALUES (NULL, '1'), ('a', '2')""")
    run = engine.enqueue(file(not_null("Odd %s", '%s "{}', backfill='\'50%s \' || "Odd %s"."Key {}"')))
    expect(engine.drive(run), State.COMPLETED)
    assert engine.execute('SELECT * FROM "Odd %s" ORDER BY 1') == [
        {'%s "{}': "50%s 1", "Key {}": "1"},
        {'%s "{}': "a", "Key {}": "2"},
    ]


def test_on_supabase_the_projects_own_role_can(supabase_url: str) -> None:
    """NOSUPERUSER and BYPASSRLS, with row security on."""
    with engine_at(supabase_url) as engine:
        engine.execute(USERS)
        engine.execute("ALTER TABLE users ENABLE ROW LEVEL SECURITY; ALTER TABLE users FORCE ROW LEVEL SECURITY")
        expect(engine.drive(engine.enqueue(FILLED)), State.COMPLETED)
        assert is_not_null(engine)


@pytest.mark.parametrize(
    ("operation", "problem"),
    [
        (not_null(column="id"), "users.id is already NOT NULL. Remove the operation"),
        (not_null(column="emial"), "users has no column emial. Did you mean email?"),
        (not_null(backfill="nmae"), 'column "nmae" does not exist'),
        (not_null(column="n", backfill="name"), 'column "n" is of type integer but expression is of type text'),
        (not_null(column="twice", backfill="2"), "twice is a generated column and cannot be set"),
    ],
)
def test_what_cannot_be_done_is_refused(engine: Engine, operation: dict[str, Any], problem: str) -> None:
    engine.execute("ALTER TABLE users ADD twice bigint GENERATED ALWAYS AS (id * 2) STORED, ADD n integer")
    assert problem in told(examined(engine, operation))


def test_a_table_without_a_key_cannot_be_walked_but_can_be_proved(engine: Engine) -> None:
    engine.execute("CREATE TABLE keyless AS SELECT 1 AS n")
    assert "keyless has no primary key" in told(examined(engine, not_null("keyless", "n", backfill="1")))
    expect(engine.drive(engine.enqueue(file(not_null("keyless", "n")))), State.COMPLETED)


@pytest.mark.since(18)
def test_a_not_null_that_somebody_left_unproved_is_told(engine: Engine) -> None:
    engine.execute("ALTER TABLE users ADD CONSTRAINT there NOT NULL email NOT VALID")
    assert 'ALTER TABLE "public"."users" VALIDATE CONSTRAINT "there"' in told(examined(engine, not_null()))


def test_the_plan_shows_every_statement(engine: Engine) -> None:
    migration = definition.parse(file(not_null()))
    shown = plan.make(migration, examine.examine(engine.connection, migration))
    assert [
        (phase.phase, [(action.sql.split(" ")[0], action.lock) for action in phase.actions]) for phase in shown.phases
    ] == [
        (Phase.EXPAND, []),
        (Phase.BACKFILL, []),
        (
            Phase.VERIFY,
            [
                ("SELECT", "ACCESS SHARE"),
                ("ALTER", "ACCESS EXCLUSIVE"),
                ("ALTER", "ACCESS EXCLUSIVE"),
                ("ALTER", "SHARE UPDATE EXCLUSIVE"),
            ],
        ),
        (Phase.SWITCH, [("ALTER", "ACCESS EXCLUSIVE"), ("ALTER", "ACCESS EXCLUSIVE")]),
        (Phase.CONTRACT, []),
    ]


def test_a_null_of_the_application_after_the_check_is_its_own_error(engine: Engine) -> None:
    run = engine.enqueue(FILLED)
    engine.drive(run, until=lambda _run: bool(rules(engine, "users")))
    with pytest.raises(psycopg.errors.CheckViolation):
        engine.execute("UPDATE users SET email = NULL WHERE id = 7")
