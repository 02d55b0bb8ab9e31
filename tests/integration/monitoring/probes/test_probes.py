"""The load signals of a real PostgreSQL."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_postgres import embedded
from psycopg.types.json import Jsonb

from backfilld.migrations.postgres.connect import connect
from backfilld.migrations.settings import Limit, Limits
from backfilld.monitoring.probes import Database, Reading, Scene, Spent, Statements
from backfilld.monitoring.probes import database as database_probes
from backfilld.monitoring.probes import statements as statement_probes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.producers.demo.servers import EmbeddedPostgres

#: How long a test waits for what must come; reached only by one that fails.
PATIENCE_SECONDS = 30
#: Everything is judged.
LIMITS = Limits(wal_bytes_per_second=Limit(soft=1e9, hard=2e9))
#: What the governor's canary measures.
FELT = {"commit_seconds", "foreground_latency"}


def _read(connection: Connection, database: Database | None = None) -> dict[str, Reading]:
    readings, _ = (database or Database(LIMITS)).read(connection)
    assert {reading.signal for reading in readings} == set(Limits.model_fields) - FELT
    assert len(readings) == len(Limits.model_fields) - len(FELT)
    return {reading.signal: reading for reading in readings}


def _value(reading: Reading) -> float:
    assert reading.value is not None, reading.detail
    return reading.value


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
    busy = {"active_connections", "connections", "snapshot_age_seconds", "lock_waiters"}  # of other tests' databases
    assert {signal: reading.value for signal, reading in readings.items() if signal not in busy} == dict.fromkeys(
        set(readings) - busy, 0.0
    )
    assert all(readings[signal].value is not None for signal in busy)


def test_a_signal_that_is_switched_off_is_not_read(database_url: str) -> None:
    off = Limits(**dict.fromkeys(Limits.model_fields, "off"))
    with connect(database_url, application_name="backfilld governor") as ours:
        readings, _ = Database(off).read(ours)
    assert readings == []


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


def test_a_query_that_fails_spoils_its_own_signals_only_and_harms_no_transaction(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = database_probes._SQL
    whole = dict(sql)
    monkeypatch.setitem(sql, "slots", "SELECT 1/0")
    database = Database(LIMITS)
    with connect(database_url) as ours, ours.transaction():
        for _ in range(2):
            readings = _read(ours, database)
            unreadable = {signal for signal, reading in readings.items() if reading.value is None}
            assert unreadable == {"slot_retained_bytes", "slot_used_share"}
            assert readings["slot_used_share"].detail == "division by zero"
        assert ours.execute("SELECT 1 AS one").fetchone() == {"one": 1}
        monkeypatch.setitem(sql, "slots", whole["slots"])
        assert _value(_read(ours, database)["slot_used_share"]) == 0


def test_a_query_that_hangs_is_ended_and_the_others_are_read(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_probes, "STATEMENT_TIMEOUT", "50ms")
    monkeypatch.setitem(database_probes._SQL, "archiver", "SELECT pg_sleep(60)")
    with connect(database_url) as ours:
        readings = _read(ours)
    assert {signal for signal, reading in readings.items() if reading.value is None} == {"archive_backlog_segments"}
    assert "statement timeout" in readings["archive_backlog_segments"].detail


def test_when_all_hang_the_reading_still_ends(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_probes, "STATEMENT_TIMEOUT", "50ms")
    monkeypatch.setattr(database_probes, "PATIENCE_SECONDS", 0.1)
    for name in database_probes._SQL:
        monkeypatch.setitem(database_probes._SQL, name, "SELECT pg_sleep(60)")
    with connect(database_url) as ours:
        readings, scene = Database(LIMITS).read(ours)
    assert {reading.value for reading in readings} == {None}
    assert readings[-1].detail == "no time was left after 0.1 s"
    assert scene == Scene(others=1, runs=True), "unknown: as if somebody were there"


def test_a_connection_that_was_lost_is_not_a_reading(
    database_url: str, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    with connect(database_url) as ours:
        connection.execute("SELECT pg_terminate_backend(%s)", [ours.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            _read(ours)


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


def _lag(connection: Connection, database: Database) -> Reading:
    return _read(connection, database)["replica_lag_seconds"]


def _own_replay_lag(connection: Connection) -> float:
    row = connection.execute(
        "SELECT coalesce(extract(epoch FROM replay_lag), 0)::float8 AS lag FROM pg_stat_replication"
    ).fetchone()
    assert row is not None
    return float(row["lag"])


def _write(connection: Connection) -> None:
    connection.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 100))")


def test_a_standby_that_has_stopped_replaying_lags_more_and_more_and_an_idle_one_does_not(
    primary: Connection, standby: EmbeddedPostgres
) -> None:
    """PostgreSQL's own replay_lag keeps its last good value while replay stands still."""
    database = Database(LIMITS)
    _write(primary)
    _until(lambda: _lag(primary, database).value == 0)
    with connect(standby.url()) as replica:
        replica.execute("SELECT pg_wal_replay_pause()")
        try:
            _until(lambda: replica.execute("SELECT pg_get_wal_replay_pause_state() AS s").fetchone() == {"s": "paused"})
            _write(primary)
            # Its last good value may be a slow one, which ours is never below.
            _until(lambda: (_lag(primary, database).value or 0.0) > _own_replay_lag(primary))
            reading = _lag(primary, database)
        finally:
            replica.execute("SELECT pg_wal_replay_resume()")
    assert "walreceiver" in reading.detail
    # Caught up and idle: 0 at once and for good.
    _until(lambda: _lag(primary, database).value == 0)


