"""Tables of every shape: empty, tiny, sparse, growing, and written to without end."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused, UsageError
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.record import audit
from backfilld.migrations.record.model import Bounds
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import BatchCommitted
from backfilld.migrations.walks.keys import SAMPLE_ROWS, KeyWalk, split
from backfilld.monitoring import progress
from backfilld.producers import commands
from backfilld.worker.phases.coordinator import MAX_PASSES

if TYPE_CHECKING:
    from fix_runs import Engine

LOWER = """
name: lower
operations:
  - backfill: {table: jobs, set: {slug: "lower(status)"}}
settings: {lanes: %d, walk: keys}
"""
ADD = """
name: add
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)", not_null: %s}
settings: {lanes: 3, walk: keys, approve: []}
"""


def make_jobs(engine: Engine, rows: int, slug: str = "NULL", *, first: int = 1) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL, slug text)")
    engine.execute(f"INSERT INTO jobs SELECT n, 'OPEN', {slug} FROM generate_series({first}, {first + rows - 1}) n")


def wrong(engine: Engine) -> int:
    return int(engine.value("SELECT count(*) FROM jobs WHERE slug IS DISTINCT FROM lower(status)"))


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
@pytest.mark.parametrize("text", [LOWER % 4, ADD % "true"], ids=["in place", "new column"])
def test_a_tiny_table(engine: Engine, rows: int, text: str) -> None:
    make_jobs(engine, rows)
    run = engine.enqueue(text)
    now = engine.drive(run)
    expect(now, State.COMPLETED)
    assert (now.phase, now.rows_total, now.residual_rows) == (Phase.DONE, rows, 0)
    assert sum(lane.rows_walked for lane in engine.lanes(run, "backfill")) == rows
    assert sum(lane.rows_walked for lane in engine.lanes(run, "verify")) == rows


def test_no_row_matches(engine: Engine) -> None:
    make_jobs(engine, 50, slug="'open'")
    run = engine.enqueue(LOWER % 2)
    expect(engine.drive(run, batch_rows=10), State.COMPLETED)
    assert sum(lane.rows_changed for lane in engine.lanes(run)) == 0
    assert sum(lane.rows_walked for lane in engine.lanes(run, "backfill")) == 50


def test_one_row_in_a_thousand_matches(engine: Engine) -> None:
    """The walk goes by keys it passes, not by rows that match: a stretch without any is no long statement."""
    make_jobs(engine, 10_000, slug="CASE WHEN n % 1000 <> 0 THEN 'open' END")
    run = engine.enqueue(LOWER % 2)
    expect(engine.drive(run, batch_rows=500), State.COMPLETED)
    batches = [event for event in engine.told(BatchCommitted) if event.kind == "backfill"]
    assert max(batch.rows_walked for batch in batches) == 500
    assert sum(batch.rows_walked for batch in batches) == 10_000
    assert sum(batch.rows_changed for batch in batches) == 10
    assert wrong(engine) == 0


def test_rows_that_need_work_after_the_walk_are_found_by_verify_and_walked_again(engine: Engine) -> None:
    """Past the greatest key of the start, between old keys, and in a row that was walked already."""
    # Given
    make_jobs(engine, 100)
    engine.execute("UPDATE jobs SET id = id * 10 + 1000")
    run = engine.enqueue(LOWER % 2)
    engine.drive(run, batch_rows=20, until=lambda run: run.phase is Phase.VERIFY)

    # When
    engine.execute("INSERT INTO jobs VALUES (-5, 'LOW'), (1055, 'BETWEEN'), (5000, 'ABOVE'), (5001, 'ABOVE')")
    engine.execute("UPDATE jobs SET status = 'AGAIN' WHERE id = 1300")
    now = engine.drive(run, batch_rows=20)

    # Then
    expect(now, State.COMPLETED)
    assert now.pass_ == 2
    assert wrong(engine) == 0
    assert sum(lane.rows_residual for lane in engine.lanes(run, "verify")) == 5
    again = [lane for lane in engine.lanes(run, "backfill") if lane.pass_ == 2]
    assert sum(lane.rows_changed for lane in again) == 5
    assert sum(lane.rows_walked for lane in again) < 104, "only the batches that had residual rows"


def test_the_whole_table_residual_is_walked_as_few_lanes(engine: Engine) -> None:
    make_jobs(engine, 100)
    run = engine.enqueue(LOWER % 2)
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY)
    engine.execute("UPDATE jobs SET status = 'CLOSED'")
    expect(engine.drive(run, batch_rows=5), State.COMPLETED)
    again = [lane for lane in engine.lanes(run, "backfill") if lane.pass_ == 2]
    assert len(again) <= 4, "batches next to each other make one lane"
    assert sum(lane.rows_changed for lane in again) == 100
    assert wrong(engine) == 0


#: As an application would that writes each row anew: the batch has changed the rows as it should.
UNDOES = """
CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF pg_trigger_depth() = 1 THEN UPDATE jobs SET slug = NULL; END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER undo AFTER UPDATE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION undo();
"""


def test_rows_that_come_back_for_ever_pause_the_run(engine: Engine) -> None:
    """Another session undoes the work each time; after ten passes a person is asked, and may say go on."""
    make_jobs(engine, 10)
    run = engine.enqueue(LOWER % 1)
    engine.drive_to_lanes(run)
    engine.execute(UNDOES)
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert (now.error["class"], now.residual_rows, now.pass_) == ("residual", 10, MAX_PASSES + 1)
    assert now.verified_at is None

    assert "backfilld approve lower --residual" in now.error["message"], "a person may say that they are fine"

    engine.execute("DROP TRIGGER undo ON jobs")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert wrong(engine) == 0


def stuck(engine: Engine, text: str) -> int:
    """A run that has paused because another session writes its rows again and again."""
    make_jobs(engine, 10)
    run = engine.enqueue(text)
    engine.drive_to_lanes(run)
    engine.execute(UNDOES.replace("slug = NULL", "slug = NULL WHERE id > 2"))
    assert engine.drive(run).error_class == "residual"
    return run


def test_rows_that_come_back_may_be_accepted(engine: Engine) -> None:
    """On record with who and how many; the run ends with those that are left, and can still be taken back."""
    run = stuck(engine, LOWER % 1)
    commands.accept_residual(engine.connection, run, actor="ann")
    commands.accept_residual(engine.connection, run, actor="bob")  # no second time
    done = engine.drive(run)
    expect(done, State.COMPLETED)
    assert (done.residual_rows, done.verified_at is not None, wrong(engine)) == (8, True, 8)
    accepted = [event for event in audit.story(engine.connection, run) if event["what"] == "residual.accepted"]
    assert [(event["actor"], event["detail"]) for event in accepted] == [("ann", {"rows": 8})]
    (now,) = progress.read(engine.connection, [done])
    assert (now.to_json()["verified"], now.to_json()["residual_rows"]) == (True, 8)


@pytest.mark.parametrize(
    "also",
    [
        "add_check: {table: jobs, name: has_slug, check: slug IS NOT NULL}",
        "add_column: {table: jobs, column: {name: shout, type: text}, backfill: upper(status)}",
        "sql: {run: CREATE VIEW public.v AS SELECT id FROM public.jobs, rollback: DROP VIEW public.v}",
    ],
)
def test_rows_that_something_relies_on_may_not_be_accepted(engine: Engine, also: str) -> None:
    run = stuck(engine, LOWER.replace("operations:", f"operations:\n  - {also}") % 1)
    assert "--residual" not in str(engine.run(run).error)
    with pytest.raises(Refused) as refused:
        commands.accept_residual(engine.connection, run, actor="ann")
    assert also.partition(":")[0] in refused.value.findings[0].problem
    expect(engine.run(run), State.PAUSED)


def test_rows_that_differ_under_two_names_may_not_be_accepted(engine: Engine) -> None:
    """A recheck while contract waits finds such rows; no look of verify did."""
    make_jobs(engine, 10)
    run = engine.enqueue("{name: renamed, operations: [{rename_column: {table: jobs, from: status, to: state}}]}")
    expect(engine.drive(run), State.WAITING)
    engine.execute(
        'UPDATE backfilld.runs SET state = \'paused\', residual_rows = 3, error = \'{"class": "residual", "message": "differ"}\''
    )
    with pytest.raises(Refused, match="rename_column"):
        commands.accept_residual(engine.connection, run, actor="ann")


def test_only_a_run_that_has_paused_for_such_rows_has_any_to_accept(engine: Engine) -> None:
    make_jobs(engine, 10)
    run = engine.enqueue(LOWER % 1)
    with pytest.raises(UsageError, match="has not paused for rows"):
        commands.accept_residual(engine.connection, run, actor="ann")


def test_a_resume_without_mending_is_asked_about_again(engine: Engine) -> None:
    make_jobs(engine, 3)
    run = engine.enqueue(LOWER % 1)
    engine.drive_to_lanes(run)
    engine.execute(UNDOES)
    expect(engine.drive(run), State.PAUSED)
    commands.resume(engine.connection, run, actor="ann")
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.pass_ == 2 * MAX_PASSES + 1


def test_rows_deleted_under_the_walk(engine: Engine) -> None:
    """Also the ones that the bounds of lanes and cursors name."""
    make_jobs(engine, 100)
    run = engine.enqueue(LOWER % 3)
    engine.drive_to_lanes(run)
    for _ in range(6):
        engine.step(batch_rows=7)
    engine.execute("DELETE FROM jobs WHERE id % 7 IN (0, 1) OR id BETWEEN 30 AND 40 OR id = 100")
    expect(engine.drive(run, batch_rows=7), State.COMPLETED)
    assert wrong(engine) == 0


def test_several_operations_on_one_table_and_on_others(engine: Engine) -> None:
    make_jobs(engine, 40)
    engine.execute("CREATE TABLE empty (id integer PRIMARY KEY, n integer)")
    engine.execute("CREATE TABLE counters (id integer PRIMARY KEY, n integer)")
    engine.execute("INSERT INTO counters SELECT n, 0 FROM generate_series(1, 40) n")
    run = engine.enqueue(
        """
        name: several
        operations:
          - add_column: {table: jobs, column: {name: a, type: text}, backfill: "status || id", not_null: true}
          - add_column: {table: jobs, column: {name: b, type: text}, backfill: "upper(status)"}
          - backfill: {table: jobs, set: {slug: "lower(status)"}}
          - backfill: {table: counters, set: {n: "n + 1"}}
          - backfill: {table: empty, set: {n: "1"}}
        settings: {approve: []}
        """
    )
    now = engine.drive(run, batch_rows=9)
    expect(now, State.COMPLETED)
    assert engine.execute("SELECT DISTINCT n FROM counters") == [{"n": 1}]
    assert (
        engine.value("SELECT count(*) FROM jobs WHERE a = status || id AND b = upper(status) AND slug = 'open'") == 40
    )


def test_a_batch_takes_as_many_rows_as_its_lane_says(engine: Engine) -> None:
    make_jobs(engine, 20)
    run = engine.enqueue(LOWER % 1)
    engine.drive(run, batch_rows=8)
    walked = [event.rows_walked for event in engine.told(BatchCommitted) if event.kind == "backfill"]
    assert walked == [8, 8, 4]


def test_a_batch_that_ends_with_the_table_leaves_an_empty_one(engine: Engine) -> None:
    make_jobs(engine, 16)
    run = engine.enqueue(LOWER % 1)
    engine.drive(run, batch_rows=8)
    walked = [event.rows_walked for event in engine.told(BatchCommitted) if event.kind == "backfill"]
    assert walked == [8, 8, 0]


JOBS = KeyWalk(table=TableName("public", "jobs"), key=(KeyColumn(name="id", type="bigint"),))


def test_ranges_cover_the_table_without_overlap(engine: Engine) -> None:
    make_jobs(engine, 0)
    for rows in (0, 1, 2, 6, 63, 64, 65, 500):
        engine.execute("TRUNCATE jobs")
        engine.execute("INSERT INTO jobs SELECT n, '' FROM generate_series(1, %s) n", rows)
        for lanes in (1, 2, 3, 7, 64):
            ranges = split(engine.connection, JOBS, lanes=lanes, rows_estimate=rows)
            assert_tiled(ranges, last=str(rows) if rows else None)
            assert len(ranges) == min(lanes, rows)
            held = [engine.connection.execute(*JOBS.count(one)).fetchone() for one in ranges]
            counts = [int(row["rows"]) for row in held if row]
            assert sum(counts) == rows
            assert not counts or max(counts) - min(counts) <= 1


def test_ranges_by_a_sample_cover_the_table(engine: Engine) -> None:
    make_jobs(engine, 20_000)
    ranges = split(engine.connection, JOBS, lanes=8, rows_estimate=SAMPLE_ROWS * 4)
    assert_tiled(ranges, last="20000")
    assert 2 <= len(ranges) <= 8


def test_ranges_by_a_sample_of_nothing_are_one(engine: Engine) -> None:
    """The estimate is far too high, so that the sample finds a page once in a thousand times, and here at most the only one."""
    make_jobs(engine, 1)
    assert split(engine.connection, JOBS, lanes=8, rows_estimate=10**12) == [Bounds(after=None, upto=("1",))]


def assert_tiled(ranges: list[Bounds], *, last: str | None) -> None:
    if last is None:
        assert ranges == []
        return
    assert ranges[0].after is None
    assert ranges[-1].upto == (last,)
    assert all(before.upto == after.after for before, after in itertools.pairwise(ranges))
