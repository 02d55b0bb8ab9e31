"""An expression that reads its own target, with a condition: whether the condition can tell what is done is found by asking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from fix_runs import Engine

NORMALISE = """
name: normalise
operations:
  - backfill: {table: jobs, set: {status: "lower(replace(status, ' ', '_'))"}, where: "status <> lower(replace(status, ' ', '_'))"}
settings: {lanes: 2}
"""
COUNT = """
name: count
operations:
  - backfill: {table: jobs, set: {n: n + 1}, where: "n < 5"}
settings: {lanes: 2}
"""


@pytest.fixture
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL, n integer NOT NULL DEFAULT 0)")
    engine.execute("INSERT INTO jobs SELECT g, 'In Progress' FROM generate_series(1, 500) g")


def test_a_condition_that_is_false_for_what_was_done_is_verified_by(jobs: None, engine: Engine) -> None:
    """Rows that come to meet it while the walk goes on are found and walked, and a clean pass is on record."""
    run = engine.enqueue(NORMALISE)
    engine.execute("CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF new.id = 250 THEN "
                   "INSERT INTO public.jobs VALUES (0, ''Too Late''), (900, ''Also Late''); END IF; RETURN new; END'")  # fmt: skip
    engine.execute("CREATE TRIGGER late AFTER UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION late()")

    engine.drive(run)

    after = engine.run(run)
    assert (after.state, after.residual_rows, after.pass_) == (State.COMPLETED, 0, 2)
    assert (
        engine.value(
            "SELECT count(*) FROM jobs WHERE status LIKE '%% %%' OR status <> lower(status)".replace("%%", "%")
        )
        == 0
    )


def test_a_condition_that_holds_for_what_was_done_is_not_walked_by_again(jobs: None, engine: Engine) -> None:
    """Counting up under a limit: each row once, though it still meets the condition."""
    run = engine.enqueue(COUNT)

    engine.drive(run)

    assert engine.run(run).state is State.COMPLETED
    assert engine.lanes(run, "verify") == []
    assert engine.value("SELECT count(*) FROM jobs WHERE n <> 1") == 0
