"""Statements that fail after contract: only the latest of each operation is kept, for as long as its run lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.record import omitted_inserts
from backfilld.worker.side_tasks import retention

if TYPE_CHECKING:
    from fix_runs import Engine

TEXT = "name: jobs\noperations:\n  - backfill: {table: jobs, set: {n: '1'}, where: n IS NULL}\n"


def test_the_latest_of_each_operation_is_kept_until_its_run_has_ended(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer)")
    run = engine.enqueue(TEXT)
    engine.execute(
        "INSERT INTO backfilld.omitted_inserts (run, operation, seen_at) "
        "SELECT of_run, operation, clock_timestamp() - make_interval(secs => ago) "
        "FROM (VALUES (%s, 0, 600), (%s, 0, 30), (%s, 2, 90), (4711, 0, 1)) seen (of_run, operation, ago)",
        run,
        run,
        run,
    )
    found = omitted_inserts.latest(engine.connection, [run])
    assert [(one.operation, int(one.seconds) // 30) for one in found] == [(0, 1), (2, 3)]

    # A publication of every table must not keep what is over.
    engine.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    retention.run_once(engine.connection)
    kept = engine.execute("SELECT run, operation FROM backfilld.omitted_inserts ORDER BY 1, 2")
    assert kept == [{"run": run, "operation": 0}, {"run": run, "operation": 2}]

    engine.execute("UPDATE backfilld.runs SET state = 'cancelled', ended_at = clock_timestamp() WHERE run = %s", run)
    retention.run_once(engine.connection)
    assert engine.value("SELECT count(*) FROM backfilld.omitted_inserts") == 0
