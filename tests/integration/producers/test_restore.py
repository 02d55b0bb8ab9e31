"""The way back from a disaster with the backup of the run's gate: rows put back by key, what others wrote since kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_postgres import new_database
from fix_runs import expect
from typer.testing import CliRunner

from backfilld.migrations.record import schema
from backfilld.migrations.record.states import State
from backfilld.producers.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_runs import Engine
    from typer.testing import Result

    from backfilld.migrations.backups.place import Place

pytestmark = pytest.mark.usefixtures("governed")

TABLES = """
CREATE SCHEMA "Odd Schema";
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE "Odd Schema"."Order" (id int GENERATED ALWAYS AS IDENTITY, part int, "Order" text, doc json, at timestamptz DEFAULT now(),
    customer int REFERENCES customers, twice int GENERATED ALWAYS AS (part * 2) STORED, PRIMARY KEY (part, id));
INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 10) i;
INSERT INTO "Odd Schema"."Order" (part, "Order", doc, customer) SELECT i % 3, 'order ' || i, '{"a": 1}', 1 + i % 10 FROM generate_series(1, 300) i
"""
FILE = """
name: orders
operations:
  - backfill: {table: Odd Schema.Order, set: {Order: "upper(\\"Order\\")"}}
settings: {backup: {require: taken, tables: all}}
"""


@pytest.fixture
def shell(engine: Engine, place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    listed = [one.model_dump(mode="json", exclude_none=True) for one in place.stores]
    monkeypatch.setenv("BACKFILLD_STORES", json.dumps(listed))
    monkeypatch.setenv("BACKFILLD_DATABASE_URL", engine.url)
    return lambda *words: CliRunner().invoke(app, list(words))


def test_a_disaster_is_undone_by_key_and_what_others_wrote_stays(
    engine: Engine, place: Place, shell: Callable[..., Result]
) -> None:
    """A bad backfill was committed, then somebody deleted without WHERE; rows were added and changed since."""
    engine.execute(f"ALTER DATABASE {engine.connection.info.dbname} SET timezone = 'Asia/Kolkata'")
    engine.execute(TABLES)
    before = engine.execute(
        'SELECT id, part, "Order", doc::text, at, customer, twice FROM "Odd Schema"."Order" ORDER BY part, id'
    )
    run = engine.enqueue(FILE)
    expect(engine.drive(run, runner=engine.runner(backups=place)), State.COMPLETED)
    engine.execute("""DELETE FROM "Odd Schema"."Order" WHERE part = 1; DELETE FROM "Odd Schema"."Order" WHERE customer > 5;
                      DELETE FROM customers WHERE id > 5; INSERT INTO customers VALUES (11, 'since')""")
    engine.execute("""INSERT INTO "Odd Schema"."Order" (part, "Order", customer) VALUES (7, 'since', 11)""")
    engine.execute("ALTER TABLE customers ADD COLUMN note text DEFAULT 'new'")

    tables = ["--table", "Odd Schema.Order", "--table", "customers"]
    looked = shell("restore", "orders", *tables, "--into", "rescue", "--json")
    assert looked.exit_code == 0, looked.stderr
    told = {one["table"]: one for one in json.loads(looked.stdout)["tables"]}
    assert list(told) == ["customers", "Odd Schema.Order"], "what is referred to comes first"
    counts = {name: (one["rows"], one["missing"], one["added"]) for name, one in told.items()}
    gone = 300 - engine.value('SELECT count(*) FROM "Odd Schema"."Order" WHERE part < 7')
    assert counts == {"customers": (10, 5, 1), "Odd Schema.Order": (300, gone, 1)}
    assert told["Odd Schema.Order"]["different"] == 300 - gone
    assert engine.value("SELECT count(*) FROM pg_policies WHERE schemaname = 'rescue'") == 0
    assert engine.value(
        """SELECT bool_and(relrowsecurity) FROM pg_class WHERE relnamespace = 'rescue'::regnamespace AND relkind = 'r'"""
    )

    again = shell("restore", "orders", *tables, "--into", "rescue_2", "--copy-back", "--json")
    assert again.exit_code == 0, again.stderr
    assert ".sql" not in again.stderr, "nobody has to know what the linter says of our own statements"
    back = json.loads(again.stdout)["run"]["run"]
    expect(engine.drive(back), State.COMPLETED)
    now = engine.execute(
        'SELECT id, part, "Order", doc::text, at, customer, twice FROM "Odd Schema"."Order" WHERE part < 7 ORDER BY part, id'
    )
    assert now == before
    assert engine.value("SELECT count(*) FROM customers WHERE id <= 10") == 10
    assert engine.value("""SELECT "Order" FROM "Odd Schema"."Order" WHERE part = 7""") == "since"
    assert engine.value("SELECT note FROM customers WHERE id = 10") == "new"

    # Undone like any other run: what it put back goes, what it replaced comes back.
    assert shell("rollback", str(back)).exit_code == 0
    expect(engine.drive(back), State.ROLLED_BACK)
    assert engine.value('SELECT count(*) FROM "Odd Schema"."Order" WHERE part < 7') == 300 - gone
    assert engine.value("""SELECT count(*) FROM "Odd Schema"."Order" WHERE "Order" ~ '^ORDER'""") == 300 - gone

    page = shell("explain", "orders", "--emergency").stdout
    assert "backfilld pause --all" in page
    assert "--table 'Odd Schema.Order' --into rescue_1 --copy-back" in page or "--copy-back" in page
    moment = next(
        one
        for one in engine.execute("SELECT detail ->> 'moment' AS lsn FROM backfilld.events WHERE what = 'backup.gate'")
    )
    assert f"recovery_target_lsn = '{moment['lsn']}'" in page


def test_nothing_is_put_back_where_nothing_is_wrong(engine: Engine, place: Place, shell: Callable[..., Result]) -> None:
    engine.execute(TABLES)
    run = engine.enqueue(FILE)
    engine.drive(
        run,
        runner=engine.runner(backups=place),
        until=lambda _: bool(engine.value("SELECT count(*) FROM backfilld.backups WHERE state = 'taken'")),
    )

    answer = shell("restore", "orders", "--into", "rescue", "--copy-back")
    assert (answer.exit_code, "nothing is to be put back" in answer.stdout) == (0, True), answer.stderr
    twice = shell("restore", "orders", "--into", "rescue")
    assert (twice.exit_code, "Order is there already" in twice.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--table", "nothing"), 1, "the table nothing is not there any more"),
        pytest.param(("--table", "later"), 1, "what was saved has no table later", marks=pytest.mark.soak),
        pytest.param(("--table", "keyless"), 1, "keyless has no primary key", marks=pytest.mark.soak),
    ],
    ids=["dropped", "made since", "no key"],
)
def test_what_cannot_be_compared_is_told(
    engine: Engine, place: Place, shell: Callable[..., Result], words: tuple[str, ...], code: int, told: str
) -> None:
    engine.execute(f"{TABLES}; CREATE TABLE keyless (a int)")
    run = engine.enqueue(FILE)
    engine.drive(
        run,
        runner=engine.runner(backups=place),
        until=lambda _: bool(engine.value("SELECT count(*) FROM backfilld.backups WHERE state = 'taken'")),
    )
    engine.execute("CREATE TABLE later (id int PRIMARY KEY)")

    answer = shell("restore", "orders", *words, "--into", "rescue")
    assert (answer.exit_code, told in answer.stderr) == (code, True), answer.stderr
    assert not engine.execute("SELECT FROM pg_class WHERE relnamespace = to_regnamespace('rescue')::oid")


def test_rows_of_another_server_are_put_back_in_the_same_way(engine: Engine, shell: Callable[..., Result]) -> None:
    """Whatever it was restored by; no run is needed, and this database itself is not taken for another."""
    engine.execute("CREATE TABLE prices (id int PRIMARY KEY, cents int); INSERT INTO prices VALUES (1, 0), (4, 7)")
    schema.ensure(engine.connection)
    with new_database(engine.url, copy_of="template0") as other:
        with psycopg.connect(other, autocommit=True) as there:
            there.execute(
                "CREATE TABLE prices (id int PRIMARY KEY, cents int); INSERT INTO prices VALUES (1, 100), (2, 200)"
            )
        wanted = ["restore", "--table", "prices", "--into", "rescue", "--from"]
        itself = shell(*wanted, engine.url)
        assert (itself.exit_code, "this database itself" in itself.stderr) == (1, True), itself.stderr
        back = shell(*wanted, other, "--copy-back", "--json")
    assert back.exit_code == 0, back.stderr
    told = json.loads(back.stdout)
    assert (told["backup"], told["run"]["name"]) == (None, "restore-rescue")
    expect(engine.drive(told["run"]["run"]), State.COMPLETED)
    assert engine.execute("SELECT id, cents FROM prices ORDER BY id") == [
        {"id": 1, "cents": 100},
        {"id": 2, "cents": 200},
        {"id": 4, "cents": 7},
    ]


ODD = """
CREATE SCHEMA "Weird ""Schema";
CREATE TABLE "Weird ""Schema"."T %s {x}" ("Id %s" int GENERATED ALWAYS AS IDENTITY, "now" text, "missing" timestamptz, backfilld_saved text,
    twice text GENERATED ALWAYS AS (upper("now")) STORED, PRIMARY KEY ("Id %s", "now"));
