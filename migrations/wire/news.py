"""What happens to Redis and its messages, for observers; `telemetry` has the rest. Imports no client, so that all may know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class RedisFailed:
    """Redis does not do what it is asked; told once for each cause."""

    problem: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class RedisBack:
    """Redis does what it is asked again."""


@dataclass(frozen=True, kw_only=True)
class MessageMalformed:
    """What lay in a queue was no message of ours, and was removed unread."""

    queue: str
    #: Why the last of them was none.
    reason: str
    #: How many were removed since the last time this was told.
    count: int


News = RedisFailed | RedisBack | MessageMalformed


class Observer(Protocol):
    """Receives news. Called in the thread where it happened; must be quick and never raise."""

    def __call__(self, event: News, /) -> None: ...


def nobody(event: News, /) -> None:
    """The observer that looks away."""
