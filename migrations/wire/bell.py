"""The bell: who sends a message rings it, so that who waits for one need not ask again and again.

A ring may be lost, with the connection or because this Redis user may not publish. So a listener also tells whether it can
hear: a consumer that cannot asks ten times a second, as it would without a bell.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import redis

from backfilld.migrations.wire.messages import NAMESPACE

if TYPE_CHECKING:
    from redis.client import PubSub

#: One wait for a ring. Between two the listener looks whether it is still wanted, and redis-py whether the connection lives.
LISTEN_SECONDS = 10.0
#: Between attempts to listen again.
RECONNECT_SECONDS = 1.0


def ring(client: redis.Redis, queue: str) -> None:
    """Wake those who wait for messages of a queue. What goes wrong is left alone: the message itself is in its queue."""
    with suppress(redis.RedisError):
        client.publish(_channel(queue), b"")


class Bell:
    """Listens in a thread of its own until it is closed."""

    def __init__(self, client: redis.Redis, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._rung = threading.Event()
        self._hears = self._closed = False
        threading.Thread(target=self._listen, name=f"bell {queue}", daemon=True).start()

    @property
    def hears(self) -> bool:
        """Whether a ring would be heard."""
        return self._hears

    def ring(self) -> None:
        """End the wait of this process."""
        self._rung.set()

    def wait(self, seconds: float) -> None:
        """Until the bell rings or has rung since the last wait, or the time is over."""
        self._rung.wait(seconds)
        self._rung.clear()

    def close(self) -> None:
        self._closed = True
        ring(self._client, self._queue)

    def _listen(self) -> None:
        pause = threading.Event()
        while not self._closed:
            # OSError and ValueError: the connection was closed under the read, as the process stops.
            with suppress(redis.RedisError, OSError, ValueError), self._client.pubsub() as heard:  # type: ignore[no-untyped-call] # redis-py leaves it untyped
                heard.subscribe(_channel(self._queue))
                self._hear(heard)
            self._hears = False
            if not self._closed:
                pause.wait(RECONNECT_SECONDS)

    def _hear(self, heard: PubSub) -> None:
        while not self._closed:
            told = heard.get_message(timeout=LISTEN_SECONDS)
            if told is not None:
                # The first is the answer to `subscribe`: what was sent while nobody listened is fetched now.
                self._hears = True
                self._rung.set()


def _channel(queue: str) -> str:
    return f"{NAMESPACE}:bell:{queue}"
