"""Where it is measured: a PostgreSQL and a Valkey of our own, and for each measurement a fresh copy of a pgbench table."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString, Self, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from producers.embedded import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from psycopg.abc import Params

T = TypeVar("T")

#: Rows of pgbench_accounts for each unit of its scale.
ROWS_PER_SCALE = 100_000
#: A wait that takes this long means that the bench is broken, not that something is slow.
PATIENCE_SECONDS = 300.0

SETTINGS = {
    "fsync": "on",  # what is measured is what a server does that keeps its data
    "shared_buffers": "1GB",  # all tables fit: the disk of the machine is not what is compared
    "max_wal_size": "16GB",  # no checkpoint within a measurement; each begins after one
    "min_wal_size": "4GB",  # files of the last measurement's WAL are kept for the next, not made anew within it
    "checkpoint_timeout": "1h",
    "autovacuum": "off",  # it would come in the middle of some measurements and not of others
}


class BenchBroken(Exception):
    """Something did not happen that every measurement relies on."""


def until(what: str, look: Callable[[], T | None], *, every_seconds: float = 0.02) -> T:
    """Look again and again until there is something to see."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (seen := look()) is None or seen is False:
        if time.monotonic() > deadline:
            raise BenchBroken(f"waited {PATIENCE_SECONDS:.0f} s in vain for {what}")
        time.sleep(every_seconds)
    return seen


@dataclass(frozen=True)
class Sizes:
    """Where the WAL stands, and how large the table is; all in bytes."""

    wal: int
    heap: int
    indexes: int

    def since(self, before: Sizes) -> Sizes:
        return Sizes(self.wal - before.wal, self.heap - before.heap, self.indexes - before.indexes)


class Database:
    """A copy of a pgbench database, and the record of backfilld in it."""

    def __init__(self, name: str, url: str, rows: int) -> None:
        self.name = name
        self.url = url
        self.rows = rows
        self.connection = psycopg.connect(url, autocommit=True, row_factory=dict_row, application_name="bench")

    def all(self, query: LiteralString, parameters: Params = ()) -> list[dict[str, Any]]:
        """Any: what a query takes and gives."""
        return self.connection.execute(query, parameters).fetchall()

    def one(self, query: LiteralString, parameters: Params = ()) -> Any:
        """The first column of the first row, or None. Any: as above."""
        row = self.connection.execute(query, parameters).fetchone()
        return next(iter(row.values())) if row else None

    def settle(self) -> None:
        """Nothing left to write, and all pages read once."""
        self.all("SELECT sum(abalance) FROM pgbench_accounts")
        with self.connection.transaction():
            self.connection.execute("SET LOCAL enable_seqscan = off")
            self.all("SELECT count(aid) FROM pgbench_accounts")
        self.connection.execute("CHECKPOINT")

    def sizes(self) -> Sizes:
        row = self.all(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal, "
            "pg_relation_size('pgbench_accounts') AS heap, pg_indexes_size('pgbench_accounts') AS indexes"
        )[0]
        return Sizes(row["wal"], row["heap"], row["indexes"])

    def event_at(self, run: int, what: str) -> float | None:
        """When it was first recorded that `what` happened to a run (Unix time)."""
        at: float | None = self.one(
            "SELECT extract(epoch FROM min(at))::float8 FROM backfilld.events WHERE run = %s AND what = %s", [run, what]
        )
        return at

    def lasted(self, run: int, since: str, till: str) -> float:
        """Seconds between two events of a run."""
        begin, end = self.event_at(run, since), self.event_at(run, till)
        if begin is None or end is None:
            raise BenchBroken(f"run {run} has no event {since} or {till}")
        return end - begin

    def until_state(self, run: int, wanted: str) -> None:
        """Wait for a run to be in a state, and not in one that it will not leave by itself."""

        def look() -> bool:
            row = self.all("SELECT state, error::text FROM backfilld.runs WHERE run = %s", [run])[0]
            if row["state"] in {"failed", "cancelled", "paused"} and row["state"] != wanted:
                raise BenchBroken(f"run {run} is {row['state']}: {row['error']}")
            return bool(row["state"] == wanted)

        until(f"run {run} to be {wanted}", look, every_seconds=0.05)

    def until_busy(self, run: int, lanes: int) -> None:
        """Wait until this many lanes are in the middle of their statement."""
        until(
            f"{lanes} busy lanes",
            lambda: (
                self.one(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
                    "AND application_name LIKE 'backfilld run=' || %s || ' %%' AND query LIKE 'UPDATE \"public\"%%'",
                    [str(run)],
                )
                >= lanes
            ),
            every_seconds=0.005,
        )


class Stage:
    """The two servers, for as long as the context lasts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(settings=SETTINGS)
        self.valkey = EmbeddedValkey()
        self._servers = ExitStack()
        self._copies = 0

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            opened.enter_context(self.postgres)
            opened.enter_context(self.valkey)
            self._servers = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._servers.close()

    @contextmanager
    def database(self, scale: int) -> Iterator[Database]:
        """A fresh, vacuumed `pgbench -i -s scale`, with an empty Valkey beside it."""
        self._make_template(scale)
        self.valkey.flush()
        self._copies += 1
        name = f"bench_{self._copies}"
        with self._admin() as admin:
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(_name(name), _name(_template(scale))))
        try:
            database = Database(name, self.postgres.url(name), scale * ROWS_PER_SCALE)
            try:
                database.settle()
                yield database
            finally:
                database.connection.close()
        finally:
            with self._admin() as admin:
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(_name(name)))

    def _make_template(self, scale: int) -> None:
        template = _template(scale)
        with self._admin() as admin:
            if admin.execute("SELECT FROM pg_database WHERE datname = %s", [template]).fetchone() is not None:
                return
            admin.execute(sql.SQL("CREATE DATABASE {}").format(_name(template)))
        self.postgres.run("pgbench", "--initialize", "--quiet", f"--scale={scale}", database=template)
        with psycopg.connect(self.postgres.url(template), autocommit=True) as connection:
            connection.execute("VACUUM (FREEZE, ANALYZE)")

    def _admin(self) -> psycopg.Connection[tuple[Any, ...]]:  # Any: rows of the catalog
        return psycopg.connect(self.postgres.url(), autocommit=True)


def _template(scale: int) -> str:
    return f"bench_template_{scale}"


def _name(name: str) -> sql.Identifier:
    return sql.Identifier(name)
