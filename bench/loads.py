"""What a load costs: server and client, beside a plain COPY, beside a loop of JSON upserts, and of a file that changes nothing."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from bench.daemon import Daemon
from bench.effort import tell
from bench.figures import Figure, Section, Table, Target, number
from bench.stage import BenchBroken, NotHere, until
from bench.tables import BASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bench.effort import Effort
    from bench.stage import Database, Stage

ROWS, ROWS_QUICK = 500_000, 60_000
#: What a client hands to PostgREST at once.
JSON_ROWS = 1000
LANES = 2
COLUMNS = ("id", "user_id", "status", "total", "created_at", "payload")
#: Of this many rows client CPU is told.
OF_ROWS = 500_000

_FIRST = datetime(2026, 5, 1, tzinfo=UTC)
_COPY = "COPY jobs (id, user_id, status, total, created_at, payload) FROM STDIN (FORMAT csv, HEADER)"
#: As PostgREST makes it of a POST with `Prefer: resolution=merge-duplicates`.
_JSON = """
INSERT INTO jobs (id, user_id, status, total, created_at, payload) OVERRIDING SYSTEM VALUE
SELECT id, user_id, status, total, created_at, payload
FROM json_to_recordset(%s::json) AS r (id bigint, user_id bigint, status text, total bigint, created_at timestamptz, payload text)
ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id, status = excluded.status, total = excluded.total,
    created_at = excluded.created_at, payload = excluded.payload
"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One way, for all rows of the file."""

    seconds: float
    server_cpu: float
    client_cpu: float
    wal: int


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    runs: dict[str, list[Cost]] = {}
    for _ in range(effort.repetitions):
        for name, way in _ways(stage, rows).items():
            cost = way()
            runs.setdefault(name, []).append(cost)
            tell(
                f"load: {name}: {cost.seconds:.1f} s, server CPU {cost.server_cpu:.1f} s, client CPU {cost.client_cpu:.2f} s"
            )

    def of(name: str, what: str) -> list[float]:
        return [getattr(cost, what) for cost in runs[name]]

    def ratio(name: str, other: str, what: str) -> tuple[float, ...]:
        return tuple(a / b for a, b in zip(of(name, what), of(other, what), strict=True))

    again = tuple(cost.wal / rows for cost in runs["load again"])
    return Section(
        name="load",
        title=f"Loads: {rows:,} lines of CSV into {rows:,} rows with 2 secondary indexes (medians of {effort.repetitions})",
        method=(
            "Half of the keys exist, with other values, in random order. `load` is enqueue with a daemon of "
            f"{LANES} processes until the run is completed: stage, check, upsert with journal, and the look at every row. `check` "
            "looks for lines that cannot be loaded, compares the others with their rows, and puts the stage into the order of its keys; `upsert` is "
            "the backfill phase alone. COPY is of as many rows whose keys are new. JSON is a loop of "
            f"{JSON_ROWS} rows a statement, as PostgREST makes it of an upsert of supabase-js. Server CPU is of all processes of "
            "PostgreSQL, by /proc; client CPU is of the process that enqueues, or that sends."
        ),
        tables=(
            Table(
                columns=("way", "seconds", "rows/s", "server CPU s", "client CPU s", "WAL bytes a row"),
                rows=tuple(
                    (
                        name,
                        number(statistics.median(of(name, "seconds"))),
                        number(rows / statistics.median(of(name, "seconds"))),
                        number(statistics.median(of(name, "server_cpu"))),
                        number(statistics.median(of(name, "client_cpu"))),
                        number(statistics.median(of(name, "wal")) / rows),
                    )
                    for name in runs
                ),
            ),
        ),
        figures=(
            Figure(
                name="server CPU of stage and upsert, plain COPY = 1",
                values=tuple(
                    (a + b) / c
                    for a, b, c in zip(
                        of("stage", "server_cpu"), of("upsert", "server_cpu"), of("COPY", "server_cpu"), strict=True
                    )
                ),
                target=Target(at="most", value=1.6),
            ),
            Figure(
                name=f"client CPU seconds for {OF_ROWS:,} rows",
                values=tuple(one * OF_ROWS / rows for one in of("stage", "client_cpu")),
                target=Target(at="most", value=1.0),
            ),
            Figure(
                name="WAL bytes a row of a file that changes nothing, beyond the stage",
                values=again,
                target=Target(at="most", value=50.0),
            ),
            Figure(
                name="rows/s of the upsert lanes, JSON upserts = 1",
                values=ratio("JSON upserts", "upsert", "seconds"),
                target=Target(at="least", value=1.5),
            ),
            Figure(
                name="client CPU, JSON upserts = 1",
                values=ratio("stage", "JSON upserts", "client_cpu"),
                target=Target(at="most", value=0.3),
            ),
        ),
    )


