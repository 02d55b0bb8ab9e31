"""The schema backfilld dropped under a run: the worker is well once there is one again, and what the run left is told by name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.migrations.record import schema
from backfilld.migrations.record.states import Phase, State
from backfilld.producers.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_runs import Engine

    from backfilld.migrations.record.model import Run

TYPE = "{change_type: {table: jobs, column: n, type: bigint}}"
ADD = '{add_column: {table: jobs, column: {name: twice, type: bigint}, backfill: "n * 2", not_null: true}}'
RENAME = "{rename_column: {table: jobs, from: m, to: new}}"
OTHER = '{backfill: {table: jobs, set: {m: "m + 1"}}}'
ROWS = 20


def text(name: str, operation: str) -> str:
    return f"name: {name}\noperations: [{operation}]\nsettings: {{lanes: 1, approve: [contract]}}\n"


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer NOT NULL, m integer)")
    engine.execute("INSERT INTO jobs SELECT n, n, n FROM generate_series(1, %s) n", ROWS)
    engine.execute("CREATE INDEX jobs_n ON jobs (n)")


def lost(engine: Engine, operation: str, until: Callable[[Run], bool]) -> None:
    """A run comes so far, and then its record is gone."""
    run = engine.enqueue(text("lost", operation))
    engine.drive(run, until=until)
    engine.execute("DROP SCHEMA backfilld CASCADE")
    schema.ensure(engine.connection)
    engine.set_pace()
    engine.sent.clear()


def is_in(phase: Phase, run: Run) -> bool:
    return run.phase is phase


def told(engine: Engine, operation: str = OTHER) -> str:
    examination = examine.examine(engine.connection, definition.parse(text("next", operation)))
    return "\n".join([*examination.warnings, *map(str, examination.findings)])


def test_a_worker_takes_the_new_run_of_a_number_for_what_it_is(engine: Engine) -> None:
    """Numbers begin anew: what it knows of the old run 1 is nothing that it may do for the new one."""
    lost(engine, '{backfill: {table: jobs, set: {n: "n + 100"}}}', lambda run: run.phase is Phase.VERIFY)
    before = engine.execute("SELECT n FROM jobs ORDER BY id")
    run = engine.enqueue(text("next", OTHER))
    assert run == 1
    expect(engine.drive(run), State.COMPLETED)
    assert engine.execute("SELECT n FROM jobs ORDER BY id") == before
    assert engine.value("SELECT count(*) FROM jobs WHERE m = id + 1") == ROWS


@pytest.mark.parametrize("phase", [Phase.SWITCH, Phase.CONTRACT])
def test_what_is_left_is_named_with_what_removes_it(engine: Engine, phase: Phase) -> None:
    lost(engine, TYPE, lambda run: run.phase is phase)
    found = told(engine)
    said: list[str] = []
    engine.execute("DROP SCHEMA backfilld CASCADE")
    Client(engine.url, warn=said.append).init()
    assert len(said) == 1
    assert all(part in found for part in said[0].removeprefix("public.").split(", "))
    column = "n_backfilld_new" if phase is Phase.SWITCH else "n_backfilld_old"
    assert f"the column {column}" in found
    (statements,) = [line.partition("To remove it: ")[2] for line in found.splitlines() if "To remove it" in line]
    for statement in statements.split("; "):
        engine.execute(statement)
    assert "backfilld" not in told(engine)
    assert not any(
        "backfilld" in row["name"]
        for row in engine.execute(
            "SELECT attname::text AS name FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND NOT attisdropped "
            "UNION ALL SELECT conname FROM pg_constraint WHERE conrelid = 'jobs'::regclass "
            "UNION ALL SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'jobs'::regclass"
        )
    )


@pytest.mark.parametrize(("operation", "column"), [(TYPE, "n_backfilld_new"), (ADD, "twice"), (RENAME, "new")])
def test_the_same_again_is_refused_with_what_removes_it(engine: Engine, operation: str, column: str) -> None:
    lost(engine, operation, lambda run: run.phase is Phase.BACKFILL)
    with pytest.raises(Refused, match=f'DROP COLUMN "{column}"'):
        engine.enqueue(text("lost", operation))
    engine.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
    expect(engine.drive(engine.enqueue(text("lost", operation))), State.WAITING)


def test_what_a_run_on_record_has_made_is_not_lost(engine: Engine) -> None:
    run = engine.enqueue(text("kept", TYPE))
    engine.drive(run, until=lambda run: run.phase is Phase.SWITCH)
    assert "record is lost" not in told(engine)


def test_what_a_run_on_record_has_made_in_a_table_that_refers_to_its_key_is_not_lost(engine: Engine) -> None:
    engine.execute("CREATE TABLE notes (id bigint PRIMARY KEY, job bigint NOT NULL REFERENCES jobs, words text)")
    key = '{change_key: {table: jobs, column: id, type: uuid, values: "gen_random_uuid()"}}'
    run = engine.enqueue(text("kept", key))
    for phase, column in ((Phase.SWITCH, "job_backfilld_new"), (Phase.CONTRACT, "job_backfilld_old")):
        engine.drive(run, until=partial(is_in, phase))
        assert engine.value("SELECT count(*) FROM pg_attribute WHERE attname = %s", column) == 1
        assert "record is lost" not in told(engine, '{backfill: {table: notes, set: {words: "upper(words)"}}}')
