"""What users of strong_migrations are warned of is caught in raw SQL, with a remedy that works; and nothing is held against what
PostgreSQL does in a moment.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest
from fix_postgres import cases, new_database
from psycopg.rows import dict_row

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.planning.examine import Examination
    from backfilld.migrations.planning.plan import Plan
    from backfilld.migrations.postgres.connect import Connection

#: All in one process: the tables are made once.
pytestmark = pytest.mark.xdist_group("known dangers")

#: The same table with few rows and with many.
SIZES = {"small": 3_000, "large": 60_000}
TABLES = """
CREATE TABLE {t} (
    id bigint PRIMARY KEY, code varchar(20), price numeric(10,2), n integer, at timestamp, note text CHECK (note <> ''),
    customer bigint, period int4range, mood public.mood, seen timestamptz NOT NULL DEFAULT now()
);
INSERT INTO {t}
SELECT i, 'c' || i, i, i, '2026-01-01', 'x', i % 100 + 1, int4range(i, i + 1), 'ok' FROM generate_series(1, {rows}) i;
CREATE INDEX {t}_code ON {t} (code);
ALTER TABLE {t} ADD CONSTRAINT {t}_customer CHECK (customer IS NOT NULL);
CREATE TABLE {t}_keyless AS SELECT id FROM {t};
"""
OTHERS = """
CREATE TYPE mood AS ENUM ('ok', 'sad');
CREATE TYPE new_mood AS ENUM ('fine', 'sad');
CREATE TABLE customers (id bigint PRIMARY KEY, number integer UNIQUE);
INSERT INTO customers SELECT i, i FROM generate_series(1, 60000) i;
CREATE SEQUENCE numbers;
CREATE SCHEMA billing;
"""
FUNCTIONS = """
CREATE FUNCTION make_room() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DROP TABLE public.customers'; END $$;
CREATE FUNCTION prepare() RETURNS void LANGUAGE sql AS 'SELECT public.make_room()';
CREATE FUNCTION count_up() RETURNS void LANGUAGE sql AS 'UPDATE public.customers SET number = number + 1';
"""


@pytest.fixture(scope="module")
def connection(admin_url: str, template: str) -> Iterator[Connection]:
    with (
        new_database(admin_url, copy_of=template) as url,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection,
    ):
        connection.execute(OTHERS.encode())
        for table, rows in SIZES.items():
            connection.execute(TABLES.format(t=table, rows=rows).encode())
        connection.execute(FUNCTIONS.encode())
        connection.execute("ANALYZE")
        yield connection


def planned(connection: Connection, *operations: dict[str, Any]) -> tuple[Examination, Plan]:
    migration = definition.parse(json.dumps({"name": "danger", "operations": operations}))
    found = examine.examine(connection, migration)
    return found, plan.make(migration, found)


def raw(run: str, rollback: str = "SELECT 1", **keys: Any) -> dict[str, Any]:
    return {"sql": {"run": run, "rollback": rollback, **keys}}


class Danger(NamedTuple):
    """Statements about the table {t} or about none, the rule that catches them, a word of the remedy, and what does as it says."""

    sql: str
    rule: str
    remedy: str
    instead: tuple[dict[str, Any], ...]
    #: Only warned of: on no table, on a small one, or on any.
    warned: tuple[str, ...] = ()


SMALL, ANY = ("small",), ("small", "large")
ALTER = "ALTER TABLE public.{t} "

#: The checks of strong_migrations' README for PostgreSQL, each by its heading there; some have more than one shape.
DANGERS = {
    "removing a column": Danger(
        ALTER + "DROP note", "ban-drop-column", "drop_column", ({"drop_column": {"table": "{t}", "column": "note"}},)
    ),
    "changing the type of a column": Danger(
        ALTER + "ALTER n TYPE bigint", "changing-column-type", "change_type",
        ({"change_type": {"table": "{t}", "column": "n", "type": "bigint"}},), SMALL,
    ),
    "changing the type of a column under a check": Danger(
        ALTER + "ALTER note TYPE varchar", "changing-column-type", "change_type",
        ({"change_type": {"table": "{t}", "column": "note", "type": "varchar"}},), SMALL,
    ),
    "renaming a column": Danger(
        ALTER + "RENAME n TO number", "renaming-column", "rename_column",
        ({"rename_column": {"table": "{t}", "from": "n", "to": "number"}},),
    ),
    "renaming a table": Danger(
        ALTER + "RENAME TO jobs", "renaming-table", "rename_table", ({"rename_table": {"table": "{t}", "to": "jobs"}},),
    ),
    "creating a table with the force option": Danger(
        "DROP TABLE IF EXISTS public.{t} CASCADE; CREATE TABLE public.{t} (id bigint)", "ban-drop-table", "drop_table",
        ({"drop_table": {"table": "{t}"}},),
    ),
    "dropping what depends on a table": Danger(
        "DROP TABLE public.{t} CASCADE", "drop-cascade", "each object", ({"drop_table": {"table": "{t}"}},),
    ),
    "adding a primary key": Danger(
        "ALTER TABLE public.{t}_keyless ADD PRIMARY KEY (id)", "adding-serial-primary-key-field", "add_primary_key",
        ({"add_primary_key": {"table": "{t}_keyless", "columns": ["id"]}},), SMALL,
    ),
    "adding an auto-incrementing column": Danger(
        ALTER + "ADD number bigserial", "long-lock", "nextval(",
        ({"add_column": {"table": "{t}", "column": {"name": "number", "type": "bigint"}, "default": "nextval('public.numbers')",
                         "not_null": True}},), SMALL,
    ),
    "adding an identity column": Danger(
        ALTER + "ADD number bigint GENERATED ALWAYS AS IDENTITY", "adding-field-with-default", "nextval(",
        ({"add_column": {"table": "{t}", "column": {"name": "number", "type": "bigint"}, "default": "nextval('public.numbers')",
                         "not_null": True}},), SMALL,
    ),
    "adding a stored generated column": Danger(
        ALTER + "ADD twice bigint GENERATED ALWAYS AS (n * 2) STORED", "adding-field-with-default", "computed: true",
        ({"add_column": {"table": "{t}", "column": {"name": "twice", "type": "bigint"}, "backfill": "n * 2", "computed": True}},),
        SMALL,
    ),
    "adding a check constraint": Danger(
        ALTER + "ADD CONSTRAINT positive CHECK (n > 0)", "constraint-missing-not-valid", "add_check",
        ({"add_check": {"table": "{t}", "name": "positive", "check": "n > 0"}},), SMALL,
    ),
    "executing SQL directly, DDL": Danger(
        "DO $$ BEGIN EXECUTE 'DROP TABLE public.{t}'; END $$", "ddl-in-do", "statements themselves", ()
    ),
    "executing SQL directly, DML": Danger(
        "DO $$ BEGIN UPDATE public.{t} SET n = 1; END $$", "data-change-in-do", "backfill",
        ({"backfill": {"table": "{t}", "set": {"n": "1"}, "where": "n <> 1"}},),
    ),
    "executing SQL directly, a function": Danger(
        "SELECT public.prepare()", "ddl-in-function", "statements themselves", ()
    ),
    "executing SQL directly, a function that changes rows": Danger(
        "SELECT public.count_up()", "data-change", "backfill", (), ANY
    ),
    "backfilling data": Danger(
        ALTER + "ADD done boolean; UPDATE public.{t} SET done = false", "data-change-with-ddl", "backfill",
        ({"add_column": {"table": "{t}", "column": {"name": "done", "type": "boolean"}, "backfill": "false"}},),
    ),
    "backfilling data alone": Danger(
        "UPDATE public.{t} SET n = 1", "data-change", "backfill",
        ({"backfill": {"table": "{t}", "set": {"n": "1"}, "where": "n <> 1"}},), ANY,
    ),
    "deleting rows": Danger(
        "DELETE FROM public.{t} WHERE n > 100", "data-change", "delete_rows",
        ({"delete_rows": {"table": "{t}", "where": "n > 100"}},), ANY,
    ),
    "emptying a table": Danger(
        "TRUNCATE public.{t}", "long-lock", "delete_rows", ({"delete_rows": {"table": "{t}", "where": "true"}},), SMALL
    ),
    "renaming a schema": Danger(
        "ALTER SCHEMA billing RENAME TO payments", "renaming-schema", "allow",
        (raw("ALTER SCHEMA billing RENAME TO payments", "ALTER SCHEMA payments RENAME TO billing", allow=["renaming-schema"]),),
    ),
    "adding an index non-concurrently": Danger(
        "CREATE INDEX {t}_n ON public.{t} (n)", "require-concurrent-index-creation", "create_index",
        ({"create_index": {"table": "{t}", "name": "{t}_n", "columns": ["n"]}},), SMALL,
    ),
    "adding a reference": Danger(
        ALTER + "ADD parent bigint REFERENCES public.customers; CREATE INDEX {t}_parent ON public.{t} (parent)",
        "require-concurrent-index-creation", "create_index",
        (raw(ALTER + "ADD parent bigint REFERENCES public.customers", ALTER + "DROP parent"),), SMALL,
    ),
    "adding a foreign key": Danger(
        ALTER + "ADD FOREIGN KEY (customer) REFERENCES public.customers", "adding-foreign-key-constraint", "add_foreign_key",
        ({"create_index": {"table": "{t}", "name": "{t}_customer_index", "columns": ["customer"]}},
         {"add_foreign_key": {"table": "{t}", "name": "{t}_customers", "columns": ["customer"],
                              "references": {"table": "customers"}}}),
    ),
    "adding a unique constraint": Danger(
        ALTER + "ADD CONSTRAINT {t}_u UNIQUE (n)", "disallowed-unique-constraint", "add_unique",
        ({"add_unique": {"table": "{t}", "name": "{t}_u", "columns": ["n"]}},), SMALL,
    ),
    "adding an exclusion constraint": Danger(
        ALTER + "ADD CONSTRAINT {t}_e EXCLUDE USING gist (period WITH &&)", "constraint-missing-not-valid", "application is stopped",
        (raw(ALTER + "ADD CONSTRAINT {t}_e EXCLUDE USING gist (period WITH &&)", ALTER + "DROP CONSTRAINT {t}_e",
             allow=["constraint-missing-not-valid"]),), SMALL,
    ),
    "adding a json column": Danger(
        ALTER + "ADD data json", "json-column", "jsonb",
        ({"add_column": {"table": "{t}", "column": {"name": "data", "type": "jsonb"}}},),
    ),
    "adding a column with a volatile default": Danger(
        ALTER + "ADD token uuid DEFAULT gen_random_uuid()", "adding-field-with-default", "add_column",
        ({"add_column": {"table": "{t}", "column": {"name": "token", "type": "uuid"}, "default": "gen_random_uuid()"}},), SMALL,
    ),
    "setting NOT NULL on an existing column": Danger(
        ALTER + "ALTER n SET NOT NULL", "adding-not-nullable-field", "set_not_null",
        ({"set_not_null": {"table": "{t}", "column": "n"}},), SMALL,
    ),
    "renaming an enum value": Danger(
        "ALTER TYPE public.mood RENAME VALUE 'ok' TO 'fine'", "renaming-enum-value", "change_type",
        ({"change_type": {"table": "{t}", "column": "mood", "type": "public.new_mood",
                          "up": "CASE mood WHEN 'ok' THEN 'fine' ELSE mood::text END::public.new_mood",
                          "down": "CASE mood WHEN 'fine' THEN 'ok' ELSE mood::text END::public.mood"}},),
    ),
    "removing NOT NULL": Danger(
        ALTER + "ALTER seen DROP NOT NULL", "ban-drop-not-null", "drop_not_null",
        ({"drop_not_null": {"table": "{t}", "column": "seen"}},), ANY,
    ),
    "removing a constraint": Danger(
        ALTER + "DROP CONSTRAINT {t}_customer", "ban-drop-constraint", "drop_constraint",
        ({"drop_constraint": {"table": "{t}", "name": "{t}_customer"}},), ANY,
    ),
    "keeping non-unique indexes to three columns or less": Danger(
        "CREATE INDEX {t}_wide ON public.{t} (n, price, at, note)", "wide-index", "narrow a search",
        ({"create_index": {"table": "{t}", "name": "{t}_n", "columns": ["n", "price", "at"]}},), ANY,
    ),
}  # fmt: skip


def about(table: str, operation: dict[str, Any]) -> dict[str, Any]:
    """An operation of the table above on one of the two tables."""
    made: dict[str, Any] = json.loads(json.dumps(operation).replace("{t}", table))
    return made


@pytest.mark.parametrize("name", DANGERS)
def test_what_is_dangerous_is_caught_and_the_remedy_works(connection: Connection, name: str) -> None:
    danger = DANGERS[name]
    for table in SIZES:
        found, _ = planned(connection, about(table, raw(danger.sql)))
        refusals = [str(one) for one in found.findings]
        told = found.warnings if table in danger.warned else refusals
        assert any(danger.rule in one and danger.remedy in one for one in told), (table, refusals, found.warnings)
        if danger.instead:
            _, made = planned(connection, *(about(table, one) for one in danger.instead))
            assert not made.refused, (table, made.findings)


#: What takes a moment, and what takes it back and does not; and a word of the remedy.
LONG_WAY_BACK = {
    "NOT NULL": (ALTER + "ALTER seen DROP NOT NULL", ALTER + "ALTER seen SET NOT NULL", "Use drop_not_null"),
    "a check": (
        ALTER + "DROP CONSTRAINT {t}_customer", ALTER + "ADD CONSTRAINT {t}_customer CHECK (customer IS NOT NULL)",
        "Use drop_constraint",
    ),
    "an index": ("DROP INDEX public.{t}_code", "CREATE INDEX {t}_code ON public.{t} (code)", "Use drop_index"),
    "a type": (ALTER + "ALTER code TYPE text", ALTER + "ALTER code TYPE varchar(20)", "Use change_type"),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG_WAY_BACK)
def test_a_rollback_that_takes_long_is_refused(connection: Connection, name: str) -> None:
    run, back, remedy = LONG_WAY_BACK[name]
    found, _ = planned(connection, about("large", raw(run, back)))
    assert found.findings
    assert all("sql.rollback" in one.problem and remedy in one.remedy for one in found.findings), found.findings
    assert planned(connection, about("small", raw(run, back)))[0].findings == []


#: What PostgreSQL does in a moment however large the table is, and what takes it back; some came with a later version.
BRIEF = {
    "a longer varchar": (ALTER + "ALTER code TYPE varchar(30)", None),
    "varchar to text": (ALTER + "ALTER code TYPE text", None),
    "more digits": (ALTER + "ALTER price TYPE numeric(12,2)", None),
    "timestamp to timestamptz": (ALTER + "ALTER at TYPE timestamptz", None),
    "a virtual generated column": (ALTER + "ADD twice bigint GENERATED ALWAYS AS (n * 2) VIRTUAL", ALTER + "DROP twice"),
    "a column": (ALTER + "ADD x bigint", ALTER + "DROP x"),
    "a constant default": (ALTER + "ADD x text DEFAULT 'new'", ALTER + "DROP x"),
    "a default of this moment": (ALTER + "ADD x timestamptz DEFAULT now()", ALTER + "DROP x"),
    "a reference that is empty": (ALTER + "ADD x bigint REFERENCES public.customers", ALTER + "DROP x"),
    "another default": (ALTER + "ALTER n SET DEFAULT 7", ALTER + "ALTER n DROP DEFAULT"),
    "a check for new rows": (ALTER + "ADD CONSTRAINT c CHECK (n > 0) NOT VALID", ALTER + "DROP CONSTRAINT c"),
    "a foreign key for new rows": (
        ALTER + "ADD CONSTRAINT c FOREIGN KEY (customer) REFERENCES public.customers NOT VALID", ALTER + "DROP CONSTRAINT c",
    ),
    "NOT NULL that a check proves": (ALTER + "ALTER customer SET NOT NULL", ALTER + "ALTER customer DROP NOT NULL"),
    "a table with keys": (
        "CREATE TABLE public.orders (id bigint PRIMARY KEY, customer bigint REFERENCES public.customers, code varchar(9) UNIQUE)",
        "DROP TABLE public.orders",
    ),
    "a table, its index and its key": (
        """CREATE TABLE public.orders (id bigint, customer bigint NOT NULL);
           CREATE INDEX orders_customer ON public.orders (customer);
           ALTER TABLE public.orders ADD FOREIGN KEY (customer) REFERENCES public.customers, ADD CHECK (id > 0), ADD PRIMARY KEY (id)""",
        "DROP TABLE public.orders",
    ),
    "another name for a constraint": (
        ALTER + "RENAME CONSTRAINT {t}_customer TO c", ALTER + "RENAME CONSTRAINT c TO {t}_customer",
    ),
    "a view": ("CREATE VIEW public.v AS SELECT id FROM public.{t}", "DROP VIEW public.v"),
}  # fmt: skip


@pytest.mark.parametrize("name", cases(BRIEF, since={"a virtual generated column": 18}))
def test_nothing_is_held_against_what_takes_a_moment(connection: Connection, name: str) -> None:
    run, back = BRIEF[name]
    for table in SIZES:
        found, made = planned(connection, about(table, raw(run, back or "SELECT 1")))
        assert not made.refused, (table, made.findings)
        assert back is None or found.warnings == [], table
        assert [risk for risk in made.risks if risk.level != "low"] == []
        assert {action.hold for phase in made.phases for action in phase.actions} <= {"brief", ""}


def test_how_long_a_lock_is_held_is_unknown_where_nothing_was_measured(connection: Connection) -> None:
    connection.execute("CREATE MATERIALIZED VIEW IF NOT EXISTS sums AS SELECT sum(number) FROM customers")
    for run, hold in {
        "UPDATE public.large SET n = 1": "unknown",
        "LOCK TABLE public.large": "unknown",
        "REFRESH MATERIALIZED VIEW public.sums": "unknown",
        "CREATE TABLE public.made AS SELECT * FROM public.large": "unknown",
        "ALTER TABLE public.large VALIDATE CONSTRAINT large_customer": "as long as the table is large, while reads and writes continue",
    }.items():
        _, made = planned(connection, raw(run))
        assert [action.hold for phase in made.phases for action in phase.actions] == [hold], run


@pytest.mark.parametrize("column", ["number", "customer"])
def test_a_foreign_key_between_types_that_differ_is_told(connection: Connection, column: str) -> None:
    """bigint to bigint is none; bigint to integer may refer to what cannot be there."""
    other = "id" if column == "customer" else "number"
    key = {
        "table": "large",
        "name": "k",
        "columns": ["customer"],
        "references": {"table": "customers", "columns": [other]},
    }
    run = f"ALTER TABLE public.large ADD CONSTRAINT k FOREIGN KEY (customer) REFERENCES public.customers ({other}) NOT VALID"
    for operation in ({"add_foreign_key": key}, raw(run, "ALTER TABLE public.large DROP CONSTRAINT k")):
        found, _ = planned(connection, operation)
        told = [one for one in found.warnings if "large.customer (bigint)" in one and "change_type" in one]
        assert bool(told) == (column == "number"), found.warnings


def test_operations_warn_of_json_and_of_wide_indexes_too(connection: Connection) -> None:
    found, _ = planned(connection, {"add_column": {"table": "small", "column": {"name": "data", "type": "json"}}})
    assert any("use jsonb" in one for one in found.warnings)
    wide = {"table": "small", "name": "wide", "columns": ["n", "price", "at", "note"]}
    assert any("4 columns" in one for one in planned(connection, {"create_index": wide})[0].warnings)
    assert planned(connection, {"create_index": wide | {"unique": True}})[0].warnings == []
