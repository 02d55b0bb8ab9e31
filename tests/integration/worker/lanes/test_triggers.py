"""Triggers of users' see in our batches what they see in the application's statements, and keep nothing from being told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import Engine, expect
from psycopg.rows import dict_row

from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record.states import State
from backfilld.producers import commands

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a session of the application has, and ours begin with: all of it differs from what our batches are evaluated under.
SETTINGS = {
    "search_path": "app, public",
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "ISO, DMY",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "-3",
}

#: A log that names its table without a schema, whatever moment the trigger fires at.
LOG = """
CREATE SCHEMA app;
CREATE TABLE app.log (trigger text, row_id bigint, settings text, batch text);
CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO log SELECT tg_name, CASE WHEN tg_level = 'ROW' THEN new.id END,
    concat_ws(' ', current_setting('search_path'), current_setting('TimeZone'), current_setting('DateStyle'),
              current_setting('IntervalStyle'), current_setting('extra_float_digits'), current_setting('row_security')),
    current_setting('backfilld.batch', true);
  RETURN new;
END $$;
CREATE TABLE app.orders (id bigint PRIMARY KEY, label text, at timestamptz, day date, weight float8, took interval);
INSERT INTO app.orders
SELECT n, 'o' || n, timestamptz '2024-03-01 22:30:00+00', NULL, n / 3.0::float8, make_interval(hours => n::integer)
FROM generate_series(1, 60) n;
"""

#: Every moment at which a trigger may fire.
MOMENTS = {
    "before_statement": "BEFORE UPDATE ON app.orders FOR EACH STATEMENT",
    "before_row": "BEFORE UPDATE ON app.orders FOR EACH ROW WHEN (new.id % 20 = 0)",
    "after_row": "AFTER UPDATE ON app.orders FOR EACH ROW WHEN (new.id % 20 = 0)",
    "after_statement": "AFTER UPDATE ON app.orders FOR EACH STATEMENT",
}
AT_COMMIT = "AFTER UPDATE ON app.orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.id % 20 = 0)"


@pytest.fixture
def theirs(database_url: str) -> Iterator[Engine]:
    """A database whose sessions begin with settings of its own."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = connection.info.dbname
        for setting, value in SETTINGS.items():
            connection.execute(
                f'ALTER DATABASE "{name}" SET {setting} = {value if setting == "search_path" else repr(value)}'
            )
    with (
        psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection,
        open_pool(database_url, size=8) as pool,
    ):
        engine = Engine(url=database_url, connection=connection, pool=pool)
        engine.set_pace()
        engine.execute(LOG)
        yield engine


