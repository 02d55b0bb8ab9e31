"""Rows that cannot be converted: set aside with their key and their error, while the rest go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import UsageError
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import BatchRetried, RowQuarantined, StateChanged
from backfilld.producers import commands, pacing
from backfilld.producers.client import Client

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.record.model import Key

ROWS = 100

IN_PLACE = """
name: convert
operations:
  - backfill: {table: jobs, set: {number: "total::integer"}}
settings: {lanes: 2, walk: keys, max_quarantined: %d}
"""
NEW_COLUMN = """
name: convert
operations:
  - add_column: {table: jobs, column: {name: number, type: integer}, backfill: "total::integer", not_null: %s}
settings: {lanes: 2, walk: keys, approve: []}
"""


def make_jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, total text, number integer)")
    engine.execute("INSERT INTO jobs SELECT n, n::text FROM generate_series(1, %s) n", ROWS)


def keys(engine: Engine, run: int) -> dict[Key, str]:
    return {row.key: row.sqlstate for row in engine.quarantined(run)}


def right(engine: Engine) -> int:
    return int(
        engine.value("SELECT count(*) FROM jobs WHERE number = CASE WHEN total ~ '^[0-9]+$' THEN total::integer END")
    )


#: How a row of the middle of a batch is spoilt, by which SQLSTATE it is known, and how it is mended.
POISONS = {
    "a value that does not convert": (
        "UPDATE jobs SET total = 'abc' WHERE id IN (37, 38, 80)",
        "22P02",
        "UPDATE jobs SET total = id::text WHERE id IN (37, 38, 80)",
    ),
    "a CHECK": (
        "ALTER TABLE jobs ADD CHECK (number NOT IN (37, 38, 80))",
        "23514",
        "ALTER TABLE jobs DROP CONSTRAINT jobs_number_check",
    ),
    "a UNIQUE": (
        "ALTER TABLE jobs ADD UNIQUE (number); INSERT INTO jobs VALUES (-1, '37', 37), (-2, '38', 38), (-3, '80', 80)",
        "23505",
        "DELETE FROM jobs WHERE id < 0",
    ),
    "a trigger that raises": (
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'not this one'; END $$; "
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (old.id IN (37, 38, 80)) EXECUTE FUNCTION refuse()"
        ),
        "P0001",
        "DROP TRIGGER refuse ON jobs",
    ),
    "a deferred constraint": (
        (
            "CREATE TABLE others (number integer PRIMARY KEY); "
            "INSERT INTO others SELECT n FROM generate_series(1, 100) n WHERE n NOT IN (37, 38, 80); "
            "ALTER TABLE jobs ADD FOREIGN KEY (number) REFERENCES others DEFERRABLE INITIALLY DEFERRED"
        ),
        "23503",
        "INSERT INTO others VALUES (37), (38), (80)",
    ),
    "a subselect that gives two rows": (
        (
            "CREATE TABLE totals (id bigint, total text); INSERT INTO totals SELECT id, total FROM jobs; "
            "INSERT INTO totals SELECT id, total FROM jobs WHERE id IN (37, 38, 80)"
        ),
        "21000",
        "DELETE FROM totals a USING totals b WHERE a.id = b.id AND a.ctid > b.ctid",
    ),
    "a value too long for its index": (
        (
            "ALTER TABLE jobs ALTER number TYPE text; CREATE INDEX ON jobs (number); "
            "UPDATE jobs SET total = (SELECT string_agg(md5(n::text || jobs.id::text), '') FROM generate_series(1, 500) n) "
            "WHERE id IN (37, 38, 80)"
        ),
        "54000",
        "UPDATE jobs SET total = id WHERE id IN (37, 38, 80)",
    ),
}
EXPRESSIONS = {
    "a subselect that gives two rows": "(SELECT t.total::integer FROM public.totals t WHERE t.id = jobs.id)",
    "a value too long for its index": "total",
}


@pytest.mark.parametrize("poison", POISONS)
def test_poisoned_rows_are_set_aside_and_the_others_converted(engine: Engine, poison: str) -> None:
    # Given
    make_jobs(engine)
    spoil, sqlstate, mend = POISONS[poison]
    engine.execute(spoil)
    text = (IN_PLACE % 100).replace("total::integer", EXPRESSIONS.get(poison, "total::integer"))

    # When
    run = engine.enqueue(text)
    now = engine.drive(run, batch_rows=25)

    # Then
    expect(now, State.PAUSED)
    assert now.error is not None
    assert (now.phase, now.error["class"]) == (Phase.VERIFY, "quarantine")
    assert now.verified_at is None
    assert keys(engine, run) == {("37",): sqlstate, ("38",): sqlstate, ("80",): sqlstate}
    assert all(row.error and row.relation == "jobs" for row in engine.quarantined(run))
    converted = engine.value(
        "SELECT count(*) FROM jobs WHERE id > 0 AND id NOT IN (37, 38, 80) AND number::text = total"
    )
    assert converted == ROWS - 3
    assert engine.value("SELECT count(*) FROM jobs WHERE id IN (37, 38, 80) AND number IS NULL") == 3

    # When they are mended and tried again
    engine.execute(mend)
    commands.retry(engine.connection, run, actor="ann")
    now = engine.drive(run)

    # Then
    expect(now, State.COMPLETED)
    assert not engine.quarantined(run)
    assert engine.value("SELECT count(*) FROM jobs WHERE number::text = total") == ROWS
    assert now.error is None


def test_a_retry_without_mending_sets_the_rows_aside_again(engine: Engine) -> None:
    make_jobs(engine)
    engine.execute("UPDATE jobs SET total = 'abc' WHERE id = 50")
    run = engine.enqueue(IN_PLACE % 100)
    engine.drive(run)
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.PAUSED)
    assert keys(engine, run) == {("50",): "22P02"}


def test_a_resume_without_a_retry_says_again_what_is_to_be_done(engine: Engine) -> None:
    make_jobs(engine)
    engine.execute("UPDATE jobs SET total = 'abc' WHERE id = 50")
    run = engine.enqueue(IN_PLACE % 100)
    engine.drive(run)
    commands.resume(engine.connection, run, actor="ann")
    now = engine.drive(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert now.error["class"] == "quarantine"


def test_rows_are_tried_again_while_the_walk_goes_on(engine: Engine) -> None:
    make_jobs(engine)
    engine.execute("UPDATE jobs SET total = 'abc' WHERE id = 1")
    run = engine.enqueue(IN_PLACE % 100)
    engine.drive(run, batch_rows=10, until=lambda _run: bool(engine.quarantined(run)))
    assert engine.run(run).phase is Phase.BACKFILL
    engine.execute("UPDATE jobs SET total = '1' WHERE id = 1")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=10), State.COMPLETED)
    assert engine.run(run).pass_ == 1
    assert right(engine) == ROWS


def test_a_row_that_is_gone_by_the_time_of_the_retry_is_forgotten(engine: Engine) -> None:
    make_jobs(engine)
    engine.execute("UPDATE jobs SET total = 'abc' WHERE id = 50")
    run = engine.enqueue(IN_PLACE % 100)
    engine.drive(run)
    engine.execute("DELETE FROM jobs WHERE id = 50")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


def test_a_retried_row_of_a_walk_that_cannot_be_repeated_is_changed_once(engine: Engine) -> None:
    engine.execute(
        "CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0 CHECK (id <> 5 OR n = 0))"
    )
    engine.execute("INSERT INTO counters SELECT generate_series(1, 20)")
    run = engine.enqueue('name: increment\noperations: [{backfill: {table: counters, set: {n: "n + 1"}}}]')
    expect(engine.drive(run), State.PAUSED)
    assert keys(engine, run) == {("5",): "23514"}
    engine.execute("ALTER TABLE counters DROP CONSTRAINT counters_check")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.execute("SELECT DISTINCT n FROM counters") == [{"n": 1}]


@pytest.mark.parametrize(("cap", "poisoned"), [(0, 1), (2, 3), (5, 50)])
def test_more_rows_than_the_cap_pause_the_run_and_nothing_of_the_batch_is_kept(
    engine: Engine, cap: int, poisoned: int
) -> None:
    # Given a batch that quarantines none, and one that quarantines too many
    make_jobs(engine)
    engine.execute("UPDATE jobs SET total = 'abc' WHERE id > 20 AND id <= 20 + %s", poisoned)
    run = engine.enqueue((IN_PLACE % cap).replace("lanes: 2", "lanes: 1"))

    # When
    now = engine.drive(run, batch_rows=20)

    # Then
    expect(now, State.PAUSED)
    assert now.phase is Phase.BACKFILL
    assert now.error is not None
    assert now.error["class"] == "quarantine"
    assert now.error["sqlstate"] == "22P02"
    assert now.error["key"] == [str(20 + cap + 1)]
    assert not engine.quarantined(run), "the batch was rolled back with its quarantine"
    given_up = Client(engine.url).unconverted(run)
    assert [one.key for one in given_up] == [(str(20 + number),) for number in range(1, cap + 2)]
    assert (given_up[0].sqlstate, "abc" in given_up[0].error) == ("22P02", True)
    assert engine.value("SELECT max(id) FROM jobs WHERE number IS NOT NULL") == 20
    assert engine.told(StateChanged)[-1].state is State.PAUSED

    # When the cap is raised, the run goes on from there
    pacing.tune(engine.connection, run, {"max_quarantined": 100}, width=None, actor="ann")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=20), State.PAUSED)
    assert len(engine.quarantined(run)) == poisoned
    assert right(engine) == ROWS - poisoned


def test_a_retry_goes_on_with_rows_that_were_too_many(engine: Engine) -> None:
    """What `explain` says to type works, though the quarantine is empty."""
    make_jobs(engine)
    engine.execute("UPDATE jobs SET total = 'abc' WHERE id IN (3, 4)")
    run = engine.enqueue(IN_PLACE % 0)
    expect(engine.drive(run, batch_rows=20), State.PAUSED)
    engine.execute("UPDATE jobs SET total = '1' WHERE id IN (3, 4)")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=20), State.COMPLETED)
    assert Client(engine.url).unconverted(run) == ()
    with pytest.raises(UsageError):
        commands.retry(engine.connection, run, actor="ann")


def test_a_cap_that_is_met_but_not_exceeded_does_not_pause(engine: Engine) -> None:
    make_jobs(engine)
    engine.execute("UPDATE jobs SET total = 'abc' WHERE id IN (3, 70)")
    run = engine.enqueue(IN_PLACE % 2)
    now = engine.drive(run, batch_rows=20)
    assert now.phase is Phase.VERIFY
    assert len(engine.quarantined(run)) == 2


def test_a_new_column_is_right_for_all_rows_but_the_unconvertible_ones(engine: Engine) -> None:
    """Rows that raise and rows that give NULL, side by side in one batch of a column that is to be NOT NULL."""
    make_jobs(engine)
    engine.execute("ALTER TABLE jobs DROP COLUMN number")
    engine.execute("UPDATE jobs SET total = CASE id WHEN 40 THEN 'abc' WHEN 41 THEN NULL END WHERE id IN (40, 41)")
    run = engine.enqueue(NEW_COLUMN % "true")
    expect(engine.drive(run), State.PAUSED)
    assert keys(engine, run) == {("40",): "22P02", ("41",): "23502"}
    assert not engine.told(BatchRetried), "the second look at a batch deals with both"
    engine.execute("UPDATE jobs SET total = id WHERE id IN (40, 41)")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert right(engine) == ROWS


def test_a_row_set_aside_twice_is_told_and_counted_once(engine: Engine) -> None:
    """Backfill and verify both meet a row that raises."""
    make_jobs(engine)
    engine.execute("UPDATE jobs SET total = 'abc' WHERE id = 50")
    run = engine.enqueue(IN_PLACE % 1)
    engine.drive(run)
    assert [event.sqlstate for event in engine.told(RowQuarantined)] == ["22P02"]
    assert [row.attempts for row in engine.quarantined(run)] == [1]


def test_a_poisoned_row_that_is_deleted_while_its_batch_is_halved(engine: Engine) -> None:
    """A range that has become empty converts nothing and sets nothing aside."""
    make_jobs(engine)
    engine.execute("DELETE FROM jobs WHERE id > 50")
    engine.execute("UPDATE jobs SET total = 'abc' WHERE id = 50")
    engine.execute(
        "CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "DELETE FROM public.jobs WHERE id = 50; RETURN NULL; END $$; "
        "CREATE TRIGGER vanish AFTER UPDATE ON jobs FOR EACH ROW WHEN (old.id = 49) EXECUTE FUNCTION vanish()"
    )
    run = engine.enqueue(IN_PLACE % 0)
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM jobs") == 49


def test_an_error_that_is_no_rows_fault_fails_the_run_with_all_there_is_to_know(engine: Engine) -> None:
    make_jobs(engine)
    run = engine.enqueue((IN_PLACE % 100).replace("lanes: 2", "lanes: 1"))
    (lane,) = engine.drive_to_lanes(run)
    engine.step(batch_rows=10)
    engine.execute("ALTER TABLE jobs DROP COLUMN number")
    now = engine.drive(run, batch_rows=10)
    expect(now, State.FAILED)
    assert now.error is not None
    assert now.error["sqlstate"] == "42703"
    assert (now.error["lane"], now.error["relation"], now.error["after_key"]) == (lane.lane, "jobs", ["10"])

    engine.execute("ALTER TABLE jobs ADD COLUMN number integer")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=30), State.COMPLETED)
    assert right(engine) == ROWS
