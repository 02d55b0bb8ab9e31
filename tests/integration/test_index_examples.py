"""The examples with an index, as they stand: there, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from migrations.states import State
from producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

EXAMPLES = Path(__file__).parents[2] / "examples"
INDEXES = "SELECT array_agg(indexdef ORDER BY indexname) FROM pg_indexes WHERE schemaname = 'public'"


@pytest.mark.parametrize(
    ("example", "changes"),
    [("jobs_open_index.yaml", 1), ("jobs_drop_index.yaml", -1), ("users_email_unique.yaml", 1)],
)
def test_an_example_there_and_back(engine: Engine, example: str, changes: int) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("CREATE INDEX jobs_status_idx ON jobs (status)")
    engine.execute("CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL)")
    before = engine.value(INDEXES)
    run = engine.enqueue((EXAMPLES / example).read_text(encoding="utf-8"))
    if engine.drive(run).state is State.WAITING:
        commands.approve(engine.connection, run, "contract", actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert len(engine.value(INDEXES)) == len(before) + changes
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value(INDEXES) == before
