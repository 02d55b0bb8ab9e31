"""`drop_default`: the DEFAULT goes once it is approved, and comes back as it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fix_rules import whole_way_back_from_every_other_step
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine


def drop(column: str = "a%b", *, approve: tuple[str, ...] = ()) -> str:
    operation = {"drop_default": {"table": "Odd Schema.Order", "column": column}}
    return json.dumps({"name": "bare", "operations": [operation], "settings": {"approve": approve}})


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> None:
    engine.execute(
        'CREATE SCHEMA "Odd Schema";'
        'CREATE TABLE "Odd Schema"."Order" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, '
        "\"a%b\" text NOT NULL DEFAULT 'x' || '%', n int)"
    )


def test_back_from_every_other_step(engine: Engine) -> None:
    assert whole_way_back_from_every_other_step(engine, drop()) > 4


def test_it_waits_for_a_person_and_plan_says_why(engine: Engine) -> None:
    migration = definition.parse(drop(approve=("contract",)))
    examined = examine.examine(engine.connection, migration)
    shown = plan.make(migration, examined)
    assert "after contract an INSERT that leaves it out fails" in "; ".join(shown.warnings)
    assert (shown.risks[0].cause, shown.risks[0].level) == ("after_contract", "high")
    run = engine.enqueue(drop(approve=("contract",)))
    expect(engine.drive(run), State.WAITING)
    engine.execute('INSERT INTO "Odd Schema"."Order" DEFAULT VALUES')
    commands.approve(engine.connection, run, Phase.CONTRACT, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value('SELECT count(*) FROM pg_attrdef WHERE adrelid = \'"Odd Schema"."Order"\'::regclass') == 0


@pytest.mark.parametrize(("column", "problem"), [("n", "has no DEFAULT"), ("id", "is an identity column")])
def test_what_has_none_is_refused(engine: Engine, column: str, problem: str) -> None:
    with pytest.raises(Refused) as refused:
        engine.enqueue(drop(column))
    assert problem in str(refused.value)
