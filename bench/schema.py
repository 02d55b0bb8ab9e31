"""What a schema change costs the application beside it: the longest that any of its statements waited, and its errors."""

from __future__ import annotations

import random
import statistics
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations import Action, bind
from backfilld.migrations.record import runs, schema
from backfilld.producers import enqueueing
from backfilld.worker.phases import ddl
from bench.daemon import Daemon
from bench.delay import Delay
from bench.effort import tell
from bench.figures import Figure, Section, Table, Target, number
from bench.load import percentile
from bench.stage import BenchBroken, Template, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from bench.effort import Effort
    from bench.stage import Database, Stage

ROWS, ROWS_QUICK = 100_000, 20_000
WRITERS, READERS = 8, 2
#: Between two statements of one session: about 300 a second in all, which two cores have time for.
THINKS_SECONDS = 0.03
#: What the application does alone, before.
USUAL_SECONDS, USUAL_SECONDS_QUICK = 10.0, 3.0
READER_SECONDS, READER_SECONDS_QUICK = 60.0, 10.0
ROUND_TRIP_SECONDS = 0.02
HOLDS = 10


@dataclass(frozen=True, kw_only=True)
class Case:
    """An operation as its file writes it, and the application beside it: `%s` is a random key."""

    name: str
    operation: str
    #: Makes and fills the tables; `ROWS` stands for how many rows.
    tables: str = (
        "CREATE TABLE jobs (id bigint PRIMARY KEY, user_id bigint NOT NULL, status text NOT NULL, total bigint NOT NULL, note text) "
        "WITH (autovacuum_enabled = off);"
        "INSERT INTO jobs SELECT n, n % 1000, (ARRAY['new', 'done'])[1 + n % 2], n % 10000 FROM generate_series(1, ROWS) n;"
        "CREATE INDEX ON jobs (user_id);"
        "CREATE TABLE users (id bigint PRIMARY KEY); INSERT INTO users SELECT generate_series(0, 999)"
    )
    write: str = "UPDATE jobs SET total = total + 1 WHERE id = %s"
    read: str = "SELECT count(*) FROM jobs WHERE user_id = %s %% 1000"


