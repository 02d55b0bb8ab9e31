"""`add_foreign_key`: proved while both tables are written, and never standing where a row is an orphan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_rules import application, back_from_every_other_step, engine_at, rules
from fix_runs import expect
from psycopg import sql
from psycopg.rows import dict_row

from backfilld.migrations.facts import Facts
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import BatchRetried
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.planning.examine import Examination
    from backfilld.migrations.postgres.connect import Connection

TABLES = """
CREATE TABLE customers (id bigint PRIMARY KEY, email text);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, note text);
CREATE INDEX orders_customer_id_idx ON orders (customer_id);
INSERT INTO customers SELECT n, n || '@example.com' FROM generate_series(1, 10) n;
INSERT INTO orders SELECT n, n % 10 + 1 FROM generate_series(1, 40) n;
"""


@pytest.fixture(autouse=True)
def tables(engine: Engine) -> None:
    engine.execute(TABLES)


def key(
    table: str = "orders", columns: tuple[str, ...] = ("customer_id",), references: str = "customers", **also: Any
) -> dict[str, Any]:
    refers = {"table": references, **({"columns": also.pop("to")} if "to" in also else {})}
    return {"add_foreign_key": {"table": table, "name": "fk", "columns": columns, "references": refers, **also}}


def file(*operations: dict[str, Any]) -> str:
    return json.dumps({"name": "m", "operations": operations, "settings": {"approve": []}})


def examined(connection: Connection, *operations: dict[str, Any]) -> Examination:
    return examine.examine(connection, definition.parse(file(*operations)))


def told(found: Examination) -> str:
    return "\n".join(map(str, found.findings))


PROVED = {"fk": "FOREIGN KEY (customer_id) REFERENCES customers(id)"}


def test_the_key_stands_and_is_proved(engine: Engine) -> None:
    engine.execute("UPDATE orders SET customer_id = NULL WHERE id = 3")
    now = engine.drive(engine.enqueue(file(key())))
    expect(now, State.COMPLETED)
    assert now.verified_at is not None
    assert rules(engine) == PROVED
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        engine.execute("DELETE FROM customers WHERE id = 1")


@pytest.mark.parametrize(
    ("also", "clause"),
    [
        ({"on_delete": "cascade"}, " ON DELETE CASCADE"),
        ({"on_delete": "set null", "on_update": "cascade"}, " ON UPDATE CASCADE ON DELETE SET NULL"),
        ({"on_delete": "restrict", "on_update": "set default"}, " ON UPDATE SET DEFAULT ON DELETE RESTRICT"),
        ({"to": ["id"]}, ""),
    ],
)
def test_what_happens_to_the_referenced_row_is_honoured(engine: Engine, also: dict[str, Any], clause: str) -> None:
    expect(engine.drive(engine.enqueue(file(key(**also)))), State.COMPLETED)
    assert rules(engine) == {"fk": PROVED["fk"] + clause}


def test_the_application_goes_on_in_both_tables(engine: Engine) -> None:
    """Each statement of its own transaction, and both tables in one, in the order that ours is not."""
    with application(
        engine,
        "INSERT INTO customers VALUES ({n}, 'new') ON CONFLICT (id) DO UPDATE SET email = 'seen'",
        "INSERT INTO orders VALUES ({n}, {n}) ON CONFLICT (id) DO UPDATE SET note = 'seen'",
        "WITH seen AS (UPDATE customers SET email = 'x' WHERE id = 3 RETURNING id) "
        "UPDATE orders SET customer_id = seen.id FROM seen WHERE orders.id = 3",
        "DELETE FROM orders WHERE id = {n}",
    ) as failures:
        expect(engine.drive(engine.enqueue(file(key()))), State.COMPLETED)
    assert failures == []
    assert rules(engine) == PROVED


def test_orphans_are_named_and_stop_no_statement_of_the_application(engine: Engine) -> None:
    engine.execute("UPDATE orders SET customer_id = 99 WHERE id IN (7, 17)")
    run = engine.enqueue(file(key()))
    while engine.run(run).state is not State.PAUSED:
        engine.step()
        engine.execute("UPDATE orders SET customer_id = 98 WHERE id = 17")
    now = engine.run(run)
    assert now.error is not None
    assert now.error["class"] == "violated"
    assert "orders: rows break the foreign key fk (2 rows, by key: 7, 17)" in now.error["message"]
    assert rules(engine) == {}
    engine.execute("INSERT INTO customers VALUES (99)")
    engine.execute("DELETE FROM orders WHERE id = 17")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert rules(engine) == PROVED


def test_an_orphan_that_comes_between_the_look_and_the_key(engine: Engine) -> None:
    run = engine.enqueue(file(key()))
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY and engine.lane(run.run, 0).cursor == 3)
    engine.execute("UPDATE orders SET customer_id = 99 WHERE id = 7")
    engine.step()
    assert rules(engine) == {"fk": PROVED["fk"] + " NOT VALID"}
    engine.step()
    assert rules(engine) == {}
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "rows break the foreign key fk (one row, by key: 7)" in now.error["message"]
    assert rules(engine) == {}


def test_the_way_back_from_every_other_step(engine: Engine) -> None:
    assert back_from_every_other_step(engine, file(key())) > 6
    assert back_from_every_other_step(engine, file(key()), "customers") > 6


@pytest.mark.parametrize("table", ["orders", "customers"])
def test_whoever_holds_a_table_is_waited_for_without_a_queue(engine: Engine, table: str) -> None:
    """The step gives up its place after its lock_timeout, names who holds the table, and comes back."""
    run = engine.enqueue(file(key()))
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY and engine.lane(run.run, 0).cursor == 3)
    with engine.connect() as holder, holder.transaction():
        holder.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE".encode())
        engine.step()
        assert rules(engine) == {}
        (retried,) = engine.told(BatchRetried)
        assert retried.sqlstate == "55P03"
    expect(engine.drive(run), State.COMPLETED)


def test_a_key_of_two_columns_by_another_unique_key(engine: Engine) -> None:
    """In an order of its own; a row with a NULL among them refers to nothing."""
    engine.execute(
        "CREATE TABLE places (country text, code integer, UNIQUE (country, code));"
        "INSERT INTO places VALUES ('de', 1), ('fr', 2);"
        "CREATE TABLE visits (day date, n integer, code bigint, country varchar(2), PRIMARY KEY (day, n));"
        "INSERT INTO visits VALUES ('2024-01-01', 1, 1, 'de'), ('2024-01-01', 2, 2, 'de'), ('2024-01-02', 1, NULL, 'xx')"
    )
    operation = key("visits", ("code", "country"), "places", to=["code", "country"])
    run = engine.enqueue(file(operation))
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "(one row, by key: (2024-01-01, 2))" in now.error["message"]
    engine.execute("UPDATE visits SET country = 'fr' WHERE n = 2")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert rules(engine, "visits") == {"fk": "FOREIGN KEY (code, country) REFERENCES places(code, country)"}


def test_a_table_that_refers_to_itself(engine: Engine) -> None:
    engine.execute("ALTER TABLE orders ADD COLUMN parent bigint")
    engine.execute("UPDATE orders SET parent = id - 1 WHERE id > 1")
    engine.execute("UPDATE orders SET parent = 77 WHERE id = 5")
    run = engine.enqueue(file(key("orders", ("parent",), "orders")))
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "(one row, by key: 5)" in now.error["message"]
    engine.execute("UPDATE orders SET parent = NULL WHERE id = 5")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


def test_a_column_that_the_file_adds(engine: Engine) -> None:
    add = {"add_column": {"table": "orders", "column": {"name": "payer", "type": "integer"}, "backfill": "customer_id"}}
    run = engine.enqueue(file(add, key(columns=("payer",))))
    expect(engine.drive(run), State.COMPLETED)
    assert rules(engine) == {"fk": "FOREIGN KEY (payer) REFERENCES customers(id)"}


def test_orphans_are_told_by_the_types_own_equality(engine: Engine) -> None:
    """citext's is in the schema of its extension, and takes upper and lower case for the same."""
    try:
        engine.execute("CREATE SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server has no citext")
    engine.execute(
        "CREATE TABLE people (email extensions.citext PRIMARY KEY); INSERT INTO people VALUES ('Ann@x'), ('bob@x');"
        "CREATE TABLE mails (id integer PRIMARY KEY, email extensions.citext);"
        "INSERT INTO mails VALUES (1, 'ann@X'), (2, 'carl@x')"
    )
    now = engine.drive(engine.enqueue(file(key("mails", ("email",), "people"))))
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "(one row, by key: 2)" in now.error["message"]


