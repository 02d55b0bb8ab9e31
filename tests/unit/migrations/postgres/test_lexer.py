"""A text that goes into our statements in parentheses must be one operand there, whatever it holds.

Where our reading of it and PostgreSQL's could differ, refusing is right; taking it is not.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfilld.migrations.postgres.lexer import self_containment_problem, with_operand

OPERANDS = [
    "upper(status)",
    "(SELECT max(t.n) FROM public.t t WHERE t.id = jobs.id)",
    "'a);b'",
    "'it''s ('",
    "coalesce(\"odd ) column\", '')",
    '"a""b)"',
    r"E'a\')'",
    r"e'\\'",
    "U&'\\0061)'",
    "$$ ) ; ' $$",
    "$tag$ $$ ) $tag$",
    "$ä$ ) $ä$",
    "ARRAY[1, 2][1]",
    "x -- a ) comment ; '",
    "x /* a ) comment /* nested ' */ ; */ + 1",
    "a$b$c + 1",
    "n % 2 = 0",
    "'%s'",
    "\n  x\n",
    "CASE WHEN a THEN b END",
    "a -- one\n + b",
    "'a' \n 'b)'",
    "data->>'x'",
]

#: What must be refused. In each the part after the payload is what our own statement would go on with.
SMUGGLERS = {
    "a second statement": "1); DROP TABLE jobs; --",
    "another column": "a) , (b",
    "a bracket closed": "a] , [b",
    "a second statement without parentheses": "1; DROP TABLE jobs",
    "a parenthesis left open": "(1",
    "a quote left open": "'a",
    "a name left open": '"a',
    "a dollar quote left open": "$$ a ' ",
    "a comment left open": "1 /* ",
    "a nested comment left open": "1 /* /* */ ) ; DROP TABLE jobs",
    "a comment ended by a carriage return": "1 --\r) AS v; DROP TABLE jobs; --",
    "a quote that a backslash does not escape": r"'\'); DROP TABLE jobs; --'",
    "an e that belongs to a name": r"a$e'\'); DROP TABLE jobs; --'",
    "an e that belongs to a name of other letters": "\u20ace'\\'); DROP TABLE jobs; --'",
    "a dollar that belongs to a name": "a$$ ); DROP TABLE jobs; -- $$",
    "a dollar that belongs to a name of other letters": "\u20ac$$ ); DROP TABLE jobs; -- $$",
    "an escape string that goes on in the next line": "E'a'\n'b\\' || '); DROP TABLE jobs; --'",
    "an escape string that goes on after a comment": "E'a' -- c\n'b\\' || '); DROP TABLE jobs; --'",
    "a tag of other letters": "$\u20ac\u20ac$ ' $\u20ac\u20ac$ ) ; DROP TABLE jobs; --'",
    "a dollar quote with another inside": "$a$ $$ ' $a$ ) ; DROP TABLE jobs; --",
    "a tag that is not one": "$1$ ); DROP TABLE jobs; -- $1$",
    "tags in other letters": "$a$ $A$ ); DROP TABLE jobs; -- $a$ )",
    "a comment inside a quote": "'/*' ) ; DROP TABLE jobs; -- */",
    "a quote inside a comment": "/* ' */ ) ; DROP TABLE jobs; -- '",
    "a line comment that hides the opening": "-- (\n)",
    "a name with a quote in it": '"a"")" ) ; DROP TABLE jobs; --',
    "an operator before a comment": "1 +/* ' */ ); DROP TABLE jobs; --",
    "a unicode string with a backslash": r"U&'\'); DROP TABLE jobs; --'",
    "a national string with a backslash": r"N'\'); DROP TABLE jobs; --'",
    "a form feed after the dashes": "1 --\f\n) ; DROP TABLE jobs",
}


@pytest.mark.parametrize("text", OPERANDS)
def test_one_operand_is_taken(text: str) -> None:
    assert self_containment_problem(text) is None


@pytest.mark.parametrize("case", SMUGGLERS)
def test_anything_more_is_refused(case: str) -> None:
    assert self_containment_problem(SMUGGLERS[case])


@given(st.text(alphabet="ab'\"$()[]-/*\\eE\n\r;,\u20ac ", max_size=30))
def test_it_always_comes_to_an_answer(text: str) -> None:
    self_containment_problem(text)


@given(st.text(alphabet="a'\"$()-/*\\eE\n\r;", max_size=20))
def test_what_is_taken_can_be_put_in_parentheses(text: str) -> None:
    """What is one operand by itself is one in parentheses, and one closing parenthesis more is one too many."""
    if self_containment_problem(text) is None:
        assert self_containment_problem(f"(\n{text}\n)") is None
        assert self_containment_problem(f"{text}\n)")


@pytest.mark.parametrize(
    ("expression", "becomes"),
    [
        ("at::timestamptz", "(1)::timestamptz"),
        ('"at" + public.jobs.at - "jobs" . at', "(1) + (1) - (1)"),
        ("AT + at_2 + other.at + at.x", "(1) + at_2 + other.at + at.x"),
        ("at(1) || 'at' || $$at$$ -- at", "at(1) || 'at' || $$at$$ -- at"),
        ("(CASE WHEN at > 2 /* at /* at */ */ THEN at END)", "(CASE WHEN (1) > 2 /* at /* at */ */ THEN (1) END)"),
        ("x::at", "x::at"),
        ("E'\\'at' || at", "E'\\'at' || (1)"),
    ],
)
def test_another_operand_stands_for_a_column(expression: str, becomes: str) -> None:
    assert with_operand(expression, ("public", "jobs", "at"), "1") == becomes


def test_a_column_whose_name_is_quoted_is_found_by_it() -> None:
    assert with_operand('"A.""b" + a."A.""b" + "a.""b"', ("s", "a", 'A."b'), "1") == '(1) + (1) + "a.""b"'
