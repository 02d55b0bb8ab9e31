"""What Debian alone brings: a server with an archive of pgBackRest or Barman, and one with plpgsql_check. All are of PostgreSQL 15."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_daemon import until
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from backfilld.migrations.backup_settings import BackupSettings, BarmanSettings, PgBackRestSettings, WalSettings
from backfilld.migrations.backups.place import Place
from backfilld.migrations.record import schema
from backfilld.producers.demo.servers import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
EXTENSIONS = Path("/usr/share/postgresql/15/extension")
TABLES = """
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Order" (part int, id int, "Order" text, doc json, PRIMARY KEY (part, id));
INSERT INTO "Odd Schema"."Order" SELECT i % 3, i, 'order ' || i, '{"a": 1}' FROM generate_series(1, 600) i;
CREATE TABLE jobs (id int PRIMARY KEY, status text);
INSERT INTO jobs SELECT i, 'a' FROM generate_series(1, 50) i;
"""


def require_tools(*tools: str) -> None:
    """Skips, also in CI: an own make target brings them."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not (PROGRAMS / "pg_basebackup").exists():
        missing.append(str(PROGRAMS / "pg_basebackup"))
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed (make test-backup, as root on Debian)")


@dataclass(frozen=True)
class Archive:
    """A server, the tool that archives it, and a place of ours with its provider."""

    server: EmbeddedPostgres
    place: Place
    connection: psycopg.Connection[dict[str, Any]]
    #: Where the tool keeps what it has.
    kept: Path
    #: Runs the tool with these words.
    tool: Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def pgbackrest_archive() -> Iterator[Archive]:
    require_tools("pgbackrest")
    with _work() as work:
        configuration = work / "pgbackrest.conf"
        command = f"pgbackrest --config={configuration} --stanza=main archive-push %p"
        sockets = _open(work / "sockets")
        settings = {"archive_mode": "on", "archive_command": command, "unix_socket_directories": str(sockets)}
        with _server(settings) as (server, connection):
            connection.execute(TABLES)
            data = server.folder / "data"
            with (data / "pg_hba.conf").open("a") as rights:
                rights.write("local all all trust\n")
            connection.execute("SELECT pg_reload_conf()")
            configuration.write_text(
                f"[global]\nrepo1-path={_open(work / 'one')}\nrepo2-path={_open(work / 'two')}\nrepo1-retention-full=9\n"
                f"repo2-retention-full=9\nlog-path={_open(work / 'log')}\nlock-path={_open(work / 'lock')}\nspool-path={_open(work / 'spool')}\nstart-fast=y\n"
                f"[main]\npg1-path={data}\npg1-port={server.port}\npg1-socket-path={sockets}\npg1-user={server.superuser}\n"
            )
            program = _as_server_user(work / "pgbackrest", "pgbackrest")
            tool = _tool(program, f"--config={configuration}", "--stanza=main")
            tool("stanza-create")
            own = PgBackRestSettings(stanza="main", program=program, config=configuration, repositories=(1, 2))
            place = _place(server, provider="pgbackrest", pgbackrest=own)
            yield Archive(server, place, connection, work, tool)


@pytest.fixture(scope="module")
def barman_archive() -> Iterator[Archive]:
    require_tools("barman", "rsync")
    with _work() as work, _server({"max_slot_wal_keep_size": "1GB"}) as (server, connection):
        connection.execute(TABLES)
        configuration = work / "barman.conf"
        conninfo = make_conninfo("", **conninfo_to_dict(server.url()))
        user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
        configuration.write_text(
            f"[barman]\nbarman_user = {user}\nbarman_home = {work / 'home'}\nlog_file = {work / 'log'}\n"
            f"configuration_files_directory = {work / 'none'}\n[main]\ndescription = test\nconninfo = {conninfo}\n"
            f"streaming_conninfo = {conninfo}\nbackup_method = postgres\nstreaming_archiver = on\nslot_name = barman\n"
            f"path_prefix = {PROGRAMS}\nimmediate_checkpoint = true\n"
        )
        (work / "home").mkdir()
        tool = _tool(Path("barman"), f"--config={configuration}")
        tool("receive-wal", "--create-slot", "main")
        receiving = ["barman", f"--config={configuration}", "receive-wal", "main"]
        with subprocess.Popen(receiving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as receiver:
            try:
                until(
                    "Barman to receive",
                    lambda: connection.execute("SELECT FROM pg_stat_replication").fetchall(),
                    patience_seconds=30,
                )
                tool("switch-wal", "--force", "--archive", "main")
                own = BarmanSettings(server="main", config=configuration)
                place = _place(server, provider="barman", barman=own)
                yield Archive(server, place, connection, work / "home" / "main", tool)
            finally:
                receiver.terminate()


@pytest.fixture
def plpgsql_checking() -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A superuser's connection to a server that has plpgsql_check."""
    if not (EXTENSIONS / "plpgsql_check.control").exists():
        pytest.skip("plpgsql_check is not installed (make test-backup, as root on Debian)")
    with _server({}) as (_, connection):
        connection.execute("CREATE EXTENSION plpgsql_check")
        yield connection


@contextmanager
def _server(settings: dict[str, str]) -> Iterator[tuple[EmbeddedPostgres, psycopg.Connection[dict[str, Any]]]]:
    server = EmbeddedPostgres(version=15, server=PROGRAMS, settings={"wal_level": "replica", **settings})
    server.start()
    try:
        with psycopg.connect(server.url(), autocommit=True, row_factory=dict_row) as connection:
            schema.ensure(connection)
            yield server, connection
    finally:
        server.close()


def _place(server: EmbeddedPostgres, **settings: Any) -> Place:
    given = BackupSettings(**settings, programs=PROGRAMS, wal=WalSettings(patience="30s"))
    return Place(url=server.url(), settings=given, stores=())


@contextmanager
def _work() -> Iterator[Path]:
    """A folder that the server's user can go into: what pytest gives is for us alone."""
    with tempfile.TemporaryDirectory(prefix="backfilld-archive-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def _open(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def _as_server_user(script: Path, program: str) -> Path:
    """A program run as the user of the embedded server, whose archive it shares; root's are `nobody`'s."""
    become = "setpriv --reuid=nobody --regid=nogroup --clear-groups" if os.geteuid() == 0 else ""
    script.write_text(f'#!/bin/sh\nexec {become} {program} "$@"\n')
    script.chmod(0o755)
    return script


def _tool(program: Path, *options: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([program, *options, *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    return run