def _ways(stage: Stage, rows: int) -> dict[str, Callable[[], Cost]]:
    half = _file(stage, rows, first=rows // 2)
    new = _file(stage, rows, first=rows)
    parts: dict[str, Cost] = {}

    def load() -> Cost:
        with stage.copy_of(BASE.template(rows)) as database:
            parts.update(_load(stage, database, half, rows))
        return parts["load"]

    return {
        "COPY": lambda: _copy(stage, new, rows),
        "load": load,
        "stage": lambda: parts["stage"],
        "check": lambda: parts["check"],
        "upsert": lambda: parts["upsert"],
        "load again": lambda: parts["again"],
        "JSON upserts": lambda: _json_loop(stage, half, rows),
    }


def _file(stage: Stage, rows: int, *, first: int) -> Path:
    """As many lines with keys from behind `first` on, in random order, as the lines of a table from elsewhere are."""
    path = stage.folder / f"load-{rows}-{first}.csv"
    if not path.exists():
        keys = list(range(first + 1, first + rows + 1))
        random.Random(1).shuffle(keys)
        with path.open("w", encoding="utf-8") as file:
            file.write(",".join(COLUMNS) + "\n")
            for n in keys:
                moment = _FIRST + timedelta(seconds=7 * (n % rows))
                payload = hashlib.sha256(str(n).encode()).hexdigest()
                file.write(f"{n},{n * 31 % 20011},loaded,{n % 1000},{moment.isoformat()},{payload}\n")
    return path


def _load(stage: Stage, database: Database, path: Path, rows: int) -> dict[str, Cost]:
    """The same file twice: the second time nothing differs."""
    with Daemon(stage, database, processes=LANES) as daemon:
        database.do("UPDATE backfilld.pace SET width = greatest(width, %s)", [LANES])
        operation = {"table": "jobs", "from": {"file": str(path)}, "key": ["id"], "identity": True}
        first = _run(database, daemon, operation, name="first", rows=rows, expect=("inserted", "updated"))
        again = _run(database, daemon, {**operation, "duplicates": "first"}, name="again", rows=rows, expect=("same",))
    return {**first, "again": again["upsert"]}


def _run(
    database: Database, daemon: Daemon, operation: dict[str, object], *, name: str, rows: int, expect: tuple[str, ...]
) -> dict[str, Cost]:
    server = _Server(database)
    whole = stage_ = server.now()
    run = daemon.start({"load": operation}, settings={"lanes": LANES, "approve": ["backfill"], "wal_mb_per_second": 0})
    staged = server.now()
    database.until_state(run, "waiting")
    begun = server.now()
    daemon.client.approve(run, "backfill")
    until(
        "the lanes to end", lambda: database.one("SELECT phase <> 'backfill' FROM backfilld.runs WHERE run = %s", [run])
    )
    upserted = server.now()
    database.until_state(run, "completed")
    ended = server.now()
    (found,) = database.all("SELECT inserted, updated, same FROM backfilld.load_counts WHERE run = %s", [run])
    if sum(found[one] for one in expect) != rows:
        raise BenchBroken(f"{name}: the load did {found}")
    upsert = upserted.since(begun)
    return {
        "load": ended.since(whole),
        "stage": staged.since(stage_),
        "check": begun.since(staged),
        "upsert": Cost(
            seconds=database.lasted(run, "phase.approved", "phase.verify"),
            server_cpu=upsert.server_cpu,
            client_cpu=upsert.client_cpu,
            wal=upsert.wal,
        ),
    }


def _copy(stage: Stage, path: Path, rows: int) -> Cost:
    with stage.copy_of(BASE.template(rows)) as database:
        server = _Server(database)
        before = server.now()
        with (
            psycopg.connect(database.url, autocommit=True) as connection,
            path.open("rb") as file,
            connection.cursor().copy(_COPY) as copy,
        ):
            while part := file.read(1024 * 1024):
                copy.write(part)
        return server.now().since(before)


def _json_loop(stage: Stage, path: Path, rows: int) -> Cost:
    """The client reads the file, and makes objects of its lines and JSON of those."""
    with stage.copy_of(BASE.template(rows)) as database:
        server = _Server(database)
        before = server.now()
        with (
            psycopg.connect(database.url, autocommit=True) as connection,
            path.open(encoding="utf-8", newline="") as file,
        ):
            for several in batched(csv.DictReader(file), JSON_ROWS):
                connection.execute(_JSON, [json.dumps(several)])
        return server.now().since(before)


def batched(rows: Iterable[dict[str, str]], size: int) -> Iterator[list[dict[str, str]]]:
    """So many at a time."""
    several = iter(rows)
    while found := list(islice(several, size)):
        yield found


@dataclass(frozen=True, kw_only=True)
class _Moment:
    at: float
    server_cpu: float
    client_cpu: float
    wal: int

    def since(self, before: _Moment) -> Cost:
        return Cost(
            seconds=self.at - before.at,
            server_cpu=self.server_cpu - before.server_cpu,
            client_cpu=self.client_cpu - before.client_cpu,
            wal=self.wal - before.wal,
        )


class _Server:
    """What all processes of a PostgreSQL on this machine have taken so far."""

    def __init__(self, database: Database) -> None:
        self._database = database
        folder = Path(database.one("SHOW data_directory"))
        try:
            self._postmaster = int((folder / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
            self._ticks()
        except (OSError, ValueError) as exc:
            raise NotHere("the processes of the server cannot be seen from here") from exc

    def now(self) -> _Moment:
        return _Moment(
            at=time.monotonic(),
            server_cpu=self._ticks() / 100,
            client_cpu=time.process_time(),
            wal=self._database.sizes().wal,
        )

    def _ticks(self) -> int:
        """Those of the postmaster, of its children, and of its children that have ended."""
        children = (
            Path(f"/proc/{self._postmaster}/task/{self._postmaster}/children").read_text(encoding="utf-8").split()
        )
        own = self._stat(self._postmaster)
        return sum(own) + sum(sum(self._stat(int(pid))[:2]) for pid in children)

    def _stat(self, pid: int) -> list[int]:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
        except OSError:
            return [0, 0, 0, 0]
        return [int(one) for one in fields[11:15]]
