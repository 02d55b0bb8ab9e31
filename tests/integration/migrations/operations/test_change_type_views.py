"""A view that is read all the time: the exchange of two columns locks it before the table, as its readers do."""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

TEXT = """
name: wider
operations: [{change_type: {table: jobs, column: n, type: bigint}}]
settings: {lanes: 1, lock_timeout_ms: 1000}
"""
#: Both views of the table, whose names are in the other order than they are read.
VIEWS = "CREATE VIEW b_inner AS SELECT id, n FROM jobs; CREATE VIEW a_outer AS SELECT id, n FROM b_inner"
#: A session of ours that waits for a lock, and the tables and views that it holds then.
WAITS_FOR = """
SELECT l.relation::regclass::text AS awaited,
       (SELECT array_agg(h.relation::regclass::text) FROM pg_locks h
        WHERE h.pid = l.pid AND h.granted AND h.mode = 'AccessExclusiveLock'
          AND h.relation IN ('jobs'::regclass, 'a_outer'::regclass, 'b_inner'::regclass)) AS held
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE NOT l.granted AND l.locktype = 'relation' AND starts_with(a.application_name, 'backfilld run=')
"""
PATIENCE_SECONDS = 30.0


@contextmanager
def locked(engine: Engine, view: str) -> Iterator[None]:
    """A session that holds a view and nothing that it reads: a reader has just that until it comes to the table."""
    with closing(engine.connect()) as reader:
        reader.execute("BEGIN")
        reader.execute(f"ALTER VIEW {view} SET SCHEMA public".encode())
        yield


def exchanges_behind(engine: Engine, run: int, view: str) -> None:
    """The next step waits for a view with nothing in hand that a reader of it needs, and is done once it has it."""
    seen = threading.Event()

    def step() -> None:
        while not seen.is_set():  # a try gives up after its lock_timeout
            engine.step()

    tries = threading.Thread(target=step)
    with locked(engine, view):
        tries.start()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (waits := engine.execute(WAITS_FOR)):
            assert time.monotonic() < deadline, engine.run(run)
        seen.set()
        assert [(one["awaited"], one["held"]) for one in waits] == [(view, None if view == "a_outer" else ["a_outer"])]
    tries.join(PATIENCE_SECONDS)
    assert not tries.is_alive()


@pytest.mark.parametrize("view", ["b_inner", "a_outer"])
def test_the_exchange_waits_for_a_view_before_it_locks_the_table(engine: Engine, view: str) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer)")
    engine.execute("INSERT INTO jobs SELECT n, n FROM generate_series(1, 20) n")
    engine.execute(VIEWS)
    run = engine.enqueue(TEXT)
    engine.drive(run, until=lambda run: run.phase is Phase.SWITCH)
    exchanges_behind(engine, run, view)
    expect(engine.drive(run), State.WAITING)
    assert engine.value("SELECT pg_typeof(n)::text FROM a_outer LIMIT 1") == "bigint"

    commands.rollback(engine.connection, run, actor="ann")
    exchange = "SELECT count(*) FROM backfilld.events WHERE run = %s AND what = 'phase.switch' AND detail ->> 'direction' = 'back'"
    engine.drive(run, until=lambda _run: bool(engine.value(exchange, run)))
    engine.step()  # looks at every row first
    exchanges_behind(engine, run, view)
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value("SELECT pg_typeof(n)::text FROM a_outer LIMIT 1") == "integer"


@pytest.mark.parametrize(
    "operation",
    ["change_type: {table: jobs, column: n, type: bigint}", "rebuild: {table: jobs, columns: {n: {type: bigint}}}"],
)
def test_what_is_granted_on_a_view_meanwhile_is_not_lost(engine: Engine, operation: str) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer)")
    engine.execute("INSERT INTO jobs VALUES (1, 1)")
    engine.execute(VIEWS)
    run = engine.enqueue(f"name: wider\noperations: [{{{operation}}}]\nsettings: {{approve: [switch]}}")
    expect(engine.drive(run), State.WAITING)
    engine.execute("GRANT SELECT ON b_inner TO PUBLIC")
    commands.approve(engine.connection, run, Phase.SWITCH, actor="ann")
    expect(engine.drive(run), State.FAILED)
    (error,) = engine.execute("SELECT error ->> 'message' AS message FROM backfilld.runs")
    assert """b_inner" has other privileges than when the run was enqueued: 'SELECT to PUBLIC'""" in error["message"]
    engine.execute("REVOKE SELECT ON b_inner FROM PUBLIC")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT pg_typeof(n)::text FROM a_outer LIMIT 1") == "bigint"
