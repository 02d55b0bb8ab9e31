"""What PostgreSQL does for each statement is seen on copies: locks, rewrites and scans, and no trace of it afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.rows import dict_row

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.planning.examine import Examination
    from backfilld.migrations.planning.plan import PlannedAction

ADD = '{add_column: {table: %s, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}}'


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("""
        CREATE TABLE jobs (id bigint PRIMARY KEY, status text CHECK (jobs.status <> ''));
        INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, 100) n;
        CREATE SCHEMA other;
        CREATE TABLE other.jobs (id bigint PRIMARY KEY, status text);
        CREATE TABLE parted (id bigint PRIMARY KEY, status text) PARTITION BY RANGE (id);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000);
    """)


def migration(*operations: str) -> definition.Migration:
    return definition.parse(f"name: x\noperations: [{', '.join(operations)}]")


def planned(engine: Engine, *operations: str) -> list[tuple[Phase, PlannedAction]]:
    change = migration(*operations)
    found = examine.examine(engine.connection, change)
    assert found.findings == []
    made = plan.make(change, found)
    return [(phase.phase, action) for phase in made.phases for action in phase.actions]


def test_an_operation_is_what_it_says_it_is(engine: Engine) -> None:
    """Locks and scans as PostgreSQL took them, for every statement of every phase."""
    seen = {
        (phase, action.sql.split("\n")[0][:40]): (action.lock, action.does, action.known)
        for phase, action in planned(engine, ADD % "jobs")
        if action.known
    }
    assert {known for _, _, known in seen.values()} == {"measured"}
    assert seen[Phase.EXPAND, 'ALTER TABLE "public"."jobs" ADD COLUMN "'] == ("ACCESS EXCLUSIVE", "", "measured")
    assert [lock for (phase, text), (lock, _, _) in seen.items() if "CREATE OR REPLACE TRIGGER" in text] == [
        "SHARE ROW EXCLUSIVE"
    ]
    ((lock, does, _),) = [one for (phase, _), one in seen.items() if phase is Phase.VERIFY and "scans" in one[1]]
    assert (lock, does) == ("SHARE UPDATE EXCLUSIVE", "scans the table")
    ((lock, does, _),) = [one for (phase, _), one in seen.items() if phase is Phase.SWITCH and one[1]]
    assert (lock, does) == ("ACCESS EXCLUSIVE", "no scan: a constraint proves it")


def test_a_rewrite_that_an_operation_would_make_is_refused(engine: Engine) -> None:
    """A domain with a check: every row is written under ACCESS EXCLUSIVE when such a column is added."""
    engine.execute("CREATE DOMAIN whole AS integer CHECK (value >= 0)")
    found = examine.examine(
        engine.connection, migration("{add_column: {table: jobs, column: {name: n, type: public.whole}}}")
    )
    (finding,) = found.findings
    assert "rewrites its table under ACCESS EXCLUSIVE" in finding.problem


def test_nothing_is_left_and_the_real_functions_are_not_touched(engine: Engine) -> None:
    def everything() -> list[dict[str, object]]:
        return engine.execute(
            "SELECT 'relation', oid, xmin::text FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace "
            "UNION ALL SELECT 'function', oid, xmin::text FROM pg_proc UNION ALL SELECT 'trigger', oid, xmin::text FROM pg_trigger "
            "ORDER BY 1, 2"
        )

    engine.drive(
        engine.enqueue(f"name: x\noperations: [{ADD % 'jobs'}]"), until=lambda run: run.phase is Phase.BACKFILL
    )
    before = everything()
    examine.examine(engine.connection, migration(ADD % "other.jobs"))
    assert everything() == before
    assert engine.value("SELECT current_setting('client_min_messages')") == "notice"


def test_an_open_transaction_of_the_applications_is_no_hindrance(engine: Engine) -> None:
    """Only one that holds ACCESS EXCLUSIVE itself would be, and then all is told by rule."""
    with engine.connect() as application:
        application.autocommit = False
        application.execute("LOCK TABLE jobs IN ROW EXCLUSIVE MODE")
        assert {action.known for _, action in planned(engine, ADD % "jobs")} == {"measured", ""}
        application.rollback()


def test_tables_of_one_name_in_two_schemas(engine: Engine) -> None:
    """The second has no copy: it is told by rule, and nothing is said that was not seen."""
    altering = [
        (action.operation, action.known)
        for _, action in planned(engine, ADD % "jobs", ADD % "other.jobs")
        if action.sql.startswith("ALTER TABLE")
    ]
    assert set(altering) == {(0, "measured"), (1, "by rule")}


def test_a_partitioned_table_has_a_copy_too(engine: Engine) -> None:
    assert {action.known for _, action in planned(engine, ADD % "parted")} == {"measured", ""}


def test_before_init_there_is_no_schema_of_ours(engine: Engine, empty_database_url: str) -> None:
    """`plan` may be the first thing that anybody runs here."""
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
        found: Examination = examine.examine(connection, migration(ADD % "jobs"))
        assert found.findings == []
        assert found.dry_run is not None
        assert all(seen.measured for seen in found.dry_run.seen.values())
        assert connection.execute("SELECT FROM pg_namespace WHERE nspname = 'backfilld'").rowcount == 0


def test_the_schema_of_temporary_tables_is_nothing_left_behind(engine: Engine, empty_database_url: str) -> None:
    """Each session's is made with its first temporary table, here that of the dry run."""
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
        table = "{sql: {run: 'CREATE TABLE public.n (id bigint PRIMARY KEY)', rollback: 'DROP TABLE public.n'}}"
        assert examine.examine(connection, migration(table)).warnings == []


def test_a_role_that_may_make_no_schema_plans_by_rule(
    engine: Engine, empty_database_url: str, plain_role: tuple[str, str]
) -> None:
    name, _ = plain_role
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
        connection.execute(f'ALTER TABLE jobs OWNER TO "{name}"')
        connection.execute(f'SET SESSION AUTHORIZATION "{name}"')
        found = examine.examine(connection, migration(ADD % "jobs"))
        assert found.findings == []
        assert found.dry_run is not None
        assert {seen.measured for seen in found.dry_run.seen.values()} == {True, False}
        connection.execute("RESET SESSION AUTHORIZATION")


def test_the_role_that_supabase_gives_sees_as_much(supabase_admin_url: str, supabase_url: str) -> None:
    """Neither superuser nor owner of the database, and event triggers of others look on."""
    with psycopg.connect(supabase_admin_url, autocommit=True) as admin:
        admin.execute("GRANT CREATE ON DATABASE " + admin.info.dbname + " TO postgres")
    with psycopg.connect(supabase_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE TABLE public.orders_here (id bigint PRIMARY KEY, status text)")
        found = examine.examine(connection, migration(ADD % "orders_here"))
        assert found.findings == []
        assert found.dry_run is not None
        assert all(seen.measured for seen in found.dry_run.seen.values())
