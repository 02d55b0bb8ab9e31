"""`set_default`: rows get it from the switch on, and the way back gives the DEFAULT that was there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fix_rules import whole_way_back_from_every_other_step
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from fix_runs import Engine


def defaults(*changes: tuple[str, str]) -> str:
    operations = [
        {"set_default": {"table": "Odd Schema.Order", "column": column, "default": text}} for column, text in changes
    ]
    return json.dumps({"name": "given", "operations": operations, "settings": {"approve": []}})


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> None:
    engine.execute(
        'CREATE SCHEMA "Odd Schema";'
        'CREATE TABLE "Odd Schema"."Order" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, '
        "\"a%b\" text DEFAULT 'x' || '%', n int, twice bigint GENERATED ALWAYS AS (id * 2) STORED);"
        'INSERT INTO "Odd Schema"."Order" (n) VALUES (1)'
    )


def test_it_is_for_new_rows_and_there_is_a_way_back_from_every_other_step(engine: Engine) -> None:
    text = defaults(("a%b", "'50%' -- for all"), ("n", "1 + 1"))
    assert whole_way_back_from_every_other_step(engine, text) > 4
    engine.sent.clear()
    expect(engine.drive(engine.enqueue(text)), State.COMPLETED)
    engine.execute('INSERT INTO "Odd Schema"."Order" DEFAULT VALUES')
    rows = engine.execute('SELECT "a%b" AS a, n FROM "Odd Schema"."Order" ORDER BY id')
    assert rows == [{"a": "x%", "n": 1}, {"a": "50%", "n": 2}]


@pytest.mark.parametrize(
    ("column", "text", "problem"),
    [
        ("n", "'many'", "invalid input syntax for type integer"),
        ("n", "id + 1", "cannot use column reference"),
        ("n", "1), ADD COLUMN more int DEFAULT (1", "not one expression"),
        ("a%b", "pg_sleep(1)::text", "pg_sleep()"),
        ("id", "1", "is an identity column"),
        ("twice", "1", "is computed by PostgreSQL"),
        ("m", "1", "Did you mean"),
    ],
)
def test_what_cannot_be_a_default_is_refused(engine: Engine, column: str, text: str, problem: str) -> None:
    engine.execute('ALTER TABLE "Odd Schema"."Order" ADD COLUMN mm int')
    with pytest.raises(Refused) as refused:
        engine.enqueue(defaults((column, text)))
    assert problem in str(refused.value)
