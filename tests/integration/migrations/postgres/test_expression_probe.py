"""What the probe learns of an expression: what it reads, and whether asking again gives the same answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import expect
from psycopg.rows import dict_row

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.expression_probe import Rejected, probe
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.expression_probe import Analysis

ALL = frozenset({"id", "status", "n", "at", "Odd %s"})


@pytest.fixture(autouse=True)
def tables(engine: Engine) -> None:
    engine.execute(
        """
        CREATE TABLE jobs (id bigint PRIMARY KEY, status text, n integer, at timestamptz, "Odd %s" text);
        CREATE TABLE other (id bigint PRIMARY KEY, n integer);
        CREATE VIEW a_view AS SELECT * FROM other;
        CREATE FUNCTION f_volatile(text) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT $1';
        CREATE FUNCTION f_stable(text) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1';
        CREATE FUNCTION f_immutable(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
        CREATE OPERATOR public.~~> (LEFTARG = text, RIGHTARG = text, FUNCTION = f_two);
        """.replace(
            "CREATE OPERATOR",
            "CREATE FUNCTION f_two(text, text) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT $1'; CREATE OPERATOR",
        )
    )


def analyse(connection: Connection, expression: str) -> Analysis:
    table = catalog.describe(connection, TableName("public", "jobs"))
    assert table is not None
    with probe(connection, table) as trial:
        return trial.analyse(expression, what="it")


READS = {
    "upper(status)": {"status"},
    "1": set(),
    "jobs.n + 1": {"n"},
    "status || n || id": {"status", "n", "id"},
    '"Odd %s"': {"Odd %s"},
    "(SELECT o.n FROM public.other o WHERE o.id = jobs.id)": {"id"},
    "(SELECT max(o.n) FROM public.other o)": set(),
    "jobs::text": ALL,
    "to_jsonb(jobs)": ALL,
    "(SELECT to_jsonb(jobs))": ALL,
    "(jobs).status": {"status"},
    "CASE WHEN n > 1 THEN status END": {"n", "status"},
}


def test_the_columns_that_are_read(engine: Engine) -> None:
    for expression, columns in READS.items():
        assert analyse(engine.connection, expression).reads == columns, expression


def test_a_whole_row_of_another_table_counts_as_everything(engine: Engine) -> None:
    """More than is true, so that nothing is missed: the catalog does not tell whose whole row it is."""
    found = analyse(engine.connection, "(SELECT to_jsonb(o) FROM public.other o WHERE o.id = jobs.id)")
    assert found.reads_others == ("public.other",)
    assert found.reads == ALL


def test_other_relations_that_are_read(engine: Engine) -> None:
    found = analyse(engine.connection, "(SELECT v.n FROM public.a_view v LIMIT 1)")
    assert found.reads_others == ("public.a_view",)
    assert analyse(engine.connection, "upper(status)").reads_others == ()


UNREPEATABLE = {
    "now()": "now()",
    "at < now()": "now()",
    "CURRENT_DATE": "the clock",
    "LOCALTIMESTAMP": "the clock",
    "CURRENT_USER": "the clock or the session",
    "random()": "random()",
    "gen_random_uuid()": "gen_random_uuid()",
    "clock_timestamp()": "clock_timestamp()",
    "age(at)": "age()",
    "txid_current()": "txid_current()",
    "public.f_volatile(status)": "f_volatile()",
    "status OPERATOR(public.~~>) status": "f_two()",
    "(SELECT public.f_volatile(o.n::text) FROM public.other o LIMIT 1)": "f_volatile()",
    "nextval('public.s')": "nextval()",
}
REPEATABLE = [
    "upper(status)",
    "public.f_stable(status)",
    "public.f_immutable(status)",
    "age(at, at)",
    "at::date",
    "to_char(at, 'YYYY')",
    "(SELECT max(o.n) FROM public.other o)",
    "'now() random()'",
    "status LIKE 'a%' AND n % 2 = 0",
]


def test_what_may_answer_differently(engine: Engine) -> None:
    engine.execute("CREATE SEQUENCE s")
    for expression, name in UNREPEATABLE.items():
        found = analyse(engine.connection, expression)
        assert len(found.unrepeatable) == 1, expression
        assert name in found.unrepeatable[0], expression


def test_what_gives_the_same_answer(engine: Engine) -> None:
    for expression in REPEATABLE:
        assert analyse(engine.connection, expression).unrepeatable == (), expression


@pytest.mark.parametrize("relation", ["a_view", "f_of_rows"])
def test_what_an_expression_calls_behind_a_view_or_function_is_not_seen(engine: Engine, relation: str) -> None:
    """The promise ends at names: a STABLE function is taken at its owner's word."""
    engine.execute("CREATE FUNCTION f_of_rows() RETURNS integer LANGUAGE sql STABLE AS 'SELECT 1'")
    source = "public.a_view v" if relation == "a_view" else "public.f_of_rows() v"
    assert analyse(engine.connection, f"(SELECT 1 FROM {source} LIMIT 1)").unrepeatable == ()


def test_strings_mean_what_the_lexer_takes_them_for(engine: Engine) -> None:
    """A database with standard_conforming_strings off would read a backslash as an escape."""
    engine.execute("INSERT INTO jobs (id) VALUES (1)")
    with psycopg.connect(
        engine.url, autocommit=True, row_factory=dict_row, options="-c standard_conforming_strings=off"
    ) as odd:
        try:
            with pytest.raises(Rejected):
                analyse(odd, r"'\'); DROP TABLE other; --'")
        except psycopg.errors.Error:  # a server that cannot switch it off
            return
        assert analyse(odd, r"'\'").reads == frozenset()
    name = engine.value("SELECT current_database()")
    engine.execute(f'ALTER DATABASE "{name}" SET standard_conforming_strings = off')
    with psycopg.connect(engine.url, autocommit=True, row_factory=dict_row) as fresh:
        engine.connection, kept = fresh, engine.connection
        add = {"table": "jobs", "column": {"name": "slash", "type": "text"}, "backfill": "'\\'"}
        run = engine.enqueue(json.dumps({"name": "m", "operations": [{"add_column": add}]}))
        engine.connection = kept
    engine.drive(run)
    engine.execute("INSERT INTO jobs (id) VALUES (2)")
    assert [row["slash"] for row in engine.execute("SELECT slash FROM jobs")] == ["\\", "\\"]
    expect(engine.run(run), State.WAITING)
