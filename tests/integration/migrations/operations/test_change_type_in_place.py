"""`change_type` where PostgreSQL changes the catalog alone: one brief statement, and a way back that loses nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fix_rules import application, whole_way_back_from_every_other_step
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan
from backfilld.migrations.record.states import State
from backfilld.producers import commands
from proof.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from fix_runs import Engine

#: The column as it is, the new type, and the column as it is then.
AT_ONCE = {
    "longer": ("varchar(20) NOT NULL DEFAULT 'x'", "varchar(30)", "character varying(30)"),
    "no limit": ("varchar(20)", "text", "text"),
    "collated": ('varchar(20) COLLATE "C"', "varchar", "character varying"),
    "precision": ("numeric(10,2) DEFAULT 1.5", "numeric(12,2)", "numeric(12,2)"),
    "zone": ("timestamp DEFAULT now()", "timestamptz", "timestamp with time zone"),
}
VALUES = {"precision": "n", "zone": "timestamp '2024-02-29 12:00' + n * interval '1 day'"}


def change(type_: str, **also: str) -> str:
    operation = {"change_type": {"table": "Odd Schema.Order", "column": "a%b", "type": type_, **also}}
    return json.dumps({"name": "wide", "operations": [operation], "settings": {"approve": [], "lanes": 1}})


def make(engine: Engine, column: str, value: str = "'v' || n", rules: str = "") -> None:
    engine.execute('CREATE SCHEMA "Odd Schema"')
    engine.execute(f'CREATE TABLE "Odd Schema"."Order" (id bigint PRIMARY KEY, "a%b" {column}, other text{rules})')
    engine.execute(f'INSERT INTO "Odd Schema"."Order" SELECT n, {value} FROM generate_series(1, 30) n')


def type_of(engine: Engine) -> str:
    query = (
        'SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = \'"Odd Schema"."Order"\'::regclass'
    )
    return str(engine.value(f"{query} AND attname = 'a%%b' AND %s", True))


def collation(engine: Engine) -> str:
    query = 'SELECT attcollation::regcollation FROM pg_attribute WHERE attrelid = \'"Odd Schema"."Order"\'::regclass AND attnum = 2'
    return str(engine.value(query))


def file(engine: Engine) -> int:
    return int(engine.value('SELECT pg_relation_filenode(\'"Odd Schema"."Order"\')'))


@pytest.mark.parametrize("case", AT_ONCE)
def test_it_takes_a_moment_and_moves_no_row(engine: Engine, case: str) -> None:
    column, type_, becomes = AT_ONCE[case]
    make(engine, column, VALUES.get(case, "'v' || n"))
    before, order = file(engine), collation(engine)
    rows = engine.execute('SELECT id, "a%b"::text AS value FROM "Odd Schema"."Order" ORDER BY id')
    migration = definition.parse(change(type_))
    shown = plan.make(migration, examine.examine(engine.connection, migration))
    actions = [action for phase in shown.phases for action in phase.actions]
    assert {(action.hold.startswith("brief"), action.lock) for action in actions if "ALTER" in action.sql} == {
        (True, "ACCESS EXCLUSIVE")
    }
    run = engine.enqueue(change(type_))
    expect(engine.drive(run), State.COMPLETED)
    assert (type_of(engine), file(engine), engine.lanes(run, "backfill")) == (becomes, before, [])
    assert collation(engine) == order

    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.execute('SELECT id, "a%b"::text AS value FROM "Odd Schema"."Order" ORDER BY id') == rows


def test_back_from_every_other_step(engine: Engine) -> None:
    """Where the way back is a statement too; otherwise it is that of any change of type, which `test_change_type` goes back by."""
    column, type_, _ = AT_ONCE["zone"]
    make(engine, column, VALUES["zone"])
    assert whole_way_back_from_every_other_step(engine, change(type_)) > 5


def test_what_is_on_the_column_stays_on_it_there_and_back(engine: Engine) -> None:
    make(engine, "varchar(20) NOT NULL DEFAULT 'x'", rules=', CONSTRAINT "u %" UNIQUE ("a%b", id)')
    engine.execute(
        'CREATE INDEX "i %" ON "Odd Schema"."Order" ("a%b"); COMMENT ON COLUMN "Odd Schema"."Order"."a%b" IS \'it\';'
        'GRANT SELECT ("a%b") ON "Odd Schema"."Order" TO PUBLIC'
    )
    before = fingerprint(engine.connection, positions=False)
    run = engine.enqueue(change("varchar(30)"))
    expect(engine.drive(run), State.COMPLETED)
    with engine.connection.transaction(force_rollback=True):
        engine.execute('ALTER TABLE "Odd Schema"."Order" ALTER "a%b" TYPE varchar(20)')
        assert difference(before, fingerprint(engine.connection, positions=False)) == ""
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert difference(before, fingerprint(engine.connection, positions=False)) == ""


def test_values_that_no_longer_fit_are_named_and_block_the_way_back(engine: Engine) -> None:
    make(engine, "varchar(20)")
    run = engine.enqueue(change("text"))
    expect(engine.drive(run), State.COMPLETED)
    engine.execute('UPDATE "Odd Schema"."Order" SET "a%b" = repeat(\'long\', 9) WHERE id = 7')
    commands.rollback(engine.connection, run, actor="ann")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "does not fit" in now.error["message"]
    assert "7" in now.error["message"]
    assert type_of(engine) == "text"
    engine.execute('UPDATE "Odd Schema"."Order" SET "a%b" = \'short\' WHERE id = 7')
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert type_of(engine) == "character varying(20)"
    assert engine.value('SELECT "a%b" FROM "Odd Schema"."Order" WHERE id = 7') == "short"
    assert engine.value('SELECT count(*) FROM "Odd Schema"."Order" WHERE "a%b" = \'v\' || id') == 29


def test_the_application_goes_on_there_and_back(engine: Engine) -> None:
    make(engine, "varchar(20) NOT NULL")
    with application(
        engine,
        'INSERT INTO "Odd Schema"."Order" (id, "a%b") VALUES ({n}, \'w\') ON CONFLICT (id) DO UPDATE SET other = \'o\'',
        'UPDATE "Odd Schema"."Order" SET "a%b" = \'u\' || {n} WHERE id = 7',
    ) as failures:
        run = engine.enqueue(change("varchar(30)"))
        expect(engine.drive(run), State.COMPLETED)
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
    assert failures == []


@pytest.mark.parametrize(
    ("column", "more"),
    [
        ("varchar(20)", 'CREATE VIEW v AS SELECT "a%b" FROM "Odd Schema"."Order"'),
        ("varchar(20) CHECK (\"a%b\" <> 'x')", ""),
        ("integer", ""),
    ],
    ids=["a view", "a check", "a rewrite"],
)
def test_what_postgresql_would_not_do_at_once_goes_through_a_second_column(
    engine: Engine, column: str, more: str
) -> None:
    make(engine, column, "n")
    if more:
        engine.execute(more)
    type_ = "bigint" if column == "integer" else "text"
    (facts,) = examine.examine(engine.connection, definition.parse(change(type_))).facts
    assert not facts.in_place
    run = engine.enqueue(change(type_))
    expect(engine.drive(run), State.COMPLETED)
    assert type_of(engine) == type_


def test_a_table_without_a_key_has_no_way_back(engine: Engine) -> None:
    engine.execute('CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema"."Order" ("a%b" varchar(20), at timestamp)')
    with pytest.raises(Refused, match="no primary key"):
        engine.enqueue(change("text"))


#: A column with its DEFAULT, the new type, and the DEFAULT that ALTER COLUMN … TYPE leaves, or would if it could cast.
DEFAULTS = {
    "a number": ("integer DEFAULT 7", "bigint", "7"),
    "below zero": ("integer DEFAULT -7", "bigint", "'-7'::integer"),
    "computed": ("integer DEFAULT 3 + 4", "bigint", "(3 + 4)"),
    "a sequence": ("integer DEFAULT nextval('numbers')", "bigint", "nextval('public.numbers'::regclass)"),
    "a text": ("text DEFAULT '0'", "integer", "0"),
    "json": ("text DEFAULT '{}'", "jsonb", None),
    "nothing": ("integer DEFAULT NULL", "bigint", None),
}


@pytest.mark.parametrize("case", DEFAULTS)
def test_the_default_is_what_plain_ddl_leaves(engine: Engine, case: str) -> None:
    column, type_, default = DEFAULTS[case]
    engine.execute("CREATE SEQUENCE numbers")
    make(engine, column, "n" if type_ == "bigint" else "'1'")
    (facts,) = examine.examine(engine.connection, definition.parse(change(type_))).facts
    assert facts.column_dependents is not None
    if default is not None:
        assert facts.column_dependents.new_default == default
    run = engine.enqueue(change(type_))
    expect(engine.drive(run), State.COMPLETED)
    if type_ == "bigint" and case != "nothing":
        engine.execute(f"CREATE TABLE plain (v {column}); ALTER TABLE plain ALTER v TYPE {type_}")
        stored = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = %s::regclass"
        assert engine.value(stored, '"Odd Schema"."Order"') == engine.value(stored, "plain")
