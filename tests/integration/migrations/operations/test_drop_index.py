"""`drop_index`: gone while the application goes on, and built again on the way back as it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_daemon import until
from fix_indexes import BUILDING, aside, index, open_writer
from fix_runs import expect
from psycopg import sql

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning.examine import examine
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands
from backfilld.worker.side_tasks.control import Control

if TYPE_CHECKING:
    from fix_runs import Engine

NAME = "jobs_status_idx"
#: Of every sort that a definition can be.
DEFINITIONS = {
    "columns": "CREATE INDEX {} ON jobs (status, id)",
    "unique": "CREATE UNIQUE INDEX {} ON jobs (status)",
    "expression": "CREATE INDEX {} ON jobs USING btree (lower(status) DESC, (id % 2)) WITH (fillfactor = 60)",
    "partial": "CREATE INDEX {} ON jobs (status text_pattern_ops) INCLUDE (id) WHERE status LIKE '100%' OR status = '{{}}'",
    "hash": "CREATE INDEX {} ON jobs USING hash (status)",
}


def drop(approve: tuple[str, ...] = (), name: str = NAME, table: str = "jobs") -> str:
    operation = {"drop_index": {"table": table, "name": name}}
    return json.dumps({"name": "drop", "operations": [operation], "settings": {"approve": approve}})


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs SELECT n, 'open ' || n FROM generate_series(1, 100) n")


def make(engine: Engine, text: str, name: str = NAME) -> None:
    engine.connection.execute(sql.SQL(text).format(sql.Identifier(name)))


def definition_of(engine: Engine) -> str:
    return str(engine.value("SELECT pg_get_indexdef(%s::regclass)", NAME))


@pytest.mark.parametrize("case", DEFINITIONS)
def test_an_index_is_dropped_and_comes_back_as_it_was(engine: Engine, case: str) -> None:
    make(engine, DEFINITIONS[case])
    engine.execute(f"COMMENT ON INDEX {NAME} IS 'for the page of open jobs; 100 %''s'")
    before = definition_of(engine)
    run = engine.enqueue(drop())
    expect(engine.drive(run), State.COMPLETED)
    assert index(engine, NAME) is None

    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert definition_of(engine) == before
    found = index(engine, NAME)
    assert found is not None
    assert found.valid
    assert engine.value("SELECT obj_description(%s::regclass)", NAME) == "for the page of open jobs; 100 %'s"


def test_it_waits_for_approval_by_default(engine: Engine) -> None:
    make(engine, DEFINITIONS["columns"])
    run = engine.enqueue(drop(approve=("contract",)))
    expect(engine.drive(run), State.WAITING)
    assert index(engine, NAME) is not None
    commands.approve(engine.connection, run, "contract", actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert index(engine, NAME) is None


@pytest.mark.parametrize("phase", [Phase.EXPAND, Phase.BACKFILL, Phase.VERIFY, Phase.SWITCH, Phase.CONTRACT])
def test_back_from_every_phase(engine: Engine, phase: Phase) -> None:
    make(engine, DEFINITIONS["partial"])
    there = index(engine, NAME)
    run = engine.enqueue(drop())
    engine.drive(run, until=lambda run: run.phase is phase)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert index(engine, NAME) == there


def test_a_pause_and_a_rollback_in_the_middle_of_the_drop(engine: Engine) -> None:
    """It waits for a writer; approved, so that nothing of the run itself may be locked meanwhile."""
    make(engine, DEFINITIONS["unique"])
    before = definition_of(engine)
    run = engine.enqueue(drop(approve=("contract",)))
    engine.drive(run)
    commands.approve(engine.connection, run, "contract", actor="ann")
    with open_writer(engine):
        with aside(engine, engine.message(run)):
            until("the drop to be under way", lambda: engine.value(f"{BUILDING} AND wait_event_type = 'Lock'"))
            commands.pause(engine.connection, run, actor="ann")
        Control(observe=engine.events.append).run_once(engine.connection)
        expect(engine.run(run), State.PAUSED)
        commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert definition_of(engine) == before
    found = index(engine, NAME)
    assert found is not None
    assert found.valid


def test_the_way_back_meets_duplicates_that_came_meanwhile(engine: Engine) -> None:
    make(engine, DEFINITIONS["unique"])
    run = engine.enqueue(drop())
    expect(engine.drive(run), State.COMPLETED)
    engine.execute("INSERT INTO jobs VALUES (1000, 'open 7')")
    commands.rollback(engine.connection, run, actor="ann")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "Key (status)=(open 7) is duplicated" in now.error["message"]
    assert index(engine, NAME) is None
    engine.execute("DELETE FROM jobs WHERE id = 1000")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert index(engine, NAME) is not None


def test_an_index_that_became_another_is_left_alone(engine: Engine) -> None:
    make(engine, DEFINITIONS["columns"])
    run = engine.enqueue(drop())
    engine.execute(f"DROP INDEX {NAME}")
    make(engine, DEFINITIONS["hash"])
    there = index(engine, NAME)
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "has changed since the run was enqueued" in now.error["message"]
    assert index(engine, NAME) == there


def test_an_invalid_index_can_be_dropped(engine: Engine) -> None:
    engine.execute("UPDATE jobs SET status = 'same'")
    with engine.connect() as other, pytest.raises(psycopg.errors.UniqueViolation):
        other.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {NAME} ON jobs (status)")
    expect(engine.drive(engine.enqueue(drop())), State.COMPLETED)
    assert index(engine, NAME) is None


def test_readers_and_writers_go_on_while_it_waits(engine: Engine) -> None:
    make(engine, DEFINITIONS["columns"])
    run = engine.enqueue(drop())
    engine.drive(run, until=lambda run: run.phase is Phase.CONTRACT)
    with open_writer(engine) as writer, aside(engine, engine.message(run)):
        until("the drop to be under way", lambda: engine.value(f"{BUILDING} AND wait_event_type = 'Lock'"))
        with engine.connect() as application:
            application.execute("SET statement_timeout = '300ms'")
            application.execute("INSERT INTO jobs VALUES (1000, 'new')")
            application.execute("SELECT FROM jobs WHERE status = 'new'")
        writer.execute("COMMIT")
    expect(engine.drive(run), State.COMPLETED)


REFUSED = {
    "a constraint's": ("jobs_pkey", "belongs to the constraint jobs_pkey", "DROP CONSTRAINT"),
    "a foreign key's": (
        "by_key",
        "the foreign key others_status_fkey on public.others depends on by_key",
        "first",
    ),
    "the replica identity": ("identity", "is the replica identity", "REPLICA IDENTITY"),
    "nothing": ("jobs_statu_idx", "jobs has no index jobs_statu_idx", "Did you mean jobs_status_idx?"),
    "another table's": ("others_idx", "others_idx is an index of others", "Name an index of jobs"),
    "a table": ("others", "others is no index", "Name an index of jobs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_remedy(engine: Engine, case: str) -> None:
    name, problem, remedy = REFUSED[case]
    make(engine, DEFINITIONS["columns"])
    engine.execute(
        "CREATE UNIQUE INDEX by_key ON jobs (status); ALTER TABLE jobs ALTER status SET NOT NULL;"
        "CREATE UNIQUE INDEX identity ON jobs (id, status); ALTER TABLE jobs REPLICA IDENTITY USING INDEX identity;"
        "CREATE TABLE others (status text REFERENCES jobs (status)); CREATE INDEX others_idx ON others (status)"
    )
    with pytest.raises(Refused) as refused:
        engine.enqueue(drop(name=name))
    assert problem in str(refused.value)
    assert remedy in str(refused.value)


def test_what_is_used_is_told_of(engine: Engine) -> None:
    make(engine, DEFINITIONS["unique"])
    engine.execute("SET enable_seqscan = off")

    def used() -> bool:
        engine.execute("SELECT FROM jobs WHERE status = 'open 7'")
        engine.hand_in_counts()
        return bool(engine.value("SELECT idx_scan > 0 FROM pg_stat_user_indexes WHERE indexrelname = %s", NAME))

    until("the statistics to know", used)
    engine.execute(f"CLUSTER jobs USING {NAME}")
    warnings = "; ".join(examine(engine.connection, definition.parse(drop())).warnings)
    assert f"{NAME} was used" in warnings
    assert "duplicates are accepted" in warnings
    assert "jobs is clustered on" in warnings
