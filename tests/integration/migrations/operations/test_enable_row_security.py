"""`enable_row_security`: on at the switch, with a word about who sees nothing then, and off again only where it was off."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fix_rules import whole_way_back_from_every_other_step
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.migrations.record.states import State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine


def on(*, force: bool = False) -> str:
    operation = {"enable_row_security": {"table": "Odd Schema.Order", "force": force}}
    return json.dumps({"name": "secure", "operations": [operation], "settings": {"approve": []}})


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> None:
    engine.execute('CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema"."Order" (id bigint PRIMARY KEY)')


def state(engine: Engine) -> tuple[bool, bool]:
    (row,) = engine.execute(
        "SELECT relrowsecurity AS on, relforcerowsecurity AS forced FROM pg_class WHERE relname = 'Order' AND relkind = 'r'"
    )
    return row["on"], row["forced"]


@pytest.mark.parametrize("force", [False, True])
def test_back_from_every_other_step(engine: Engine, *, force: bool) -> None:
    assert whole_way_back_from_every_other_step(engine, on(force=force)) > 4
    engine.sent.clear()
    expect(engine.drive(engine.enqueue(on(force=force))), State.COMPLETED)
    assert state(engine) == (True, force)


def test_what_was_on_before_stays_on(engine: Engine) -> None:
    engine.execute('ALTER TABLE "Odd Schema"."Order" ENABLE ROW LEVEL SECURITY')
    with pytest.raises(Refused, match="is already enabled"):
        engine.enqueue(on())
    run = engine.enqueue(on(force=True))
    expect(engine.drive(run), State.COMPLETED)
    assert state(engine) == (True, True)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert state(engine) == (True, False)


def test_a_table_without_a_policy_is_told_of(engine: Engine) -> None:
    def told(text: str = on()) -> str:
        return "; ".join(examine.examine(engine.connection, definition.parse(text)).warnings)

    assert "has no policy [0008]: from the switch on every role but its owner sees no row" in told()
    made = {
        "run": 'create policy p ON "Odd Schema"."Order" USING (true)',
        "rollback": 'DROP POLICY p ON "Odd Schema"."Order"',
    }
    with_policy = on().replace("[{", f'[{{"sql": {json.dumps(made)}}}, {{', 1)
    assert "no policy" not in told(with_policy)
    engine.execute('CREATE POLICY everybody ON "Odd Schema"."Order" USING (true)')
    assert "no policy" not in told()
