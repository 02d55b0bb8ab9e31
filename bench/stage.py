"""Where it is measured: a PostgreSQL and a Valkey, and for each measurement a fresh copy of a table that was built once.

The PostgreSQL is one of our own that is thrown away, or a server of the user's: there, databases called `backfilld_bench_…` are
made and dropped, and nothing else is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString, Self, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from backfilld.producers.demo.servers import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from psycopg.abc import Params, QueryNoTemplate

T = TypeVar("T")

#: Rows of pgbench_accounts for each unit of its scale.
ROWS_PER_SCALE = 100_000
#: Of every database that the bench makes, also on a server that is not ours.
PREFIX = "backfilld_bench_"
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

#: The URL says it all; what the user's own psql is told is not for pgbench.
PGBENCH_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PG")}


class BenchBroken(Exception):
    """Something did not happen that every measurement relies on."""


class NotHere(Exception):
    """A measurement that this server or this version of backfilld has no means for; its docstring is the reason it gives."""


def until(what: str, look: Callable[[], T | None], *, every_seconds: float = 0.02) -> T:
    """Look again and again until there is something to see."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (seen := look()) is None or seen is False:
        if time.monotonic() > deadline:
            raise BenchBroken(f"waited {PATIENCE_SECONDS:.0f} s in vain for {what}")
        time.sleep(every_seconds)
    return seen


@dataclass(frozen=True, kw_only=True)
class Template:
    """What measurements copy: a database with one table that is to be rewritten."""

    name: str
    table: str
    key: str
    rows: int
    #: Makes the table, given a stage and the name of an empty database there. What it leaves is vacuumed.
    fill: Callable[[Stage, str], None]


@dataclass(frozen=True)
class Sizes:
    """Where the WAL stands, and how large the table is; all in bytes."""

    wal: int
    heap: int
    indexes: int

    def since(self, before: Sizes) -> Sizes:
        return Sizes(self.wal - before.wal, self.heap - before.heap, self.indexes - before.indexes)


@dataclass(frozen=True)
class Counters:
    """What the server has counted: WAL of the whole server, updates of the one table."""

    wal_records: int
    full_pages: int
    updates: int
    hot_updates: int

    def since(self, before: Counters) -> Counters:
        return Counters(
            self.wal_records - before.wal_records,
            self.full_pages - before.full_pages,
            self.updates - before.updates,
            self.hot_updates - before.hot_updates,
        )


