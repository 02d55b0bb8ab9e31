"""The metrics of runs, read from a real record."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from psycopg.types.json import Jsonb

from backfilld.migrations.file import migration as definition
from backfilld.migrations.telemetry import Event, SideTaskFailed
from backfilld.monitoring.record import RecordCollector
from backfilld.monitoring.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_proxy import Proxy

    Connection = psycopg.Connection[dict[str, Any]]  # Any: rows of tests


MIGRATION = definition.parse("name: jobs\noperations:\n- backfill: {table: jobs, set: {a: b}}\n")


@pytest.fixture
def record(database_url: str) -> Iterator[RecordCollector]:
    collector = RecordCollector(database_url)
    yield collector
    collector.close()


def _scrape(collector: RecordCollector) -> dict[tuple[str, ...], float]:
    """Samples by name and label values, in the order of the labels' names."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for metric in collector.collect()
        for sample in metric.samples
    }


def _run(connection: Connection, name: str, **columns: Any) -> int:
    """A run with its coordinator."""
    values = {
        "name": name,
        "checksum": "c",
        "definition": Jsonb(MIGRATION.canonical()),
        "settings": Jsonb(MIGRATION.settings.model_dump(mode="json")),
        "facts": Jsonb([]),
        "requested_by": "test",
    }
    run = _insert(connection, "runs", **(values | columns))["run"]
    _insert(connection, "lanes", run=run, lane=0, kind="coordinator")
    return int(run)


def _lane(connection: Connection, run: int, lane: int, kind: str = "backfill", **columns: Any) -> None:
    _insert(connection, "lanes", run=run, lane=lane, kind=kind, operation=0, relation="jobs", **columns)


def _quarantine(connection: Connection, run: int, *keys: str) -> None:
    for key in keys:
        _insert(
            connection,
            "quarantine",
            run=run,
            operation=0,
            relation="jobs",
            key=Jsonb([key]),
            sqlstate="22P02",
            error="no number",
        )


def _insert(connection: Connection, table: str, **columns: Any) -> dict[str, Any]:
    names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
    query = f"INSERT INTO backfilld.{table} ({names}) VALUES ({places}) RETURNING *"
    row = connection.execute(query.encode(), list(columns.values())).fetchone()
    assert row is not None
    return row


def test_the_counts_of_a_run_are_those_of_its_lanes(connection: Connection, record: RecordCollector) -> None:
    run = _run(connection, "jobs", phase="backfill", state="running", rows_total=1000)
    _lane(connection, run, 1, rows_walked=300, rows_changed=250, batches_committed=3, batches_retried=1)
    _lane(connection, run, 2, rows_walked=200, rows_changed=100, batches_committed=2)
    _lane(connection, run, 3, "verify", rows_walked=500, rows_residual=7, batches_committed=1)
    _quarantine(connection, run, "4", "5")

    samples = _scrape(record)

    assert samples["backfilld_rows_total", "changed", "jobs"] == 350
    assert samples["backfilld_rows_total", "quarantined", "jobs"] == 2
    assert samples["backfilld_rows_total", "unchanged", "jobs"] == 500 - 350 - 2
    assert samples["backfilld_batches_total", "committed", "jobs"] == 6
    assert samples["backfilld_batches_total", "retried", "jobs"] == 1
    assert samples["backfilld_run_rows_remaining", "jobs"] == 500
    assert samples["backfilld_quarantined_rows", "jobs"] == 2
    assert samples["backfilld_run_info", "backfill", "jobs", "running"] == 1
    assert samples["backfilld_width",] == 2
    assert samples["backfilld_replica_lag_seconds",] == 0
    assert samples["backfilld_database_up",] == 1
    assert samples["backfilld_run_lanes", "jobs", "open"] == 3
    assert samples["backfilld_run_progress_ratio", "jobs"] == 0.5
    assert samples["backfilld_runs", "running"] == 1
    assert samples["backfilld_runs", "waiting"] == 0


def test_the_load_signals_are_told_with_their_limits(connection: Connection, record: RecordCollector) -> None:
    readings = {
        "replica_lag_seconds": {"value": 0.5, "soft": 5, "hard": 30, "detail": "s1 is 0.5 s behind"},
        "queue": {"value": None, "soft": 1, "hard": 2, "detail": "no answer"},
    }
    connection.execute("UPDATE backfilld.pace SET rest = 1.5, readings = %s", [Jsonb(readings)])
    samples = _scrape(record)
    assert samples["backfilld_rest_ratio",] == 1.5
    assert samples["backfilld_signal_readable", "replica_lag_seconds"] == 1
    assert samples["backfilld_signal_readable", "queue"] == 0
    assert samples["backfilld_signal", "replica_lag_seconds"] == 0.5
    assert ("backfilld_signal", "queue") not in samples, "no value is not a value"
    # Labels are sorted by their names: limit, then signal.
    assert samples["backfilld_signal_limit", "soft", "queue"] == 1
    assert samples["backfilld_signal_limit", "hard", "replica_lag_seconds"] == 30


