"""The load signals of a real PostgreSQL."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from migrations.postgres.connect import connect
from migrations.settings import Limits
from monitoring.probes import Reading, WalHistory, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from migrations.postgres.connect import Connection
    from producers.embedded import EmbeddedPostgres

#: How long a test waits for what must come; reached only by one that fails.
PATIENCE_SECONDS = 30
LIMITS = Limits()


def _read(connection: Connection) -> dict[str, Reading]:
    readings = read(connection, LIMITS, history=WalHistory())
    assert [reading.signal for reading in readings] == ["replica_lag_seconds", "blocked_sessions", "active_connections"]
    return {reading.signal: reading for reading in readings}


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "did not come"
        pause.wait(0.02)


@contextmanager
def _waiting(url: str, statement: str, *, application_name: str = "app") -> Iterator[int]:
    """A session that runs a statement in a thread of its own; gives its pid. Its transaction is rolled back."""
    with psycopg.connect(url, application_name=application_name) as session:

        def work() -> None:
            session.execute(statement.encode())
            session.rollback()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield session.info.backend_pid
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def jobs(connection: psycopg.Connection[dict[str, Any]]) -> None:
    connection.execute("CREATE TABLE public.jobs (id int PRIMARY KEY, status text)")
    connection.execute("INSERT INTO public.jobs VALUES (1, 'a'), (2, 'b')")


def _all_wait(connection: Connection, pids: list[int]) -> bool:
    """Whether each of these sessions has waited for a lock long enough to count."""
    rows = connection.execute(
        "SELECT pid FROM pg_locks WHERE NOT granted AND waitstart <= clock_timestamp() - interval '0.25 s'"
    ).fetchall()
    return {row["pid"] for row in rows} >= set(pids)


def test_a_quiet_database_reads_zero(database_url: str) -> None:
    with connect(database_url, application_name="backfilld governor") as ours:
        readings = _read(ours)
    assert readings["replica_lag_seconds"].value == 0
    assert readings["blocked_sessions"].value == 0
    assert readings["active_connections"].value is not None


def test_sessions_behind_our_batch_are_counted_those_behind_each_other_included(database_url: str, jobs: None) -> None:
    """Of many that want one row only the first waits for our transaction; the others wait for its place in the queue."""
    update = "UPDATE public.jobs SET status = 'app' WHERE id = 1"
    with connect(database_url) as ours, psycopg.connect(database_url) as batch, ExitStack() as stack:
        batch.execute("SET LOCAL application_name = 'backfilld run=1 lane=1 seq=0'")
        batch.execute("UPDATE public.jobs SET status = 'batch' WHERE id = 1")
        pids = [stack.enter_context(_waiting(database_url, update)) for _ in range(3)]
        # Another batch of ours waits as well, and is no victim.
        other = stack.enter_context(_waiting(database_url, update, application_name="backfilld run=1 lane=2 seq=0"))

        _until(lambda: _all_wait(ours, [*pids, other]))
        reading = _read(ours)["blocked_sessions"]
        batch.rollback()

    assert reading.value == 3
    assert any(f"session {pid} " in reading.detail for pid in pids)


def test_a_wait_of_a_moment_is_not_counted(database_url: str, jobs: None) -> None:
    with connect(database_url) as ours, psycopg.connect(database_url) as batch:
        batch.execute("SET LOCAL application_name = 'backfilld run=1 lane=1 seq=0'")
        batch.execute("LOCK TABLE public.jobs")
        deadline = time.monotonic() + PATIENCE_SECONDS
        with _waiting(database_url, "SELECT FROM public.jobs"):
            while not (reading := _read(ours)["blocked_sessions"]).value:
                assert time.monotonic() < deadline, "did not come"
            batch.rollback()
    assert reading.value == 1
    seconds = float(reading.detail.split()[-2])
    assert seconds >= 0.2  # a quarter of a second, rounded for people


def test_sessions_the_application_blocks_itself_are_none_of_ours(database_url: str, jobs: None) -> None:
    with connect(database_url) as ours, psycopg.connect(database_url, application_name="app") as app:
        app.execute("UPDATE public.jobs SET status = 'app' WHERE id = 1")
        with psycopg.connect(database_url) as batch:
            batch.execute("SET LOCAL application_name = 'backfilld run=1 lane=1 seq=0'")
            batch.execute("UPDATE public.jobs SET status = 'batch' WHERE id = 2")
            with _waiting(database_url, "UPDATE public.jobs SET status = 'late' WHERE id = 1") as pid:
                _until(lambda: _all_wait(ours, [pid]))
                value = _read(ours)["blocked_sessions"].value
                app.rollback()
            batch.rollback()
    assert value == 0


def test_active_connections_are_a_share_and_leave_ours_out(embedded_postgres: EmbeddedPostgres) -> None:
    """Sessions that only sit there are not active. On a server of our own: others' sessions would be counted too."""
    database_url = embedded_postgres.url()
    with connect(database_url, application_name="backfilld governor") as ours, ExitStack() as stack:
        gate = stack.enter_context(psycopg.connect(database_url))
        gate.execute("SELECT pg_advisory_lock(42)")
        before = _read(ours)["active_connections"]
        ask = "SELECT pg_advisory_xact_lock_shared(42)"
        waiting = [stack.enter_context(_waiting(database_url, ask)) for _ in range(2)]
        waiting.append(
            stack.enter_context(_waiting(database_url, ask, application_name="backfilld run=1 lane=1 seq=0"))
        )
        _until(lambda: _all_wait(ours, waiting))
        reading = _read(ours)["active_connections"]
        row = ours.execute("SELECT current_setting('max_connections')::int AS most").fetchone()
        gate.execute("SELECT pg_advisory_unlock(42)")
    assert row is not None
    assert before.value is not None
    assert reading.value is not None
    assert reading.value - before.value == pytest.approx(2 / row["most"])
    assert reading.detail.endswith(f"of {row['most']}")


