"""`add_check`: proved while the application goes on, and never standing where a row breaks it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_rules import application, back_from_every_other_step, engine_at, rules
from fix_runs import expect

from backfilld.migrations.facts import Facts
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands
from backfilld.worker.phases.coordinator import MAX_PASSES

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.planning.examine import Examination

CHECK = """
name: positive
operations:
  - add_check: {table: orders, name: orders_total_positive, check: "total >= 0"}
"""
ORDERS = """
CREATE TABLE orders (id bigint PRIMARY KEY, status text, total numeric);
INSERT INTO orders SELECT n, 'open', n FROM generate_series(1, 40) n;
"""
PROVED = {"orders_total_positive": "CHECK ((total >= (0)::numeric))"}


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> None:
    engine.execute(ORDERS)


def check(text: str, *, table: str = "orders", name: str = "rule") -> dict[str, Any]:
    return {"add_check": {"table": table, "name": name, "check": text}}


def file(*operations: dict[str, Any], name: str = "m") -> str:
    return json.dumps({"name": name, "operations": operations, "settings": {"approve": []}})


def examined(engine: Engine, *operations: dict[str, Any]) -> Examination:
    return examine.examine(engine.connection, definition.parse(file(*operations)))


def told(found: Examination) -> str:
    return "\n".join(map(str, found.findings))


def test_the_rule_stands_and_is_proved(engine: Engine) -> None:
    engine.execute("UPDATE orders SET total = NULL WHERE id = 3")
    run = engine.enqueue(CHECK)
    now = engine.drive(run)
    expect(now, State.COMPLETED)
    assert now.verified_at is not None
    assert rules(engine) == PROVED
    assert engine.lanes(run, "backfill", "verify") == []
    with pytest.raises(psycopg.errors.CheckViolation):
        engine.execute("UPDATE orders SET total = -1 WHERE id = 3")


def test_the_application_goes_on(engine: Engine) -> None:
    with application(
        engine,
        "INSERT INTO orders VALUES ({n}, 'new', {n}) ON CONFLICT (id) DO UPDATE SET total = orders.total + 1",
        "DELETE FROM orders WHERE id = {n}",
        "UPDATE orders SET status = 'seen' WHERE id = 7",
    ) as failures:
        expect(engine.drive(engine.enqueue(CHECK)), State.COMPLETED)
    assert failures == []
    assert rules(engine) == PROVED


def test_rows_that_break_it_are_named_and_mended_rows_let_the_run_go_on(engine: Engine) -> None:
    engine.execute("UPDATE orders SET total = -1 WHERE id IN (3, 33)")
    run = engine.enqueue(CHECK)
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error == {
        "class": "violated",
        "message": "orders: rows break the check orders_total_positive (2 rows, by key: 3, 33). The rule is not in place "
        "meanwhile: fix the rows, then: backfilld resume positive",
    }
    assert (now.phase, now.verified_at) == (Phase.VERIFY, None)
    assert rules(engine) == {}

    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.PAUSED)
    engine.execute("UPDATE orders SET total = 1 WHERE id = 3")
    engine.execute("DELETE FROM orders WHERE id = 33")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert rules(engine) == PROVED


def test_of_many_rows_a_few_are_named(engine: Engine) -> None:
    engine.execute("UPDATE orders SET total = -1")
    now = engine.drive(engine.enqueue(CHECK))
    assert now.error is not None
    assert "(at least 10 rows, by key: " in now.error["message"]


def test_no_statement_of_the_application_fails_for_a_row_that_breaks_the_rule_already(engine: Engine) -> None:
    """NOT VALID would refuse an UPDATE of such a row; so the rule is not added while there is one."""
    engine.execute("UPDATE orders SET total = -1 WHERE id = 3")
    run = engine.enqueue(CHECK)
    while engine.run(run).state is not State.PAUSED:
        engine.step()
        engine.execute("UPDATE orders SET status = 'seen' WHERE id = 3")
        assert rules(engine) == {}


def test_a_row_that_comes_between_the_look_and_the_rule_takes_the_rule_back(engine: Engine) -> None:
    """VALIDATE finds it; then the rule must not stay, not even while the row is looked for."""
    run = engine.enqueue(CHECK)
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY and engine.lane(run.run, 0).cursor == 3)
    engine.execute("UPDATE orders SET total = -1 WHERE id = 3")
    engine.step()
    assert rules(engine) == {name: f"{text} NOT VALID" for name, text in PROVED.items()}
    engine.step()
    assert rules(engine) == {}
    assert engine.run(run).state is State.RUNNING
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "rows break the check orders_total_positive (one row, by key: 3)" in now.error["message"]
    assert rules(engine) == {}

    engine.execute("UPDATE orders SET total = 0 WHERE id = 3")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


def test_an_expression_that_is_an_error_for_a_row_pauses_with_the_error(engine: Engine) -> None:
    run = engine.enqueue(file(check("1 / total > 0")))
    engine.execute("UPDATE orders SET total = 0 WHERE id = 3")
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert now.error["message"].startswith("orders: division by zero. The rule is not in place")
    engine.execute("UPDATE orders SET total = 1 WHERE id = 3")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


def test_the_way_back_from_every_other_step(engine: Engine) -> None:
    assert back_from_every_other_step(engine, CHECK) > 6


def test_the_way_back_from_a_pause(engine: Engine) -> None:
    engine.execute("UPDATE orders SET total = -1 WHERE id = 3")
    run = engine.enqueue(CHECK)
    expect(engine.drive(run), State.PAUSED)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert rules(engine) == {}


def test_lanes_that_write_the_column_mend_what_breaks_the_rule(engine: Engine) -> None:
    """A wrong row that comes after the walk: the lanes are asked again, not a person. No rule stands while they walk."""
    mend = {"backfill": {"table": "orders", "set": {"total": "0"}, "where": "total < 0"}}
    run = engine.enqueue(file(mend, check("total >= 0")))
    engine.drive(run, until=lambda run: run.verified_at is not None)
    engine.execute("UPDATE orders SET total = -1 WHERE id = 3")
    while engine.run(run).state is not State.COMPLETED:
        engine.step()
        if any(lane.done_at is None for lane in engine.lanes(run, "backfill", "verify")):
            assert rules(engine) == {}
    assert engine.run(run).pass_ == 3, "one that found the row, and one that found nothing"
    assert engine.value("SELECT total FROM orders WHERE id = 3") == 0


def test_lanes_that_write_another_column_are_not_asked_to_mend_it(engine: Engine) -> None:
    other = {"backfill": {"table": "orders", "set": {"status": "'x'"}}}
    run = engine.enqueue(file(other, check("total >= 0")))
    engine.execute("UPDATE orders SET total = -1 WHERE id = 3")
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert now.error["class"] == "violated"
    assert now.pass_ == 2, "the pass that begins with the resume"
    engine.execute("UPDATE orders SET total = 0 WHERE id = 3")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


def test_lanes_that_write_the_column_and_never_mend_it_give_up(engine: Engine) -> None:
    other = {"backfill": {"table": "orders", "set": {"total": "0"}, "where": "total < -100"}}
    run = engine.enqueue(file(other, check("total >= 0")))
    engine.execute("UPDATE orders SET total = -1 WHERE id = 3")
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert now.error["class"] == "violated"
    assert "(one row, by key: 3)" in now.error["message"]
    assert now.pass_ == MAX_PASSES + 1
    assert rules(engine) == {}


def test_a_column_that_the_file_adds(engine: Engine) -> None:
    add = {"add_column": {"table": "orders", "column": {"name": "cents", "type": "bigint"}, "backfill": "total * 100"}}
    run = engine.enqueue(file(add, check("cents = total * 100")))
    expect(engine.drive(run), State.COMPLETED)
    assert rules(engine) == {"rule": "CHECK (((cents)::numeric = (total * (100)::numeric)))"}


def test_odd_names_and_expressions(engine: Engine) -> None:
    table, column = '"Odd %s"', '"a %% ""{}"""'
    engine.execute(f'CREATE TABLE {table} ({column} text, "Key {{}}" text, "2" integer, PRIMARY KEY ("Key {{}}", "2"))')
    engine.connection.execute(f"INSERT INTO {table} VALUES ('50%', 'it''s', 1), ('x%s', 'b', 2)".encode())
    name = '%s "quoted" {} ' + "é" * 20
    run = engine.enqueue(file(check(f"{column} <> 'x%s' -- no 'quote'", table="Odd %s", name=name)))
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "(one row, by key: (b, 2))" in now.error["message"]
    engine.execute(f'UPDATE {table} SET {column} = null WHERE "2" = 2')
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert list(rules(engine, table)) == [name]


