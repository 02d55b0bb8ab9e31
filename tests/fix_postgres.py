"""A real PostgreSQL for the tests: one embedded server per test process, a database of its own for each test.

`BACKFILLD_TEST_POSTGRES=14` has the embedded servers be of that version, which `make test-versions` brings.

`BACKFILLD_TEST_DATABASE_URL` names a server of your own instead; its user must be a superuser. Databases called
`backfilld_test_…` are made and dropped there, and nothing else is touched.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import time
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from backfilld.producers.demo.servers import EmbeddedFailed, EmbeddedPostgres, EmbeddedUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from _pytest.mark import ParameterSet

#: The version of the embedded servers.
VERSION = int(os.environ.get("BACKFILLD_TEST_POSTGRES", "18"))
#: Where tests/get_postgres.py puts the servers that the wheel does not bring.
SERVERS = Path(sys.prefix) / "postgres"
#: Beside those of every embedded server. Whole pages in the WAL help after a crash of the machine, which ends the tests anyway.
SETTINGS = {"full_page_writes": "off"}

#: What stands in the tests' own SQL by the way, each with the version that it came with.
_CAME_WITH = (
    (15, re.compile(r" WITH \(security_invoker = true\)")),
    (15, re.compile(r" NULLS NOT DISTINCT")),
    (15, re.compile(r"(?<=FOR TABLE jobs) \([\w, ]+\)")),
    (15, re.compile(r", r\.prattrs, pg_get_expr\(r\.prqual, r\.prrelid\)")),
)

SUPABASE_EMULATION = Path(__file__).with_name("supabase_emulation.sql")


def missing_service(reason: str) -> NoReturn:
    """A service that cannot be had: skip on a laptop, fail in CI, where a skip would pass for success."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def embedded(*, settings: Mapping[str, str], superuser: str = "postgres") -> EmbeddedPostgres:
    """A server of the version under test, not started yet. Raises EmbeddedUnavailable and EmbeddedFailed."""
    server = SERVERS / str(VERSION) / "bin"
    return EmbeddedPostgres(
        version=VERSION, settings=settings, superuser=superuser, server=server if server.exists() else None
    )


def pgbench(*arguments: str, url: str) -> list[str]:
    """The command line of pgbench: the embedded server's own, or the machine's."""
    program = shutil.which("pgbench", path=EmbeddedPostgres().binaries) or "pgbench"
    return [program, *arguments, url]


@pytest.fixture(scope="session")
def embedded_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """The embedded server of this test process, whatever the environment names.

    Its bootstrap superuser is `supabase_admin`, so that `postgres` can be the ordinary role that it is on Supabase.
    A test that stops it has to start it again.
    """
    try:
        server = embedded(superuser="supabase_admin", settings=SETTINGS)
        server.start()
    except (EmbeddedUnavailable, EmbeddedFailed) as error:
        missing_service(str(error))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def admin_url(request: pytest.FixtureRequest) -> str:
    """A superuser's URL of the server under test, to a database that no test writes to."""
    url = os.environ.get("BACKFILLD_TEST_DATABASE_URL")
    if url is None:
        server: EmbeddedPostgres = request.getfixturevalue("embedded_postgres")
        return server.url()
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            role = connection.execute("select rolsuper from pg_roles where rolname = current_user").fetchone()
    except psycopg.OperationalError as error:
        missing_service(f"BACKFILLD_TEST_DATABASE_URL cannot be used: {error}")
    if role != (True,):
        missing_service("BACKFILLD_TEST_DATABASE_URL must name a superuser")
    return url


@pytest.fixture(scope="session")
def server_version(admin_url: str) -> int:
    """The major version of the server under test."""
    with psycopg.connect(admin_url) as connection:
        return connection.info.server_version // 10_000


def understood(text: str, version: int) -> str:
    """SQL of a test as a server of this major version understands it: without what came later."""
    for since, words in _CAME_WITH:
        text = words.sub("", text) if version < since else text
    return text


def cases(names: Iterable[str], *, since: Mapping[str, int]) -> list[ParameterSet | str]:
    """The cases of a table for `parametrize`, of which some need a later version."""
    return [pytest.param(name, marks=pytest.mark.since(since[name])) if name in since else name for name in names]


@pytest.fixture(autouse=True)
def _since(request: pytest.FixtureRequest) -> None:
    """Skip what PostgreSQL cannot do before the version that `@pytest.mark.since(15)` names."""
    marker = request.node.get_closest_marker("since")
    if marker is not None and request.getfixturevalue("server_version") < marker.args[0]:
        pytest.skip(f"needs PostgreSQL {marker.args[0]} or newer")


