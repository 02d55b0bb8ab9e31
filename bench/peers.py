"""The same table made anew by backfilld, pg_repack and pg_squeeze, on a PostgreSQL of the machine that has both."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import psycopg

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import catalog_diff
from backfilld.producers.demo.servers import EmbeddedPostgres
from bench.daemon import Daemon
from bench.figures import MEGABYTE, Section, Table, number
from bench.rebuild import BELONGINGS, WRITERS, Application
from bench.stage import SETTINGS, BenchBroken, NotHere, Stage, until
from bench.tables import FIVE_INDEXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backfilld.migrations.postgres.catalog_diff import Line
    from bench.effort import Effort
    from bench.stage import Database

ROWS, ROWS_QUICK = 300_000, 60_000
#: Debian has a folder for each version of PostgreSQL; the newest that both extensions are installed for is taken.
SERVERS = Path("/usr/lib/postgresql")
EXTENSIONS = ("pg_repack", "pg_squeeze")
#: pg_squeeze reads the WAL through a slot.
WITH_SLOTS = {**SETTINGS, "wal_level": "logical", "shared_preload_libraries": "pg_squeeze"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The table made anew once."""

    seconds: float
    wal: int
    #: The longest statement of the application beside it; 0 where there was none.
    longest_seconds: float
    errors: int
    #: Updates of the application that are not in the table any more, or are there twice.
    lost_updates: int
    #: What the catalog said of the table before and does not say afterwards.
    lost_lines: int


def measure(stage: Stage, effort: Effort) -> Section:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    version, binaries = _server()
    ways: dict[str, Callable[[Stage, Database], float]] = {
        "backfilld, 2 lanes": _backfilld,
        "pg_repack": _pg_repack,
        "pg_squeeze": _pg_squeeze,
    }
    outcomes: dict[tuple[str, int], list[Outcome]] = {}
    with (
        EmbeddedPostgres(version=version, settings=WITH_SLOTS, server=binaries) as server,
        Stage(stage.folder, server=server.url()) as beside,
    ):
        _allow_its_plugin(server)
        for _ in range(effort.repetitions):
            for writers in (0, WRITERS):
                for name, way in ways.items():
                    found = _once(beside, rows, writers, way)
                    outcomes.setdefault((name, writers), []).append(found)
    return Section(
        name="peers",
        title=f"The same table of {rows:,} rows made anew by others, on PostgreSQL {version} (medians of {effort.repetitions})",
        method=(
            f"The table of the part `rebuild`, with {WRITERS} sessions beside that update rows by their key, and with none. Time and WAL "
            "from the call until the new table is in its place: of backfilld that is from enqueue to the end of the switch, with its "
            "comparison of all rows, which the others do not make, and with the rests that it takes beside an application. The WAL is the server's, "
            "so that of the application is in it for as long as the way takes. Lost: updates that are not in the table afterwards, and lines of its catalog entry. "
            "A way back has backfilld alone, and columns of another type or order, dropped columns and partitions too; pg_squeeze needs "
            "wal_level = logical and a library that is loaded at the start, and both need an extension and a superuser."
        ),
        tables=(
            Table(
                columns=(
                    "way",
                    "beside",
                    "seconds",
                    "WAL MB",
                    "longest wait ms",
                    "failed",
                    "lost updates",
                    "lost of the catalog",
                ),
                rows=tuple(
                    (
                        name,
                        f"{writers} writers" if writers else "nothing",
                        number(statistics.median(one.seconds for one in ones)),
                        number(statistics.median(one.wal for one in ones) / MEGABYTE),
                        number(max(one.longest_seconds for one in ones) * 1000) if writers else "",
                        str(sum(one.errors for one in ones)),
                        str(sum(one.lost_updates for one in ones)),
                        str(sum(one.lost_lines for one in ones)),
                    )
                    for (name, writers), ones in sorted(outcomes.items(), key=lambda item: item[0][1])
                ),
            ),
        ),
        figures=(),
    )