INSERT INTO "Weird ""Schema"."T %s {x}" ("now", "missing", backfilld_saved) SELECT 'n' || i, '2026-03-08 01:30Z', 'a' FROM generate_series(1, 9) i;
CREATE SCHEMA other;
CREATE TABLE other."T %s {x}" (id int PRIMARY KEY);
INSERT INTO other."T %s {x}" VALUES (1);
"""


def test_odd_names_and_a_trigger_of_the_applications_are_no_matter(
    engine: Engine, shell: Callable[..., Result]
) -> None:
    """Its function names a table without its schema, as it may in the application's sessions; two tables have one name."""
    schema.ensure(engine.connection)
    engine.execute(ODD)
    engine.execute("""CREATE TABLE log (what text); CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO log VALUES (TG_OP); RETURN coalesce(NEW, OLD); END $$;
        CREATE TRIGGER shouts BEFORE INSERT OR DELETE ON "Weird ""Schema"."T %s {x}" FOR EACH ROW EXECUTE FUNCTION shout()""")
    name, query = '"Weird ""Schema"."T %s {x}"', """SELECT t::text AS t FROM "Weird ""Schema"."T %s {x}" t ORDER BY 1"""
    before = engine.execute(query)
    with new_database(engine.url, copy_of="template0") as other:
        with psycopg.connect(other, autocommit=True) as there:
            there.execute(ODD.encode())
        engine.execute("""DELETE FROM "Weird ""Schema"."T %s {x}" WHERE "now" > 'n5'; DELETE FROM other."T %s {x}" """)
        engine.execute(
            """UPDATE "Weird ""Schema"."T %s {x}" SET "missing" = now(), backfilld_saved = 'b' WHERE "now" < 'n3'"""
        )
        both = ["--table", name, "--table", 'other."T %s {x}"']
        back = shell("restore", *both, "--into", "rescue", "--from", other, "--copy-back", "--json")
        assert back.exit_code == 0, back.stderr
        again = shell("restore", *both, "--into", "rescue", "--from", other)
        assert (again.exit_code, "is there already" in again.stderr) == (1, True)
    told = json.loads(back.stdout)
    assert "data-change" not in back.stderr
    assert {one["saved"] for one in told["tables"]} == {"rescue.other_T %s {x}", 'rescue."Weird ""Schema_T %s {x}"'}
    expect(engine.drive(told["run"]["run"]), State.COMPLETED)
    assert engine.execute(query) == before
    assert engine.value('SELECT count(*) FROM other."T %s {x}"') == 1
    assert shell("rollback", str(told["run"]["run"])).exit_code == 0
    expect(engine.drive(told["run"]["run"]), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM log") == 12, "four deleted, put back, and taken back"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "without a run no table is known"),
        (("--table", "a"), "say what the rows are restored from"),
        (("--table", "a", "--backup", "9"), "there is no backup 9"),
        (("--table", "a", "--backup", "9", "--from", "b"), "give one of"),
        (("--in-place", "--backup", "9"), "--in-place needs a run"),
    ],
)
def test_what_is_not_said_enough_is_refused(shell: Callable[..., Result], words: tuple[str, ...], told: str) -> None:
    answer = shell("restore", "--into", "rescue", *words)
    assert (answer.exit_code, told in answer.stderr) == (2, True), answer.stderr


def test_a_run_without_a_backup_has_none_to_restore_from(engine: Engine, shell: Callable[..., Result]) -> None:
    engine.execute(TABLES)
    engine.enqueue(FILE)
    answer = shell("restore", "orders", "--into", "rescue")
    assert (answer.exit_code, "no backup was taken for run orders" in answer.stderr) == (2, True)
    assert "No backup was taken for this run" in shell("explain", "orders", "--emergency").stdout
