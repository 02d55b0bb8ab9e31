"""What goes away comes back, and nothing is lost meanwhile: Redis, PostgreSQL, and the daemon itself."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_daemon import Daemon, Record, backfilld, until

from backfilld import Client

if TYPE_CHECKING:
    from pathlib import Path

    from backfilld.producers.demo.servers import EmbeddedPostgres, EmbeddedValkey

NAME = "count-up"
#: With the rests that `nice` makes, a walk of some seconds: long enough to be met in the middle.
ROWS = 60_000


@pytest.fixture
def migration(tmp_path: Path) -> Path:
    """Adds one to every row: done twice, or not at all, it would show."""
    file = tmp_path / "count_up.yaml"
    file.write_text(
        f"name: {NAME}\noperations:\n  - backfill: {{table: items, set: {{n: n + 1}}}}\n"
        "settings: {lanes: 4, batch_seconds: 0.1, nice: 6}\n",
        encoding="utf-8",
    )
    return file


@pytest.fixture
def items(record: Record) -> None:
    record.connection.execute("CREATE TABLE items (id bigint PRIMARY KEY, n integer NOT NULL)")
    record.connection.execute(f"INSERT INTO items SELECT g, 0 FROM generate_series(1, {ROWS}) g".encode())
    record.connection.execute("ANALYZE items")


def once(record: Record) -> bool:
    return bool(record.one("SELECT count(*) = 0 FROM items WHERE n <> 1"))


def half(record: Record) -> bool:
    return record.state(NAME) == "completed" or record.walked() >= ROWS // 2


def test_redis_away_at_enqueue_is_a_clear_error_and_nothing_is_half_enqueued(
    items: None, record: Record, migration: Path, database_url: str
) -> None:
    """Exit code 5, and the record knows nothing of it."""
    nobody = "redis://127.0.0.1:1/0"

    answer = backfilld("enqueue", str(migration), database_url=database_url, redis_url=nobody)

    assert answer.returncode == 5
    assert "cannot reach Redis at 127.0.0.1:1" in answer.stderr
    assert record.one("SELECT count(*) FROM backfilld.runs") == 0


def test_redis_that_goes_away_in_the_middle_and_comes_back_empty_loses_no_work(
    items: None, record: Record, migration: Path, daemon: Daemon, embedded_valkey: EmbeddedValkey
) -> None:
    """The record still takes orders meanwhile: a pause needs no Redis."""
    urls = {"database_url": daemon.database_url, "redis_url": daemon.redis_url}
    assert backfilld("enqueue", str(migration), **urls).returncode == 0
    until("some rows", lambda: record.walked() > 0)

    embedded_valkey.stop()
    paused = backfilld("pause", NAME, **urls)
    assert paused.returncode == 0, paused.stderr
    until("the pause, without Redis", lambda: record.state(NAME) in {"paused", "completed"})
    embedded_valkey.start()
    if record.state(NAME) == "paused":
        assert backfilld("resume", NAME, **urls).returncode == 0

    until("the end", lambda: record.state(NAME) == "completed")
    assert once(record)


def test_a_killed_daemon_leaves_no_child_behind_and_the_next_one_goes_on(
    items: None, record: Record, migration: Path, daemon: Daemon, tmp_path: Path
) -> None:
    """SIGKILL of the parent in the middle; its children notice, and the run goes on where it was."""
    urls = {"database_url": daemon.database_url, "redis_url": daemon.redis_url}
    assert backfilld("enqueue", str(migration), **urls).returncode == 0
    until("half of the rows", lambda: half(record))

    daemon.stop(signal.SIGKILL)
    until("the children to end", lambda: not daemon.children("lanes") and not daemon.children("control"))
    walked = record.walked()
    following = Daemon(daemon.database_url, daemon.redis_url, tmp_path / "following.log")
    try:
        following.ready()
        until("the end", lambda: record.state(NAME) == "completed")
        # A counter that began at zero with the process would show less than was done.
        done = f'backfilld_rows_total{{outcome="changed",run="{NAME}"}}'
        assert done not in following.get("/metrics"), "the series of an ended run is dropped"
    finally:
        following.stop()

    assert 0 < walked <= ROWS
    assert once(record)


@pytest.mark.soak  # of one daemon at work: worker/test_stop.py
def test_a_daemon_told_to_stop_finishes_the_batches_in_hand(
    items: None, record: Record, migration: Path, daemon: Daemon
) -> None:
    """SIGTERM ends it with exit code 0 and no batch rolled back."""
    urls = {"database_url": daemon.database_url, "redis_url": daemon.redis_url}
    assert backfilld("enqueue", str(migration), **urls).returncode == 0
    until("some rows", lambda: record.walked() > 0)

    assert daemon.stop() == 0

    assert record.one("SELECT sum(n) FROM items") == record.walked()
    assert record.one("SELECT coalesce(sum(batches_retried), 0) FROM backfilld.lanes") == 0


@pytest.mark.soak  # killed, again and again: tests/proof/test_crash.py
def test_postgresql_restarted_in_the_middle_is_waited_for(
    embedded_postgres: EmbeddedPostgres,
    items: None,
    record: Record,
    migration: Path,
    daemon: Daemon,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crash of the server (immediate stop) in the middle: every row is done once, by the same workers."""
    if psycopg.conninfo.conninfo_to_dict(database_url).get("port") != str(embedded_postgres.port):
        pytest.skip("the server under test is not ours to restart: BACKFILLD_TEST_DATABASE_URL is set")
    urls = {"database_url": daemon.database_url, "redis_url": daemon.redis_url}
    assert backfilld("enqueue", str(migration), **urls).returncode == 0
    until("half of the rows", lambda: half(record))
    workers = daemon.children("lanes")

    record.connection.close()
    embedded_postgres.restart("immediate")
    again = Record(database_url)
    try:
        until("the end", lambda: again.state(NAME) == "completed")
        assert once(again)
        assert daemon.children("lanes") == workers
    finally:
        again.connection.close()


