"""What a plan finds of users' code: triggers that are tried, event triggers, and code that compares whole rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan
from backfilld.migrations.planning.risks import Cause
from backfilld.migrations.postgres.user_code import compares_rows

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.planning.examination import Examination

ORDERS = """
CREATE TABLE orders (id bigint PRIMARY KEY, status text, n integer);
INSERT INTO orders SELECT n, 'S' || n, n FROM generate_series(1, 20) n;
CREATE TABLE log (id bigint);
"""


def examined(engine: Engine, *operations: dict[str, Any]) -> Examination:
    text = json.dumps({"name": "m", "operations": operations})
    return examine.examine(engine.connection, definition.parse(text))


def backfill(**more: Any) -> dict[str, Any]:
    return {"backfill": {"table": "orders", "set": {"status": "lower(status)"}, **more}}


def add(type_: str = "text", **more: Any) -> dict[str, Any]:
    return {"add_column": {"table": "orders", "column": {"name": "added", "type": type_}, **more}}


def trigger(engine: Engine, body: str, when: str = "BEFORE UPDATE ON orders FOR EACH ROW") -> None:
    engine.execute(f"CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    engine.execute(f"CREATE TRIGGER tried {when} EXECUTE FUNCTION fires()")


@pytest.mark.parametrize(
    ("body", "when"),
    [
        ("new.status := old.status; RETURN new;", "BEFORE UPDATE ON orders FOR EACH ROW"),
        ("RETURN old;", "BEFORE UPDATE ON orders FOR EACH ROW"),
        ("RETURN NULL;", "BEFORE UPDATE OF status ON orders FOR EACH ROW WHEN (new.n = 7)"),
        (
            "IF pg_trigger_depth() = 1 THEN UPDATE orders SET status = 'S' || id; END IF; RETURN NULL;",
            "AFTER UPDATE ON orders FOR EACH ROW",
        ),
    ],
)
def test_a_trigger_that_undoes_the_change_is_refused_by_name(engine: Engine, body: str, when: str) -> None:
    engine.execute(ORDERS)
    trigger(engine, body, when)
    found = examined(engine, {"backfill": {"table": "orders", "set": {"status": "'s' || id"}, "where": "n = 7"}})
    assert [finding.check for finding in found.findings] == ["trigger"]
    assert "the trigger tried on orders keeps a row from being changed" in found.findings[0].problem
    assert "backfilld.batch" in found.findings[0].remedy
    assert engine.value("SELECT count(*) FROM orders WHERE status = 'S' || id") == 20


@pytest.mark.parametrize("operation", [backfill(), add(backfill="status")])
@pytest.mark.parametrize("deferred", [False, True])
def test_a_trigger_that_cannot_run_is_refused_with_its_function(
    engine: Engine, operation: dict[str, Any], *, deferred: bool
) -> None:
    engine.execute(ORDERS)
    trigger(engine, "INSERT INTO audit_log VALUES (new.id); RETURN new;", "AFTER UPDATE ON orders FOR EACH ROW")
    if deferred:
        engine.execute(
            "DROP TRIGGER tried ON orders; CREATE CONSTRAINT TRIGGER tried AFTER UPDATE ON orders "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fires()"
        )
    found = examined(engine, operation)
    assert [finding.check for finding in found.findings] == ["trigger"]
    assert "the trigger tried on orders (public.fires()) fails with 42P01" in found.findings[0].problem


def test_a_trigger_that_refuses_one_row_is_told_and_one_that_acts_outside_is_not_fired(engine: Engine) -> None:
    engine.execute(ORDERS)
    trigger(engine, "RAISE 'closed';")
    found = examined(engine, backfill())
    assert found.findings == []
    assert any("tried on orders (public.fires()) fails" in text and "closed" in text for text in found.warnings)

    engine.execute(
        "CREATE OR REPLACE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'fired'; PERFORM dblink('…'); END $$"
    )
    found = examined(engine, backfill())
    assert found.findings == []
    assert any("were not tried" in text and "public.fires()" in text for text in found.warnings)
    assert not any("fired" in text for text in found.warnings)


def test_a_trigger_that_lets_the_change_be_passes_and_leaves_no_trace(engine: Engine) -> None:
    engine.execute(ORDERS)
    trigger(engine, "INSERT INTO log VALUES (new.id); RETURN new;", "AFTER UPDATE ON orders FOR EACH ROW")
    found = examined(engine, backfill(), add(backfill="status"))
    assert found.findings == []
    assert engine.value("SELECT count(*) FROM log") == 0


@pytest.mark.parametrize("operation", [backfill(), add()])
def test_an_event_trigger_that_cannot_run_is_refused_by_name(engine: Engine, operation: dict[str, Any]) -> None:
    engine.execute(ORDERS)
    engine.execute("""
CREATE TABLE ddl_log (tag text);
CREATE FUNCTION log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ddl_log VALUES (tg_tag); END $$;
CREATE EVENT TRIGGER logs ON ddl_command_end EXECUTE FUNCTION log_ddl();
""")
    found = examined(engine, operation)
    assert [finding.check for finding in found.findings] == ["event_trigger"]
    assert "the event trigger logs (public.log_ddl()) fails for DDL of ours with 42P01" in found.findings[0].problem

    # When the remedy was followed, the event trigger is named
    engine.execute("ALTER FUNCTION log_ddl() SET search_path = public")
    found = examined(engine, operation)
    assert found.findings == []
    assert any("logs (public.log_ddl())" in text for text in found.warnings)


def test_an_event_trigger_that_fires_for_one_command_is_found_by_the_dry_run(engine: Engine) -> None:
    """No temporary table has triggers of ours: only the dry run comes to it."""
    engine.execute(ORDERS)
    engine.execute("""
CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not on fridays'; END $$;
CREATE EVENT TRIGGER forbids ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION forbid();
""")
    found = examined(engine, add(backfill="status"))
    assert [finding.check for finding in found.findings] == ["event_trigger"]
    assert "forbids (public.forbid()) fails for DDL of ours with P0001: not on fridays" in found.findings[0].problem


RULE = "CREATE RULE noted AS ON UPDATE TO orders WHERE old.* IS DISTINCT FROM new.* DO ALSO INSERT INTO log VALUES (1)"
COMPARES = [
    "IF NEW IS DISTINCT FROM OLD THEN",
    "if new.* is distinct from old.* then",
    "WHEN ((old.* IS DISTINCT FROM new.*))",
    "IF NEW = OLD THEN",
    "IF ROW(NEW.*) IS DISTINCT FROM ROW(OLD.*) THEN",
    "IF (NEW) <> (OLD) THEN",
    "IF NOT (OLD IS NOT DISTINCT FROM NEW)",
    "IF NEW IS\n DISTINCT -- of course\n FROM OLD",
]
DOES_NOT = [
    "IF NEW.a IS DISTINCT FROM OLD.a",
    "NEW := OLD;",
    "NEW.a = OLD.b",
    "IF NEW *<> OLD",
    "-- NEW = OLD\n",
    "IF renew = old",
    "IF NEW IS DISTINCT FROM OLD.a",
    "IF NEW IS DISTINCT FROM older",
    "to_jsonb(NEW) = to_jsonb(OLD)",
    "/* NEW = OLD */",
]


@pytest.mark.parametrize(("code", "does"), [*((one, True) for one in COMPARES), *((one, False) for one in DOES_NOT)])
def test_code_that_compares_whole_rows(code: str, *, does: bool) -> None:
    assert compares_rows(code) is does


@pytest.mark.parametrize(
    ("operation", "warned"),
    [
        (add("json"), True),
        (add("point"), True),
        (add("box"), True),  # has `=`, and no operator class
        (add("xml[]"), True),
        (add("jsonb"), False),
        ({"change_type": {"table": "orders", "column": "status", "type": "json", "up": "to_json(status)"}}, True),
    ],
)
def test_whole_rows_that_cannot_be_compared_any_more_are_a_high_risk(
    engine: Engine, operation: dict[str, Any], *, warned: bool
) -> None:
    """The application's own UPDATE fails there; the trigger with a condition and the rule are found by their definitions."""
    engine.execute(ORDERS)
    trigger(engine, "IF NEW IS DISTINCT FROM OLD THEN RETURN new; END IF; RETURN NULL;")
    engine.execute(
        "CREATE TRIGGER by_condition AFTER UPDATE ON orders FOR EACH ROW WHEN (old.* IS DISTINCT FROM new.*) "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    )
    if "add_column" in operation:
        engine.execute(RULE)
    text = json.dumps({"name": "m", "operations": [operation]})
    migration = definition.parse(text)
    found = examine.examine(engine.connection, migration)
    assert found.findings == []
    risks = [one for one in plan.make(migration, found).risks if one.cause is Cause.ROW_COMPARISON]
    assert [one.level for one in risks] == (["high"] if warned else [])
    for one in risks:
        assert "trigger by_condition, trigger tried" in one.reason
        assert ("rule noted" in one.reason) is ("add_column" in operation)


def test_rules_that_apply_to_updates_are_refused(engine: Engine) -> None:
    """PostgreSQL does not apply them to an UPDATE in a WITH, which a batch is."""
    engine.execute(ORDERS)
    engine.execute(RULE)
    found = examined(engine, backfill())
    assert [finding.check for finding in found.findings] == ["rule"]
    assert "the rule noted" in found.findings[0].problem
    engine.execute("ALTER TABLE orders DISABLE RULE noted")
    assert examined(engine, backfill()).findings == []


def test_triggers_of_partitions_and_of_statements_are_named(engine: Engine) -> None:
    engine.execute("""
CREATE TABLE orders (id bigint PRIMARY KEY, status text) PARTITION BY RANGE (id);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (100);
CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER of_leaf BEFORE UPDATE ON orders_1 FOR EACH ROW EXECUTE FUNCTION fires();
CREATE TRIGGER of_others BEFORE UPDATE OF id ON orders FOR EACH ROW EXECUTE FUNCTION fires();
CREATE TRIGGER of_statements BEFORE UPDATE OF status ON orders FOR EACH STATEMENT EXECUTE FUNCTION fires();
""")
    found = examined(engine, backfill())
    assert found.findings == []
    told = [text.partition(" (public.fires)")[0] for text in found.warnings if "public.fires" in text]
    assert told == [
        "the trigger of_leaf on orders fires for every changed row",
        "the trigger of_statements on orders fires for every batch",
    ]