def _server() -> tuple[int, Path]:
    """The version, and where its programs are. Raises NotHere."""
    for folder in sorted(SERVERS.glob("*"), key=lambda one: int(one.name), reverse=True):
        if all((folder / "lib" / f"{name}.so").exists() for name in EXTENSIONS):
            return int(folder.name), folder / "bin"
    raise NotHere(
        f"no PostgreSQL in {SERVERS} has both pg_repack and pg_squeeze; on Debian: apt install postgresql-15-repack, and pg_squeeze from "
        "its source or from apt.postgresql.org"
    )


def _allow_its_plugin(server: EmbeddedPostgres) -> None:
    """Since the minor releases of 2026 PostgreSQL decodes the WAL by libraries alone that a setting names."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_settings WHERE name = 'output_plugin_libraries'").fetchone() is not None:
            connection.execute("ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'pg_squeeze'")
    server.restart()


def _once(stage: Stage, rows: int, writers: int, way: Callable[[Stage, Database], float]) -> Outcome:
    with stage.copy_of(FIVE_INDEXES.template(rows)) as database:
        database.do(BELONGINGS)
        for name in EXTENSIONS:
            database.connection.execute(f"CREATE EXTENSION {name}".encode())
        with _ready(stage, database, way):
            database.settle()
            total, lines = database.one("SELECT sum(total)::bigint FROM jobs"), _lines(database)
            application, before = Application(database, rows, writers), database.sizes()
            with application.writing():
                seconds = way(stage, database)
                wal = database.sizes().since(before).wal
            found = database.one("SELECT sum(total)::bigint FROM jobs")
            return Outcome(
                seconds=seconds,
                wal=wal,
                longest_seconds=application.longest,
                errors=application.errors,
                lost_updates=abs(total + application.updated - found),
                lost_lines=len(lines - _lines(database)),
            )


_daemons: dict[str, Daemon] = {}


@contextmanager
def _ready(stage: Stage, database: Database, way: Callable[[Stage, Database], float]) -> Iterator[None]:
    """A daemon is started before the clock, as servers are that run all the time."""
    if way is not _backfilld:
        yield
        return
    with Daemon(stage, database, processes=2) as daemon:
        _daemons[database.name] = daemon
        yield
        del _daemons[database.name]


def _lines(database: Database) -> frozenset[Line]:
    """Without triggers of ours and of pg_repack's. Of a view that it is there: made anew, it has its owner's privileges in words."""
    with database.connection.transaction():
        database.do("SET LOCAL search_path = ''")
        found = catalog_diff.read(database.connection, TableName("public", "jobs"))
    return frozenset(
        replace(one, definition="") if one.kind == "view" else one
        for one in found
        if "backfilld_" not in one.name and "repack" not in one.name
    )


def _backfilld(stage: Stage, database: Database) -> float:
    del stage
    began = time.time()
    run = _daemons[database.name].start({"rebuild": {"table": "jobs"}}, settings={"lanes": 2, "approve": ["contract"]})
    return until("the switch", lambda: database.event_at(run, "phase.contract")) - began


def _pg_repack(stage: Stage, database: Database) -> float:
    program = shutil.which("pg_repack")
    if program is None:
        raise NotHere("there is no pg_repack to call")
    server = urlsplit(stage.url())
    began = time.monotonic()
    done = subprocess.run(
        [
            program,
            *("--host", str(server.hostname), "--port", str(server.port), "--username", str(server.username)),
            *("--dbname", database.name, "--table", "public.jobs"),
        ],
        env={**os.environ, "PGPASSWORD": unquote(server.password or "")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchBroken(f"pg_repack: {done.stderr}")
    return time.monotonic() - began


def _pg_squeeze(stage: Stage, database: Database) -> float:
    del stage
    file = database.one("SELECT pg_relation_filenode('jobs')")
    began = time.monotonic()
    database.do("SELECT squeeze.squeeze_table('public', 'jobs')")
    seconds = time.monotonic() - began
    if file == database.one("SELECT pg_relation_filenode('jobs')"):
        raise BenchBroken(f"pg_squeeze did nothing: {database.all('SELECT * FROM squeeze.errors')}")
    return seconds