def test_a_newer_control_schema_is_refused_at_start(
    record: Record, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Exit code 3, with both versions named."""
    record.connection.execute("INSERT INTO backfilld.schema_version (version) VALUES (999)")

    older = Daemon(database_url, redis_url, tmp_path / "older.log")

    until("it to give up", lambda: older.process.poll() is not None)
    assert older.stop() == 3
    assert "has version 999, and this release knows" in older.log.read_text(encoding="utf-8")


@pytest.mark.soak  # of a second host, and a killed process: test_metrics.py
def test_metrics_are_right_with_several_processes_and_after_one_is_killed(
    items: None, record: Record, migration: Path, daemon: Daemon
) -> None:
    """Rows are the record's own; counters of a dead process stay in the sum."""
    urls = {"database_url": daemon.database_url, "redis_url": daemon.redis_url}
    assert backfilld("enqueue", str(migration), **urls).returncode == 0
    until("some rows", lambda: record.walked() > ROWS // 10)
    daemon.kill_lanes()
    # Not by a process of its own, which would take longer to start than the walk takes to its end.
    Client(daemon.database_url, daemon.redis_url).pause(NAME)
    until("the pause", lambda: record.state(NAME) == "paused")

    changed = daemon.metric(f'backfilld_rows_total{{outcome="changed",run="{NAME}"}}')
    assert changed == record.one("SELECT sum(n) FROM items")
    committed = record.one("SELECT sum(batches_committed) FROM backfilld.lanes WHERE kind = 'backfill'")
    measured = daemon.metric('backfilld_batch_seconds_count{part="commit"}')
    # A process that is killed between its commit and its note of it leaves one batch out.
    assert committed - 2 <= measured <= committed

    assert backfilld("resume", NAME, **urls).returncode == 0
    until("the end", lambda: record.state(NAME) == "completed")
    assert once(record)


def dropped(record: Record) -> bool:
    try:
        record.connection.execute("DROP SCHEMA backfilld CASCADE")
    except psycopg.errors.DeadlockDetected:
        return False
    return True


@pytest.mark.soak
def test_a_daemon_whose_record_is_dropped_works_again_once_there_is_one(
    items: None, record: Record, migration: Path, daemon: Daemon, tmp_path: Path
) -> None:
    """Run 1 of the new record is another one than that which was under way; and it is done by the same processes."""
    urls = {"database_url": daemon.database_url, "redis_url": daemon.redis_url}
    assert backfilld("enqueue", str(migration), **urls).returncode == 0
    until("some rows", lambda: record.walked() > 0)

    children = daemon.children("")
    until("the schema to be gone, whatever the daemon holds of it", lambda: dropped(record))
    done = record.one("SELECT sum(n) FROM items")
    until("a side task that misses it", lambda: daemon.lines("side_task.failed"))
    assert backfilld("init", **urls).returncode == 0
    other = tmp_path / "other.yaml"
    other.write_text(
        "name: other\noperations:\n  - add_column: {table: items, column: {name: m, type: integer}, backfill: n + 7}\n"
        "settings: {lanes: 2, approve: []}\n",
        encoding="utf-8",
    )
    assert backfilld("enqueue", str(other), **urls).returncode == 0
    until("the end", lambda: record.state("other") == "completed")

    assert record.one("SELECT sum(n) FROM items") == done, "nothing was done for the run that is lost"
    assert record.one("SELECT count(*) FROM items WHERE m IS DISTINCT FROM n + 7") == 0
    daemon.ready()
    assert daemon.children("") == children