def test_rows_of_a_table_without_a_key_are_named_by_where_they_are(engine: Engine) -> None:
    engine.execute("CREATE TABLE keyless AS SELECT -n AS n FROM generate_series(1, 2) n")
    now = engine.drive(engine.enqueue(file(check("n > -2", table="keyless"))))
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "by key: (0,2))" in now.error["message"]


def test_a_partitioned_table(engine: Engine) -> None:
    engine.execute(
        "CREATE TABLE parts (id bigint, total integer, PRIMARY KEY (id)) PARTITION BY RANGE (id);"
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);"
        "INSERT INTO parts SELECT n, n FROM generate_series(1, 199) n"
    )
    text = file(check("total > 0", table="parts"))
    back_from_every_other_step(engine, text, "parts")
    engine.execute("UPDATE parts SET total = 0 WHERE id IN (99, 100)")
    engine.sent.clear()
    run = engine.enqueue(text)
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "(2 rows, by key: 99, 100)" in now.error["message"]
    engine.execute("UPDATE parts SET total = 1 WHERE total = 0")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    for table in ("parts", "parts_1", "parts_2"):
        assert rules(engine, table) == {"rule": "CHECK ((total > 0))"}


def test_on_supabase_the_projects_own_role_can(supabase_url: str) -> None:
    """NOSUPERUSER and BYPASSRLS, with row security on."""
    with engine_at(supabase_url) as engine:
        engine.execute(ORDERS)
        engine.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY; ALTER TABLE orders FORCE ROW LEVEL SECURITY")
        expect(engine.drive(engine.enqueue(CHECK)), State.COMPLETED)
        assert rules(engine) == PROVED


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("totl >= 0", 'column "totl" does not exist'),
        ("total", "argument of CHECK must be type boolean, not type numeric"),
        ("total >= 0) NOT VALID, DROP COLUMN (status", "a parenthesis is closed"),
        ("total >= (SELECT 0)", "cannot use subquery in check constraint"),
        ("count(*) > 0", "aggregate functions are not allowed"),
        ("total >= 0; DROP TABLE orders", "more than one statement"),
        ("ctid IS NOT NULL", 'system column "ctid" reference in check constraint is invalid'),
    ],
)
def test_what_is_no_check_is_refused(engine: Engine, text: str, problem: str) -> None:
    found = examined(engine, check(text))
    assert [finding.check for finding in found.findings] == ["expression"]
    assert problem in told(found)