def test_odd_names(engine: Engine) -> None:
    engine.execute(
        'CREATE SCHEMA "Odd %s"; CREATE TABLE "Odd %s"."Order" ("Key {}" integer PRIMARY KEY, "a%""b" integer);'
        'CREATE TABLE "Order" ("%s" integer PRIMARY KEY);'
        'INSERT INTO "Order" VALUES (1); INSERT INTO "Odd %s"."Order" VALUES (1, 1), (2, 2)'
    )
    run = engine.enqueue(file(key("Odd %s.Order", ('a%"b',), "Order", on_delete="cascade")))
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "(one row, by key: 2)" in now.error["message"]
    engine.execute('INSERT INTO "Order" VALUES (2)')
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


PARTITIONED = """
CREATE TABLE parts (id bigint PRIMARY KEY, customer_id bigint) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
INSERT INTO parts SELECT n, n % 10 + 1 FROM generate_series(1, 199) n;
"""


def test_a_partitioned_table_refers(engine: Engine) -> None:
    """From PostgreSQL 18 on; before, it is refused with what to do by hand."""
    engine.execute(PARTITIONED)
    if engine.connection.info.server_version < 180_000:
        found = examined(engine.connection, key("parts"))
        assert [finding.check for finding in found.findings] == ["partitioned"]
        assert "VALIDATE on each partition" in told(found)
        return
    back_from_every_other_step(engine, file(key("parts")), "parts")
    engine.execute("UPDATE parts SET customer_id = 99 WHERE id IN (99, 100)")
    engine.sent.clear()
    run = engine.enqueue(file(key("parts")))
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "(2 rows, by key: 99, 100)" in now.error["message"]
    engine.execute("UPDATE parts SET customer_id = 1 WHERE customer_id = 99")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    for table in ("parts", "parts_1", "parts_2"):
        assert list(rules(engine, table).values()) == list(PROVED.values())


