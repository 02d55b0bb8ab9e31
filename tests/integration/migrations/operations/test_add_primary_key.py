"""`add_primary_key`: an index that is built and NOT NULL that is proved beside the application, and no lock that lasts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fix_rules import application, rules, whole_way_back_from_every_other_step
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine


def key(*columns: str, table: str = "Odd Schema.Order") -> str:
    operation = {"add_primary_key": {"table": table, "columns": columns}}
    return json.dumps({"name": "keyed", "operations": [operation], "settings": {"approve": []}})


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> None:
    engine.execute(
        'CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema"."Order" (tenant text NOT NULL, "a%b" bigint, other text);'
        'INSERT INTO "Odd Schema"."Order" SELECT \'t\', n FROM generate_series(1, 30) n'
    )


def primary_key(engine: Engine) -> str:
    query = 'SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = \'"Odd Schema"."Order"\'::regclass'
    return str(engine.value(f"{query} AND contype = 'p'"))


def test_back_from_every_other_step(engine: Engine) -> None:
    assert whole_way_back_from_every_other_step(engine, key("tenant", "a%b")) > 6


def test_the_application_goes_on(engine: Engine) -> None:
    with application(engine, 'UPDATE "Odd Schema"."Order" SET other = \'x\' WHERE "a%b" = 7') as failures:
        expect(engine.drive(engine.enqueue(key("tenant", "a%b"))), State.COMPLETED)
    assert failures == []
    assert primary_key(engine) == 'PRIMARY KEY (tenant, "a%b")'
    assert rules(engine, '"Odd Schema"."Order"') == {}


@pytest.mark.parametrize(
    ("broken", "fixed", "problem"),
    [
        ("VALUES ('t', NULL)", 'SET "a%b" = 99 WHERE "a%b" IS NULL', "NOT NULL of a%b"),
        ("VALUES ('t', 7, 'twice')", "SET \"a%b\" = 99 WHERE other = 'twice'", '(tenant, "a%b")=(t, 7) is duplicated'),
    ],
)
def test_rows_that_cannot_be_in_a_key_pause_the_run(engine: Engine, broken: str, fixed: str, problem: str) -> None:
    engine.execute(f'INSERT INTO "Odd Schema"."Order" {broken}')
    run = engine.enqueue(key("tenant", "a%b"))
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert problem in now.error["message"]
    engine.execute(f'UPDATE "Odd Schema"."Order" {fixed}')
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert primary_key(engine)


def test_a_table_that_is_published_without_an_identity_gets_one(engine: Engine) -> None:
    engine.execute('CREATE PUBLICATION all_of_it FOR TABLE "Odd Schema"."Order"')
    expect(engine.drive(engine.enqueue(key("tenant", "a%b"))), State.COMPLETED)


def test_refused_with_a_remedy(engine: Engine) -> None:
    with pytest.raises(Refused, match="Did you mean tenant"):
        engine.enqueue(key("tenants"))
    engine.execute('ALTER TABLE "Odd Schema"."Order" ADD PRIMARY KEY ("a%b")')
    with pytest.raises(Refused, match=r"already has the primary key Order_pkey \(a%b\)"):
        engine.enqueue(key("tenant"))