@pytest.mark.parametrize("walk", ["pages", "keys"])
def test_triggers_see_the_settings_of_the_application(theirs: Engine, walk: str) -> None:
    """At every moment, also at COMMIT and on the way back; the values of the batch, and the journal, are in ours."""
    for name, when in MOMENTS.items():
        theirs.execute(f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION app.note()")
    theirs.execute(f"CREATE CONSTRAINT TRIGGER at_commit {AT_COMMIT} EXECUTE FUNCTION app.note()")
    before = theirs.execute("SELECT id, label, at::text, day::text, weight, took::text FROM app.orders ORDER BY id")
    run = theirs.enqueue(f"""
name: labels
settings: {{lanes: 1, walk: {walk}}}
operations:
  - backfill:
      table: app.orders
      set:
        label: "'o' || id || ' ' || took::text || ' ' || at::text || ' ' || (1 / 3.0::float8)::text"
        day: "at::date"
      where: "day IS NULL"
""")
    expect(theirs.drive(run, batch_rows=20), State.COMPLETED)
    wanted = "SELECT id FROM app.orders WHERE label <> format('o%s %s:00:00 2024-03-01 22:30:00+00 0.3333333333333333', id, lpad(id::text, 2, '0'))"
    assert theirs.execute(wanted) == []
    assert theirs.value("SELECT count(*) FROM app.orders WHERE day = make_date(2024, 3, 1)") == 60
    assert fired(theirs) == {*MOMENTS, "at_commit"}
    theirs.execute("TRUNCATE app.log")
    commands.rollback(theirs.connection, run, actor="ann")
    expect(theirs.drive(run, batch_rows=20), State.ROLLED_BACK)
    assert (
        theirs.execute("SELECT id, label, at::text, day::text, weight, took::text FROM app.orders ORDER BY id")
        == before
    )
    assert fired(theirs) == {*MOMENTS, "at_commit"}


def fired(engine: Engine) -> set[str]:
    """The triggers that have fired, each with the settings of the application and none with others."""
    rows = engine.execute("SELECT DISTINCT trigger, settings, batch FROM log ORDER BY 1")
    assert {row["settings"] for row in rows} == {"app, public Asia/Tokyo ISO, DMY iso_8601 -3 on"}, rows
    assert {row["batch"] for row in rows} == {"on"}
    return {row["trigger"] for row in rows}


#: A range of numbers in partitions, with an audit of statements on the parent: it counts what the application's statements do.
PARTED = """
CREATE SCHEMA app;
CREATE TABLE app.parted (part integer, id bigint, v text, PRIMARY KEY (part, id)) PARTITION BY RANGE (part);
CREATE TABLE app.parted_1 PARTITION OF app.parted FOR VALUES FROM (0) TO (10);
CREATE TABLE app.parted_2 PARTITION OF app.parted FOR VALUES FROM (10) TO (20);
INSERT INTO app.parted SELECT n % 20, n, 'v' || n FROM generate_series(1, 200) n;
CREATE TABLE app.audited (rows bigint);
CREATE FUNCTION app.audit() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO audited SELECT count(*) FROM changed; RETURN NULL; END $$;
CREATE TRIGGER audit AFTER UPDATE ON app.parted REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION app.audit();
"""


@pytest.mark.parametrize("walk", ["pages", "keys"])
def test_statement_triggers_of_a_partitioned_table_fire(theirs: Engine, walk: str) -> None:
    """Pages are walked leaf by leaf, and an UPDATE of a leaf would not fire what the parent has for statements."""
    theirs.execute(PARTED.replace("CREATE SCHEMA app;", ""))
    theirs.execute("CREATE TRIGGER of_leaf AFTER UPDATE ON app.parted_1 FOR EACH STATEMENT EXECUTE FUNCTION app.note()")
    run = theirs.enqueue(f"""
name: parted
settings: {{lanes: 2, walk: {walk}, journal: false}}
operations: [{{backfill: {{table: app.parted, set: {{v: "'w' || id"}}, where: "v LIKE 'v%'"}}}}]
""")
    expect(theirs.drive(run, batch_rows=50), State.COMPLETED)
    assert theirs.value("SELECT sum(rows) FROM audited") == 200
    assert theirs.value("SELECT count(*) FROM log") == 0, "what the application's statements do not fire"
    assert theirs.value("SELECT count(*) FROM app.parted WHERE v = 'w' || id") == 200


def test_a_trigger_that_comes_in_mid_run_sees_the_settings_of_the_application(theirs: Engine) -> None:
    """The batch that meets it first was sent without a thought of it, and is sent again."""
    run = theirs.enqueue("""
name: labels
settings: {lanes: 1, walk: keys}
operations: [{backfill: {table: app.orders, set: {label: "'p' || id"}, where: "label NOT LIKE 'p%'"}}]
""")
    some = "SELECT count(*) FROM app.orders WHERE label LIKE 'p%'"
    theirs.drive(run, batch_rows=20, until=lambda _run: theirs.value(some) == 20)
    theirs.execute("CREATE TRIGGER after_row AFTER UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.note()")
    expect(theirs.drive(run, batch_rows=20), State.COMPLETED)
    assert fired(theirs) == {"after_row"}
    assert theirs.value("SELECT count(DISTINCT row_id) FROM log") == 40


def test_other_code_of_the_table_runs_under_the_settings_of_the_application_too(theirs: Engine) -> None:
    """A CHECK that calls a function, and what a foreign key changes along with the column it refers to."""
    theirs.execute("""
CREATE TABLE app.known (label text);
INSERT INTO app.known SELECT 'p' || n FROM generate_series(1, 60) n;
CREATE FUNCTION app.is_known(text) RETURNS boolean LANGUAGE plpgsql AS
$$ BEGIN RETURN EXISTS (SELECT FROM known WHERE label = $1) OR $1 LIKE 'o%'; END $$;
ALTER TABLE app.orders ADD CONSTRAINT known CHECK (app.is_known(label)), ADD UNIQUE (label);
CREATE TABLE app.lines (id bigint PRIMARY KEY, label text REFERENCES app.orders (label) ON UPDATE CASCADE);
INSERT INTO app.lines SELECT n, 'o' || n FROM generate_series(1, 60) n;
CREATE TRIGGER of_lines AFTER UPDATE ON app.lines FOR EACH ROW EXECUTE FUNCTION app.note();
""")
    run = theirs.enqueue("""
name: labels
settings: {lanes: 1}
operations: [{backfill: {table: app.orders, set: {label: "'p' || id"}, where: "label LIKE 'o%'"}}]
""")
    expect(theirs.drive(run, batch_rows=20), State.COMPLETED)
    assert fired(theirs) == {"of_lines"}
    assert theirs.value("SELECT count(*) FROM app.lines WHERE label = 'p' || id") == 60


def test_rows_that_a_trigger_refuses_are_quarantined_and_the_others_done(theirs: Engine) -> None:
    """The batch is halved until the row is alone; before and behind every savepoint our settings are in force."""
    theirs.execute("""
CREATE FUNCTION app.refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
  IF new.id = 33 THEN RAISE 'closed'; END IF;
  INSERT INTO log SELECT tg_name, new.id, current_setting('TimeZone');
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON app.orders DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION app.refuse();
""")
    run = theirs.enqueue("""
name: labels
settings: {lanes: 1}
operations: [{backfill: {table: app.orders, set: {label: "at::text"}, where: "label LIKE 'o%'"}}]
""")
    expect(theirs.drive(run), State.PAUSED)
    assert [row.key for row in theirs.quarantined(run)] == [("33",)]
    assert theirs.value("SELECT count(*) FROM app.orders WHERE label = '2024-03-01 22:30:00+00'") == 59
    assert theirs.execute("SELECT DISTINCT settings FROM log") == [{"settings": "Asia/Tokyo"}]


@pytest.mark.parametrize("does", ["new.label := old.label; RETURN new", "RETURN old", "RETURN NULL"])
def test_a_trigger_that_keeps_rows_from_being_changed_is_named(theirs: Engine, does: str) -> None:
    """At the first look, not after ten passes; and `resume` continues once it is out of the way."""
    run = theirs.enqueue("""
name: labels
settings: {lanes: 1}
operations: [{backfill: {table: app.orders, set: {label: "'p' || id"}, where: "label LIKE 'o%'"}}]
""")
    theirs.drive_to_lanes(run)
    theirs.execute(f"""
CREATE FUNCTION app.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; END $$;
CREATE TRIGGER keep BEFORE UPDATE ON app.orders FOR EACH ROW WHEN (new.id > 50) EXECUTE FUNCTION app.keep();
""")
    now = theirs.drive(run, batch_rows=20)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert (now.error["class"], now.residual_rows, now.pass_) == ("undone", 10, 2)
    assert "the trigger keep on app.orders" in now.error["message"]

    theirs.execute("DROP TRIGGER keep ON app.orders")
    commands.resume(theirs.connection, run, actor="ann")
    expect(theirs.drive(run), State.COMPLETED)
    assert theirs.value("SELECT count(*) FROM app.orders WHERE label = 'p' || id") == 60


def test_a_trigger_that_fails_in_mid_run_is_named(theirs: Engine) -> None:
    run = theirs.enqueue("""
name: labels
settings: {lanes: 1}
operations: [{backfill: {table: app.orders, set: {label: "'p' || id"}, where: "label LIKE 'o%'"}}]
""")
    theirs.drive_to_lanes(run)
    theirs.execute("""
CREATE FUNCTION app.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM n FROM nowhere; RETURN new; END $$;
CREATE TRIGGER fails BEFORE UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.fails();
""")
    now = theirs.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert 'relation "nowhere" does not exist, in PL/pgSQL function fails()' in now.error["message"]


def test_a_trigger_that_keeps_an_added_column_empty_is_named(theirs: Engine) -> None:
    """Nothing showed it before: the column was not there yet when the triggers were tried."""
    theirs.execute("""
CREATE FUNCTION app.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN old; END $$;
CREATE TRIGGER keep BEFORE UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.keep();
""")
    run = theirs.enqueue("""
name: shout
settings: {lanes: 1}
operations: [{add_column: {table: app.orders, column: {name: shout, type: text}, backfill: "upper(label)"}}]
""")
    now = theirs.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert (now.error["class"], now.residual_rows) == ("undone", 60)
    assert "the trigger keep on app.orders" in now.error["message"]

    theirs.execute("DROP TRIGGER keep ON app.orders")
    commands.resume(theirs.connection, run, actor="ann")
    expect(theirs.drive(run), State.WAITING)
    assert theirs.value("SELECT count(*) FROM app.orders WHERE shout = 'O' || id") == 60
