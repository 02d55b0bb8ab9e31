"""Questions to a Valkey on this machine, asked once: the throw-away servers of the demo and the tests start and stop by them."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def server_pid(port: int) -> int | None:
    """The process that answers on a port of 127.0.0.1; None when none does.

    Not a PING: on a port that was taken just before, another server would answer it.
    """
    try:
        with _client(port) as client:
            return int(client.info("server")["process_id"])
    except redis.RedisError:
        return None


def remove_every_key(port: int) -> None:
    """Remove the keys of every logical database. Raises redis.RedisError."""
    with _client(port) as client:
        client.flushall()


def _client(port: int) -> redis.Redis:
    """A client that asks once: by default redis-py would try for seconds."""
    return redis.Redis(host="127.0.0.1", port=port, socket_timeout=5, retry=Retry(NoBackoff(), 0))