#: Every operation there is. A new one is a line here.
CASES = (
    Case(name="add_column", operation="add_column: {table: jobs, column: {name: extra, type: text}}"),
    Case(
        name="add_column, filled and NOT NULL",
        operation='add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}',
    ),
    Case(
        name="add_column with a default",
        operation="add_column: {table: jobs, column: {name: token, type: uuid}, default: gen_random_uuid(), not_null: true}",
    ),
    Case(
        name="backfill",
        operation='backfill: {table: jobs, set: {status: "upper(status)"}, where: "status <> upper(status)"}',
    ),
    Case(name="set_not_null", operation="set_not_null: {table: jobs, column: note, backfill: \"''\"}"),
    Case(name="add_check", operation='add_check: {table: jobs, name: jobs_total_positive, check: "total >= 0"}'),
    Case(
        name="add_foreign_key",
        operation="add_foreign_key: {table: jobs, name: jobs_user_fk, columns: [user_id], references: {table: users}}",
    ),
    Case(name="add_unique", operation="add_unique: {table: jobs, name: jobs_user_key, columns: [user_id, id]}"),
    Case(name="create_index", operation="create_index: {table: jobs, name: jobs_total_idx, columns: [total]}"),
    # The application writes rows of the table, and neither column that goes at contract.
    Case(name="rename_column", operation="rename_column: {table: jobs, from: note, to: remark}"),
    Case(name="change_type", operation="change_type: {table: jobs, column: total, type: numeric}"),
    Case(name="drop_column", operation="drop_column: {table: jobs, column: note}"),
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the application felt, in milliseconds."""

    usual: float
    longest: float
    errors: tuple[str, ...]
    statements: int
    #: Tries of the coordinator that did not get their lock.
    tries: int

    @property
    def beyond(self) -> float:
        return max(self.longest - self.usual, 0.0)


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    usual = USUAL_SECONDS_QUICK if effort.is_quick else USUAL_SECONDS
    costs: dict[str, list[Cost]] = {}
    for _ in range(effort.repetitions):
        for case in CASES:
            costs.setdefault(case.name, []).append(_beside_run(stage, case, rows, usual))
            tell(f"schema {case.name}: {costs[case.name][-1]}")
    reader = READER_SECONDS_QUICK if effort.is_quick else READER_SECONDS
    behind, went_on = _behind_a_reader(stage, CASES[0], rows, usual, reader)
    tell(f"schema behind a reader: {behind}, went on after {went_on:.2f} s")
    singly, together = _holds(stage, CASES[1], rows)
    every = [cost for found in costs.values() for cost in found]
    return Section(
        name="schema",
        title=f"Schema changes beside {WRITERS} writers and {READERS} readers, {rows:,} rows",
        method=(
            f"Each session sends a statement of its own about every {1000 * THINKS_SECONDS:.0f} ms: a row by its key is updated, "
            "or a few are counted. Each is timed from being sent until it has returned. Usual is the p99 of the "
            f"{usual:.0f} s before; longest is the worst of the whole run, from enqueue to completed. The reader reads the table and "
            f"leaves its transaction open for {reader:.0f} s, then goes. Held is how long others see the ACCESS EXCLUSIVE lock "
            f"of expand granted, with {1000 * ROUND_TRIP_SECONDS:.0f} ms from the worker to the database and back."
        ),
        figures=(
            Figure(
                name="longest wait beyond the usual, all operations",
                values=tuple(cost.beyond for cost in every),
                unit="ms",
                target=Target(at="most", value=300),
                taken="max",
            ),
            Figure(
                name="application errors, all operations",
                values=(float(sum(len(cost.errors) for cost in (*every, behind))),),
                target=Target(at="most", value=0),
            ),
            Figure(
                name=f"longest wait beyond the usual behind a reader of {reader:.0f} s",
                values=(behind.beyond,),
                unit="ms",
                target=Target(at="most", value=definition.RunSettings().lock_timeout_ms + 100),
            ),
            Figure(name=f"tries in those {reader:.0f} s", values=(float(behind.tries),)),
            Figure(
                name="until expand is done after the reader has gone",
                values=(went_on,),
                unit="s",
                target=Target(at="most", value=3),
            ),
            Figure(name="lock held, statements one by one", values=singly, unit="ms"),
            Figure(name="lock held, statements together", values=together, unit="ms"),
        ),
        tables=(
            Table(
                columns=(
                    "operation",
                    "statements",
                    "usual p99 ms",
                    "longest ms",
                    "beyond ms",
                    "failed tries",
                    "errors",
                ),
                rows=tuple(
                    (
                        name,
                        number(statistics.median(cost.statements for cost in found)),
                        number(statistics.median(cost.usual for cost in found)),
                        number(max(cost.longest for cost in found)),
                        number(max(cost.beyond for cost in found)),
                        number(max(cost.tries for cost in found)),
                        number(sum(len(cost.errors) for cost in found)),
                    )
                    for name, found in {**costs, "add_column behind the reader": [behind]}.items()
                ),
            ),
        ),
    )


class Session(threading.Thread):
    """One session of the application, which sends its statement again and again."""

    def __init__(self, database: Database, statement: str, rows: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._connection = psycopg.connect(database.url, autocommit=True, application_name="application")
        self._statement, self._rows, self._chance = statement.encode(), rows, random.Random(seed)
        self._stopping = threading.Event()
        #: When each was sent, and how long it took (`time.monotonic`, seconds).
        self.waits: list[tuple[float, float]] = []
        self.errors: list[str] = []

    def run(self) -> None:
        with self._connection as connection:
            while not self._stopping.wait(self._chance.uniform(0.5, 1.5) * THINKS_SECONDS):
                began = time.monotonic()
                try:
                    connection.execute(self._statement, [self._chance.randint(1, self._rows)])
                except psycopg.Error as exc:
                    self.errors.append(str(exc))
                self.waits.append((began, time.monotonic() - began))

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class Application:
    """All of its sessions, for as long as the context lasts."""

    def __init__(self, database: Database, case: Case, rows: int) -> None:
        statements = [case.write] * WRITERS + [case.read] * READERS
        self._sessions = [Session(database, statement, rows, seed) for seed, statement in enumerate(statements)]

    def __enter__(self) -> Self:
        for session in self._sessions:
            session.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for session in self._sessions:
            session.stop()

    def cost(self, *, since: float, tries: int) -> Cost:
        """What it felt from this moment on, beside what it felt before."""
        waits = [wait for session in self._sessions for wait in session.waits]
        before = sorted(1000 * took for began, took in waits if began < since)
        after = [1000 * took for began, took in waits if began + took >= since]
        if not before or not after:
            raise BenchBroken("the application did nothing")
        return Cost(
            usual=percentile(before, 0.99),
            longest=max(after),
            errors=tuple(error for session in self._sessions for error in session.errors),
            statements=len(after),
            tries=tries,
        )


@contextmanager
def _database(stage: Stage, case: Case, rows: int) -> Iterator[Database]:
    def fill(stage: Stage, name: str) -> None:
        with psycopg.connect(stage.url(name), autocommit=True) as connection:
            for statement in case.tables.replace("ROWS", str(rows)).split(";"):
                connection.execute(statement.encode())
            connection.execute("VACUUM (ANALYZE) jobs")

    kept = f"schema_{abs(hash(case.tables)) % 10**6}_{rows}"
    with stage.copy_of(Template(name=kept, table="jobs", key="id", rows=rows, fill=fill)) as database:
        yield database


def _start(daemon: Daemon, case: Case) -> int:
    migration = definition.parse(f"name: bench\noperations:\n  - {case.operation}\n")
    (operation,) = migration.canonical()["operations"]
    return daemon.start(operation, settings={})


def _beside_run(stage: Stage, case: Case, rows: int, usual_seconds: float) -> Cost:
    """A whole run, all of its phases."""
    with (
        _database(stage, case, rows) as database,
        Daemon(stage, database, processes=2) as daemon,
        Application(database, case, rows) as application,
    ):
        time.sleep(usual_seconds)
        since = time.monotonic()
        run = _start(daemon, case)
        database.until_state(run, "completed")
        return application.cost(since=since, tries=_tries(database, run))


def _behind_a_reader(
    stage: Stage, case: Case, rows: int, usual_seconds: float, reader_seconds: float
) -> tuple[Cost, float]:
    """Another session has read the table and does not end its transaction. Also: how soon the run continues once it has."""
    with (
        _database(stage, case, rows) as database,
        Daemon(stage, database, processes=2) as daemon,
        ExitStack() as stack,
    ):
        reader = stack.enter_context(psycopg.connect(database.url, application_name="reader"))
        application = stack.enter_context(Application(database, case, rows))
        time.sleep(usual_seconds)
        since = time.monotonic()
        reader.execute("SELECT count(*) FROM jobs")
        run = _start(daemon, case)
        time.sleep(reader_seconds)
        tries = _tries(database, run)
        if database.one("SELECT phase FROM backfilld.runs WHERE run = %s", [run]) != "expand":
            raise BenchBroken("the reader was not in the way")
        reader.rollback()
        gone = time.monotonic()
        until(
            "the column to be there",
            lambda: database.one(
                "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND attname = 'extra'"
            ),
        )
        went_on = time.monotonic() - gone
        database.until_state(run, "completed")
        cost = application.cost(since=since, tries=tries)
    return cost, went_on


def _tries(database: Database, run: int) -> int:
    return int(database.one("SELECT batches_retried FROM backfilld.lanes WHERE run = %s AND lane = 0", [run]))


def _holds(stage: Stage, case: Case, rows: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Milliseconds for which expand holds its lock, by turns statement by statement and all together."""
    singly: list[float] = []
    together: list[float] = []
    with _database(stage, case, rows) as database, ExitStack() as stack:
        schema.ensure(database.connection)
        migration = definition.parse(f"name: bench\noperations:\n  - {case.operation}\n")
        run = runs.get(database.connection, enqueueing.enqueue(database.connection, migration, actor="bench").run.run)
        if run is None:
            raise BenchBroken("the run is not there")
        (action, *_) = bind(run.migration, run.facts)[0].expand()
        if not isinstance(action, Action):
            raise BenchBroken("expand begins with a walk")
        delay = stack.enter_context(Delay(database.url, round_trip_seconds=ROUND_TRIP_SECONDS))
        far = stack.enter_context(psycopg.connect(delay.url, autocommit=True, row_factory=dict_row))
        for _ in range(HOLDS):
            for found, step in ((singly, None), (together, action)):
                with _watching(database, found):
                    far.execute("BEGIN")
                    with ddl.together(far, step):
                        ddl.execute(far, action)
                        far.execute("SELECT 'the checkpoint'")
                        far.execute("COMMIT")
                database.do("ALTER TABLE jobs DROP COLUMN shout")
                _drop_triggers(database)
    return tuple(singly), tuple(together)


def _drop_triggers(database: Database) -> None:
    for row in database.all(
        "SELECT tgname AS name FROM pg_trigger WHERE tgrelid = 'jobs'::regclass AND NOT tgisinternal"
    ):
        database.do(sql.SQL("DROP TRIGGER {} ON jobs").format(sql.Identifier(row["name"])))


@contextmanager
def _watching(database: Database, found: list[float]) -> Iterator[None]:
    """Look again and again whether somebody holds the table for himself, and for how long."""
    over = threading.Event()
    seen: list[float] = []

    def look() -> None:
        with psycopg.connect(database.url, autocommit=True) as connection:
            while not over.is_set():
                row = connection.execute(
                    "SELECT count(*) FROM pg_locks WHERE relation = 'jobs'::regclass AND granted AND mode = 'AccessExclusiveLock'"
                ).fetchone()
                if row and row[0]:
                    seen.append(time.monotonic())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    found.append(1000 * (seen[-1] - seen[0]) if seen else 0.0)
