"""Everything that depends on a table is found, with the columns that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backfilld.migrations.identifiers import TableName
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
