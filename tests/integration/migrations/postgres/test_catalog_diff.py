"""An action that changes what it was not asked to is undone: the table's entry in the catalog is compared before it commits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_runs import expect
from psycopg import sql

from backfilld.migrations.errors import Refused
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations import Action, Statement
from backfilld.migrations.postgres import catalog_diff
from backfilld.migrations.postgres.catalog_diff import AllowedChanges
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.record.states import State
from backfilld.worker.phases import ddl

if TYPE_CHECKING:
    from fix_runs import Engine

JOBS = TableName("public", "jobs")


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    """A table with everything that a switch has to carry."""
    engine.execute("""
        CREATE TABLE customers (id bigint PRIMARY KEY);
        CREATE TABLE jobs (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            total integer NOT NULL DEFAULT 0 CHECK (total >= 0),
            customer bigint REFERENCES customers,
            status varchar(20) CHECK (status <> ''),
            "a%b ""c"" d" text COLLATE "C"
        );
        CREATE TABLE parts (job bigint CONSTRAINT parts_job REFERENCES jobs);
        CREATE INDEX jobs_total ON jobs (total) WHERE total > 10;
        CREATE STATISTICS jobs_both ON total, status FROM jobs;
        ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON jobs USING (total < 100);
        GRANT SELECT ON jobs TO PUBLIC;
        GRANT UPDATE (total) ON jobs TO PUBLIC;
        COMMENT ON COLUMN jobs.total IS 'in cents';
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER touch BEFORE UPDATE OF total ON jobs FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE VIEW totals AS SELECT total FROM jobs;
        CREATE PUBLICATION feed FOR TABLE jobs;
    """)


def act(engine: Engine, allows: AllowedChanges, *statements: str) -> None:
    """As the coordinator does: in one transaction, which an error rolls back."""
    action = Action(
        table=JOBS,
        statements=tuple(Statement(sql=sql.SQL("{}").format(sql.SQL(text)), lock=LockMode.NONE) for text in statements),
        allows=allows,
    )
    with engine.connection.transaction():
        engine.execute("SET LOCAL search_path = ''")
        ddl.execute(engine.connection, action)


RENAME = "ALTER TABLE public.jobs RENAME total TO revenue"

#: What a switch might lose on its way without a word, and what is said of it.
LOSSES = {
    "a grant": ("REVOKE SELECT ON public.jobs FROM PUBLIC", "lost: grant"),
    "a column's grant": ("REVOKE UPDATE (revenue) ON public.jobs FROM PUBLIC", "lost: column grant total"),
    "a policy": ("DROP POLICY own ON public.jobs", "lost: policy own"),
    "a policy's words": ("ALTER POLICY own ON public.jobs USING (true)", "lost: policy own"),
    "row security": ("ALTER TABLE public.jobs DISABLE ROW LEVEL SECURITY", "row security true"),
    "an index": ("DROP INDEX public.jobs_total", "lost: index jobs_total"),
    "an index's name": ("ALTER INDEX public.jobs_total RENAME TO other", "came: index other"),
    "a constraint": ("ALTER TABLE public.jobs DROP CONSTRAINT jobs_total_check", "lost: constraint jobs_total_check"),
    "a default": ("ALTER TABLE public.jobs ALTER revenue DROP DEFAULT", "lost: default total 0"),
    "NOT NULL": ("ALTER TABLE public.jobs ALTER revenue DROP NOT NULL", "lost: not null total"),
    "a trigger": ("DROP TRIGGER touch ON public.jobs", "lost: trigger touch"),
    "a trigger that fires": ("ALTER TABLE public.jobs DISABLE TRIGGER touch", "enabled O"),
    "a comment": ("COMMENT ON COLUMN public.jobs.revenue IS NULL", "lost: column comment total in cents"),
    "a publication": ("ALTER PUBLICATION feed DROP TABLE public.jobs", "lost: publication feed"),
    "statistics": ("DROP STATISTICS public.jobs_both", "lost: statistics jobs_both"),
    "a view": ("DROP VIEW public.totals", "lost: view public.totals"),
    "an inbound foreign key": (
        "ALTER TABLE public.parts DROP CONSTRAINT parts_job",
        "lost: inbound foreign key parts_job",
    ),
    "replica identity": ("ALTER TABLE public.jobs REPLICA IDENTITY FULL", "replica identity d"),
    "an identity": ("ALTER TABLE public.jobs ALTER id DROP IDENTITY", "identity 'a'"),
    "another column's type": ("ALTER TABLE public.jobs ALTER status TYPE text", "character varying(20)"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_an_action_that_loses_something_is_undone(engine: Engine, name: str) -> None:
    statement, said = LOSSES[name]
    before = catalog_diff.read(engine.connection, JOBS)
    with pytest.raises(Refused) as refused:
        act(engine, AllowedChanges(renamed=(("total", "revenue"),)), RENAME, statement)
    assert said in str(refused.value)
    assert catalog_diff.read(engine.connection, JOBS) == before, "rolled back"


def test_a_rename_carries_everything_that_is_bound_to_the_column(engine: Engine) -> None:
    act(engine, AllowedChanges(renamed=(("total", "revenue"),)), RENAME)
    assert engine.value("SELECT count(revenue) FROM jobs") == 0


@pytest.mark.since(15)
def test_a_list_of_published_columns_follows(engine: Engine) -> None:
    """Whatever the order of the names: the old one sorts before another column, and the new one behind it."""
    engine.execute("ALTER PUBLICATION feed SET TABLE jobs (id, status, total)")
    act(engine, AllowedChanges(renamed=(("status", "zone"),)), "ALTER TABLE public.jobs RENAME status TO zone")


def test_a_rename_that_was_not_asked_for_is_one(engine: Engine) -> None:
    with pytest.raises(Refused, match="lost: column total"):
        act(engine, AllowedChanges(), RENAME)


def test_two_columns_change_places(engine: Engine) -> None:
    """Everything stays with the column it is bound to, under that column's new name."""
    engine.execute("ALTER TABLE jobs ADD revenue integer")
    swap = AllowedChanges(renamed=(("total", "revenue"), ("revenue", "total")))
    act(
        engine,
        swap,
        "ALTER TABLE public.jobs RENAME total TO backfilld_between",
        "ALTER TABLE public.jobs RENAME revenue TO total",
        "ALTER TABLE public.jobs RENAME backfilld_between TO revenue",
    )
    assert "revenue" in engine.value("SELECT pg_get_indexdef('jobs_total'::regclass)")