def test_a_name_that_is_taken_is_refused(engine: Engine) -> None:
    engine.execute("ALTER TABLE orders ADD CONSTRAINT rule CHECK (id > 0)")
    assert "orders already has a constraint rule" in told(examined(engine, check("total > 0")))
    assert rules(engine) == {"rule": "CHECK ((id > 0))"}


def test_a_rule_that_somebody_left_unproved_is_told(engine: Engine) -> None:
    engine.execute("ALTER TABLE orders ADD CONSTRAINT rule CHECK (id > 0) NOT VALID")
    assert 'ALTER TABLE "public"."orders" VALIDATE CONSTRAINT "rule"' in told(examined(engine, check("total > 0")))


def test_what_a_cancelled_run_left_is_taken_over(engine: Engine) -> None:
    run = engine.enqueue(CHECK)
    engine.drive(run, until=lambda _run: bool(rules(engine)))
    commands.cancel(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.CANCELLED)
    engine.sent.clear()
    again = engine.enqueue(CHECK)
    assert again != run
    expect(engine.drive(again), State.COMPLETED)
    assert rules(engine) == PROVED


def test_a_function_that_answers_differently_each_time_is_told(engine: Engine) -> None:
    assert "now()" in "\n".join(examined(engine, check("now() > '2020-01-01'")).warnings)
    assert examined(engine, check("total > 0")).warnings == []


def test_the_facts_come_back_from_the_record(engine: Engine) -> None:
    (facts,) = examined(engine, check("total > 0 AND status <> ''")).facts
    assert facts.rule_columns == ("status", "total")
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