def test_a_row_taken_back_from_the_quarantine_was_changed_and_not_found_unchanged(
    connection: Connection, record: RecordCollector
) -> None:
    run = _run(connection, "jobs", phase="backfill", state="running")
    _lane(connection, run, 1, rows_walked=10, rows_changed=9)
    _quarantine(connection, run, "4")
    before = _scrape(record)["backfilld_rows_total", "unchanged", "jobs"]

    connection.execute("DELETE FROM backfilld.quarantine")
    _lane(connection, run, 2, "retry", rows_changed=1)

    assert before == 0
    assert _scrape(record)["backfilld_rows_total", "unchanged", "jobs"] == 0


@pytest.mark.parametrize(
    ("columns", "remaining"),
    [
        ({"phase": "expand"}, None),
        ({"phase": "backfill", "rows_total": 100}, 60.0),
        ({"phase": "backfill", "rows_total": 30}, 0.0),  # the table has shrunk, or grown since it was counted
        ({"phase": "backfill", "rows_total": 100, "pass": 2, "residual_rows": 9}, 4.0),
        ({"phase": "backfill", "rows_total": 100, "pass": 2}, 0.0),
        ({"phase": "verify", "rows_total": 100}, 0.0),
        ({"phase": "contract", "rows_total": 100, "residual_rows": 0}, 0.0),
    ],
)
def test_rows_remaining_are_told_once_they_are_known(
    connection: Connection, record: RecordCollector, columns: dict[str, Any], remaining: float | None
) -> None:
    run = _run(connection, "jobs", state="running", **columns)
    _lane(connection, run, 1, rows_walked=40, rows_changed=40)
    second: dict[str, Any] = {"pass": 2, "rows_walked": 5, "rows_changed": 5}  # `pass` is a word of Python's
    _lane(connection, run, 2, **second)
    assert _scrape(record).get(("backfilld_run_rows_remaining", "jobs")) == remaining


def test_the_series_of_a_run_end_with_it(connection: Connection, record: RecordCollector) -> None:
    run = _run(connection, "jobs", state="cancelling")
    _run(connection, "other", state="paused")
    assert ("backfilld_run_info", "expand", "jobs", "cancelling") in _scrape(record)

    connection.execute("UPDATE backfilld.runs SET state = 'cancelled', ended_at = now() WHERE run = %s", [run])

    names = {part for sample in _scrape(record) for part in sample}
    assert "jobs" not in names
    assert "other" in names


def test_the_age_of_progress_is_counted_from_the_last_batch_or_from_the_beginning(
    connection: Connection, record: RecordCollector
) -> None:
    fresh = _run(connection, "fresh")
    going = _run(connection, "going")
    connection.execute("UPDATE backfilld.runs SET created_at = now() - interval '1 hour'")
    _lane(connection, fresh, 1)
    _lane(connection, going, 1)
    _lane(connection, going, 2)
    connection.execute(
        "UPDATE backfilld.lanes SET progressed_at = now() - lane * interval '1 minute' WHERE run = %s AND lane > 0",
        [going],
    )
    samples = _scrape(record)
    assert samples["backfilld_run_progress_age_seconds", "fresh"] == pytest.approx(3600, abs=30)
    assert samples["backfilld_run_progress_age_seconds", "going"] == pytest.approx(60, abs=30)


def test_the_age_of_a_message_is_that_of_the_oldest_due_lane(connection: Connection, record: RecordCollector) -> None:
    assert _scrape(record)["backfilld_message_age_seconds",] == 0
    run = _run(connection, "jobs", phase="backfill", state="running")
    _lane(connection, run, 1)
    connection.execute(
        "UPDATE backfilld.lanes SET next_run_at = now() - interval '90 s', enqueued_at = now() - interval '90 s' WHERE lane = 1"
    )
    assert _scrape(record)["backfilld_message_age_seconds",] == pytest.approx(90, abs=30)


def test_a_role_that_may_not_read_the_quarantine_gets_no_number_rather_than_zero(
    connection: Connection, plain_role: tuple[str, str], plain_role_url: str
) -> None:
    """Row security would hide every row from it without a word."""
    role = plain_role[0]
    connection.execute(f"GRANT USAGE ON SCHEMA backfilld TO {role}".encode())
    connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA backfilld TO {role}".encode())
    _quarantine(connection, _run(connection, "jobs"), "4")
    told: list[Event] = []
    collector = RecordCollector(plain_role_url, observe=told.append)
    assert _scrape(collector) == {("backfilld_database_up",): 0}
    assert [
        event.message for event in told if isinstance(event, SideTaskFailed) and "row-level security" in event.message
    ]


