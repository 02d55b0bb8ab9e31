"""What the sync trigger costs the application for each row it writes."""

from __future__ import annotations

import re
import statistics
import time
from typing import TYPE_CHECKING, Any

from bench.daemon import Daemon
from bench.figures import Figure, Section, Table, number
from bench.stage import ROWS_PER_SCALE, BenchBroken

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Database, Stage

SCALE = 1
#: Of one row each.
STATEMENTS = 10_000
#: Of a thousand rows each.
BULK_STATEMENTS, BULK_ROWS = 40, 1000

SCRIPTS = {
    "INSERT, 1 row": "INSERT INTO pgbench_accounts (aid, bid, abalance, filler) VALUES (nextval('bench_aid'), 1, 0, '');",
    "UPDATE, 1 row": (
        f"\\set aid random(1, {SCALE * ROWS_PER_SCALE})\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;"
    ),
}
BULK_INSERT = f"INSERT, {BULK_ROWS:,} rows"
BULK_UPDATE = f"UPDATE, {BULK_ROWS:,} rows"
WRITES = (*SCRIPTS, BULK_INSERT, BULK_UPDATE)


#: The sync triggers that are compared, each with the operation that makes it and what its function does.
TRIGGERS: dict[str, dict[str, Any]] = {  # Any: what a migration file takes
    "one way": {
        "add_column": {
            "table": "pgbench_accounts",
            "column": {"name": "x", "type": "bigint"},
            "backfill": "abalance * 100",
        }
    },
    "two ways": {"rename_column": {"table": "pgbench_accounts", "from": "abalance", "to": "balance"}},
    "keys alone": {"rebuild": {"table": "pgbench_accounts"}},
}


def measure(stage: Stage, effort: Effort) -> Section:
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(effort.repetitions):
        for which, operation in ({"without": None} | TRIGGERS).items():
            with stage.database(SCALE) as database:
                _prepare(stage, database, operation)
                for name, microseconds in _measure(stage, database).items():
                    times.setdefault((which, name), []).append(microseconds)
    medians = {of: statistics.median(several) for of, several in times.items()}
    return Section(
        name="trigger",
        title=f"Sync trigger: microseconds per row that the application writes (medians of {effort.repetitions})",
        method=(
            f"One row a statement: pgbench, one client, {STATEMENTS:,} statements, its latency average, the round trip included. "
            f"{BULK_ROWS:,} rows a statement: {BULK_STATEMENTS} statements, their time divided by their rows. One way: after the "
            "expand phase of add_column (x bigint, backfill abalance * 100); two ways: after that of rename_column (abalance to "
            "balance); keys alone: after that of rebuild; the run waiting for the approval of backfill and the daemon ended. Without: a table that no run has "
            "touched. synchronous_commit is off, so that the disk's latency does not hide the difference."
        ),
        tables=(
            Table(
                columns=(
                    "statement",
                    "without µs",
                    *(f"{which} µs" for which in TRIGGERS),
                    *(f"{which}: difference µs" for which in TRIGGERS),
                ),
                rows=tuple(
                    (
                        name,
                        number(medians["without", name]),
                        *(number(medians[which, name]) for which in TRIGGERS),
                        *(number(medians[which, name] - medians["without", name]) for which in TRIGGERS),
                    )
                    for name in WRITES
                ),
            ),
        ),
        figures=tuple(
            Figure(
                name=f"{name}: the trigger's share, {which}",
                values=tuple(
                    much - little for much, little in zip(times[which, name], times["without", name], strict=True)
                ),
                unit="µs/row",
            )
            for which in TRIGGERS
            for name in WRITES
        ),
    )


def _prepare(stage: Stage, database: Database, operation: dict[str, Any] | None) -> None:
    if operation is not None:
        with Daemon(stage, database, processes=1) as daemon:
            run = daemon.start(operation, settings={"approve": ["backfill"]})
            database.until_state(run, "waiting")
    found = database.one(
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'pgbench_accounts'::regclass AND NOT tgisinternal"
    )
    if bool(found) is not (operation is not None):
        raise BenchBroken(f"pgbench_accounts has {found} triggers")
    database.connection.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = off".encode())
    database.connection.execute("SET synchronous_commit = off")
    database.connection.execute("CREATE SEQUENCE bench_aid START 10000001")
    database.settle()


def _measure(stage: Stage, database: Database) -> dict[str, float]:
    microseconds = {name: _pgbench(stage, database, script) for name, script in SCRIPTS.items()}
    microseconds[BULK_INSERT] = _bulk(
        database,
        "INSERT INTO pgbench_accounts (aid, bid, abalance, filler) "
        "SELECT 20000000 + %(first)s::int + n, 1, 0, '' FROM generate_series(0, %(rows)s::int - 1) n",
    )
    microseconds[BULK_UPDATE] = _bulk(
        database,
        "UPDATE pgbench_accounts SET abalance = abalance + 1 "
        "WHERE aid > %(first)s::int AND aid <= %(first)s::int + %(rows)s::int",
    )
    return microseconds


def _pgbench(stage: Stage, database: Database, script: str) -> float:
    file = stage.folder / "bench.sql"
    file.write_text(script + "\n", encoding="utf-8")
    done = stage.pgbench("--no-vacuum", f"--file={file}", f"--transactions={STATEMENTS}", database=database.name)
    found = re.search(r"latency average = ([\d.]+) ms", done.stdout)
    if found is None:
        raise BenchBroken(f"pgbench says {done.stdout!r}")
    return 1000 * float(found[1])


def _bulk(database: Database, statement: str) -> float:
    began = time.monotonic()
    for number_ in range(BULK_STATEMENTS):
        database.connection.execute(statement.encode(), {"first": number_ * BULK_ROWS, "rows": BULK_ROWS})
    return 1_000_000 * (time.monotonic() - began) / (BULK_STATEMENTS * BULK_ROWS)
