"""`drop_constraint`: gone at the switch, and on the way back proved again without a lock that stops the application."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fix_rules import application, engine_at, rules, whole_way_back_from_every_other_step
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

TABLES = """
CREATE SCHEMA "Odd Schema";
CREATE TABLE customers (id bigint PRIMARY KEY, code text UNIQUE);
CREATE TABLE "Odd Schema"."Order" (tenant text, id bigint, customer bigint, total int, "a%b" text, PRIMARY KEY (tenant, id));
INSERT INTO customers SELECT n, 'c' || n FROM generate_series(1, 40) n;
INSERT INTO "Odd Schema"."Order" SELECT 't', n, n, n, 'v' || n FROM generate_series(1, 40) n;
"""
#: What each constraint is, and a statement that breaks it.
CONSTRAINTS = {
    "check": ("CHECK (total > 0 AND \"a%b\" <> '50%')", "total = -1"),
    "check of its own": ("CHECK (total > 0) NO INHERIT", "total = -1"),
    "unique": ('UNIQUE ("a%b", total)', "\"a%b\" = 'v8', total = 8"),
    "deferred": ('UNIQUE ("a%b") DEFERRABLE INITIALLY DEFERRED', "\"a%b\" = 'v8'"),
    "foreign key": ("FOREIGN KEY (customer) REFERENCES customers ON DELETE CASCADE DEFERRABLE", "customer = 99"),
    "full": ("FOREIGN KEY (customer) REFERENCES customers MATCH FULL", "customer = 99"),
    "not valid": ("CHECK (total > 10) NOT VALID", ""),
}


def drop(name: str = "rule %", table: str = "Odd Schema.Order") -> str:
    operation = {"drop_constraint": {"table": table, "name": name}}
    return json.dumps({"name": "lax", "operations": [operation], "settings": {"approve": []}})


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> None:
    engine.execute(TABLES)


def add(engine: Engine, case: str) -> None:
    engine.execute(f'ALTER TABLE "Odd Schema"."Order" ADD CONSTRAINT "rule %" {CONSTRAINTS[case][0]}')
    engine.execute('COMMENT ON CONSTRAINT "rule %" ON "Odd Schema"."Order" IS \'it\'\'s 50%\'')


@pytest.mark.parametrize("case", CONSTRAINTS)
def test_back_from_every_other_step(engine: Engine, case: str) -> None:
    add(engine, case)
    assert whole_way_back_from_every_other_step(engine, drop()) > 4


@pytest.mark.parametrize("case", [case for case, (_, broken) in CONSTRAINTS.items() if broken])
def test_a_row_that_breaks_it_meanwhile_is_named_and_can_be_written(engine: Engine, case: str) -> None:
    add(engine, case)
    run = engine.enqueue(drop())
    expect(engine.drive(run), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    engine.execute(f'UPDATE "Odd Schema"."Order" SET {CONSTRAINTS[case][1]} WHERE id = 7')
    failed = engine.drive(run)
    expect(failed, State.FAILED)
    assert failed.error is not None
    # Where only PostgreSQL can tell, it names the value.
    assert {"full": "(customer)=(99)", "unique": "v8", "deferred": "v8"}.get(case, "(t, 7)") in failed.error["message"]
    assert rules(engine, '"Odd Schema"."Order"') == {}
    engine.execute('UPDATE "Odd Schema"."Order" SET total = 7, customer = 7, "a%b" = \'v7\' WHERE id = 7')
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)


def test_the_way_back_does_not_begin_while_a_row_breaks_it(engine: Engine) -> None:
    add(engine, "foreign key")
    run = engine.enqueue(drop())
    expect(engine.drive(run), State.COMPLETED)
    engine.execute('UPDATE "Odd Schema"."Order" SET customer = 99 WHERE id = 7')
    with pytest.raises(Refused, match="t, 7"):
        commands.rollback(engine.connection, run, actor="ann")


def test_the_application_goes_on_there_and_back(engine: Engine) -> None:
    add(engine, "foreign key")
    engine.execute('ALTER TABLE "Odd Schema"."Order" ADD CONSTRAINT twice UNIQUE (total)')
    text = drop().replace("}}]", '}}, {"drop_constraint": {"table": "Odd Schema.Order", "name": "twice"}}]')
    with application(engine, 'UPDATE "Odd Schema"."Order" SET total = total WHERE id = 7') as failures:
        run = engine.enqueue(text)
        expect(engine.drive(run), State.COMPLETED)
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
    assert failures == []


def test_one_that_became_another_is_left_alone(engine: Engine) -> None:
    add(engine, "check")
    run = engine.enqueue(drop())
    engine.drive(run, until=lambda run: run.phase is Phase.SWITCH)
    engine.execute('ALTER TABLE "Odd Schema"."Order" DROP CONSTRAINT "rule %"')
    add(engine, "check of its own")
    failed = engine.drive(run)
    expect(failed, State.FAILED)
    assert failed.error is not None
    assert "has changed since the run was enqueued" in failed.error["message"]
    assert "rule %" in rules(engine, '"Odd Schema"."Order"')


def test_what_it_did_is_told(engine: Engine) -> None:
    add(engine, "foreign key")
    warnings = "; ".join(examine.examine(engine.connection, definition.parse(drop())).warnings)
    assert "ON DELETE of rule % do nothing" in warnings


REFUSED = {
    "the key": ("Order_pkey", "is the primary key", "rows are named and walked by it"),
    "another's target": ("codes", "the foreign key refers_code_fkey on public.refers depends on codes", "first"),
    "an exclusion": ("apart", "is an EXCLUDE constraint", "sql"),
    "nothing": ("code", "has no constraint code", "Did you mean codes?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_remedy(engine: Engine, case: str) -> None:
    name, problem, remedy = REFUSED[case]
    engine.execute(
        'ALTER TABLE "Odd Schema"."Order" ADD CONSTRAINT codes UNIQUE (total), ADD CONSTRAINT apart EXCLUDE (id WITH =);'
        'CREATE TABLE refers (code int REFERENCES "Odd Schema"."Order" (total))'
    )
    with pytest.raises(Refused) as refused:
        engine.enqueue(drop(name))
    assert problem in str(refused.value)
    assert remedy in str(refused.value)


def test_a_check_of_a_partitioned_table(engine: Engine) -> None:
    engine.execute(
        "CREATE TABLE parts (id bigint PRIMARY KEY, n int CONSTRAINT positive CHECK (n > 0), CONSTRAINT once UNIQUE (id, n)) "
        "PARTITION BY RANGE (id); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)"
    )
    assert whole_way_back_from_every_other_step(engine, drop("positive", "parts")) > 4
    with pytest.raises(Refused, match="UNIQUE constraint of a partitioned table"):
        engine.enqueue(drop("once", "parts"))


def test_on_supabase_the_projects_own_role_can(supabase_url: str) -> None:
    with engine_at(supabase_url) as engine:
        engine.execute(TABLES)
        add(engine, "unique")
        run = engine.enqueue(drop())
        expect(engine.drive(run), State.COMPLETED)
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
