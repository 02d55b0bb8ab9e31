"""A daemon that cannot work says at its start what is wrong, why, and what to do, in one line and with its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from fix_daemon import PATIENCE_SECONDS, environment

from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.settings import Settings
from backfilld.worker.start_checks import check_services

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    from backfilld.producers.demo.servers import EmbeddedPostgres


def refusal(url: str, redis_url: str) -> BackfilldError:
    with pytest.raises(BackfilldError) as caught:
        check_services(Settings(database_url=url, redis_url=redis_url))
    return caught.value


def test_a_role_without_rights_is_told_which(
    connection: psycopg.Connection[dict[str, Any]], plain_role: tuple[str, str], plain_role_url: str, redis_url: str
) -> None:
    found = refusal(plain_role_url, redis_url)
    assert found.exit_code == 3
    assert "permission denied for schema backfilld" in str(found)
    assert "the role that ran `backfilld init`" in str(found)

    connection.execute(f"GRANT USAGE ON SCHEMA backfilld TO {plain_role[0]}".encode())
    connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA backfilld TO {plain_role[0]}".encode())
    found = refusal(plain_role_url, redis_url)
    assert found.exit_code == 3
    assert f"the role {plain_role[0]} lacks DELETE, INSERT, UPDATE on backfilld." in str(found)


def test_a_server_without_room_for_a_session_is_told(
    connection: psycopg.Connection[dict[str, Any]], plain_role: tuple[str, str], plain_role_url: str, redis_url: str
) -> None:
    connection.execute(f"ALTER ROLE {plain_role[0]} CONNECTION LIMIT 0".encode())
    try:
        found = refusal(plain_role_url, redis_url)
    finally:
        connection.execute(f"ALTER ROLE {plain_role[0]} CONNECTION LIMIT -1".encode())
    assert found.exit_code == 5
    assert "too many connections" in str(found)
    assert "max_connections" in getattr(found, "remedy", "")


def test_a_database_that_takes_no_writes_is_told(
    connection: psycopg.Connection[dict[str, Any]], database_url: str, redis_url: str
) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    found = refusal(database_url, redis_url)
    assert (found.exit_code, str(found)) == (5, "the database takes no writes: default_transaction_read_only is on")


def test_a_standby_is_told(embedded_database_url: str, standby: EmbeddedPostgres, redis_url: str) -> None:
    found = refusal(standby.url(urlsplit(embedded_database_url).path.removeprefix("/")), redis_url)
    assert (found.exit_code, str(found)) == (5, "the database is a standby, which takes no writes")


def test_it_is_one_line_and_no_traceback(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """Of the supervisor itself, for a variable with a slip in it."""
    started = subprocess.run(
        [sys.executable, "-P", "-m", "backfilld.worker.supervisor"],
        env=environment(database_url, redis_url) | {"BACKFILLD_TRANSFORM": "myapp", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    (line,) = started.stderr.splitlines()
    assert started.returncode == 2
    assert json.loads(line)["reason"] == (
        "BACKFILLD_TRANSFORM: is no variable of backfilld. Did you mean BACKFILLD_TRANSFORMS?"
    )
