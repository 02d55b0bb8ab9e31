"""Sending wake-ups and control messages, without importing the workers that will take them up.

What is sent may be lost: every message only says early what the record in PostgreSQL says anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, assert_never

import dramatiq
import redis

from backfilld.migrations.errors import Unreachable
from backfilld.migrations.wire import broker as brokers
from backfilld.migrations.wire.messages import (
    ADVANCE_LANE,
    APPLY_CONTROL,
    CONTROL_QUEUE,
    LANES_QUEUE,
    ControlMessage,
    LaneMessage,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


class Sender(Protocol):
    """Puts a message for a lane on its queue. May raise whatever the broker raises."""

    def __call__(self, message: LaneMessage, /) -> None: ...


def sender(broker: dramatiq.Broker) -> Sender:
    """What a worker sends its lanes' next messages by."""

    def send_one(message: LaneMessage, /) -> None:
        broker.enqueue(_envelope(message))

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
    try:
        broker = brokers.connect_broker(redis_url)
        try:
            for message in messages:
                broker.enqueue(_envelope(message))
        finally:
            broker.client.close()
    except (redis.RedisError, dramatiq.BrokerConnectionError) as exc:
        msg = f"cannot reach Redis: {str(exc).strip()}"
        raise Unreachable(msg, server="Redis") from exc


def _envelope(message: LaneMessage | ControlMessage) -> dramatiq.Message[None]:
    match message:
        case LaneMessage():
            queue, actor = LANES_QUEUE, ADVANCE_LANE
        case ControlMessage():
            queue, actor = CONTROL_QUEUE, APPLY_CONTROL
        case _:
            assert_never(message)
    return dramatiq.Message(queue_name=queue, actor_name=actor, args=message.args, kwargs={}, options={})