def test_a_standby_whose_lag_this_role_may_not_see_cannot_be_read(
    primary: Connection, embedded_postgres: EmbeddedPostgres
) -> None:
    primary.execute("CREATE ROLE blind LOGIN")
    try:
        with connect(embedded_postgres.url(user="blind")) as blind:
            hidden = _lag(blind, Database(LIMITS))
            primary.execute("GRANT pg_monitor TO blind")
            seen = _lag(blind, Database(LIMITS))
    finally:
        primary.execute("DROP ROLE blind")
    assert hidden.value is None
    assert "pg_monitor" in hidden.detail
    assert seen.value is not None


# --- the other signals -------------------------------------------------------------------------------------------------


@contextmanager
def _slot(connection: Connection, name: str) -> Iterator[None]:
    connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", [name])
    try:
        yield
    finally:
        connection.execute("SELECT pg_drop_replication_slot(%s)", [name])


def _write_wal(connection: Connection, mebibytes: int) -> None:
    for _ in range(mebibytes):
        connection.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 1048576))")


def test_a_slot_that_keeps_wal_is_measured_and_named(embedded_postgres: EmbeddedPostgres) -> None:
    with connect(embedded_postgres.url(), application_name="backfilld governor") as ours, _slot(ours, "forgotten"):
        before = _value(_read(ours)["slot_retained_bytes"])
        _write_wal(ours, 4)
        reading = _read(ours)["slot_retained_bytes"]
        assert 3 * 2**20 <= _value(reading) - before <= 40 * 2**20
        assert reading.detail.startswith("forgotten, not in use, keeps ")
        assert _value(_read(ours)["slot_used_share"]) == 0, "it may keep all there is"


def test_the_room_that_is_left_to_slots_is_measured_where_it_is_limited(embedded_postgres: EmbeddedPostgres) -> None:
    with (
        psycopg.connect(embedded_postgres.url(), autocommit=True) as admin,
        connect(embedded_postgres.url(), application_name="backfilld governor") as ours,
    ):
        admin.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '160MB'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            with _slot(ours, "limited"):
                fresh = _value(_read(ours)["slot_used_share"])
                _write_wal(ours, 48)
                _until(lambda: _value(_read(ours)["slot_used_share"]) > fresh + 0.2)
        finally:
            admin.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
            admin.execute("SELECT pg_reload_conf()")


@pytest.fixture
def gate() -> Iterator[Path]:
    """A file that the server's own user can look for; pytest's folders are closed to it."""
    with TemporaryDirectory(prefix="backfilld-gate-") as folder:
        Path(folder).chmod(0o755)
        one = Path(folder) / "gate"
        one.touch()
        yield one


def test_segments_that_wait_for_the_archiver_are_counted(gate: Path) -> None:
    """An archiver that works, and then one that does not."""
    settings = {"archive_mode": "on", "archive_command": f"test -e {gate}"}
    with embedded(settings=settings) as server, connect(server.url()) as ours:

        def backlog() -> Reading:
            return _read(ours)["archive_backlog_segments"]

        def switch() -> None:
            _write_wal(ours, 1)
            ours.execute("SELECT pg_switch_wal()")

        switch()
        _until(lambda: bool(ours.execute("SELECT FROM pg_stat_archiver WHERE archived_count > 0").fetchall()))
        _until(lambda: backlog().value == 0)
        gate.unlink()
        for _ in range(3):
            switch()
        assert _value(backlog()) == 3
        _until(lambda: "fails" in backlog().detail)
        gate.touch()
        _until(lambda: backlog().value == 0)


