"""A real PgBouncer, where the machine has one, between an application of a test and its database."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from fix_postgres import missing_service

from backfilld.producers.demo.servers.folder import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

#: So many sessions of the application share as many connections to the server.
POOL_SIZE = 2
START_SECONDS = 10
CONFIGURATION = """
[databases]
{database} = host={host} port={server_port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
ignore_startup_parameters = extra_float_digits
"""


@pytest.fixture
def pgbouncer_url(database_url: str) -> Iterator[str]:
    """The test's database through a pooler in transaction mode."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed, and no wheel brings it")
    server, port = urlsplit(database_url), free_port()
    database = server.path.lstrip("/")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pgbouncer.ini")
        file.write_text(
            CONFIGURATION.format(
                database=database,
                host=server.hostname,
                server_port=server.port,
                user=server.username,
                password=unquote(server.password or ""),
                port=port,
                size=POOL_SIZE,
            )
        )
        # It refuses to run as root.
        user = "nobody" if os.geteuid() == 0 else None
        if user is not None:
            identity = pwd.getpwnam(user)
            for path in (Path(folder), file):
                os.chown(path, identity.pw_uid, identity.pw_gid)
        process = subprocess.Popen([program, "-q", str(file)], user=user, stderr=subprocess.DEVNULL)
        try:
            url = f"postgresql://anybody@127.0.0.1:{port}/{database}"
            _wait(url)
            yield url
        finally:
            process.kill()
            process.wait()


def _wait(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=START_SECONDS).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                missing_service(f"pgbouncer does not start: {error}")
            time.sleep(0.05)
        else:
            return