class Database:
    """A copy of a template, and the record of backfilld in it."""

    def __init__(self, name: str, url: str, template: Template) -> None:
        self.name = name
        self.url = url
        self.table = template.table
        self.key = template.key
        self.rows = template.rows
        self.connection = psycopg.connect(url, autocommit=True, row_factory=dict_row, application_name="bench")

    def all(self, query: LiteralString, parameters: Params = ()) -> list[dict[str, Any]]:
        """Any: what a query takes and gives."""
        return self.connection.execute(query, parameters).fetchall()

    def one(self, query: LiteralString, parameters: Params = ()) -> Any:
        """The first column of the first row, or None. Any: as above."""
        row = self.connection.execute(query, parameters).fetchone()
        return next(iter(row.values())) if row else None

    def do(self, query: QueryNoTemplate, parameters: Params = ()) -> None:
        """A statement composed of names, or one that gives no rows."""
        self.connection.execute(query, parameters)

    def settle(self) -> None:
        """Nothing left to write, and all pages read once."""
        names = {"table": sql.Identifier(self.table), "key": sql.Identifier(self.key)}
        # A whole row, not `*`: what the visibility map can answer is not read.
        self.do(sql.SQL("SELECT count(t) FROM {table} t").format(**names))
        with self.connection.transaction():
            self.do("SET LOCAL enable_seqscan = off")
            self.do(sql.SQL("SELECT count({key}) FROM {table}").format(**names))
        with suppress(
            psycopg.errors.InsufficientPrivilege
        ):  # on a server that is not ours: said where its settings are printed
            self.do("CHECKPOINT")

    def sizes(self) -> Sizes:
        row = self.all(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal, "
            "pg_relation_size(t) AS heap, pg_indexes_size(t) AS indexes FROM CAST(%s AS regclass) t",
            [self.table],
        )[0]
        return Sizes(row["wal"], row["heap"], row["indexes"])

    def counters(self) -> Counters:
        """Once everybody else has left: a backend hands in its last counts when it ends."""
        until(
            "everybody else to leave",
            lambda: (
                self.one(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
                == 0
            ),
        )
        return self.counters_now()

    def counters_now(self) -> Counters:
        """What others have not handed in yet is left out."""
        self.do("SELECT pg_stat_force_next_flush()")
        wal = self.all("SELECT wal_records::bigint AS records, wal_fpi::bigint AS full_pages FROM pg_stat_wal")[0]
        table = self.all(
            "SELECT n_tup_upd AS updates, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE relid = CAST(%s AS regclass)",
            [self.table],
        )[0]
        return Counters(wal["records"], wal["full_pages"], table["updates"], table["hot"])

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

    def __init__(self, folder: Path, *, server: str | None = None) -> None:
        """`server` is the URL of a PostgreSQL of the user's; without one, a server of our own is started."""
        self.folder = folder
        self.embedded = EmbeddedPostgres(settings=SETTINGS) if server is None else None
        self.valkey = EmbeddedValkey()
        self._server = server
        self._servers = ExitStack()
        self._copies = 0

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            if self.embedded is not None:
                opened.enter_context(self.embedded)
            opened.enter_context(self.valkey)
            opened.callback(self._drop_templates)
            self._servers = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._servers.close()

    def url(self, database: str | None = None) -> str:
        """Where a database of the server is; without a name, one that is not ours."""
        if self._server is None:
            return self.embedded_here().url(database or "postgres")
        if database is None:
            return self._server
        return urlunsplit(urlsplit(self._server)._replace(path=f"/{quote(database, safe='')}"))

    def embedded_here(self) -> EmbeddedPostgres:
        """The server of our own, for what is done to no other."""
        if self.embedded is None:
            raise NotHere("needs a server of our own, to be stopped or copied")
        return self.embedded

    def pgbench(self, *arguments: str, database: str) -> subprocess.CompletedProcess[str]:
        """Run pgbench to its end."""
        done = subprocess.run(
            self.pgbench_command(*arguments, database=database),
            env=PGBENCH_ENVIRONMENT,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BenchBroken(f"pgbench exited with {done.returncode}: {done.stderr.strip()}")
        return done

    def pgbench_command(self, *arguments: str, database: str) -> list[str]:
        program = shutil.which("pgbench", path=os.pathsep.join([str(EmbeddedPostgres().binaries), *_path()]))
        if program is None:
            raise NotHere("there is no pgbench")
        return [program, *arguments, self.url(database)]

    @contextmanager
    def database(self, scale: int) -> Iterator[Database]:
        """A fresh, vacuumed `pgbench -i -s scale`, with an empty Valkey beside it."""
        with self.copy_of(accounts(scale)) as database:
            yield database

    @contextmanager
    def copy_of(self, template: Template) -> Iterator[Database]:
        """A fresh copy, all of it read, after a CHECKPOINT, with an empty Valkey beside it."""
        self._make(template)
        self.valkey.flush()
        self._copies += 1
        name = f"{PREFIX}{self._copies}"
        with self._admin() as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(_name(name)))
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(_name(name), _name(_kept(template))))
        try:
            database = Database(name, self.url(name), template)
            try:
                database.settle()
                yield database
            finally:
                database.connection.close()
        finally:
            self._drop(name)

    def forget(self, template: Template) -> None:
        """Give back the disk of a template that is not needed any more."""
        self._drop(_kept(template))

    def _make(self, template: Template) -> None:
        """Built under another name and then renamed: a build that was broken off must not look like a template."""
        unfinished = f"{_kept(template)}_unfinished"
        with self._admin() as admin:
            if admin.execute("SELECT FROM pg_database WHERE datname = %s", [_kept(template)]).fetchone() is not None:
                return
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(_name(unfinished)))
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(_name(unfinished)))
        template.fill(self, unfinished)
        with self._admin() as admin:
            admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(_name(unfinished), _name(_kept(template))))

    def _drop(self, name: str) -> None:
        with self._admin() as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(_name(name)))

    def _drop_templates(self) -> None:
        """On a server that stays. Ours goes as a whole."""
        if self._server is None:
            return
        with self._admin() as admin:
            found = admin.execute(
                "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [f"{PREFIX}template_"]
            ).fetchall()
        for (name,) in found:
            self._drop(name)

    def _admin(self) -> psycopg.Connection[tuple[Any, ...]]:  # Any: rows of the catalog
        return psycopg.connect(self.url(), autocommit=True)


def accounts(scale: int) -> Template:
    """`pgbench -i -s scale`."""

    def fill(stage: Stage, name: str) -> None:
        stage.pgbench("--initialize", "--quiet", f"--scale={scale}", database=name)
        with psycopg.connect(stage.url(name), autocommit=True) as connection:
            connection.execute(
                "ALTER TABLE pgbench_accounts SET (autovacuum_enabled = off)"
            )  # as on a server of our own
            connection.execute("VACUUM (FREEZE, ANALYZE)")

    return Template(
        name=f"accounts_{scale}", table="pgbench_accounts", key="aid", rows=scale * ROWS_PER_SCALE, fill=fill
    )


def _kept(template: Template) -> str:
    return f"{PREFIX}template_{template.name}"


def _name(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def _path() -> list[str]:
    return os.environ.get("PATH", os.defpath).split(os.pathsep)
