"""The way to Redis: what the client is told, and what it makes of a wrong URL."""

from __future__ import annotations

from typing import Any, Self

import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from backfilld.migrations.errors import InvalidSettings, Refused, Unreachable
from backfilld.migrations.wire.broker import BrokerRedis, check, connect_broker, connect_redis


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:6379",
        "localhost:6379",
        "redis://localhost:notaport/0",
        "redis://localhost:6379/zero",
        "redis://localhost:99999/0",
        "redis://localhost/0?socket_timeout=soon",
        "redis://localhost/0?colour=red",
        "",
    ],
)
def test_a_url_that_is_none_is_refused_at_once_by_the_name_of_its_variable(url: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        connect_redis(url)
    assert refused.value.variable == "BACKFILLD_REDIS_URL"


def test_the_message_about_a_wrong_url_holds_no_password() -> None:
    with pytest.raises(InvalidSettings) as refused:
        connect_redis("redis://:hunter2@localhost:6379/zero")
    assert "hunter2" not in str(refused.value)


def test_timeouts_and_retries_are_explicit_for_a_url_as_well() -> None:
    """redis-py gives a client made from a URL no retries, and others ten."""
    client = connect_redis("redis://user:secret@cache:6380/3")
    told = client.connection_pool.connection_kwargs
    assert (told["host"], told["port"], told["db"]) == ("cache", 6380, 3)
    assert (told["socket_timeout"], told["socket_connect_timeout"], told["health_check_interval"]) == (5, 2, 30)
    assert "client_name" not in told, "a user who may not set it would have no connection"
    assert told["retry"].get_retries() == 3


def test_the_broker_brings_no_middleware_and_keeps_to_one_shard() -> None:
    broker = connect_broker("redis://localhost:6379/0")
    assert isinstance(broker, RedisBroker)
    assert isinstance(broker.client, BrokerRedis)
    assert broker.middleware == []
    assert broker.namespace == "{backfilld}"
    assert broker.heartbeat_timeout == 60_000
    assert broker.maintenance_chance >= 50_000


def test_a_stalled_socket_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dramatiq knows only the latter (Bogdanp/dramatiq#894)."""

    def stall(*_args: Any, **_options: Any) -> None:
        raise redis.TimeoutError("Timeout reading from socket")

    monkeypatch.setattr(redis.Redis, "execute_command", stall)
    with pytest.raises(redis.ConnectionError, match="Timeout reading"):
        connect_redis("redis://localhost:6379/0").ping()


class _Answers(BrokerRedis):
    """A client that answers PING, and CONFIG with what it was given."""

    config: dict[str, str] | Exception

    @classmethod
    def with_config(cls, config: dict[str, str] | Exception) -> Self:
        client = cls(host="cache", port=6379)
        client.config = config
        return client

    def execute_command(self, *args: Any, **_options: Any) -> Any:
        if args[0] == "PING":
            return True
        if isinstance(self.config, Exception):
            raise self.config
        return self.config


@pytest.mark.parametrize(
    "config",
    [
        {"maxmemory-policy": "noeviction", "maxmemory": "100000000"},
        {"maxmemory-policy": "allkeys-lru", "maxmemory": "0"},  # no limit: nothing is ever dropped
        {"maxmemory-policy": "volatile-lru", "maxmemory": "100000000"},  # our keys have no time to live
        {},
        redis.ResponseError("unknown command 'CONFIG'"),
        redis.exceptions.NoPermissionError("this user has no permissions to run the 'config|get' command"),
    ],
)
def test_a_redis_that_keeps_our_keys_or_will_not_say_is_accepted(config: dict[str, str] | Exception) -> None:
    check(_Answers.with_config(config))


def test_a_redis_that_drops_keys_is_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match="noeviction") as refused:
        check(_Answers.with_config({"maxmemory-policy": "allkeys-lru", "maxmemory": "100000000"}))
    assert [finding.check for finding in refused.value.findings] == ["redis_eviction"]


def test_a_connection_lost_between_the_two_questions_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="cache:6379"):
        check(_Answers.with_config(redis.ConnectionError("gone")))