def test_an_archiver_that_never_worked_cannot_be_read() -> None:
    settings = {"archive_mode": "on", "archive_command": "false"}
    with embedded(settings=settings) as server, connect(server.url()) as ours:
        assert _value(_read(ours)["archive_backlog_segments"]) == 0, "nothing to archive yet"
        _write_wal(ours, 1)
        ours.execute("SELECT pg_switch_wal()")
        _until(lambda: _read(ours)["archive_backlog_segments"].value is None)
        assert "attempts failed" in _read(ours)["archive_backlog_segments"].detail


def test_the_rate_of_wal_is_that_between_two_readings(database_url: str) -> None:
    database = Database(LIMITS)
    with connect(database_url, application_name="backfilld governor") as ours:
        began = time.monotonic()
        assert _value(_read(ours, database)["wal_bytes_per_second"]) == 0
        _write_wal(ours, 2)
        rate = _value(_read(ours, database)["wal_bytes_per_second"])
        assert rate * (time.monotonic() - began) >= 2 * 2**20 * 0.9


def test_sessions_that_wait_for_each_other_are_lock_waiters(database_url: str, jobs: None) -> None:
    with (
        connect(database_url, application_name="backfilld governor") as ours,
        psycopg.connect(database_url, application_name="app") as app,
    ):
        app.execute("UPDATE public.jobs SET status = 'app' WHERE id = 1")
        with _waiting(database_url, "UPDATE public.jobs SET status = 'late' WHERE id = 1") as pid:
            _until(lambda: _all_wait(ours, [pid]))
            readings = _read(ours)
            app.rollback()
    assert readings["lock_waiters"].value == 1
    assert f"session {pid} " in readings["lock_waiters"].detail
    assert readings["blocked_sessions"].value == 0


def test_connections_are_a_share_of_what_ordinary_roles_may_have(database_url: str) -> None:
    with connect(database_url, application_name="backfilld governor") as ours, ExitStack() as stack:
        before = _value(_read(ours)["connections"])
        for _ in range(5):
            stack.enter_context(psycopg.connect(database_url))
        reading = _read(ours)["connections"]
        (may_be,) = ours.execute("SELECT current_setting('max_connections')::integer - 3 AS most").fetchall()
    assert _value(reading) >= before
    assert reading.detail.endswith(f" of {may_be['most']}")


def test_a_reader_that_holds_the_horizon_back_is_named_with_its_age(database_url: str, jobs: None) -> None:
    with (
        connect(database_url, application_name="backfilld governor") as ours,
        psycopg.connect(database_url, application_name="report") as reader,
    ):
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT FROM public.jobs")
        began = time.monotonic()
        _until(lambda: _value(_read(ours)["snapshot_age_seconds"]) > 0.2)
        reading = _read(ours)["snapshot_age_seconds"]
        assert reading.detail == f"session {reader.info.backend_pid} of report, idle in transaction"
        assert _value(reading) <= time.monotonic() - began + 1
        reader.rollback()
        assert _value(_read(ours)["snapshot_age_seconds"]) < 0.2


def test_our_own_batches_and_idle_sessions_hold_no_horizon(database_url: str, jobs: None) -> None:
    with (
        connect(database_url, application_name="backfilld governor") as ours,
        psycopg.connect(database_url, application_name="backfilld run=1 lane=1 seq=0") as batch,
        psycopg.connect(database_url, application_name="idle"),
    ):
        batch.execute("UPDATE public.jobs SET status = 'batch'")
        assert _read(ours)["snapshot_age_seconds"].value == 0
        batch.rollback()


def test_a_reader_on_a_standby_with_feedback_holds_the_horizon_back(
    primary: Connection, standby: EmbeddedPostgres
) -> None:
    """PostgreSQL knows no time for it: its age is counted from when we saw the transactions after it."""
    database = Database(
        Limits(wal_bytes_per_second=Limit(soft=1e9, hard=2e9), snapshot_age_seconds=Limit(soft=5, hard=10))
    )
    with psycopg.connect(standby.url(), autocommit=True) as replica, psycopg.connect(standby.url()) as reader:
        replica.execute("ALTER SYSTEM SET hot_standby_feedback = on")
        replica.execute("ALTER SYSTEM SET wal_receiver_status_interval = '1s'")
        replica.execute("SELECT pg_reload_conf()")
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT")

        def age() -> float:
            _write(primary)
            reading = _read(primary, database)["snapshot_age_seconds"]
            return _value(reading) if "walreceiver" in reading.detail else 0.0

        _until(lambda: age() > 1.5)
        reader.rollback()
        _until(lambda: age() < 1.5)


