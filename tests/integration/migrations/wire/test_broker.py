"""The way to a real Redis or Valkey."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import dramatiq
import pytest
import redis

from backfilld.migrations.errors import Refused, Unreachable
from backfilld.migrations.wire.broker import check, connect_broker, connect_redis, queue_lengths
from backfilld.migrations.wire.messages import CONTROL_QUEUE, LANES_QUEUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_proxy import Proxy

    from backfilld.producers.demo.servers import EmbeddedValkey


def test_a_message_sent_is_counted_in_its_queue(redis_url: str) -> None:
    """The keys that `queue_lengths` looks at are those the broker writes."""
    broker = connect_broker(redis_url)
    client = connect_redis(redis_url)
    check(client)
    assert queue_lengths(client) == {LANES_QUEUE: 0, CONTROL_QUEUE: 0}
    broker.declare_queue(LANES_QUEUE)
    message: dramatiq.Message[None] = dramatiq.Message(
        queue_name=LANES_QUEUE, actor_name="advance_lane", args=("default", 1, 2, 3), kwargs={}, options={}
    )
    broker.enqueue(message)
    broker.enqueue(message)
    assert queue_lengths(client) == {LANES_QUEUE: 2, CONTROL_QUEUE: 0}
    broker.close()
    client.close()


def test_a_redis_that_is_away_is_unreachable_by_address_and_without_its_password() -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1") as unreachable:
        check(connect_redis("redis://:hunter2@127.0.0.1:1/0"))
    assert "hunter2" not in str(unreachable.value)
    assert unreachable.value.exit_code == 5


def test_a_wrong_password_is_unreachable_too(embedded_valkey: EmbeddedValkey) -> None:
    with connect_redis(embedded_valkey.url) as admin:
        admin.config_set("requirepass", "right")
        try:
            with pytest.raises(Unreachable):
                check(connect_redis(embedded_valkey.url.replace("redis://", "redis://:wrong@")))
        finally:
            admin.config_set("requirepass", "")


def test_a_redis_that_would_drop_our_keys_is_refused(embedded_valkey: EmbeddedValkey) -> None:
    with connect_redis(embedded_valkey.url) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(Refused):
                check(client)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "0")
        check(client)


def test_a_connection_cut_between_two_commands_is_not_noticed(redis_url: str, proxy: Callable[[str], Proxy]) -> None:
    between = proxy(redis_url)
    with connect_redis(between.url(redis_url)) as client:
        assert client.ping()
        between.cut()
        assert client.ping()


def test_a_server_that_stalls_is_a_lost_connection_for_the_broker(
    redis_url: str, proxy: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a redis.TimeoutError, which dramatiq takes for a bug of its own."""
    monkeypatch.setattr("backfilld.migrations.wire.broker.SOCKET_TIMEOUT_SECONDS", 0.1)
    between = proxy(redis_url)
    broker = connect_broker(between.url(redis_url))
    broker.client.ping()
    between.stall()
    begun = time.monotonic()
    with pytest.raises(redis.ConnectionError):
        broker.do_fetch(LANES_QUEUE, 1)
    assert time.monotonic() - begun < 30
    between.resume()
    broker.close()
