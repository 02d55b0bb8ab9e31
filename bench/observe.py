"""What looking costs: the command `status` and a scrape with many runs on record, and the metrics that a batch keeps."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb
from rich.console import Console

from backfilld.migrations.file import migration as definition
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.record import schema
from backfilld.monitoring import display
from backfilld.monitoring.record import RecordCollector
from backfilld.monitoring.server import Server
from backfilld.producers.client import Client
from bench.figures import Figure, Section, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.effort import Effort
    from bench.stage import Database, Stage

RUNS, LANES_OF_EACH = 200, 5
TIMES, TIMES_QUICK = 21, 5
BATCHES = 20_000
#: The shortest batch there is beside an application; the metrics' share of a longer one is less.
SHORTEST_BATCH_SECONDS = 0.1

MIGRATION = definition.parse(
    "name: bench\noperations:\n  - add_column: {table: jobs, column: {name: x, type: text}, backfill: 'upper(status)'}\n"
)

#: In a process of its own, since prometheus_client decides when it is imported where numbers live.
KEEP = f"""
import time
from backfilld.migrations.telemetry import BatchCommitted
from backfilld.monitoring import logs
from backfilld.monitoring.observers import Observers
logs.configure()
observe = Observers()
batch = BatchCommitted(run=1, name="bench", lane=2, kind="backfill", rows_walked=1000, rows_changed=1000, rows_residual=0,
                       rows_quarantined=0, wait_seconds=0.002, statement_seconds=0.45, commit_seconds=0.003)
began = time.perf_counter()
for _ in range({BATCHES}):
    observe(batch)
print((time.perf_counter() - began) / {BATCHES})
"""


def measure(stage: Stage, effort: Effort) -> Section:
    times = TIMES_QUICK if effort.is_quick else TIMES
    with stage.database(1) as database:
        _fill(database)
        command = _again(times, lambda: _status(database))
        nothing = _again(times, lambda: _python("pass"))
        client = Client(database.url)
        reading = _again(times, client.recent)
        shown = _again(times, lambda: _show(client))
        scrape = _scrapes(database, times)
    kept = [float(_python(KEEP, PROMETHEUS_MULTIPROC_DIR=str(stage.folder))) for _ in range(effort.repetitions)]
    return Section(
        name="observe",
        title=f"Looking: {RUNS} runs that have not ended, {RUNS * LANES_OF_EACH:,} lanes (medians of {times})",
        method=(
            "Status: what `backfilld status` reads, and with the table it makes of that, in a process that is there; beside it the "
            "whole command from its start to its end, most of which is Python's imports, and an interpreter that does nothing. Scrape: GET /metrics of a worker's HTTP server, from the first byte "
            f"to the last. Metrics: {BATCHES:,} batches told to the observer of a worker process, which counts and logs as in a daemon "
            f"at the level info; as a share of the shortest batch beside an application, {SHORTEST_BATCH_SECONDS:g} s."
        ),
        figures=(
            Figure(name="status, read", values=reading, unit="s"),
            Figure(name="status, read and shown", values=shown, unit="s", target=Target(at="most", value=0.3)),
            Figure(name="status, the whole command", values=command, unit="s"),
            Figure(name="an interpreter that does nothing", values=nothing, unit="s"),
            Figure(name="scrape", values=scrape, unit="s", target=Target(at="most", value=0.2)),
            Figure(name="metrics and log of a batch", values=tuple(one * 1e6 for one in kept), unit="µs"),
            Figure(
                name="the same, of the shortest batch",
                values=tuple(100 * one / SHORTEST_BATCH_SECONDS for one in kept),
                unit="%",
                target=Target(at="most", value=2),
            ),
        ),
    )


def _fill(database: Database) -> None:
    with connected(database.url) as connection:
        schema.ensure(connection)
        connection.execute(
            "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, phase, state, rows_total, requested_by) "
            "SELECT 'bench-' || g, %s, %s, %s, '[]', 'backfill', CASE WHEN g %% 4 = 0 THEN 'paused' ELSE 'running' END, "
            "1000000, 'bench' FROM generate_series(1, %s::int) g",
            [MIGRATION.checksum, Jsonb(MIGRATION.canonical()), Jsonb(MIGRATION.settings.model_dump(mode="json")), RUNS],
        )
        connection.execute(
            "INSERT INTO backfilld.lanes (run, lane, kind, operation, relation, rows_walked, rows_changed, batches_committed, "
            "recent, progressed_at) "
            "SELECT r.run, g, CASE WHEN g = 0 THEN 'coordinator' ELSE 'backfill' END, CASE WHEN g > 0 THEN 0 END, "
            "CASE WHEN g > 0 THEN 'jobs' END, 100000, 90000, 100, "
            "(SELECT jsonb_agg(jsonb_build_array(1000, 0.5, 1.8e9 + n)) FROM generate_series(1, 10) n), clock_timestamp() "
            "FROM backfilld.runs r CROSS JOIN generate_series(0, %s::int - 1) g",
            [LANES_OF_EACH],
        )
        connection.execute("UPDATE backfilld.pace SET sampled_at = clock_timestamp()")
        connection.execute("ANALYZE")


def _status(database: Database) -> None:
    _python(
        "from backfilld.producers.cli import main; import sys; sys.argv[1:] = ['status']; main()",
        BACKFILLD_DATABASE_URL=database.url,
    )


def _show(client: Client) -> None:
    found, left_out = client.recent()
    Console(file=io.StringIO(), width=80).print(display.overview(found, width=80, left_out=left_out))


def _python(program: str, **variables: str) -> str:
    # As it is installed: compiled once, whatever the developer's shell says.
    left_out = ("BACKFILLD_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | variables,
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout


def _scrapes(database: Database, times: int) -> tuple[float, ...]:
    record = RecordCollector(database.url)
    server = Server(host="127.0.0.1", port=0, collectors=[record])
    server.start()
    try:
        return _again(times, lambda: _get(f"http://127.0.0.1:{server.port}/metrics"))
    finally:
        server.stop()
        record.close()


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
        return bytes(answer.read())


def _again(times: int, act: Callable[[], object]) -> tuple[float, ...]:
    """Seconds, each time but for the first, which meets cold caches."""
    act()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return tuple(seconds)
