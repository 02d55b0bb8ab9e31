"""A text of SQL comes apart where PostgreSQL would take it apart, and nowhere else."""

from __future__ import annotations

import pytest
from psycopg import sql

from backfilld.migrations.postgres.statements import Unclosed, split

SPLIT = {
    "two": ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"]),
    "nothing": (" ; ; -- no\n/* no */ ", []),
    "in a string": ("SELECT ';'; SELECT 2", ["SELECT ';'", "SELECT 2"]),
    "in an escape string": (r"SELECT E'\';'; SELECT 2", [r"SELECT E'\';'", "SELECT 2"]),
    "in a name": ('SELECT ";"; SELECT 2', ['SELECT ";"', "SELECT 2"]),
    "in a body": ("DO $x$ BEGIN; $$;$$ END $x$; SELECT 2", ["DO $x$ BEGIN; $$;$$ END $x$", "SELECT 2"]),
    "in comments": ("SELECT 1 /* ; /* ; */ ; */ + 1 -- ;\n; SELECT 2", ["SELECT 1 /* ; /* ; */ ; */ + 1", "SELECT 2"]),
    "a rule's actions": (
        "CREATE RULE r AS ON UPDATE TO t DO ALSO (DELETE FROM a; DELETE FROM b); SELECT 2",
        ["CREATE RULE r AS ON UPDATE TO t DO ALSO (DELETE FROM a; DELETE FROM b)", "SELECT 2"],
    ),
    "a body of statements": (
        "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3",
        [
            "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
            "SELECT 3",
        ],
    ),
    "a percent sign": ("SELECT 'a' LIKE '%s'; SELECT 5 % 3", ["SELECT 'a' LIKE '%s'", "SELECT 5 % 3"]),
}


@pytest.mark.parametrize("name", SPLIT)
def test_statements_end_where_postgresql_ends_them(name: str) -> None:
    text, expected = SPLIT[name]
    assert [statement.text for statement in split(text)] == expected


@pytest.mark.parametrize(
    ("text", "position"), [("SELECT 'a", 7), ('SELECT "a', 7), ("SELECT 1\n/* a", 9), ("SELECT $$ a'", 11)]
)
def test_what_is_not_closed_is_said(text: str, position: int) -> None:
    with pytest.raises(Unclosed) as refused:
        split(text)
    assert refused.value.position == position


def test_words_are_read_without_comments_and_strings() -> None:
    (statement,) = split("alter  table public.\"Order\" -- drop table\n add c text default 'drop table'")
    assert statement.bare == "ALTER TABLE PUBLIC . \"Order\" ADD C TEXT DEFAULT ''"
    assert statement.strings == ("'drop table'",)


def test_names_with_a_schema_are_found_and_exchanged() -> None:
    (statement,) = split(
        """INSERT INTO Public.Jobs SELECT public.jobs.id, "a""b". "C" FROM "a""b"."C" WHERE '"public"."jobs"' < x.y.z"""
    )
    found = {name for _, _, name in statement.qualified}
    assert found == {("public", "jobs"), ('a"b', "C"), ("x", "y")}
    other = statement.renamed({("public", "jobs"): sql.Identifier("pg_temp", "jobs")})
    assert other.startswith('INSERT INTO "pg_temp"."jobs" SELECT "pg_temp"."jobs".id, "a""b". "C"')
    assert other.endswith("""WHERE '"public"."jobs"' < x.y.z""")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('WITH a AS (SELECT 1), "B" (x, y) AS NOT MATERIALIZED (SELECT 1, 2) TABLE a', {"a", "B"}),
        ("SELECT sum(x) OVER w FROM t AS j WINDOW w AS (ORDER BY (y))", {"w"}),
        ("SELECT x AS y FROM t AS j (a, b), LATERAL (SELECT 1) AS z", set()),
        ("SELECT CAST(x AS text), (y) AS (", set()),
        ("AS (", set()),
    ],
)
def test_names_that_a_statement_gives_by_itself(text: str, names: set[str]) -> None:
    (statement,) = split(text)
    assert statement.own_names == names
