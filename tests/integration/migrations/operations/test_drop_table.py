"""`drop_table`: out of reach once it is approved, back in a moment until its retention ends, and gone then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_rules import engine_at, whole_way_back_from_every_other_step
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record import runs
from backfilld.migrations.record.states import State
from backfilld.migrations.rollback import retention
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

#: Named as a table of backfilld's own is, with an index of the same name too.
EVENTS = """
CREATE TABLE customers (id bigint PRIMARY KEY);
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer bigint REFERENCES customers, "a%b" text UNIQUE, n serial);
CREATE INDEX events_of_run ON events (customer);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_them ON events USING (true);
CREATE STATISTICS pairs ON id, customer FROM events;
GRANT SELECT ON events TO PUBLIC; GRANT UPDATE ("a%b") ON events TO PUBLIC;
COMMENT ON TABLE events IS 'it''s';
INSERT INTO customers VALUES (1); INSERT INTO events (customer, "a%b") VALUES (1, 'x'), (1, 'y');
"""
GONE = "events"


def drop(table: str = GONE, *, approve: tuple[str, ...] = (), name: str = "gone") -> str:
    return json.dumps(
        {"name": name, "operations": [{"drop_table": {"table": table}}], "settings": {"approve": approve}}
    )


@pytest.fixture(autouse=True)
def events(engine: Engine) -> None:
    engine.execute(EVENTS)


def kept(engine: Engine) -> list[str]:
    rows = engine.execute(
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'backfilld'::regnamespace AND relname ~ '^table_' AND relkind = 'r'"
    )
    return [row["name"] for row in rows]


def test_back_from_every_other_step_with_all_that_it_had(engine: Engine) -> None:
    rows = engine.execute("SELECT * FROM events ORDER BY id")
    assert whole_way_back_from_every_other_step(engine, drop()) > 4
    assert engine.execute("SELECT * FROM events ORDER BY id") == rows
    assert engine.value("INSERT INTO events (\"a%b\") VALUES ('z') RETURNING n") == 3


def test_nobody_reaches_it_once_it_is_gone(engine: Engine, plain_role_url: str) -> None:
    expect(engine.drive(engine.enqueue(drop())), State.COMPLETED)
    (name,) = kept(engine)
    with psycopg.connect(plain_role_url, autocommit=True) as other:
        with pytest.raises(psycopg.errors.UndefinedTable):
            other.execute("SELECT FROM events")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute(f"SELECT FROM backfilld.{name}".encode())


def test_it_keeps_no_row_of_another_table_and_names_those_that_refer_to_nothing(engine: Engine) -> None:
    run = engine.enqueue(drop())
    expect(engine.drive(run), State.COMPLETED)
    engine.execute("DELETE FROM customers")
    commands.rollback(engine.connection, run, actor="ann")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "2 rows, by key: 1, 2" in now.error["message"]
    assert engine.value("SELECT count(*) FROM events") == 2
    engine.execute("INSERT INTO customers VALUES (1)")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)


def test_it_is_kept_until_the_retention_ends_and_then_there_is_no_way_back(engine: Engine) -> None:
    run = engine.enqueue(drop())
    expect(engine.drive(run), State.COMPLETED)
    assert retention.size(engine.connection, run)["archive_bytes"] > 0
    with engine.connection.transaction():
        locked = runs.lock(engine.connection, run)
        assert locked is not None
        retention.purge(engine.connection, locked, actor="ann")
    assert kept(engine) == []
    with pytest.raises(Refused, match="were dropped on"):
        commands.rollback(engine.connection, run, actor="ann")


def test_what_a_later_run_of_the_name_keeps_is_not_an_earlier_ones_to_purge(engine: Engine) -> None:
    first = engine.enqueue(drop())
    engine.drive(first)
    commands.rollback(engine.connection, first, actor="ann")
    expect(engine.drive(first), State.ROLLED_BACK)
    engine.sent.clear()
    second = engine.enqueue(drop())
    expect(engine.drive(second), State.COMPLETED)
    with engine.connection.transaction():
        locked = runs.lock(engine.connection, first)
        assert locked is not None
        retention.purge(engine.connection, locked, actor="ann")
    assert len(kept(engine)) == 1
    commands.rollback(engine.connection, second, actor="ann")
    expect(engine.drive(second), State.ROLLED_BACK)


def test_two_tables_of_one_name_are_kept_side_by_side(engine: Engine) -> None:
    expect(engine.drive(engine.enqueue(drop())), State.COMPLETED)
    engine.execute("CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    engine.sent.clear()
    expect(engine.drive(engine.enqueue(drop(name="again"))), State.COMPLETED)
    assert len(kept(engine)) == 2


def test_what_was_made_of_it_meanwhile_stops_the_drop(engine: Engine) -> None:
    run = engine.enqueue(drop(approve=("contract",)))
    expect(engine.drive(run), State.WAITING)
    engine.execute("CREATE VIEW late AS SELECT id FROM events")
    commands.approve(engine.connection, run, "contract", actor="ann")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "'view public.late' was created since" in now.error["message"]
    engine.execute("DROP VIEW late")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


REFUSED = {
    "a view": ("CREATE VIEW v AS SELECT id FROM events", "view public.v depends on events"),
    "a foreign key": (
        "CREATE TABLE refers (event bigint REFERENCES events)",
        "the foreign key refers_event_fkey of public.refers",
    ),
    "a function": (
        "CREATE FUNCTION all_events() RETURNS SETOF events LANGUAGE sql AS 'SELECT * FROM events'",
        "function public.all_events()",
    ),
    "a policy": (
        "CREATE POLICY p ON customers USING (EXISTS (SELECT FROM events WHERE customer = customers.id))",
        "policy p on table public.customers",
    ),
    "a default": (
        "CREATE TABLE others (n bigint DEFAULT nextval('events_n_seq'))",
        "default value for column n of table public.others",
    ),
    "a publication": ("CREATE PUBLICATION pub FOR TABLE events", "is published by pub"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_it_is_named(engine: Engine, what: str) -> None:
    statement, problem = REFUSED[what]
    engine.execute(statement)
    with pytest.raises(Refused) as refused:
        engine.enqueue(drop())
    assert problem in str(refused.value)


def test_on_supabase_the_projects_own_role_can(supabase_url: str) -> None:
    with engine_at(supabase_url) as engine:
        engine.execute(EVENTS)
        run = engine.enqueue(drop())
        expect(engine.drive(run), State.COMPLETED)
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
