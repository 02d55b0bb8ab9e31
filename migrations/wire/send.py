"""Sending wake-ups and control messages, without importing the workers that will take them up.

What is sent may be lost: every message only says early what the record in PostgreSQL says anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import dramatiq
import redis

from backfilld.migrations.wire import broker as brokers
from backfilld.migrations.wire.envelope import packed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.wire.messages import ControlMessage, LaneMessage


class Sender(Protocol):
    """Puts a message for a lane on its queue. May raise whatever the broker raises."""

    def __call__(self, message: LaneMessage, /) -> None: ...


def sender(broker: dramatiq.Broker) -> Sender:
    """What a worker sends its lanes' next messages by."""

    def send_one(message: LaneMessage, /) -> None:
        broker.enqueue(packed(message))

    return send_one


def check(redis_url: str) -> None:
    """Ask Redis for a sign of life. Raises Unreachable."""
    client = brokers.connect_redis(redis_url)
    try:
        brokers.check(client)
    finally:
        client.close()


def send(redis_url: str, messages: Iterable[LaneMessage | ControlMessage]) -> None:
    """Send messages. Raises Unreachable; how many were sent before is not known, and does not matter."""
    broker = brokers.connect_broker(redis_url)
    try:
        for message in messages:
            broker.enqueue(packed(message))
    except (redis.RedisError, dramatiq.BrokerConnectionError) as exc:
        raise brokers.unreachable(broker.client, exc) from exc
    finally:
        broker.client.close()