def test_sessions_hidden_from_the_role_count_as_active(database_url: str, plain_role_url: str) -> None:
    """Fail closed, yet usable: without pg_monitor a nearly empty server does not stop the work."""
    with psycopg.connect(database_url, application_name="app") as idle, connect(plain_role_url) as ours:
        idle.execute("SELECT 1")
        reading = _read(ours)["active_connections"]
    assert reading.value is not None
    assert reading.value > 0
    assert "pg_monitor" in reading.detail


def test_a_read_inside_the_governors_transaction_leaves_it_usable(database_url: str) -> None:
    with connect(database_url) as ours:
        with ours.transaction():
            ours.execute("SELECT FROM backfilld.pace FOR UPDATE")
            _read(ours)
            ours.execute("UPDATE backfilld.pace SET width = 1")
        row = ours.execute(
            "SELECT width, current_setting('statement_timeout') AS timeout FROM backfilld.pace"
        ).fetchone()
    assert row == {"width": 1, "timeout": "0"}


def test_a_query_that_fails_makes_every_signal_unreadable_and_harms_no_transaction(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("monitoring.probes", fromlist=["_SQL"])._SQL, "blocked_sessions", "SELECT 1/0")
    with connect(database_url) as ours, ours.transaction():
        readings = _read(ours)
        assert {reading.value for reading in readings.values()} == {None}
        assert all("division by zero" in reading.detail for reading in readings.values())
        assert ours.execute("SELECT 1 AS one").fetchone() == {"one": 1}


def test_a_connection_that_was_lost_is_not_a_reading(
    database_url: str, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    with connect(database_url) as ours:
        connection.execute("SELECT pg_terminate_backend(%s)", [ours.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            _read(ours)


@pytest.fixture
def standby(embedded_postgres: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A streaming replica of the embedded server, which no other test finds there."""
    replica = embedded_postgres.standby()
    try:
        replica.start()
        yield replica
    finally:
        replica.close()
        with connect(embedded_postgres.url()) as ours:
            _until(lambda: not ours.execute("SELECT FROM pg_stat_replication").fetchall())


@pytest.fixture
def primary(embedded_postgres: EmbeddedPostgres, standby: EmbeddedPostgres) -> Iterator[Connection]:
    with connect(embedded_postgres.url()) as ours:
        _until(
            lambda: bool(
                ours.execute(
                    "SELECT FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= pg_current_wal_flush_lsn()"
                ).fetchall()
            )
        )
        yield ours


def _lag(connection: Connection, history: WalHistory) -> Reading:
    return read(connection, LIMITS, history=history)[0]


def _write(connection: Connection) -> None:
    connection.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 100))")


def test_a_standby_that_has_stopped_replaying_lags_more_and_more_and_an_idle_one_does_not(
    primary: Connection, standby: EmbeddedPostgres
) -> None:
    """PostgreSQL's own replay_lag keeps its last good value while replay stands still."""
    history = WalHistory()
    _write(primary)
    _until(lambda: _lag(primary, history).value == 0)
    with connect(standby.url()) as replica:
        replica.execute("SELECT pg_wal_replay_pause()")
        try:
            _until(lambda: replica.execute("SELECT pg_get_wal_replay_pause_state() AS s").fetchone() == {"s": "paused"})
            _write(primary)
            _until(lambda: (_lag(primary, history).value or 0) > 0.3)
            row = primary.execute(
                "SELECT extract(epoch FROM replay_lag)::float8 AS lag FROM pg_stat_replication"
            ).fetchone()
            reading = _lag(primary, history)
        finally:
            replica.execute("SELECT pg_wal_replay_resume()")
    assert row is not None
    assert reading.value is not None
    assert (row["lag"] or 0.0) < reading.value
    assert "walreceiver" in reading.detail
    # Caught up and idle: 0 at once and for good.
    _until(lambda: _lag(primary, history).value == 0)


def test_a_standby_whose_lag_this_role_may_not_see_cannot_be_read(
    primary: Connection, embedded_postgres: EmbeddedPostgres
) -> None:
    primary.execute("CREATE ROLE blind LOGIN")
    try:
        with connect(embedded_postgres.url(user="blind")) as blind:
            hidden = _lag(blind, WalHistory())
            primary.execute("GRANT pg_monitor TO blind")
            seen = _lag(blind, WalHistory())
    finally:
        primary.execute("DROP ROLE blind")
    assert hidden.value is None
    assert "pg_monitor" in hidden.detail
    assert seen.value is not None