def test_a_table_that_somebody_has_locked_costs_its_size_and_nothing_else(
    connection: Connection, database_url: str, record: RecordCollector
) -> None:
    """A size needs a moment's lock; whoever waited for that would keep the application waiting behind him."""
    connection.execute('CREATE TABLE "Order" (id bigint PRIMARY KEY)')
    connection.execute('INSERT INTO "Order" SELECT generate_series(1, 1000)')
    before = {"heap_bytes": 8192, "index_bytes": 8192, "tables": {"Order": 8192}}
    _run(connection, "jobs", phase="backfill", state="running", space=Jsonb({"before": before}))
    connection.execute("CREATE TABLE backfilld.journal_1 (batch bigint PRIMARY KEY)")
    free = _scrape(record)
    assert free["backfilld_run_table_bytes", "before", "heap", "jobs"] == 8192
    assert free["backfilld_run_table_bytes", "now", "heap", "jobs"] > 8192
    assert free["backfilld_run_table_bytes", "now", "indexes", "jobs"] > 8192
    assert free["backfilld_kept_bytes", "journal"] > 0
    assert free["backfilld_kept_runs",] == 1

    with psycopg.connect(database_url) as somebody:
        somebody.execute('LOCK TABLE "Order"')
        locked = _scrape(record)
    assert ("backfilld_run_table_bytes", "now", "heap", "jobs") not in locked
    assert locked["backfilld_run_info", "backfill", "jobs", "running"] == 1


def test_what_holds_a_run_is_told_with_its_cause_and_what_holds_all_with_its_signal(
    connection: Connection, record: RecordCollector
) -> None:
    _run(connection, "jobs", phase="backfill", state="running")
    waits = _run(connection, "waits", phase="contract", state="waiting")
    connection.execute("UPDATE backfilld.runs SET state_since = now() - interval '1 hour' WHERE run = %s", [waits])
    connection.execute(
        "UPDATE backfilld.pace SET sampled_at = now(), hold_reason = 'replica lag', held_since = now() - interval '2 minutes', "
        """memory = '{"hold_signal": "replica_lag_seconds"}'"""
    )
    samples = _scrape(record)
    assert samples["backfilld_run_held_seconds", "load", "jobs"] == pytest.approx(120, abs=30)
    assert samples["backfilld_run_held_seconds", "approval", "waits"] == pytest.approx(3600, abs=30)
    assert samples["backfilld_run_state_seconds", "waits"] == pytest.approx(3600, abs=30)
    assert samples["backfilld_hold_info", "replica_lag_seconds"] == 1
    assert samples["backfilld_hold_age_seconds",] == pytest.approx(120, abs=30)


def test_what_was_kept_for_too_long_is_told(connection: Connection, record: RecordCollector) -> None:
    assert _scrape(record)["backfilld_kept_overdue_seconds",] == 0
    _run(
        connection,
        "jobs",
        phase="done",
        state="completed",
        verified_at=datetime.now(UTC),
        ended_at=datetime.now(UTC),
        kept_until=datetime.now(UTC) - timedelta(days=1),
    )
    samples = _scrape(record)
    assert samples["backfilld_kept_overdue_seconds",] == pytest.approx(86400, abs=60)
    assert samples["backfilld_runs_ended_total", "completed"] == 1


def test_a_run_that_this_release_does_not_understand_is_told_like_any_other(
    connection: Connection, record: RecordCollector
) -> None:
    """A newer release may have put down what an older one cannot read: only who works on the run has to."""
    _run(connection, "jobs", definition=Jsonb({"name": "jobs", "operations": [{"teleport": {}}]}), state="paused")
    assert _scrape(record)["backfilld_run_info", "expand", "jobs", "paused"] == 1


@pytest.mark.parametrize("settings", [{}, {"lanes": "many", "max_quarantined": 1, "windows": []}])
def test_settings_that_this_release_does_not_understand_cost_the_record_and_not_the_page(
    connection: Connection, database_url: str, settings: dict[str, object]
) -> None:
    _run(connection, "jobs", settings=Jsonb(settings))
    told: list[Event] = []
    collector = RecordCollector(database_url, observe=told.append)
    assert _scrape(collector) == {("backfilld_database_up",): 0}
    assert [event.message for event in told if isinstance(event, SideTaskFailed)]
    collector.close()


def test_without_a_record_the_database_is_not_up(empty_database_url: str) -> None:
    assert _scrape(RecordCollector(empty_database_url)) == {("backfilld_database_up",): 0}


def test_the_scrape_reads_only_and_uses_one_connection(connection: Connection, record: RecordCollector) -> None:
    for _ in range(3):
        assert _scrape(record)["backfilld_database_up",] == 1
    rows = connection.execute(
        "SELECT pid, state, xact_start FROM pg_stat_activity WHERE application_name = 'backfilld metrics' AND datname = current_database()"
    ).fetchall()
    assert [(row["state"], row["xact_start"]) for row in rows] == [("idle", None)]