def test_a_partitioned_table_is_referred_to(engine: Engine) -> None:
    engine.execute(PARTITIONED + "ALTER TABLE orders ADD part bigint; UPDATE orders SET part = id * 4")
    operation = key("orders", ("part",), "parts")
    back_from_every_other_step(engine, file(operation))
    engine.execute("UPDATE orders SET part = 500 WHERE id = 7")
    engine.sent.clear()
    run = engine.enqueue(file(operation))
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert "(one row, by key: 7)" in now.error["message"]
    engine.execute("UPDATE orders SET part = 100 WHERE id = 7")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    # Before PostgreSQL 18 its parts, one for each partition, go on being shown as NOT VALID.
    assert rules(engine)["fk"] == "FOREIGN KEY (part) REFERENCES parts(id)"
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        engine.execute("DELETE FROM parts WHERE id = 100")


def test_on_supabase_the_projects_own_role_can(supabase_url: str) -> None:
    """NOSUPERUSER and BYPASSRLS, with row security on."""
    with engine_at(supabase_url) as engine:
        engine.execute(TABLES)
        engine.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY; ALTER TABLE customers FORCE ROW LEVEL SECURITY")
        expect(engine.drive(engine.enqueue(file(key()))), State.COMPLETED)
        assert rules(engine) == PROVED


