"""What later runs have changed that the way back of an earlier one needs: it is refused before it begins, and says what to take back first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import State
from backfilld.producers import commands

if TYPE_CHECKING:
    from pathlib import Path

    from fix_runs import Engine

#: What keeps old values, by its operation; `FILE` is a file with a row that is new, and one that is there.
JOURNALS = {
    "backfill": "backfill: {table: jobs, set: {note: note || '!'}}",
    "delete_rows": "delete_rows: {table: jobs, where: id > 1}",
    "load": "load: {table: jobs, from: {file: FILE}, key: [id]}",
}
#: What a later run does with the column.
LATER = {
    "dropped": "drop_column: {table: jobs, column: note}",
    "renamed": "rename_column: {table: jobs, from: note, to: remark}",
    "retyped": "change_type: {table: jobs, column: note, type: jsonb, up: to_jsonb(note), down: \"note #>> '{}'\"}",
}


def run_of(engine: Engine, name: str, operation: str) -> int:
    run = engine.enqueue(f"name: {name}\noperations: [{{{operation}}}]\nsettings: {{approve: []}}")
    expect(engine.drive(run), State.COMPLETED)
    return run


def roll_back(engine: Engine, run: int) -> None:
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id integer PRIMARY KEY, n integer, note text)")
    engine.execute("INSERT INTO jobs VALUES (1, 1, 'one'), (2, 2, 'two')")


@pytest.mark.parametrize(
    ("kind", "later"),
    [
        *(("load", one) for one in LATER),
        ("backfill", "dropped"),
        ("delete_rows", "renamed"),
        ("delete_rows", "retyped"),
    ],
)
def test_a_later_change_of_a_column_is_taken_back_first(engine: Engine, tmp_path: Path, kind: str, later: str) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text("id,n,note\n2,2,new\n3,3,three\n")
    before = engine.execute("SELECT * FROM jobs ORDER BY id")
    run = run_of(engine, "first", JOURNALS[kind].replace("FILE", str(file)))
    second = run_of(engine, "second", LATER[later])

    with pytest.raises(Refused) as refused:
        commands.rollback(engine.connection, run, actor="test")

    (finding,) = refused.value.findings
    assert "the later run second, which is completed, has" in finding.problem
    assert "jobs.note" in finding.problem
    assert finding.remedy == f"Roll that one back first: backfilld rollback {second}"
    expect(engine.run(run), State.COMPLETED)
    roll_back(engine, second)
    roll_back(engine, run)
    assert engine.execute("SELECT * FROM jobs ORDER BY id") == before


def test_a_column_that_takes_the_old_values_as_well_is_no_obstacle(engine: Engine) -> None:
    run = run_of(engine, "first", "backfill: {table: jobs, set: {n: n + 10}}")
    run_of(engine, "second", "change_type: {table: jobs, column: n, type: bigint}")
    roll_back(engine, run)
    assert [one["n"] for one in engine.execute("SELECT n FROM jobs ORDER BY id")] == [1, 2]


def test_a_column_that_somebody_dropped_by_hand_is_named(engine: Engine) -> None:
    run = run_of(engine, "first", "backfill: {table: jobs, set: {note: note || '!'}}")
    engine.execute("ALTER TABLE jobs DROP COLUMN note")
    with pytest.raises(Refused, match=r"jobs.note is not there any more"):
        commands.rollback(engine.connection, run, actor="test")


def test_a_run_that_moved_a_column_goes_back_after_what_came_of_it(engine: Engine) -> None:
    engine.execute("CREATE TABLE details (job integer PRIMARY KEY REFERENCES jobs)")
    engine.execute("INSERT INTO details SELECT id FROM jobs")
    before = engine.execute("SELECT * FROM jobs ORDER BY id")
    run = run_of(engine, "first", "move_column: {from: jobs, column: note, to: details, on: job}")
    second = run_of(engine, "second", "drop_column: {table: details, column: note}")
    with pytest.raises(Refused, match=f"backfilld rollback {second}"):
        commands.rollback(engine.connection, run, actor="test")
    roll_back(engine, second)
    roll_back(engine, run)
    assert engine.execute("SELECT id, n, note FROM jobs ORDER BY id") == before
