"""Why nothing moves is named while nothing can work: no worker, one whose processes or whose Redis are away, a read-only database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_daemon import Daemon, until

from backfilld import Client
from backfilld.migrations.errors import NotFinished, Refused
from backfilld.migrations.holds import Cause
from backfilld.migrations.postgres.connect import connect
from backfilld.migrations.record import workers
from backfilld.migrations.record.states import State
from backfilld.migrations.settings import Limits
from backfilld.monitoring import explain, progress
from backfilld.worker.side_tasks.presence import announced

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_proxy import Proxy
    from fix_runs import Engine

    from backfilld.migrations.holds import Hold

FILL = """
name: shout
operations:
  - backfill: {table: jobs, set: {status: "upper(status)"}}
settings: {journal: false}
"""
TRANSFORM = """
name: digits
operations:
  - backfill: {table: jobs, transform: "myapp.backfills:shout", writes: [status]}
"""


@pytest.fixture
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, 40) n")


@pytest.fixture
def run(engine: Engine, jobs: None) -> int:
    """A run that has stood still for ten seconds, beside a governor that reads the load."""
    run = engine.enqueue(FILL)
    engine.execute("UPDATE backfilld.runs SET created_at = created_at - interval '10 s'")
    return run


def hold(engine: Engine, run: int) -> Hold | None:
    engine.set_pace()
    with connect(engine.url) as connection:
        return progress.read(connection, [engine.run(run)])[0].hold


def report(engine: Engine, worker: str, *, works: bool, problem: str | None = None, ago: float = 0.0) -> None:
    workers.report(engine.connection, worker, works=works, problem=problem, transforms=("myapp",))
    engine.execute(
        "UPDATE backfilld.workers SET seen_at = seen_at - make_interval(secs => %s) WHERE worker = %s", ago, worker
    )


def test_without_a_worker_a_run_says_that_there_is_none(engine: Engine, run: int) -> None:
    found = hold(engine, run)
    assert found is not None
    assert (found.cause, found.reason) == (Cause.WORKERS, "no worker is running for this database")
    told = explain.read(engine.connection, engine.run(run), Limits())
    assert "start a worker: backfilld worker" in told.remedies
    # and where the load is not read either, which comes first
    engine.execute("UPDATE backfilld.pace SET sampled_at = clock_timestamp() - interval '1 minute'")
    assert progress.read(engine.connection, [engine.run(run)])[0].hold_reason == (
        "no load reading for 60 s: no worker is running for this database"
    )


def test_who_waits_gives_up_after_the_time_of_the_settings_and_says_what_is_missing(
    engine: Engine, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.set_pace()
    monkeypatch.setenv("BACKFILLD_WAIT_TIMEOUT_SECONDS", "0.2")
    with pytest.raises(NotFinished, match=r"after 0\.2 s.*no worker is running for this database"):
        Client(engine.url).wait(run)


def test_a_worker_that_cannot_work_says_why(engine: Engine, run: int) -> None:
    report(engine, "db1:7", works=False, problem="lanes-1 is starting: 40 s so far, 1.2 s of processor")
    report(engine, "db2:9", works=True, ago=60)
    found = hold(engine, run)
    assert found is not None
    assert found.cause is Cause.WORKERS
    assert found.reason == "the worker db1:7 cannot work: lanes-1 is starting: 40 s so far, 1.2 s of processor"
    report(engine, "db2:9", works=True)
    assert hold(engine, run) is None


def test_a_worker_that_is_not_heard_of_is_named(engine: Engine, run: int) -> None:
    report(engine, "db1:7", works=True, ago=60)
    found = hold(engine, run)
    assert found is not None
    assert found.reason == "no worker has reported for 60 s, and the last one was db1:7"


def test_a_database_that_takes_no_writes_is_named(engine: Engine, run: int) -> None:
    report(engine, "db1:7", works=True)
    database = engine.value("SELECT quote_ident(current_database())")
    engine.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    found = hold(engine, run)
    assert found is not None
    assert "takes no writes" in found.reason


def test_a_worker_is_on_record_until_it_stops(engine: Engine) -> None:
    with announced(engine.url, transforms=("myapp",), look=lambda: (False, "it only starts")):
        (here,) = until("the report", lambda: workers.listed(engine.connection))
    assert (here.works, here.problem, here.transforms) == (False, "it only starts", ("myapp",))
    assert workers.listed(engine.connection) == []


def test_a_python_function_that_no_worker_allows_is_refused_before_it_is_enqueued(
    engine: Engine, jobs: None, redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "digits.yaml"
    file.write_text(TRANSFORM, encoding="utf-8")
    workers.report(engine.connection, "db1:7", works=True, problem=None, transforms=("elsewhere",))
    told: list[str] = []
    client = Client(engine.url, redis_url, warn=told.append)
    with pytest.raises(Refused, match=r"myapp\.backfills:shout .* the worker db1:7 does not allow"):
        client.enqueue(file)
    report(engine, "db2:9", works=True)
    client.enqueue(file)
    assert any("the worker db1:7 does not allow" in one for one in told)


def test_a_daemon_whose_redis_is_away_is_told_from_one_that_works(
    engine: Engine, jobs: None, redis_url: str, proxy: Callable[[str], Proxy], tmp_path: Path
) -> None:
    between = proxy(redis_url)
    daemon = Daemon(engine.url, between.url(redis_url), tmp_path / "daemon.log", processes=1)
    try:
        daemon.ready()
        between.refuse()
        run = engine.enqueue(FILL)
        until("the hold", lambda: "Redis" in (progress.read(engine.connection, [engine.run(run)])[0].hold_reason or ""))
        between.accept()
        until("the run to end", lambda: engine.run(run).state is State.COMPLETED)
    finally:
        daemon.stop()
    assert workers.listed(engine.connection) == []