def test_a_database_that_comes_back_is_read_again(
    database_url: str, connection: Connection, proxy: Callable[[str], Proxy]
) -> None:
    """The absence is told once, not at every scrape."""
    between = proxy(database_url)
    told: list[Event] = []
    collector = RecordCollector(between.url(database_url), observe=told.append)
    _run(connection, "jobs")
    assert _scrape(collector)["backfilld_database_up",] == 1

    between.refuse()
    assert _scrape(collector) == {("backfilld_database_up",): 0}
    assert _scrape(collector) == {("backfilld_database_up",): 0}
    assert [type(event) for event in told] == [SideTaskFailed]

    between.accept()
    assert _scrape(collector)["backfilld_quarantined_rows", "jobs"] == 0
    between.refuse()
    _scrape(collector)
    assert len(told) == 2
    collector.close()


def test_a_database_that_answers_nothing_does_not_hold_up_the_process_metrics(
    database_url: str, proxy: Callable[[str], Proxy]
) -> None:
    """A frozen server answers neither a query nor its cancellation; scrapes that meet do not queue behind each other."""
    between = proxy(database_url)
    collector = RecordCollector(between.url(database_url), deadline_seconds=0.5)
    server = Server(host="127.0.0.1", port=0, collectors=[collector])
    assert _scrape(collector)["backfilld_database_up",] == 1
    between.stall()
    server.start()
    try:
        bodies: list[str] = []
        threads = [threading.Thread(target=lambda: bodies.append(_fetch(server.port))) for _ in range(8)]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        seconds = time.monotonic() - begun
        readers = [thread for thread in threading.enumerate() if thread.name == "backfilld-record"]
    finally:
        server.stop()
        between.resume()
    assert len(bodies) == 8
    for body in bodies:
        assert "backfilld_database_up 0.0" in body
        assert "backfilld_reconciler_wakeups_total" in body
    assert seconds < 8 * 0.5  # one after the other would take longer
    assert len(readers) == 1
    readers[0].join(10)
    assert _scrape(collector)["backfilld_database_up",] == 1
    collector.close()


def _fetch(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return str(response.read().decode())


def test_the_page_is_valid_for_prometheus_with_any_name_of_a_run(
    connection: Connection, record: RecordCollector
) -> None:
    _run(connection, 'say "hi"\\\n{}')
    server = Server(host="127.0.0.1", port=0, collectors=[record])
    server.start()
    try:
        page = _fetch(server.port)
    finally:
        server.stop()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert [sample.labels["run"] for sample in families["backfilld_run_info"].samples] == ['say "hi"\\\n{}']
    assert families["backfilld_rows"].type == "counter"


def test_registering_does_not_ask_the_database() -> None:
    """A worker that starts while PostgreSQL is away still serves its metrics."""
    told: list[Event] = []
    CollectorRegistry().register(RecordCollector("postgresql://nobody@127.0.0.1:1/none", observe=told.append))
    assert told == []


def test_how_old_backups_may_become_is_told_as_the_settings_have_it(database_url: str) -> None:
    collector = RecordCollector(database_url, oldest_backups={"newest": 3600, "proved": 90_000})
    told = _scrape(collector)
    collector.close()
    assert told["backfilld_backup_scheduled_age_seconds", "newest"] == 3600
    assert told["backfilld_backup_scheduled_age_seconds", "proved"] == 90_000


def test_backups_are_told_by_their_age_and_how_long_they_took(record: RecordCollector, connection: Connection) -> None:
    assert not [name for name, *_ in _scrape(record) if name.startswith("backfilld_backup_") and "seconds" in name]
    connection.execute(
        """
        INSERT INTO backfilld.backups (label, provider, kind, state, scope, requested_by, snapshot_at, began_at, taken_at, verified_at,
                                       proved_at, proof, bytes)
        SELECT 'a', 'pg_dump', 'logical', 'taken', 'all', 'test', now() - interval '1 hour', now() - interval '59 minutes',
               now() - interval '50 minutes', now() - interval '40 minutes', now() - interval '30 minutes',
               '{"seconds": 12.5, "tables": [], "warnings": []}', 1000
        """
    )
    told = _scrape(record)
    assert told["backfilld_backup_age_seconds",] == pytest.approx(3600, abs=60)
    assert told["backfilld_backup_proved_age_seconds",] == pytest.approx(3600, abs=60)
    assert told["backfilld_backup_duration_seconds",] == pytest.approx(9 * 60, abs=60)
    assert told["backfilld_backup_restore_seconds",] == pytest.approx(12.5)
    assert told["backfilld_backup_last_proved_timestamp_seconds",] == pytest.approx(time.time() - 1800, abs=60)
