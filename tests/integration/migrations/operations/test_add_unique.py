"""`add_unique`: the index is built beside the application, and becomes a constraint in a moment."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_daemon import until
from fix_indexes import aside, open_writer, phase_of_build, to_build
from fix_runs import expect
from psycopg import sql

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.planning.examine import examine
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

NAME = "users_email_key"


def unique(approve: tuple[str, ...] = (), **also: Any) -> str:
    """Any: what a file may say."""
    operation = {"add_unique": {"table": "users", "name": NAME, "columns": ["email"], **also}}
    return json.dumps({"name": "unique", "operations": [operation], "settings": {"approve": approve}})


@pytest.fixture(autouse=True)
def users(engine: Engine) -> None:
    engine.execute("CREATE TABLE users (id bigint PRIMARY KEY, email text, tenant integer NOT NULL DEFAULT 1)")
    engine.execute("INSERT INTO users SELECT n, n || '@example.org' FROM generate_series(1, 100) n")


def constraint(engine: Engine, name: str = NAME) -> str | None:
    rows = engine.execute("SELECT pg_get_constraintdef(oid) AS it FROM pg_constraint WHERE conname = %s", name)
    return rows[0]["it"] if rows else None


def relations(engine: Engine) -> int:
    return int(engine.value("SELECT count(*) FROM pg_class WHERE relname = %s", NAME))


def test_a_constraint_is_added_and_taken_back(engine: Engine) -> None:
    run = engine.enqueue(unique())
    expect(engine.drive(run), State.COMPLETED)
    assert constraint(engine) == "UNIQUE (email)"
    with pytest.raises(psycopg.errors.UniqueViolation):
        engine.execute("INSERT INTO users VALUES (1000, '7@example.org')")

    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert relations(engine) == 0
    engine.execute("INSERT INTO users VALUES (1000, '7@example.org')")


@pytest.mark.parametrize("phase", [Phase.EXPAND, Phase.BACKFILL, Phase.VERIFY, Phase.SWITCH, Phase.CONTRACT])
def test_back_from_every_phase(engine: Engine, phase: Phase) -> None:
    run = engine.enqueue(unique())
    engine.drive(run, until=lambda run: run.phase is phase)
    assert relations(engine) == phase.is_past(Phase.VERIFY)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert relations(engine) == 0


def test_back_from_the_middle_of_the_build(engine: Engine) -> None:
    run = engine.enqueue(unique())
    engine.drive(run, until=to_build)
    with engine.connect() as application, application.transaction():
        application.execute("UPDATE users SET email = email WHERE id = 1")
        with aside(engine, engine.message(run)):
            until("the build to wait", lambda: phase_of_build(engine))
            commands.rollback(engine.connection, run, actor="ann")
        assert relations(engine) == 1
    expect(engine.drive(run), State.ROLLED_BACK)
    assert relations(engine) == 0


def test_duplicates_are_named_and_mended(engine: Engine) -> None:
    engine.execute("UPDATE users SET email = 'same' WHERE id IN (5, 50)")
    engine.execute("UPDATE users SET email = NULL WHERE id > 90")
    run = engine.enqueue(unique())
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert now.error["class"] == "violated"
    assert "5, 50" in now.error["message"]
    assert relations(engine) == 0
    engine.execute("DELETE FROM users WHERE id = 50")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


def test_a_column_that_the_same_file_adds(engine: Engine) -> None:
    """Values that the walk itself makes the same are no reason to walk again and again."""
    text = """
name: tokens
operations:
  - add_column: {table: users, column: {name: token, type: text}, backfill: "'t' || (id / 2)"}
  - add_unique: {table: users, name: users_token_key, columns: [token]}
settings: {lanes: 1, approve: []}
"""
    run = engine.enqueue(text)
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.pass_ == 2
    assert now.error is not None
    assert now.error["class"] == "violated"
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    again = engine.enqueue(text.replace("id / 2", "id"))
    expect(engine.drive(again), State.COMPLETED)
    assert constraint(engine, "users_token_key") == "UNIQUE (token)"


def test_odd_names(engine: Engine) -> None:
    table = TableName('Odd "S%s', "select")
    engine.connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(table.schema)))
    engine.connection.execute(
        sql.SQL('CREATE TABLE {} (id bigint PRIMARY KEY, "a%b" text, "Ü" int)').format(table.identifier)
    )
    run = engine.enqueue(unique(table=str(table), name='k%"(', columns=["a%b", "Ü"]))
    expect(engine.drive(run), State.COMPLETED)
    assert constraint(engine, 'k%"(') == 'UNIQUE ("a%b", "Ü")'
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)


def test_the_switch_waits_briefly_and_the_application_goes_on(engine: Engine) -> None:
    run = engine.enqueue(unique())
    engine.drive(run, until=lambda run: run.phase is Phase.SWITCH)
    with engine.connect() as reader, reader.transaction():
        reader.execute("SELECT FROM users LIMIT 1")
        engine.step()
        error = engine.lane(run, 0).last_error
        assert error is not None
        assert error["sqlstate"] == "55P03"
        engine.execute("SELECT count(*) FROM users")
    expect(engine.drive(run), State.COMPLETED)


def test_what_cannot_be_is_refused(engine: Engine) -> None:
    engine.execute("ALTER TABLE users ADD CONSTRAINT there CHECK (id > 0)")
    with pytest.raises(Refused, match="users already has a constraint there: CHECK"):
        engine.enqueue(unique(name="there"))
    with pytest.raises(Refused, match='column "nothing" does not exist'):
        engine.enqueue(unique(columns=["nothing"]))
    found = examine(engine.connection, definition.parse(unique()))
    assert any("rows in which email is NULL may repeat" in one for one in found.warnings)


def test_a_writer_holds_up_the_build_alone(engine: Engine) -> None:
    """Others write on while the build waits for one of them."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs VALUES (1, 'open')")
    run = engine.enqueue(unique(table="jobs", name="jobs_status_key", columns=["status"]))
    engine.drive(run, until=to_build)
    with open_writer(engine) as writer, aside(engine, engine.message(run)):
        until("the build to wait", lambda: phase_of_build(engine))
        engine.execute("SET statement_timeout = '300ms'")
        engine.execute("INSERT INTO jobs VALUES (2, 'new')")
        writer.execute("COMMIT")
    expect(engine.drive(run), State.COMPLETED)
