"""What is planned of a text."""

from __future__ import annotations

import pytest

from backfilld.migrations.application.texts import bindable


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("SELECT 1", "SELECT 1"),
        ("  /* by the app */ WITH a AS (SELECT 1) TABLE a ", "WITH a AS (SELECT 1) TABLE a"),
        ("DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT a FROM t", "SELECT a FROM t"),
        ("EXPLAIN (ANALYZE, BUFFERS) SELECT a FROM t", "SELECT a FROM t"),
        ("PREPARE p (int, text) AS SELECT a FROM t WHERE b = $1", "SELECT a FROM t WHERE b = $1"),
        ("CREATE TEMP TABLE x AS SELECT a FROM t", "SELECT a FROM t"),
        ("CREATE TABLE public.x AS SELECT a FROM t", "SELECT a FROM t"),
        ("COPY (SELECT a, (b) FROM t) TO STDOUT", "SELECT a, (b) FROM t"),
        ("COPY t TO STDOUT", None),
        ('COPY t (a, "B") FROM STDIN WITH (FORMAT csv)', 'SELECT a, "B" FROM t LIMIT 0 /* COPY */'),
        ("copy  s.\"T\"(a) to '/tmp/x'", 'SELECT a FROM s."T" LIMIT 0 /* COPY */'),
        ("COPY t FROM STDIN (FORMAT csv)", None),
        ("COPY t (", None),
        ("CREATE TABLE x (a int)", None),
        ("SET search_path = a", None),
        ("BEGIN", None),
        ("SELECT 'open", None),
        ("", None),
    ],
)
def test_what_is_planned_of_a_statement(text: str, cut: str | None) -> None:
    assert bindable(text) == cut