@pytest.mark.parametrize(
    ("operation", "check", "problem"),
    [
        (key(references="custmers"), "table", "there is no table custmers. Did you mean customers?"),
        (key(references="a_view"), "table_kind", "a_view is not a table"),
        (key(references="keyless"), "key", "keyless has no primary key to refer to"),
        (key(references="unlogged"), "persistence", "unlogged is unlogged"),
        (key(columns=("customerid",)), "column", "orders has no column customerid. Did you mean customer_id?"),
        (key(to=["idd"]), "column", "customers has no column idd"),
        (key(to=["email"]), "key", "customers has no unique key of email"),
        (key(columns=("customer_id", "id")), "foreign_key", "numbers of columns differ"),
        (key(columns=("note",)), "foreign_key", "incompatible types: text and bigint"),
        (key(columns=("twice",), on_update="cascade"), "foreign_key", "twice is a generated column"),
    ],
)
def test_what_cannot_refer_is_refused(engine: Engine, operation: dict[str, Any], check: str, problem: str) -> None:
    engine.execute(
        "CREATE VIEW a_view AS SELECT * FROM customers; CREATE TABLE keyless (id bigint);"
        "CREATE UNLOGGED TABLE unlogged (id bigint PRIMARY KEY);"
        "ALTER TABLE orders ADD twice bigint GENERATED ALWAYS AS (id * 2) STORED"
    )
    found = examined(engine.connection, operation)
    assert [finding.check for finding in found.findings] == [check]
    assert problem in told(found)


def test_a_name_that_is_taken_is_refused(engine: Engine) -> None:
    engine.execute("ALTER TABLE orders ADD CONSTRAINT fk CHECK (id > 0)")
    assert "orders already has a constraint fk" in told(examined(engine.connection, key()))


def test_rights_in_the_referenced_table(engine: Engine, plain_role_url: str) -> None:
    role = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(plain_role_url)["user"]))
    for statement in ("ALTER TABLE orders OWNER TO {}", "GRANT USAGE ON SCHEMA public TO {}"):
        engine.connection.execute(sql.SQL(statement).format(role))
    with psycopg.connect(plain_role_url, autocommit=True, row_factory=dict_row) as plain:
        refused = examined(plain, key())
        assert {finding.check for finding in refused.findings} == {"privileges"}
        assert "GRANT SELECT, REFERENCES" in told(refused)
        engine.connection.execute(sql.SQL("GRANT SELECT, REFERENCES (id) ON customers TO {}").format(role))
        assert told(examined(plain, key())) == ""
        engine.execute("ALTER TABLE customers ENABLE ROW LEVEL SECURITY")
        assert "row security is active" in told(examined(plain, key()))
    engine.connection.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(role))
    engine.connection.execute(sql.SQL("DROP OWNED BY {}").format(role))


def test_columns_without_an_index_are_told(engine: Engine) -> None:
    assert examined(engine.connection, key()).warnings == []
    engine.execute("DROP INDEX orders_customer_id_idx")
    (warning,) = examined(engine.connection, key()).warnings
    assert "orders has no index on customer_id" in warning
    advice = warning.partition("create one first: create_index: ")[2]
    definition.parse(file({"create_index": json.loads(advice)}))

    engine.execute(
        "CREATE INDEX part ON orders (customer_id) WHERE id > 7; CREATE INDEX second ON orders (note, customer_id)"
    )
    assert len(examined(engine.connection, key()).warnings) == 1
    engine.execute("CREATE INDEX more ON orders (customer_id, note)")
    assert examined(engine.connection, key()).warnings == []


def test_set_null_where_null_is_not_allowed_is_told(engine: Engine) -> None:
    engine.execute("ALTER TABLE orders ALTER customer_id SET NOT NULL")
    (warning,) = examined(engine.connection, key(on_delete="set null")).warnings
    assert "such a DELETE will fail" in warning


def test_the_facts_come_back_from_the_record(engine: Engine) -> None:
    (facts,) = examined(engine.connection, key()).facts
    assert (facts.referenced, facts.equalities) == (("id",), ('OPERATOR("pg_catalog".=)',))
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