def test_dead_rows_of_the_tables_that_runs_change_are_a_share_with_what_vacuum_does(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_probes, "FEWEST_DEAD_TUPLES", 1000)
    # By a session that ends: one that stays tells of what it did only after ten seconds.
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute('CREATE SCHEMA "Odd"')
        other.execute('CREATE TABLE "Odd".full_of_dead (id int) WITH (autovacuum_enabled = off)')
        other.execute('INSERT INTO "Odd".full_of_dead SELECT generate_series(1, 2000)')
        other.execute('UPDATE "Odd".full_of_dead SET id = -id')
        other.execute('DELETE FROM "Odd".full_of_dead WHERE id % 2 = 0')
    database = Database(LIMITS)
    with connect(database_url, application_name="backfilld governor") as ours:
        for _ in range(2):
            assert _read(ours, database)["dead_tuples"].value == 0, "no run changes it"
        connection.execute(
            "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by, state, phase) "
            "VALUES ('m', 'c', '{}', '{}', '[]', 'me', 'running', 'backfill')"
        )
        connection.execute(
            "INSERT INTO backfilld.lanes (run, lane, kind, operation, relation) VALUES (1, 1, 'backfill', 0, 'Odd.full_of_dead')"
        )
        _until(lambda: _value(_read(ours, database)["dead_tuples"]) > 0.5)
        reading = _read(ours, database)["dead_tuples"]
        assert reading.value == pytest.approx(0.75)
        assert reading.detail == "Odd.full_of_dead: 3000 dead rows, autovacuum is off"
        connection.execute('VACUUM "Odd".full_of_dead')
        _until(lambda: _read(ours, database)["dead_tuples"].value == 0)


def test_a_table_with_few_dead_rows_is_well_whatever_their_share(database_url: str, connection: Connection) -> None:
    connection.execute("CREATE TABLE small (id int)")
    connection.execute(
        "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by, state, phase) "
        "VALUES ('m', 'c', '{}', '{}', '[]', 'me', 'running', 'backfill')"
    )
    connection.execute(
        "INSERT INTO backfilld.lanes (run, lane, kind, operation, relation) VALUES (1, 1, 'backfill', 0, 'small')"
    )
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("INSERT INTO small SELECT generate_series(1, 100)")
        other.execute("DELETE FROM small")
    seen = "SELECT pg_stat_get_dead_tuples('small'::regclass) AS dead"
    _until(lambda: connection.execute(seen).fetchall() == [{"dead": 100}])
    database = Database(LIMITS)
    with connect(database_url, application_name="backfilld governor") as ours:
        for _ in range(2):
            assert _read(ours, database)["dead_tuples"].value == 0


