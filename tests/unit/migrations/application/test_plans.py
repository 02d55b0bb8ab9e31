"""What is worse between two plans of a statement, what a value is needed for, and what a text says of itself."""

from __future__ import annotations

import json

import pytest

from backfilld.migrations.application.binding import ways, ways_by_type, written_anew
from backfilld.migrations.application.checked import HOLDING, Checked, Kind, Moment, Told, holding
from backfilld.migrations.application.plans import Planned, regression
from backfilld.migrations.application.usable import Plan, newly_scanned
from backfilld.migrations.application.values import compared, may_run

INDEX = Planned(shape="Index Scan jobs by i", indexes=("i",), by_index=("public.jobs",), cost=8.3)
SCAN = Planned(shape="Seq Scan jobs", scanned=("public.jobs",), cost=800.0)


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (INDEX, INDEX, ""),
        (INDEX, SCAN, "it reads public.jobs from end to end, and read it by i before"),
        (INDEX, Planned(scanned=("public.jobs",), cost=9.0), ""),  # a small table
        (SCAN, Planned(scanned=("public.jobs",), cost=90_000.0), ""),  # it was read from end to end before
        (Planned(buffers=4), Planned(buffers=650), "it reads 650 pages, and read 4 before"),
        (Planned(buffers=4), Planned(buffers=180), ""),
        (Planned(buffers=1000), Planned(buffers=2900), ""),  # a table that was walked
        # Pages count where they are known: another plan that reads as much is none the worse.
        (
            Planned(buffers=10, by_index=("public.jobs",), cost=1),
            Planned(buffers=12, scanned=("public.jobs",), cost=9),
            "",
        ),
        (Planned(buffers=9, milliseconds=2.0), Planned(buffers=9, milliseconds=70.0), "it takes 70 ms, and took 2 ms before"),
        (Planned(buffers=9, milliseconds=0.2), Planned(buffers=9, milliseconds=9.0), ""),
        (Planned(milliseconds=200.0), Planned(longer_than_milliseconds=2000.0), "it takes more than 2000 ms, and took 200 ms before"),
        (Planned(milliseconds=900.0), Planned(longer_than_milliseconds=2000.0), ""),
        (Planned(persona="ann", buffers=4), Planned(persona="ann", buffers=650), "as ann it reads 650 pages, and read 4 before"),
        (INDEX, Planned(error='column "a" does not exist'), 'it fails: column "a" does not exist'),
        (INDEX, Planned(error="canceling statement due to lock timeout", is_busy=True), ""),
        (Planned(error="x"), SCAN, ""),
    ],
)  # fmt: skip
def test_what_is_worse(before: Planned, after: Planned, worse: str) -> None:
    assert regression(before, after) == worse
    assert Planned.from_json(json.loads(json.dumps(before.to_json()))) == before


PLAN = json.dumps(
    [
        {
            "Query Identifier": -7,
            "Execution Time": 1.5,
            "Plan": {
                "Node Type": "Nested Loop",
                "Total Cost": 10.5,
                "Shared Hit Blocks": 7,
                "Shared Read Blocks": 2,
                "Join Filter": "(j.id > $4)",
                "Plans": [
                    {
                        "Node Type": "Bitmap Heap Scan",
                        "Schema": "public",
                        "Relation Name": "Order",
                        "Alias": "j",
                        "Recheck Cond": '((j."Status")::text = ANY ($1))',
                        "Filter": "((j.total >= $2) AND (j.note ~~ $3))",
                        "Plans": [{"Node Type": "Bitmap Index Scan", "Index Name": "order_status"}],
                    },
                    {"Node Type": "Seq Scan", "Schema": "pg_temp_3", "Relation Name": "c", "Alias": "c"},
                ],
            },
        }
    ]
)


def test_a_plan_says_what_is_scanned_and_what_read_by_an_index() -> None:
    plan = Plan.from_json(PLAN)
    assert plan.scanned == {("pg_temp_3", "c")}
    assert plan.by_index == {("public", "Order")}
    assert plan.indexes == ("order_status",)
    assert (plan.buffers, plan.milliseconds, plan.identifier, plan.cost) == (9, 1.5, -7, 10.5)
    assert plan.shape == "Nested Loop [Bitmap Heap Scan Order > Bitmap Index Scan by order_status + Seq Scan c]"
    assert newly_scanned(Plan.from_json("[]"), plan) == {("pg_temp_3", "c")}
    assert not newly_scanned(plan, plan)


def test_each_parameter_is_known_by_the_column_beside_it() -> None:
    assert compared(Plan.from_json(PLAN).root) == {
        1: ("public", "Order", "Status", True),
        2: ("public", "Order", "total", False),
        3: ("public", "Order", "note", False),
        4: ("public", "Order", "id", False),
    }


@pytest.mark.parametrize(
    ("text", "anew", "types"),
    [
        ("SELECT now() - interval $1", "SELECT now() - cast($1 as interval)", ()),
        ("SELECT interval $1 day", "SELECT cast($1 as interval)", ()),
        ("SELECT timestamp with time zone $2", "SELECT cast($2 as timestamp with time zone)", ()),
        ("SELECT extract($2 from made) + $1", "SELECT extract(epoch from made) + $1", (0, 23)),
        ("SELECT a FROM t WHERE date = $1", "SELECT a FROM t WHERE date = $1", ()),
    ],
)
def test_what_the_grammar_refuses_is_written_anew(text: str, anew: str, types: tuple[int, ...]) -> None:
    assert written_anew(text) == (anew, types)
    assert len(list(ways(text))) == 1 + (anew != text)


def test_a_parameter_may_be_an_integer() -> None:
    assert [way.types for way in ways_by_type("SELECT $1 + $2")] == [(23, 23), (23,), (0, 23)]
    assert list(ways_by_type("SELECT 1")) == []
    assert len(list(ways_by_type(" + ".join(f"${n}" for n in range(1, 40))))) == 1


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("SELECT a FROM t", True),
        ("(SELECT 1) UNION (SELECT 2)", True),
        ("WITH a AS (SELECT 1) SELECT 1", True),
        ("UPDATE t SET a = 1", False),
        ("SELECT a FROM t FOR NO KEY UPDATE", False),
        ("SELECT pg_advisory_xact_lock(id) FROM t", False),
        ("SELECT pg_sleep(9)", False),
        ("SELECT nextval('s')", False),
        ("SELECT pg_notify('a', 'b') FROM t", False),
    ],
)
def test_only_what_reads_is_run(text: str, may: bool) -> None:  # noqa: FBT001 - a case of a table
    assert may_run(text) is may


def test_what_is_on_record_of_a_check_says_what_holds_contract() -> None:
    told = [Told(kind=kind, problem="p", roles=("a",)) for kind in reversed(Kind)]
    checked = Checked.of(Moment.BEFORE_CONTRACT, told * 20, statements=9)
    stored = json.loads(json.dumps(checked.to_json()))
    assert Checked.from_json(stored) == checked
    assert len(checked.holding) == 50
    assert stored["counts"] == {str(kind): 20 for kind in Kind}
    assert len(stored["findings"]) == 50
    assert {one.kind for one in holding(stored)} == HOLDING
    assert holding(None) == ()
