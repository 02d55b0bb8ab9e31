"""`drop_not_null`: NULL may be written at once, and the way back names the rows that have it before NOT NULL holds again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fix_rules import rules, whole_way_back_from_every_other_step
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

COLUMN = 'a%b "c"'


def drop(column: str = COLUMN, *operations: object) -> str:
    operation = {"drop_not_null": {"table": "Odd Schema.Order", "column": column}}
    return json.dumps({"name": "free", "operations": [operation, *operations], "settings": {"approve": []}})


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> None:
    engine.execute(
        'CREATE SCHEMA "Odd Schema";'
        'CREATE TABLE "Odd Schema"."Order" (tenant text, id bigint GENERATED ALWAYS AS IDENTITY, "a%b ""c""" text NOT NULL, n int, '
        "other text, PRIMARY KEY (tenant, id));"
        'INSERT INTO "Odd Schema"."Order" (tenant, "a%b ""c""") SELECT \'t\', \'v\' || n FROM generate_series(1, 30) n'
    )


def is_not_null(engine: Engine) -> bool:
    query = 'SELECT attnotnull FROM pg_attribute WHERE attrelid = \'"Odd Schema"."Order"\'::regclass AND attname = %s'
    return bool(engine.value(query, COLUMN))


def test_back_from_every_other_step(engine: Engine) -> None:
    assert whole_way_back_from_every_other_step(engine, drop()) > 4


def test_a_backfill_of_the_same_file_may_write_null(engine: Engine) -> None:
    where = '"a%b ""c""" = \'v7\''
    fill = {"backfill": {"table": "Odd Schema.Order", "set": {COLUMN: "NULL"}, "where": where}}
    run = engine.enqueue(drop(COLUMN, fill))
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value('SELECT count(*) FROM "Odd Schema"."Order" WHERE "a%b ""c""" IS NULL') == 1
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert is_not_null(engine)
    assert engine.value('SELECT "a%b ""c""" FROM "Odd Schema"."Order" WHERE id = 7') == "v7"


def test_the_way_back_names_rows_that_are_null_by_then(engine: Engine) -> None:
    run = engine.enqueue(drop())
    expect(engine.drive(run), State.COMPLETED)
    engine.execute('UPDATE "Odd Schema"."Order" SET "a%b ""c""" = NULL WHERE id = 7')
    with pytest.raises(Refused, match="t, 7"):
        commands.rollback(engine.connection, run, actor="ann")
    engine.execute('UPDATE "Odd Schema"."Order" SET "a%b ""c""" = \'again\' WHERE id = 7')

    # And those that come while it goes back
    commands.rollback(engine.connection, run, actor="ann")
    engine.execute('UPDATE "Odd Schema"."Order" SET "a%b ""c""" = NULL WHERE id = 8')
    failed = engine.drive(run)
    expect(failed, State.FAILED)
    assert failed.error is not None
    assert "(t, 8)" in failed.error["message"]
    # Nothing keeps the application from writing that row meanwhile.
    assert rules(engine, '"Odd Schema"."Order"') == {}
    engine.execute('UPDATE "Odd Schema"."Order" SET "a%b ""c""" = \'again\' WHERE id = 8')
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert is_not_null(engine)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("n", "may be NULL already"),
        ("tenant", "part of the primary key Order_pkey"),
        ("id", "identity column"),
        ("othr", "Did you mean other?"),
    ],
)
def test_what_must_stay_is_refused(engine: Engine, column: str, problem: str) -> None:
    with pytest.raises(Refused) as refused:
        engine.enqueue(drop(column))
    assert problem in str(refused.value)


def test_the_key_by_which_a_run_walks_must_stay(engine: Engine) -> None:
    engine.execute("CREATE TABLE keys (code text NOT NULL UNIQUE, v text); INSERT INTO keys VALUES ('a', 'b')")
    walking = {"add_column": {"table": "keys", "column": {"name": "big", "type": "text"}, "backfill": "upper(v)"}}
    engine.drive(engine.enqueue(json.dumps({"name": "walking", "operations": [walking]})))
    text = json.dumps({"name": "free", "operations": [{"drop_not_null": {"table": "keys", "column": "code"}}]})
    with pytest.raises(Refused, match="the run walking, which is waiting in contract, walks keys by it"):
        engine.enqueue(text)
