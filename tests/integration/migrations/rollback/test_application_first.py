"""A rollback lets the old application work before it does anything that takes as long as the table is large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import expect
from paths import ROOT

from backfilld.migrations.operations.registry import REGISTRY
from backfilld.migrations.record.states import State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

#: Each operation, and an INSERT of the application that knew the table before.
OPERATIONS = {
    "add_column": (
        '{add_column: {table: jobs, column: {name: total_eur, type: integer}, backfill: "n * 2", not_null: true}}',
        "INSERT INTO jobs (id) VALUES (0)",
    ),
    "set_not_null": ('{set_not_null: {table: jobs, column: n, backfill: "0"}}', "INSERT INTO jobs (id) VALUES (0)"),
    "add_check": (
        '{add_check: {table: jobs, name: positive, check: "n > 0"}}',
        "INSERT INTO jobs (id, n) VALUES (0, -1)",
    ),
    "add_unique": (
        "{add_unique: {table: jobs, name: once, columns: [a]}}",
        "INSERT INTO jobs (id, a) SELECT 0, max(a) FROM jobs",
    ),
    "add_foreign_key": (
        "{add_foreign_key: {table: jobs, name: of_customer, columns: [customer], references: {table: customers}}}",
        "INSERT INTO jobs (id, customer) VALUES (0, 4711)",
    ),
    "rename_column": (
        "{rename_column: {table: jobs, from: b, to: better}}",
        "INSERT INTO jobs (id, b) VALUES (0, 'x')",
    ),
    "drop_not_null": ("{drop_not_null: {table: jobs, column: g}}", "INSERT INTO jobs (id, g) VALUES (0, 'x')"),
    "set_default": ("{set_default: {table: jobs, column: h, default: '5'}}", "INSERT INTO jobs (id, h) VALUES (0, 1)"),
    "drop_default": ("{drop_default: {table: jobs, column: g}}", "INSERT INTO jobs (id) VALUES (0)"),
    "drop_column": ("{drop_column: {table: jobs, column: legacy}}", "INSERT INTO jobs (id, legacy) VALUES (0, 'x')"),
    "drop_constraint": (
        "{drop_constraint: {table: jobs, name: jobs_few}}",
        "INSERT INTO jobs (id, h) VALUES (0, 1)",
    ),
    "rename_constraint": (
        "{rename_constraint: {table: jobs, from: jobs_once, to: jobs_i_once}}",
        "INSERT INTO jobs (id, i) VALUES (0, 0) ON CONFLICT ON CONSTRAINT jobs_once DO NOTHING",
    ),
    "create_index": (
        "{create_index: {table: jobs, name: c_once, columns: [c], unique: true}}",
        "INSERT INTO jobs (id, c) SELECT 0, max(c) FROM jobs",
    ),
    "drop_index": ("{drop_index: {table: jobs, name: jobs_d}}", "INSERT INTO jobs (id, d) VALUES (0, 1)"),
    "change_type": ("{change_type: {table: jobs, column: e, type: bigint}}", "INSERT INTO jobs (id, e) VALUES (0, 1)"),
    "change_columns": (
        '{change_columns: {table: jobs, up: {two_j: "j * 2"}, down: {j: "two_j / 2"}}}',
        "INSERT INTO jobs (id, j) VALUES (0, 1)",
    ),
    "move_column": (
        "{move_column: {from: jobs, column: k, to: details, on: job}}",
        "INSERT INTO jobs (id, k) VALUES (0, 1)",
    ),
    "add_primary_key": (
        "{add_primary_key: {table: keyless, columns: [a]}}",
        "INSERT INTO keyless VALUES (NULL)",
    ),
    "create_table": (
        "{create_table: {table: fresh, columns: [{name: a, type: bigint}]}}",
        "INSERT INTO jobs (id) VALUES (0)",
    ),
    "rename_table": ("{rename_table: {table: others, to: more}}", "INSERT INTO others VALUES (2)"),
    "drop_table": ("{drop_table: {table: gone}}", "INSERT INTO gone VALUES (2)"),
    "enable_row_security": (
        "{enable_row_security: {table: hidden, force: true}}",
        "SET LOCAL ROLE pg_database_owner; INSERT INTO hidden VALUES (2)",
    ),
    "replace_policies": (
        '{replace_policies: {table: guarded, policies: [{name: read, for: select, using: "true"}]}}',
        "SET LOCAL ROLE pg_database_owner; INSERT INTO guarded VALUES (2)",
    ),
    "set_comment": ("{set_comment: {table: jobs, comment: all}}", "INSERT INTO jobs (id) VALUES (0)"),
    "backfill": ('{backfill: {table: jobs, set: {f: "f + 1"}}}', "INSERT INTO jobs (id, f) VALUES (0, 1)"),
    "delete_rows": ("{delete_rows: {table: jobs, where: id % 10 = 0}}", "INSERT INTO jobs (id, n) VALUES (0, 1)"),
    "load": (
        f"{{load: {{table: products, from: {{file: {ROOT}/examples/products.csv}}, columns: {{id: id, name: name}}, key: [id]}}}}",
        "INSERT INTO jobs (id, n) VALUES (0, 1)",
    ),
    "sql": (
        '{sql: {table: jobs, run: "CREATE VIEW public.totals AS SELECT sum(n) FROM public.jobs", rollback: "DROP VIEW public.totals"}}',
        "INSERT INTO jobs (id, n) VALUES (0, 1)",
    ),
}


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE customers (id bigint PRIMARY KEY)")
    engine.execute("INSERT INTO customers VALUES (1)")
    engine.execute(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, n bigint, a bigint, b text, c bigint, d bigint, e integer, f bigint, "
        "customer bigint, legacy text NOT NULL DEFAULT 'none', g text NOT NULL DEFAULT 'g', "
        "h bigint CONSTRAINT jobs_few CHECK (h < 1000), i bigint CONSTRAINT jobs_once UNIQUE, j bigint, k bigint)"
    )
    engine.execute(
        "CREATE TABLE keyless AS SELECT 1 AS a; CREATE TABLE others AS SELECT 1 AS a; CREATE TABLE gone AS SELECT 1 AS a;"
        "CREATE TABLE hidden AS SELECT 1 AS a; GRANT INSERT ON hidden TO pg_database_owner;"
        "CREATE TABLE guarded (a bigint PRIMARY KEY); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY every ON guarded USING (true); GRANT INSERT ON guarded TO pg_database_owner"
    )
    engine.execute("CREATE TABLE products (id bigint PRIMARY KEY, name text)")
    engine.execute("CREATE INDEX jobs_d ON jobs (d); CREATE TABLE details (job bigint PRIMARY KEY REFERENCES jobs)")
    engine.execute(
        "INSERT INTO jobs SELECT n, n, n, 'b ' || n, n, n, n, n, 1, 'legacy ' || n FROM generate_series(1, 40) n"
    )


def succeeds(engine: Engine, insert: str) -> bool:
    try:
        with engine.connection.transaction(force_rollback=True):
            engine.execute(insert)
    except psycopg.Error:
        return False
    return True


def back(engine: Engine, operations: list[str], inserts: dict[str, str]) -> None:
    """Do it all, go back, and try the statements from the moment the first lane is there; each of them fails before."""
    before = engine.execute("SELECT * FROM jobs ORDER BY id")
    run = engine.enqueue(
        f"name: all\noperations: [{', '.join(operations)}]\nsettings: {{lanes: 2, approve: []}}\n"
        "application: {personas: {writer: {role: pg_database_owner, settings: {app.who: a}}}}"
    )
    expect(engine.drive(run), State.COMPLETED)
    assert {kind for kind, insert in inserts.items() if not succeeds(engine, insert)} == {*inserts}

    commands.rollback(engine.connection, run, actor="ann")
    forward = len(engine.lanes(run))
    engine.drive(run, until=lambda _run: len(engine.lanes(run)) > forward)
    assert engine.run(run).state is State.ROLLING_BACK
    assert {kind for kind, insert in inserts.items() if not succeeds(engine, insert)} == set()
    while engine.run(run).state is State.ROLLING_BACK:
        engine.step(batch_rows=15)
        assert {kind for kind, insert in inserts.items() if not succeeds(engine, insert)} == set()
    expect(engine.run(run), State.ROLLED_BACK)
    columns = ", ".join(before[0])
    assert engine.execute(f"SELECT {columns} FROM jobs ORDER BY id") == before


@pytest.mark.parametrize("turned", [False, True])
def test_the_old_applications_inserts_succeed_before_the_first_walk(engine: Engine, *, turned: bool) -> None:
    operations = [operation for operation, _ in OPERATIONS.values()]
    inserts = {kind: insert for kind, (_, insert) in OPERATIONS.items()}
    back(engine, operations[::-1] if turned else operations, inserts)


def test_every_operation_is_there() -> None:
    """But for a key that was changed, which has no way back once its old values are gone, and for a table that was made anew: the old
    one is brought up to date before it comes back, and what it does not have is what a person dropped.
    """
    assert {*OPERATIONS} == {model.kind for model in REGISTRY} - {"change_key", "rebuild"}
