"""Whether a run can still be taken back: the rows that are in the way, each by its key as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.record.states import State
from backfilld.migrations.rollback import check
from backfilld.producers.client import Client

if TYPE_CHECKING:
    from fix_runs import Engine

TO_BIGINT = """
name: wide
operations: [{change_type: {table: jobs, column: n, type: bigint}}]
settings: {approve: [contract]}
"""


@pytest.mark.parametrize("key", ["a, b; c", "2 (5; 6)", "; ", ""])
def test_a_key_is_one_key_whatever_it_holds(engine: Engine, key: str) -> None:
    engine.execute("CREATE TABLE jobs (tenant text, id text, n integer, PRIMARY KEY (tenant, id))")
    engine.execute("INSERT INTO jobs VALUES ('t, 1', %s, 1), ('t, 1', 'other', 2)", key)
    run = engine.enqueue(TO_BIGINT)
    expect(engine.drive(run), State.WAITING)
    engine.execute("UPDATE jobs SET n = 3000000000 WHERE id = %s", key)

    told = Client(engine.url).status(run).to_json()["rollback"]

    assert (told["possible"], told["blocked_by"], told["keys"]) == (False, 1, [["t, 1", key]])


def test_many_rows_are_counted_and_a_few_are_named(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer)")
    engine.execute("INSERT INTO jobs SELECT i, i FROM generate_series(1, 30) i")
    run = engine.enqueue(TO_BIGINT)
    expect(engine.drive(run), State.WAITING)
    engine.execute("UPDATE jobs SET n = 3000000000 WHERE id > 10")

    found = check.look(engine.connection, engine.run(run))

    assert (found.blocked_by, len(found.keys)) == (20, 5)
    assert "with their keys: 20 (11; 12; 13; 14; 15)" in found.because
