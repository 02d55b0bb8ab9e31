"""`rename_constraint`: another name at the switch, for the index too, and the old one on the way back."""

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


def rename(old: str, new: str) -> str:
    operation = {"rename_constraint": {"table": "Odd Schema.Order", "from": old, "to": new}}
    return json.dumps({"name": "named", "operations": [operation], "settings": {"approve": []}})


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> None:
    engine.execute(
        'CREATE SCHEMA "Odd Schema"; CREATE TABLE customers (id bigint PRIMARY KEY);'
        'CREATE TABLE "Odd Schema"."Order" (id bigint CONSTRAINT "key %" PRIMARY KEY, n int CONSTRAINT "chk %" CHECK (n > 0), '
        'customer bigint CONSTRAINT fk REFERENCES customers); CREATE INDEX taken ON "Odd Schema"."Order" (n)'
    )


@pytest.mark.parametrize("name", ["key %", "chk %", "fk"])
def test_back_from_every_other_step(engine: Engine, name: str) -> None:
    assert whole_way_back_from_every_other_step(engine, rename(name, 'a "new" one')) > 4
    engine.sent.clear()
    expect(engine.drive(engine.enqueue(rename(name, 'a "new" one'))), State.COMPLETED)
    query = 'SELECT count(*) FROM pg_constraint WHERE conrelid = \'"Odd Schema"."Order"\'::regclass AND conname = %s'
    assert engine.value(query, 'a "new" one') == 1


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("fkk", "b", "Did you mean fk?"),
        ("fk", "chk %", "already has a constraint chk %"),
        ("key %", "taken", "something called Odd Schema.taken"),
    ],
)
def test_refused_with_a_remedy(engine: Engine, old: str, new: str, problem: str) -> None:
    with pytest.raises(Refused) as refused:
        engine.enqueue(rename(old, new))
    assert problem in str(refused.value)
