"""`set_comment`: on a table, a column, a constraint or an index, and the old one on the way back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fix_rules import whole_way_back_from_every_other_step
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from fix_runs import Engine


def said(*comments: dict[str, Any]) -> str:
    operations = [{"set_comment": {"table": "Odd Schema.Order", **one}} for one in comments]
    return json.dumps({"name": "said", "operations": operations, "settings": {"approve": []}})


#: Where each comment is read.
COMMENTS = {
    "table": ({}, 'obj_description(\'"Odd Schema"."Order"\'::regclass)'),
    "column": ({"column": "a%b"}, 'col_description(\'"Odd Schema"."Order"\'::regclass, 2)'),
    "constraint": (
        {"constraint": "chk %"},
        "(SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conname = 'chk %')",
    ),
    "index": ({"index": "by %"}, 'obj_description(\'"Odd Schema"."by %"\'::regclass)'),
}


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> None:
    engine.execute(
        'CREATE SCHEMA "Odd Schema";'
        'CREATE TABLE "Odd Schema"."Order" (id bigint PRIMARY KEY, "a%b" int CONSTRAINT "chk %" CHECK ("a%b" > 0));'
        'CREATE INDEX "by %" ON "Odd Schema"."Order" ("a%b");'
        'COMMENT ON COLUMN "Odd Schema"."Order"."a%b" IS \'old\'; COMMENT ON INDEX "Odd Schema"."by %" IS \'old\''
    )


def test_each_is_said_and_there_is_a_way_back_from_every_other_step(engine: Engine) -> None:
    text = said(*({**on, "comment": 'it\'s "50%"'} for on, _ in COMMENTS.values()))
    assert whole_way_back_from_every_other_step(engine, text) > 6
    engine.sent.clear()
    expect(engine.drive(engine.enqueue(text)), State.COMPLETED)
    assert [engine.value(f"SELECT {read}") for _, read in COMMENTS.values()] == ['it\'s "50%"'] * 4


def test_an_empty_one_removes_it(engine: Engine) -> None:
    text = said({"column": "a%b", "comment": ""})
    whole_way_back_from_every_other_step(engine, text)
    engine.sent.clear()
    expect(engine.drive(engine.enqueue(text)), State.COMPLETED)
    assert engine.value(f"SELECT {COMMENTS['column'][1]}") is None


def test_what_the_same_file_makes_can_be_commented_on(engine: Engine) -> None:
    made = [
        {"add_column": {"table": "Odd Schema.Order", "column": {"name": "n", "type": "text"}}},
        {"add_check": {"table": "Odd Schema.Order", "name": "more", "check": "id > 0"}},
    ]
    document = json.loads(said({"column": "n", "comment": "new"}, {"constraint": "more", "comment": "new"}))
    document["operations"] = [*made, *document["operations"]]
    expect(engine.drive(engine.enqueue(json.dumps(document))), State.COMPLETED)
    assert engine.value('SELECT col_description(\'"Odd Schema"."Order"\'::regclass, 3)') == "new"


@pytest.mark.parametrize(
    ("on", "problem"),
    [
        ({"column": "ab"}, "Did you mean a%b?"),
        ({"constraint": "chk"}, "Did you mean chk %?"),
        ({"index": "by"}, "has no index by"),
    ],
)
def test_refused_with_a_remedy(engine: Engine, on: dict[str, str], problem: str) -> None:
    with pytest.raises(Refused) as refused:
        engine.enqueue(said({**on, "comment": "text"}))
    assert problem in str(refused.value)
