"""What no migration may touch, and what no expression may call unless it is allowed by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.planning.examine import Examination


@pytest.fixture(autouse=True)
def tables(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text, n integer)")


def examined(engine: Engine, *operations: dict[str, Any], **settings: Any) -> Examination:  # Any: JSON
    text = json.dumps({"name": "m", "operations": operations, "settings": settings})
    return examine.examine(engine.connection, definition.parse(text))


def refusals(found: Examination) -> list[tuple[str, str]]:
    return [(finding.check, finding.problem) for finding in found.findings]


TARGETS = (
    "pg_catalog.pg_class",
    "information_schema.tables",
    "pg_toast.pg_toast_1255",
    "backfilld.runs",
    "backfilld.lanes",
)


def test_tables_of_ours_and_of_postgresql_are_no_target(engine: Engine) -> None:
    engine.execute("CREATE TEMPORARY TABLE mine (id bigint PRIMARY KEY, status text)")
    own_schema = engine.value("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()")
    for table in (*TARGETS, f"{own_schema}.mine"):
        for operation in (
            {"backfill": {"table": table, "set": {"relname": "'x'"}}},
            {"add_column": {"table": table, "column": {"name": "x", "type": "text"}}},
            {"drop_column": {"table": table, "column": "run"}},
            {
                "add_foreign_key": {
                    "name": "f",
                    "table": "jobs",
                    "columns": ["n"],
                    "references": {"table": table, "columns": ["run"]},
                }
            },
        ):
            ((check, problem),) = refusals(examined(engine, operation))
            assert check == "target", problem
            assert table in problem


def test_a_statement_of_sql_leaves_the_record_alone(engine: Engine) -> None:
    found = examined(engine, {"sql": {"run": "UPDATE backfilld.runs SET state = 'completed'", "rollback": "SELECT 1"}})
    assert [check for check, _ in refusals(found)] == ["target"]


OUTSIDE = {
    "set_config('search_path', 'evil', false)": "set_config",
    "pg_terminate_backend(n)::text": "pg_terminate_backend",
    "pg_cancel_backend(n)::text": "pg_cancel_backend",
    "pg_read_file('/etc/passwd')": "pg_read_file",
    "pg_ls_dir('.')": "pg_ls_dir",
    "lo_import('/etc/passwd')::text": "lo_import",
    "lo_get(n::oid)::text": "lo_get",
    "pg_sleep(1)::text": "pg_sleep",
    "(SELECT status FROM pg_sleep(1))": "pg_sleep",
    "pg_advisory_lock(1)::text": "pg_advisory_lock",
    "pg_try_advisory_xact_lock(1)::text": "pg_try_advisory_xact_lock",
    "pg_notify('a', status)::text": "pg_notify",
    "pg_reload_conf()::text": "pg_reload_conf",
    "pg_switch_wal()::text": "pg_switch_wal",
    "pg_logical_emit_message(false, 'a', 'b')::text": "pg_logical_emit_message",
    "(SELECT slot_name FROM pg_create_physical_replication_slot('s'))": "pg_create_physical_replication_slot",
    "query_to_xml('DELETE FROM public.jobs', true, true, '')::text": "query_to_xml",
    "database_to_xml(true, true, '')::text": "database_to_xml",
    "setval('public.numbers', 1)::text": "setval",
}


def test_an_expression_may_not_act_outside_of_its_row(engine: Engine) -> None:
    engine.execute("CREATE SEQUENCE numbers")
    for expression, function in OUTSIDE.items():
        found = examined(engine, {"backfill": {"table": "jobs", "set": {"status": expression}}})
        ((check, problem),) = refusals(found)
        assert check == "function", problem
        assert f"{function}()" in problem
        assert f"allow_functions: [{function}]" in found.findings[0].remedy


def test_it_may_not_wherever_it_stands(engine: Engine) -> None:
    sleeps = "pg_sleep(1)::text"
    for operation in (
        {"backfill": {"table": "jobs", "set": {"status": "'x'"}, "where": f"{sleeps} = ''"}},
        {"add_column": {"table": "jobs", "column": {"name": "x", "type": "text"}, "backfill": sleeps}},
        {"add_column": {"table": "jobs", "column": {"name": "x", "type": "text"}, "default": sleeps}},
        {"change_type": {"table": "jobs", "column": "status", "type": "bytea", "up": sleeps, "down": "''"}},
        {"change_type": {"table": "jobs", "column": "status", "type": "bytea", "up": "''", "down": sleeps}},
        {"set_not_null": {"table": "jobs", "column": "status", "backfill": sleeps}},
        {"add_check": {"table": "jobs", "name": "c", "check": f"{sleeps} = ''"}},
    ):
        assert [check for check, _ in refusals(examined(engine, operation))] == ["function"], operation
        allowed = refusals(examined(engine, operation, allow_functions=["pg_sleep"]))
        assert "function" not in [check for check, _ in allowed], operation


HARMLESS = (
    "random()::text",
    "gen_random_uuid()::text",
    "clock_timestamp()::text",
    "nextval('public.numbers')::text",
    "now()::text",
)


def test_what_only_differs_from_row_to_row_is_harmless(engine: Engine) -> None:
    engine.execute("CREATE SEQUENCE numbers")
    for expression in HARMLESS:
        found = examined(
            engine, {"backfill": {"table": "jobs", "set": {"status": expression}, "where": "status IS NULL"}}
        )
        assert refusals(found) == [], expression


def test_a_function_that_nobody_can_look_into_is_told(engine: Engine) -> None:
    """Written in C by a superuser; what a function of a trusted language calls is its owner's business."""
    engine.execute(
        "CREATE FUNCTION opaque(text) RETURNS text LANGUAGE internal AS 'upper';"
        "CREATE FUNCTION clear(text) RETURNS text LANGUAGE sql AS 'SELECT $1'"
    )
    backfill = {"table": "jobs", "set": {"status": "public.opaque(public.clear(status))"}, "where": "status IS NULL"}
    found = examined(engine, {"backfill": backfill})
    assert refusals(found) == []
    (told,) = [text for text in found.warnings if "language" in text]
    assert "public.opaque()" in told
