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