def test_a_column_may_come_and_ours_are_not_counted(engine: Engine) -> None:
    add = "ALTER TABLE public.jobs ADD extra integer NOT NULL DEFAULT 1, ADD CONSTRAINT backfilld_x CHECK (total > -1)"
    act(engine, AllowedChanges(columns=("extra",)), add)
    with pytest.raises(Refused, match="came: column more"):
        act(engine, AllowedChanges(columns=("extra",)), "ALTER TABLE public.jobs ADD more integer")


def test_a_column_of_another_type_keeps_what_mentions_it(engine: Engine) -> None:
    """The words may differ, by the casts in them, but each must be there."""
    retype = "ALTER TABLE public.jobs ALTER status TYPE text"
    with pytest.raises(Refused, match="jobs_status_check"):
        act(
            engine,
            AllowedChanges(retyped=("status",)),
            "ALTER TABLE public.jobs DROP CONSTRAINT jobs_status_check",
            retype,
        )
    act(engine, AllowedChanges(retyped=("status",)), "DROP STATISTICS public.jobs_both", retype,
        "CREATE STATISTICS public.jobs_both ON total, status FROM public.jobs")  # fmt: skip


def test_what_is_named_may_differ(engine: Engine) -> None:
    act(engine, AllowedChanges(may_differ=(("policy", "own"),)), "ALTER POLICY own ON public.jobs USING (true)")


@pytest.mark.parametrize(
    "operation", ["rebuild: {table: jobs}", "change_type: {table: jobs, column: total, type: bigint}"]
)
def test_what_postgresql_writes_down_for_itself_is_not_compared(engine: Engine, operation: str) -> None:
    """Since its minor releases of November 2026 each column has an option of PostgreSQL's own, another one in each table."""
    engine.execute(
        "ALTER TABLE jobs ALTER total SET (n_distinct = 5); DROP TABLE parts; DROP PUBLICATION feed; DROP TRIGGER touch ON jobs"
    )
    engine.execute(
        "SET allow_system_table_mods = on; UPDATE pg_attribute SET attoptions = array_prepend('pg_attver=' || attnum, attoptions) "
        "WHERE attrelid = 'jobs'::regclass AND attnum > 0; RESET allow_system_table_mods"
    )
    run = engine.enqueue(f"name: anew\noperations: [{{{operation}}}]\nsettings: {{approve: []}}")
    expect(engine.drive(run), State.COMPLETED)
    (options,) = engine.execute(
        "SELECT ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver%') AS own FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND attname = 'total'"
    )
    assert options["own"] == ["n_distinct=5"]