def test_dead_rows_are_no_share_of_counters_that_were_reset(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash or a restore the counter of live rows begins at nothing, and each batch of ours adds dead ones."""
    monkeypatch.setattr(database_probes, "FEWEST_DEAD_TUPLES", 100)
    connection.execute("CREATE TABLE counted (id int) WITH (autovacuum_enabled = off)")
    connection.execute("INSERT INTO counted SELECT generate_series(1, 2000)")
    connection.execute(
        "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by, state, phase, rows_total) "
        "VALUES ('m', 'c', '{}', '{}', '[]', 'me', 'running', 'backfill', 2000)"
    )
    connection.execute(
        "INSERT INTO backfilld.lanes (run, lane, kind, operation, relation) VALUES (1, 1, 'backfill', 0, 'counted')"
    )
    seen = "SELECT pg_stat_get_dead_tuples('counted'::regclass) AS dead"
    database = Database(LIMITS)
    with connect(database_url, application_name="backfilld governor") as ours:
        _read(ours, database)
        for vacuumed in (False, True):
            if vacuumed:
                connection.execute("VACUUM counted")
            connection.execute("SELECT pg_stat_reset_single_table_counters('counted'::regclass)")
            connection.execute("UPDATE counted SET id = -id WHERE abs(id) <= 200")
            _until(lambda: connection.execute(seen).fetchall() == [{"dead": 200}])
            assert _value(_read(ours, database)["dead_tuples"]) == pytest.approx(200 / 2200)


def test_how_much_a_table_has_grown_since_a_run_began_to_change_it(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    monkeypatch.setattr(database_probes, "LEAST_GROWTH_BYTES", 8192)
    connection.execute("CREATE TABLE growing WITH (autovacuum_enabled = off) AS SELECT generate_series(1, 2260) AS id")
    before = connection.execute("SELECT pg_table_size('growing') AS bytes").fetchone()
    assert before is not None
    connection.execute(
        "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by, state, phase, space) "
        "VALUES ('m', 'c', '{}', '{}', '[]', 'me', 'running', 'backfill', %s)",
        [Jsonb({"before": {"tables": {"growing": before["bytes"]}}})],
    )
    connection.execute(
        "INSERT INTO backfilld.lanes (run, lane, kind, operation, relation) VALUES (1, 1, 'backfill', 0, 'growing')"
    )
    database = Database(LIMITS)
    with connect(database_url, application_name="backfilld governor") as ours:
        for _ in range(2):
            assert _read(ours, database)["table_growth"].value == 0
        # When
        for _ in range(3):
            connection.execute("INSERT INTO growing SELECT generate_series(1, 2260)")
        reading = _read(ours, database)["table_growth"]
    # Then
    assert 1.5 < _value(reading) < 3.5
    assert reading.detail.startswith("public.growing has grown by ")


def test_who_else_is_at_work_is_seen(database_url: str) -> None:
    """Sessions of this database, ours left out, that have run something within two seconds."""
    database = Database(LIMITS)
    with connect(database_url, application_name="backfilld governor") as ours, ExitStack() as stack:
        before = database.read(ours)[1]
        assert (before.others, before.runs) == (0, False)
        for _ in range(3):
            stack.enter_context(psycopg.connect(database_url, autocommit=True)).execute("SELECT")
        assert database.read(ours)[1].others == 3
        _until(lambda: database.read(ours)[1].others == 0)
        after = database.read(ours)[1]
        assert before.transactions is not None
        assert after.transactions is not None
        assert after.transactions >= before.transactions + 3
        ours.execute(
            "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by) "
            "VALUES ('m', 'c', '{}', '{}', '[]', 'me')"
        )
        assert database.read(ours)[1].runs


# --- what statements of others take ------------------------------------------------------------------------------------


@pytest.fixture
def counters(connection: Connection) -> None:
    """A function that answers as pg_stat_statements does, from a table: the embedded server comes without extensions."""
    connection.execute(
        "CREATE SCHEMA extensions;"
        "CREATE TABLE extensions.counted (queryid bigint, calls bigint, total_exec_time float8);"
        "INSERT INTO extensions.counted VALUES (1, 100, 500), (2, 50, 5), (NULL, 9, 9);"
        "CREATE FUNCTION extensions.pg_stat_statements(showtext boolean, OUT dbid oid, OUT queryid bigint, OUT calls bigint, "
        "OUT total_exec_time float8) RETURNS SETOF record LANGUAGE sql AS "
        "'SELECT d.oid, c.queryid, c.calls, c.total_exec_time FROM extensions.counted c, pg_database d "
        "WHERE d.datname = current_database()'"
    )


def test_statements_are_what_the_counters_have_grown_by(
    database_url: str, connection: Connection, counters: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statement_probes, "EVERY_SECONDS", 0.0)
    statements = Statements()
    with connect(database_url, application_name="backfilld governor") as ours:
        assert statements.read(ours) is None, "the first says nothing of how much has grown"
        connection.execute(
            "UPDATE extensions.counted SET calls = calls + 10, total_exec_time = total_exec_time + 40 WHERE queryid = 1"
        )
        span = statements.read(ours)
        assert span is not None
        assert span.statements == (Spent(statement="1", calls=10, seconds=span.statements[0].seconds),)
        assert span.statements[0].seconds == pytest.approx(0.04)
        connection.execute("UPDATE extensions.counted SET calls = 1, total_exec_time = 1")
        reset = statements.read(ours)
        assert reset is not None
        assert reset.statements == ()


def test_statements_are_not_asked_more_often_than_they_should(database_url: str, counters: None) -> None:
    statements = Statements()
    with connect(database_url, application_name="backfilld governor") as ours:
        statements.read(ours)
        assert [statements.read(ours) for _ in range(3)] == [None, None, None]
        assert statements._before, "the one that was due"


@pytest.mark.parametrize("broken", ["nothing is there", "it may not be called", "it raises"])
def test_where_statements_cannot_be_read_nothing_is_known_and_nothing_is_harmed(
    database_url: str, plain_role_url: str, connection: Connection, broken: str, request: pytest.FixtureRequest
) -> None:
    url = database_url
    if broken != "nothing is there":
        request.getfixturevalue("counters")
    if broken == "it may not be called":
        url = plain_role_url
    if broken == "it raises":
        connection.execute("DROP TABLE extensions.counted")
    statements = Statements()
    with connect(url, application_name="backfilld governor") as ours, ours.transaction():
        assert statements.read(ours) is None
        assert statements._next_look > time.monotonic(), "asked again in a minute"
        assert ours.execute("SELECT 1 AS one").fetchone() == {"one": 1}
