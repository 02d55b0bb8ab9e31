"""Everything that hangs on a table is found, with its columns, and a plan says what becomes of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.backfill.steps import Backfill
from backfilld.migrations.planning import impact
from backfilld.migrations.postgres import catalog, dependents

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.postgres.dependents import Dependent


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("""
        CREATE TABLE customers (id bigint PRIMARY KEY);
        CREATE TABLE jobs (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            total integer DEFAULT 0 CONSTRAINT positive CHECK (total >= 0),
            customer bigint CONSTRAINT of_customer REFERENCES customers,
            "Odd.Name" text,
            twice integer GENERATED ALWAYS AS (total * 2) STORED
        );
        CREATE TABLE parts (job bigint CONSTRAINT of_job REFERENCES jobs);
        CREATE INDEX by_total ON jobs (total);
        CREATE INDEX by_expression ON jobs ((total + 1)) WHERE customer > 0;
        CREATE STATISTICS together ON total, customer FROM jobs;
        CREATE POLICY own ON jobs USING (total < 100);
        CREATE POLICY theirs ON customers USING (EXISTS (SELECT FROM jobs WHERE customer = customers.id AND total > 0));
        GRANT SELECT ON jobs TO PUBLIC;
        GRANT UPDATE (total) ON jobs TO pg_monitor;
        COMMENT ON COLUMN jobs.total IS 'in cents';
        CREATE VIEW totals AS SELECT total FROM jobs;
        CREATE VIEW everything AS SELECT * FROM jobs;
        CREATE MATERIALIZED VIEW stored AS SELECT sum(total) FROM jobs;
        CREATE VIEW others AS SELECT 1 AS total;
        CREATE FUNCTION parsed() RETURNS bigint BEGIN ATOMIC SELECT sum(total) FROM jobs; END;
        CREATE FUNCTION in_text() RETURNS bigint LANGUAGE sql AS 'SELECT sum(total) FROM public.jobs';
        CREATE FUNCTION in_odd_text() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT min("Odd.Name") FROM jobs); END';
        CREATE FUNCTION unrelated() RETURNS bigint LANGUAGE sql AS 'SELECT 1 AS jobstotal';
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER touched BEFORE UPDATE OF total ON jobs FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE RULE noted AS ON DELETE TO jobs WHERE old.total = 1 DO NOTHING;
        CREATE PUBLICATION feed FOR TABLE jobs;
        ALTER TABLE jobs REPLICA IDENTITY FULL;
    """)


def found(engine: Engine) -> dict[tuple[str, str], Dependent]:
    table = catalog.describe(engine.connection, TableName("public", "jobs"))
    assert table is not None
    return {(one.kind, one.name): one for one in dependents.of_table(engine.connection, table)}


#: Each dependent, and the columns of the table that it names.
EXPECTED = {
    ("column grant", "total to pg_monitor"): {"total"},
    ("comment", "total"): {"total"},
    ("constraint", "jobs_pkey"): {"id"},
    ("constraint", "positive"): {"total"},
    ("default", "total"): {"total"},
    ("foreign key", "of_customer"): {"customer"},
    ("function", "public.in_odd_text()"): {"Odd.Name"},
    ("function", "public.in_text()"): {"total"},
    ("function", "public.parsed()"): {"total"},
    ("function", "public.touch()"): set(),
    ("generated column", "twice"): {"twice", "total"},
    ("grant", "public"): set(),
    ("inbound foreign key", "of_job of public.parts"): {"id"},
    ("index", "by_expression"): {"total", "customer"},
    ("index", "by_total"): {"total"},
    ("index", "jobs_pkey"): {"id"},
    ("materialized view", "public.stored"): {"total"},
    ("policy", "own"): {"total"},
    ("policy", "theirs of public.customers"): {"customer", "total"},
    ("publication", "feed"): set(),
    ("replica identity", "full"): set(),
    ("rule", "noted"): {"total"},
    ("sequence", "public.jobs_id_seq"): {"id"},
    ("statistics", "together"): {"total", "customer"},
    ("trigger", "touched"): {"total"},
    ("view", "public.everything"): {"id", "total", "customer", "Odd.Name", "twice"},
    ("view", "public.totals"): {"total"},
}


def test_every_kind_is_found_with_its_columns(engine: Engine) -> None:
    assert {key: set(one.columns) for key, one in found(engine).items()} == EXPECTED


def told(engine: Engine, operation: str) -> dict[tuple[str, str], str]:
    """What becomes of each dependent that the operation touches."""
    (of,) = definition.parse(f"name: x\noperations: [{operation}]").operations
    return {key: words for key, one in found(engine).items() if (words := impact.by_kind(of, one))}


def test_what_a_rename_carries_and_what_it_does_not(engine: Engine) -> None:
    words = told(engine, "{rename_column: {table: jobs, from: total, to: revenue}}")
    assert set(words) == {key for key, columns in EXPECTED.items() if "total" in columns}
    assert words["policy", "theirs of public.customers"] == "follows by itself"
    assert "is still called total" in words["view", "public.totals"]
    assert "change it to revenue before" in words["function", "public.in_text()"]
    assert words["function", "public.parsed()"] == "follows by itself"


def test_what_goes_with_a_column_and_what_forbids_that(engine: Engine) -> None:
    words = told(engine, "{drop_column: {table: jobs, column: total}}")
    assert words["index", "by_expression"] == words["comment", "total"] == "is dropped with it"
    assert "forbids the drop" in words["view", "public.everything"]
    assert "forbids the drop" in words["generated column", "twice"]
    assert "fails once the column is gone" in words["function", "public.in_text()"]


def test_what_other_operations_do(engine: Engine) -> None:
    assert (
        "made again" in told(engine, "{change_type: {table: jobs, column: total, type: bigint}}")["index", "by_total"]
    )
    written = told(engine, '{backfill: {table: jobs, set: {total: "1"}}}')
    assert {"trigger", "index", "generated column", "materialized view", "publication"} <= {kind for kind, _ in written}
    added = told(engine, '{add_column: {table: jobs, column: {name: x, type: text}, backfill: "1"}}')
    assert "grant it" in added["column grant", "total to pg_monitor"]
    assert told(engine, "{create_index: {table: jobs, name: i, columns: [total]}}") == {}


def test_an_operation_may_know_better(engine: Engine) -> None:
    class Own(Backfill):
        def impact(self, dependent: Dependent) -> str | None:
            return "is mine" if dependent.kind == "view" else None

    (of,) = definition.parse('name: x\noperations: [{backfill: {table: jobs, set: {total: "1"}}}]').operations
    assert isinstance(of, definition.Backfill)
    own = Own(definition=of, facts=None, migration="x", number=0)  # type: ignore[arg-type] # what it says of dependents needs none
    both = found(engine)
    assert impact.impact(own, of, both["view", "public.totals"]) == "is mine"
    assert "is written" in impact.impact(own, of, both["index", "by_total"])
