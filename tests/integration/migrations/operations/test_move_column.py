"""`move_column`: a column goes to another table while both versions of the application write, there and back."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_rules import whole_way_back_from_every_other_step
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning.examine import examine
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands
from proof.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from fix_runs import Engine

MOVE = """
name: moved
operations: [{move_column: {from: "Odd Schema.Order", column: "no%%te", to: order_notes, on: %s}}]
settings: {lanes: 2, approve: %s}
"""
ON = "[order_id, tenant]"
ROWS = 30
PATIENCE_SECONDS = 30.0


@pytest.fixture
def orders(engine: Engine) -> Engine:
    """Every third row has a row of its own in the other table; every fifth has no note."""
    engine.execute(
        'CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema"."Order" (tenant text, id integer, n integer, '
        '"no%te" varchar(20) COLLATE "C" DEFAULT \'none\', PRIMARY KEY (tenant, id));'
        "CREATE TABLE order_notes (order_id integer, tenant text, seen integer DEFAULT 0, PRIMARY KEY (tenant, order_id),"
        ' CONSTRAINT of_order FOREIGN KEY (tenant, order_id) REFERENCES "Odd Schema"."Order" ON UPDATE CASCADE ON DELETE CASCADE);'
        'CREATE INDEX "by note" ON "Odd Schema"."Order" ("no%te");'
        'COMMENT ON COLUMN "Odd Schema"."Order"."no%te" IS \'it\'\'s %\''
    )
    engine.execute(
        "INSERT INTO \"Odd Schema\".\"Order\" SELECT 't' || n % 2, n, n, CASE WHEN n % 5 > 0 THEN 'note %' || n END "
        f"FROM generate_series(1, {ROWS}) n"
    )
    engine.execute(
        f"INSERT INTO order_notes (order_id, tenant) SELECT n, 't' || n % 2 FROM generate_series(3, {ROWS}, 3) n"
    )
    return engine


def both(engine: Engine, id_: int) -> tuple[object, object]:
    """What the two tables hold for a row; the second is None where the other table has no row."""
    (found,) = engine.execute(
        'SELECT o."no%te" AS here, (SELECT coalesce(n."no%te", \'NULL\') FROM order_notes n WHERE n.order_id = o.id AND n.tenant = o.tenant)'
        f' AS there FROM "Odd Schema"."Order" o WHERE id = {id_}'
    )
    return found["here"], found["there"]


def differing(engine: Engine) -> int:
    return int(
        engine.value(
            'SELECT count(*) FROM "Odd Schema"."Order" o LEFT JOIN order_notes n ON n.order_id = o.id AND n.tenant = o.tenant '
            'WHERE o."no%te" IS DISTINCT FROM n."no%te"'
        )
    )


def test_both_tables_can_be_written_until_contract(orders: Engine) -> None:
    run = orders.enqueue(MOVE % (ON, "[switch, contract]"))
    orders.drive(run, until=lambda run: run.phase is Phase.BACKFILL)
    orders.execute(
        "INSERT INTO \"Odd Schema\".\"Order\" VALUES ('t0', 100, 1, 'by old'), ('t0', 101, 1, NULL), ('t0', 102, 1, 'x');"
        "INSERT INTO order_notes VALUES (101, 't0', 7, DEFAULT); UPDATE order_notes SET \"no%te\" = 'by new' WHERE order_id = 102;"
    )
    # A row of an application that does not know the column, for one that has a value which no lane has met yet.
    orders.execute("INSERT INTO order_notes (order_id, tenant) VALUES (4, 't0')")
    assert both(orders, 4) == ("note %4", "note %4")
    expect(orders.drive(run), State.WAITING)
    assert differing(orders) == 0
    assert [both(orders, id_) for id_ in (100, 101, 102, 1, 5, 15)] == [
        ("by old", "by old"),
        (None, "NULL"),
        ("by new", "by new"),
        ("note %1", "note %1"),
        (None, None),
        (None, "NULL"),
    ]
    commands.approve(orders.connection, run, Phase.SWITCH, actor="ann")
    expect(orders.drive(run), State.WAITING)
    orders.execute(
        'UPDATE "Odd Schema"."Order" SET "no%te" = \'old app\' WHERE id = 1; UPDATE order_notes SET "no%te" = \'new app\' WHERE order_id = 2;'
        'DELETE FROM order_notes WHERE order_id = 3; UPDATE "Odd Schema"."Order" SET id = 400 WHERE id = 4;'
        'DELETE FROM "Odd Schema"."Order" WHERE id = 6; UPDATE order_notes SET order_id = 5, tenant = \'t1\' WHERE order_id = 7;'
    )
    assert differing(orders) == 0
    assert [both(orders, id_) for id_ in (1, 2, 3, 400, 5, 7)] == [
        ("old app", "old app"),
        ("new app", "new app"),
        (None, None),
        ("note %4", "note %4"),
        ("note %7", "note %7"),
        (None, None),
    ]
    commands.approve(orders.connection, run, Phase.CONTRACT, actor="ann", yes=True)
    expect(orders.drive(run), State.COMPLETED)
    assert orders.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0
    with pytest.raises(psycopg.errors.UndefinedColumn):
        orders.execute('SELECT "no%te" FROM "Odd Schema"."Order"')

    orders.execute("UPDATE order_notes SET \"no%te\" = 'since' WHERE order_id = 1")
    commands.rollback(orders.connection, run, actor="ann")
    expect(orders.drive(run), State.ROLLED_BACK)
    notes = orders.execute('SELECT id, "no%te" AS note FROM "Odd Schema"."Order"')
    assert {1: "since", 2: "new app", 400: "note %4"}.items() <= {row["id"]: row["note"] for row in notes}.items()


@pytest.mark.parametrize("steps", [4, 7])
def test_it_goes_back_from_the_middle(orders: Engine, steps: int) -> None:
    before, was = orders.execute('SELECT * FROM "Odd Schema"."Order" ORDER BY id'), fingerprint(orders.connection)
    run = orders.enqueue(MOVE % (ON, "[contract]"))
    orders.drive(run, until=lambda run: orders.lane(run.run, 0).seq >= steps)
    commands.rollback(orders.connection, run, actor="ann")
    expect(orders.drive(run), State.ROLLED_BACK)
    assert difference(was, fingerprint(orders.connection)) == ""
    assert orders.execute('SELECT * FROM "Odd Schema"."Order" ORDER BY id') == before


@pytest.mark.soak
def test_it_goes_back_from_every_other_step(orders: Engine) -> None:
    before = orders.execute('SELECT id, n, "no%te" FROM "Odd Schema"."Order" ORDER BY id')
    assert whole_way_back_from_every_other_step(orders, MOVE % (ON, "[]")) > 5
    assert orders.execute('SELECT id, n, "no%te" FROM "Odd Schema"."Order" ORDER BY id') == before


def test_a_row_whose_key_changes_before_its_value_has_come_back_keeps_it(orders: Engine) -> None:
    """On the way back the column is there, empty, before the lanes fill it."""
    notes = 'SELECT id, "no%te" AS note FROM "Odd Schema"."Order"'
    values = {one["id"]: one["note"] for one in orders.execute(notes)}
    run = orders.enqueue(MOVE % (ON, "[]"))
    expect(orders.drive(run), State.COMPLETED)
    commands.rollback(orders.connection, run, actor="ann")
    there = 'SELECT count(*) FROM pg_attribute WHERE attrelid = \'"Odd Schema"."Order"\'::regclass AND attname = %s AND NOT attisdropped'
    orders.drive(run, until=lambda _: bool(orders.value(there, "no%te")))
    orders.execute('UPDATE "Odd Schema"."Order" SET id = id + 1000 WHERE id <= 10')
    expect(orders.drive(run), State.ROLLED_BACK)
    assert {one["id"]: one["note"] for one in orders.execute(notes)} == {
        id_ + 1000 if id_ <= 10 else id_: value for id_, value in values.items()
    }


def test_what_is_written_while_a_batch_waits_for_the_row_is_kept(orders: Engine) -> None:
    """The batch reads what the other table holds once it has the row, not what it held when the batch began."""
    run = orders.enqueue(MOVE % (ON, "[]"))
    expect(orders.drive(run), State.COMPLETED)
    commands.rollback(orders.connection, run, actor="ann")
    restores = "SELECT count(*) FROM backfilld.lanes WHERE kind = 'restore'"
    orders.drive(run, until=lambda _: bool(orders.value(restores)))
    with closing(orders.connect()) as application, ThreadPoolExecutor() as threads:
        application.execute("BEGIN")
        application.execute('UPDATE "Odd Schema"."Order" SET "no%te" = \'by the application\' WHERE id IN (8, 23)')
        driven = threads.submit(orders.drive, run)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while application.execute(waits).fetchone() == {"count": 0}:
            assert time.monotonic() < deadline
        application.execute("COMMIT")
        expect(driven.result(), State.ROLLED_BACK)
    notes = orders.execute('SELECT "no%te" AS note FROM "Odd Schema"."Order" WHERE id IN (8, 23)')
    assert [one["note"] for one in notes] == ["by the application"] * 2


def test_a_value_that_the_other_table_does_not_take_is_no_error_of_the_applications(orders: Engine) -> None:
    """The statement succeeds; the run names the row."""
    run = orders.enqueue(MOVE % (ON, "[switch, contract]"))
    orders.drive(run, until=lambda run: run.phase is Phase.BACKFILL)
    orders.execute("ALTER TABLE order_notes ADD CONSTRAINT polite CHECK (\"no%te\" <> 'rude')")
    orders.execute('UPDATE "Odd Schema"."Order" SET "no%te" = \'rude\' WHERE id = 1')
    assert both(orders, 1)[0] == "rude"
    orders.execute('ALTER TABLE "Odd Schema"."Order" ADD CONSTRAINT kind CHECK ("no%te" <> \'unkind\')')
    orders.execute("UPDATE order_notes SET \"no%te\" = 'unkind' WHERE order_id = 3")
    assert both(orders, 3)[1] == "unkind"
    rows = orders.execute("SELECT key, sqlstate FROM backfilld.rollback_conflicts ORDER BY key")
    assert [(row["key"], row["sqlstate"]) for row in rows] == [(["t1", "1"], "23514"), (["t1", "3"], "23514")]
    expect(orders.drive(run), State.PAUSED)
    assert [one.key for one in orders.quarantined(run)] == [("t1", "1")]
    commands.rollback(orders.connection, run, actor="ann")
    expect(orders.drive(run), State.ROLLED_BACK)


CASCADES = """
UPDATE "Odd Schema"."Order" SET id = 99, tenant = 't9' WHERE id = 4;
UPDATE "Odd Schema"."Order" SET id = 98, "no%te" = 'both' WHERE id = 6;
UPDATE "Odd Schema"."Order" SET id = 97, "no%te" = NULL WHERE id = 9;
"""
KEPT = 'SELECT array_agg("no%te" ORDER BY id) AS notes FROM "Odd Schema"."Order" WHERE id > 90'


def test_a_key_that_changes_before_its_row_is_filled_loses_nothing(orders: Engine) -> None:
    """The other table's row follows it by a cascade, whose triggers fire after the statement's own, with what it held before."""
    run = orders.enqueue(MOVE % (ON, "[]"))
    assert orders.drive_to_lanes(run)
    orders.execute(CASCADES)
    assert orders.value(KEPT) == [None, "both", "note %4"]
    expect(orders.drive(run), State.COMPLETED)
    assert orders.value(KEPT.replace('"Odd Schema"."Order"', "order_notes").replace("id", "order_id")) == [
        None,
        "both",
        "note %4",
    ]


def test_a_key_that_changes_before_the_way_back_has_filled_its_row_loses_nothing(orders: Engine) -> None:
    run = orders.enqueue(MOVE % (ON, "[]"))
    expect(orders.drive(run), State.COMPLETED)
    commands.rollback(orders.connection, run, actor="ann")
    assert orders.drive_to_lanes(run, "restore")
    orders.execute(CASCADES)
    expect(orders.drive(run), State.ROLLED_BACK)
    # That it was to be NULL, and not only not filled yet, nobody can tell.
    assert orders.value(KEPT) == ["note %9", "both", "note %4"]


def test_what_a_trigger_of_the_applications_writes_afterwards_stays(orders: Engine) -> None:
    orders.execute(
        'CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE "Odd Schema"."Order" SET "no%te" = \'again\' '
        "WHERE id = new.id AND new.\"no%te\" = 'first'; RETURN NULL; END $$; "
        'CREATE TRIGGER again AFTER UPDATE ON "Odd Schema"."Order" FOR EACH ROW EXECUTE FUNCTION again()'
    )
    run = orders.enqueue(MOVE % (ON, "[contract]"))
    expect(orders.drive(run), State.WAITING)
    orders.execute('UPDATE "Odd Schema"."Order" SET "no%te" = \'first\' WHERE id = 3')
    assert both(orders, 3) == ("again", "again")


@pytest.mark.parametrize("phase", ["switch", "contract"])
def test_a_truncate_is_followed(orders: Engine, phase: str) -> None:
    """Whichever version of the application says so."""
    run = orders.enqueue(MOVE % (ON, f"[{phase}]"))
    expect(orders.drive(run), State.WAITING)
    orders.execute(
        "TRUNCATE order_notes; INSERT INTO order_notes (order_id, tenant, \"no%te\") VALUES (4, 't0', 'after')"
    )
    noted = 'SELECT id FROM "Odd Schema"."Order" WHERE "no%te" IS NOT NULL'
    assert [row["id"] for row in orders.execute(noted)] == [4]
    commands.rollback(orders.connection, run, actor="ann")
    expect(orders.drive(run), State.ROLLED_BACK)
    assert [row["id"] for row in orders.execute(noted)] == [4]
    run = orders.enqueue(MOVE.replace("moved", "again") % (ON, "[contract]"))
    expect(orders.drive(run), State.WAITING)
    orders.execute('TRUNCATE "Odd Schema"."Order" CASCADE')
    assert orders.value("SELECT count(*) FROM order_notes") == 0


def test_a_deadlock_is_the_applications_to_know(orders: Engine) -> None:
    """A statement that went on after it would leave the two tables apart."""
    run = orders.enqueue(MOVE % (ON, "[switch, contract]"))
    expect(orders.drive(run), State.WAITING)
    with orders.connect() as other, orders.connect() as late:
        late.execute("SET lock_timeout = '50ms'")
        with other.transaction():
            other.execute("SELECT FROM order_notes WHERE order_id = 1 FOR UPDATE")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                late.execute(b'UPDATE "Odd Schema"."Order" SET "no%te" = \'x\' WHERE id = 1')
    assert differing(orders) == 0


def test_a_trigger_that_was_switched_off_is_noticed(orders: Engine) -> None:
    """What was written meanwhile is in one of the tables only: all rows are looked at again before the switch."""
    run = orders.enqueue(MOVE % (ON, "[switch, contract]"))
    expect(orders.drive(run), State.WAITING)
    orders.execute("ALTER TABLE order_notes DISABLE TRIGGER USER; UPDATE order_notes SET seen = 1")
    orders.execute('UPDATE "Odd Schema"."Order" SET "no%te" = \'x\' WHERE id = 1')
    commands.approve(orders.connection, run, Phase.SWITCH, actor="ann")
    orders.drive(run)
    assert orders.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '~backfilld%' AND tgenabled <> 'A'") == 0
    assert orders.value("SELECT count(*) FROM backfilld.events WHERE what = 'proof.void'") == 1
    assert differing(orders) == 0


@pytest.mark.parametrize(
    ("made", "on", "check"),
    [
        ('ALTER TABLE order_notes ADD "no%te" text', ON, "column"),
        (
            "ALTER TABLE order_notes ADD must text NOT NULL DEFAULT ''; ALTER TABLE order_notes ALTER must DROP DEFAULT",
            ON,
            "column",
        ),
        ("ALTER TABLE order_notes DROP CONSTRAINT of_order", ON, "references"),
        ("ALTER TABLE order_notes DROP CONSTRAINT order_notes_pkey", ON, "key"),
        ("SELECT 1", "seen", "key"),
        ("SELECT 1", "nothing", "column"),
    ],
)
def test_what_is_refused(orders: Engine, made: str, on: str, check: str) -> None:
    orders.execute(made)
    before = fingerprint(orders.connection)
    with pytest.raises(Refused) as refused:
        examine(orders.connection, definition.parse(MOVE % (on, "[]"))).require()
    assert refused.value.findings[0].check == check
    assert difference(before, fingerprint(orders.connection)) == ""
