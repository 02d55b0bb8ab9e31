"""A process that freezes with a transaction open loses it to the server, whatever else is frozen with it.

A proxy plays the frozen process: from one statement on, the server hears nothing more, and nothing is closed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from fix_daemon import until
from fix_runs import expect

from backfilld.migrations.postgres import connect
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record.states import Phase, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_proxy import Proxy
    from fix_runs import Engine

    from backfilld.migrations.record.model import Run

RENAME = """
name: revenue
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
settings: {lanes: 1, walk: keys, approve: []}
"""
#: What our session holds of the table: the DDL's lock stops the application, the batch's does not.
LOCKS = """
SELECT l.mode FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.relation = 'jobs'::regclass AND a.application_name LIKE 'backfilld run=%%' AND l.granted
"""


@pytest.fixture
def run(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(connect, "FROZEN_SECONDS", 1.0)
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, total integer)")
    engine.execute("INSERT INTO jobs SELECT n, n FROM generate_series(1, 40) n")
    return engine.enqueue(RENAME)


@pytest.mark.parametrize(
    ("before", "mode"),
    [
        pytest.param(lambda engine, run: engine.lanes(run.run, "backfill"), "RowExclusiveLock", id="a batch"),
        pytest.param(
            lambda _engine, run: run.phase is Phase.SWITCH, "AccessExclusiveLock", id="DDL that stops the application"
        ),
    ],
)
def test_the_server_ends_the_transaction_of_a_frozen_process(
    engine: Engine, run: int, proxy: Callable[[str], Proxy], before: Callable[[Engine, Run], bool], mode: str
) -> None:
    # Given a step that has its lock, and whose COMMIT never leaves
    engine.drive(run, until=lambda now: before(engine, now))
    between = proxy(engine.url)
    swallowed = between.drop_request(b"COMMIT", cut=False)
    with open_pool(between.url(engine.url), size=4) as pool:
        frozen = threading.Thread(target=lambda: engine.step(runner=engine.runner(pool=pool)))
        frozen.start()
        assert swallowed.wait(20)
        assert mode in {row["mode"] for row in engine.execute(LOCKS)}
        # When the server has waited for it
        until("the lock to be free", lambda: not engine.execute(LOCKS), patience_seconds=10)
        frozen.join(20)
    # Then another process takes the step
    expect(engine.drive(run), State.COMPLETED)
