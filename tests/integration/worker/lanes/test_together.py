"""Several operations on one table: one pass writes the columns of all of them; what goes wrong is one operation's alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

ROWS = 90
#: Each row counts how often it was written.
JOBS = """
CREATE TABLE jobs (id bigint PRIMARY KEY, total bigint, status text, code text, pages integer);
INSERT INTO jobs SELECT n, n, 'S' || n, n::text, n FROM generate_series(1, %s) n;
"""
COUNTED = """
ALTER TABLE jobs ADD COLUMN writes integer NOT NULL DEFAULT 0;
CREATE FUNCTION count_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.writes := old.writes + 1; RETURN new; END $$;
CREATE TRIGGER count_write BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION count_write();
"""
OPERATIONS: list[dict[str, object]] = [
    {"add_column": {"table": "jobs", "column": {"name": "label", "type": "text"}, "backfill": "lower(status)"}},
    {"add_column": {"table": "jobs", "column": {"name": "number", "type": "integer"}, "backfill": "code::integer", "computed": True}},
    {"rename_column": {"table": "jobs", "from": "total", "to": "revenue"}},
    {"backfill": {"table": "jobs", "set": {"pages": "length(status) * 100"}, "where": "id > 80"}},
]  # fmt: skip


def make(engine: Engine, *, counted: bool = False) -> None:
    engine.execute(JOBS.replace("%s", str(ROWS)))
    if counted:
        engine.execute(COUNTED)


def enqueue(engine: Engine, operations: list[dict[str, object]], **settings: object) -> int:
    settings = {"lanes": 2, "approve": ["contract"], **settings}
    return engine.enqueue(json.dumps({"name": "several", "operations": operations, "settings": settings}))


def walked(engine: Engine, run: int) -> set[tuple[int | None, int]]:
    """The operations that lanes of the first pass were made for, and how many rows those changed."""
    lanes = [lane for lane in engine.lanes(run, "backfill") if lane.pass_ == 1]
    return {
        (number, sum(lane.rows_changed for lane in lanes if lane.operation == number))
        for number in {lane.operation for lane in lanes}
    }


RIGHT = (
    "SELECT count(*) FROM jobs WHERE label = 's' || id AND number = id AND revenue = id "
    "AND pages = CASE WHEN id > 80 THEN 300 ELSE id END"
)


@pytest.mark.parametrize("walk", ["pages", "keys"])
@pytest.mark.parametrize("counted", [False, True])
def test_one_pass_writes_the_columns_of_all(engine: Engine, walk: str, *, counted: bool) -> None:
    make(engine, counted=counted)
    run = enqueue(engine, OPERATIONS, walk=walk)
    expect(engine.drive(run, batch_rows=20), State.WAITING)
    assert walked(engine, run) == {(0, ROWS)}
    assert engine.value(RIGHT) == ROWS
    if counted:
        assert engine.value("SELECT count(*) FROM jobs WHERE writes = 1") == ROWS, "one version of each row"
    assert {lane.operation for lane in engine.lanes(run, "verify")} == {0}
    assert engine.value(f"SELECT sum(rows) FROM backfilld.journal_{run}") == 10, (
        "what the backfill replaced, and no more"
    )
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=20), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM jobs WHERE total = id AND pages = id") == ROWS


def test_a_row_that_cannot_be_converted_is_one_operations_and_the_others_write_it(engine: Engine) -> None:
    make(engine)
    engine.execute("UPDATE jobs SET code = 'seven' WHERE id = 7")
    run = enqueue(engine, OPERATIONS)
    expect(engine.drive(run, batch_rows=20), State.PAUSED)
    assert [(row.operation, row.key, row.sqlstate) for row in engine.quarantined(run)] == [(1, ("7",), "22P02")]
    assert engine.value("SELECT label || revenue FROM jobs WHERE id = 7") == "s77"
    engine.execute("UPDATE jobs SET code = '7' WHERE id = 7")
    commands.retry(engine.connection, run, actor="ann")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=20), State.WAITING)
    assert engine.value(RIGHT) == ROWS


def test_a_row_that_needs_work_again_is_walked_by_its_operation(engine: Engine) -> None:
    """The trigger keeps the others right; nothing does for a backfill."""
    make(engine)
    run = enqueue(engine, OPERATIONS)
    engine.drive(run, batch_rows=20, until=lambda run: run.phase is Phase.VERIFY)
    engine.execute("UPDATE jobs SET pages = 1 WHERE id = 81")
    expect(engine.drive(run, batch_rows=20), State.WAITING)
    assert engine.value(RIGHT) == ROWS
    again = [(lane.operation, lane.rows_changed) for lane in engine.lanes(run, "backfill") if lane.pass_ == 2]
    assert again == [(3, 1)]


@pytest.mark.parametrize(
    "other",
    [
        {"backfill": {"table": "jobs", "set": {"code": "'1'"}}},  # what the first reads
        {"backfill": {"table": "jobs", "set": {"pages": "pages + 1"}}},  # has to be walked by its key, each row once
        {"backfill": {"table": "others", "set": {"n": "1"}}},
    ],
)
def test_what_depends_on_the_other_is_walked_by_itself(engine: Engine, other: dict[str, object]) -> None:
    make(engine)
    engine.execute("CREATE TABLE others (id bigint PRIMARY KEY, n integer); INSERT INTO others VALUES (1, 2)")
    run = enqueue(engine, [OPERATIONS[1], other])
    engine.drive_to_lanes(run)
    assert {lane.operation for lane in engine.lanes(run, "backfill")} == {0, 1}


def test_without_a_journal_a_rollback_is_refused_whoevers_lanes_they_were(engine: Engine) -> None:
    make(engine)
    run = enqueue(engine, OPERATIONS, journal=False)
    expect(engine.drive(run, batch_rows=20), State.WAITING)
    with pytest.raises(Refused, match="without a journal"):
        commands.rollback(engine.connection, run, actor="ann")
