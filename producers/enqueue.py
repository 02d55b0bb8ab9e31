"""Sending wake-ups and control messages, without importing the workers that will take them up.

What is sent may be lost: every message only says early what the record in PostgreSQL says anyway.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, assert_never

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
    from collections.abc import Iterable, Iterator


def check(redis_url: str) -> None:
    """Ask Redis for a sign of life. Raises Unreachable."""
    client = brokers.connect_redis(redis_url)
    try:
        brokers.check(client)
    finally:
        client.close()


def send(redis_url: str, messages: Iterable[LaneMessage | ControlMessage]) -> None:
    """Send wake-ups. Raises Unreachable; how many were sent before is not known, and does not matter."""
    with _reachable():
        broker = brokers.connect_broker(redis_url)
        try:
            for message in messages:
                match message:
                    case LaneMessage():
                        queue, actor = LANES_QUEUE, ADVANCE_LANE
                    case ControlMessage():
                        queue, actor = CONTROL_QUEUE, APPLY_CONTROL
                    case _:
                        assert_never(message)
                broker.enqueue(
                    dramatiq.Message(queue_name=queue, actor_name=actor, args=message.args, kwargs={}, options={})
                )
        finally:
            broker.client.close()


@contextmanager
def _reachable() -> Iterator[None]:
    """Translate the loss of Redis into Unreachable."""
    try:
        yield
    except (redis.RedisError, dramatiq.BrokerConnectionError) as exc:
        msg = f"cannot reach Redis: {str(exc).strip()}"
        raise Unreachable(msg, server="Redis") from exc