@pytest.fixture(scope="session")
def template(admin_url: str) -> Iterator[str]:
    """The name of a database that holds the control schema, made once; `database_url` copies it."""
    with new_database(admin_url, copy_of="template0") as url:
        if find_spec("backfilld.migrations.record.schema") is not None:
            with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
                import_module("backfilld.migrations.record.schema").ensure(connection)
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture
def database_url(admin_url: str, template: str) -> Iterator[str]:
    """A fresh database with the control schema, as a superuser; dropped with whoever is still connected."""
    with new_database(admin_url, copy_of=template) as url:
        yield url


@pytest.fixture
def empty_database_url(admin_url: str) -> Iterator[str]:
    """A fresh database without the control schema, as a superuser."""
    with new_database(admin_url, copy_of="template0") as url:
        yield url


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """To the database of `database_url`: autocommit and rows as dicts (Any: a column has the type it has), as all of ours are."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
def embedded_database_url(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A fresh database with the control schema, always on the embedded server, which may have a standby."""
    with new_database(embedded_postgres.url(), copy_of="template0") as url:
        with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
            import_module("backfilld.migrations.record.schema").ensure(connection)
        yield url


@pytest.fixture
def standby(embedded_postgres: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A streaming replica of the embedded server, which no other test finds there."""
    replica = embedded_postgres.standby()
    try:
        replica.start()
        yield replica
    finally:
        replica.close()
        with psycopg.connect(embedded_postgres.url(), autocommit=True) as primary:
            deadline = time.monotonic() + 30
            while primary.execute("SELECT FROM pg_stat_replication").fetchall():
                assert time.monotonic() < deadline, "the primary still sees its standby"


@pytest.fixture(scope="session")
def plain_role(admin_url: str) -> Iterator[tuple[str, str]]:
    """Name and password of a role that may log in and nothing else: it sees what row security lets it see."""
    name, password = f"backfilld_test_plain_{secrets.token_hex(4)}", secrets.token_hex(12)
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("create role {} login nosuperuser nobypassrls nocreatedb nocreaterole password {}").format(
                sql.Identifier(name), sql.Literal(password)
            )
        )
    yield name, password
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


@pytest.fixture
def plain_role_url(database_url: str, plain_role: tuple[str, str]) -> str:
    """The database of `database_url`, as a NOSUPERUSER NOBYPASSRLS role that owns nothing and was granted nothing."""
    name, password = plain_role
    return _with_user(database_url, name, password)


@pytest.fixture
def supabase_admin_url(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A fresh database that looks like a Supabase project, as the superuser `supabase_admin` that users do not get.

    Always on the embedded server: elsewhere the role `postgres` is a superuser, and what is tested here is that it is not.
    """
    with new_database(embedded_postgres.url(), copy_of="template0") as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SUPABASE_EMULATION.read_bytes())
        yield url


@pytest.fixture
def supabase_url(supabase_admin_url: str) -> str:
    """The database of `supabase_admin_url`, as `postgres`: NOSUPERUSER, BYPASSRLS, as a project's own user is."""
    return _with_user(supabase_admin_url, "postgres", None)


@contextmanager
def new_database(admin_url: str, *, copy_of: str, encoding: str = "") -> Iterator[str]:
    """A database for as long as the context lasts. Each end connects anew: in between the test may restart the server.

    With an `encoding`, one of the C locale.
    """
    name = f"backfilld_test_{secrets.token_hex(6)}"
    with psycopg.connect(admin_url, autocommit=True) as admin:
        # Of files that need not reach a disk a copy is cheaper than writing all of it to the WAL: 28 ms of processor, drop included,
        # in place of 45. Emptying one database again and again, and comparing its catalogs with a new one's, takes 18: not worth it.
        thrown_away = admin.info.server_version >= 150000 and admin.execute("show fsync").fetchone() == ("off",)
        own = sql.SQL("")
        if encoding:
            provider = "locale_provider libc" if admin.info.server_version >= 150000 else ""
            own = sql.SQL(f"encoding {encoding} lc_collate 'C' lc_ctype 'C' {provider}")
        admin.execute(
            sql.SQL("create database {} template {} {} {}").format(
                sql.Identifier(name),
                sql.Identifier(copy_of),
                sql.SQL("strategy file_copy" if thrown_away else ""),
                own,
            )
        )
    try:
        yield _with_database(admin_url, name)
    finally:
        with psycopg.connect(admin_url, autocommit=True) as admin:
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{quote(name, safe='')}"))


def _with_user(url: str, user: str, password: str | None) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    secret = f":{quote(password, safe='')}" if password else ""
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}{secret}@{place}"))
