"""A real Valkey for the tests: one embedded server per test process, empty at the start of each test that asks for it.

`BACKFILLD_TEST_REDIS_URL` names a server of your own instead. The logical database in it is FLUSHED, and with several test
processes the ones after it too (`…/8` with `-n3` uses 8, 9 and 10).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
from fix_postgres import missing_service

from backfilld.producers.demo.servers import EmbeddedFailed, EmbeddedUnavailable, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def valkey_process() -> Iterator[EmbeddedValkey]:
    """The embedded server of this test process; tests use `embedded_valkey` or `redis_url`."""
    try:
        server = EmbeddedValkey()
        server.start()
    except (EmbeddedUnavailable, EmbeddedFailed) as error:
        missing_service(str(error))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def embedded_valkey(valkey_process: EmbeddedValkey) -> EmbeddedValkey:
    """The embedded Valkey, running and empty; a test may stop it, the next one finds it started again."""
    valkey_process.start()
    valkey_process.flush()
    return valkey_process


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """An empty logical database of its own."""
    given = os.environ.get("BACKFILLD_TEST_REDIS_URL")
    if given is None:
        server: EmbeddedValkey = request.getfixturevalue("embedded_valkey")
        return server.url
    url = _of_this_process(given)
    try:
        with redis.Redis.from_url(url) as client:
            client.flushdb()
    except redis.RedisError as error:
        missing_service(f"BACKFILLD_TEST_REDIS_URL cannot be used: {error}")
    return url


def _of_this_process(url: str) -> str:
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{int(parts.path.strip('/') or 0) + process}"))
