"""What a channel says when it did not take a message. Neither text ever holds a secret of the channel."""

from __future__ import annotations


class NotTaken(Exception):
    """The message was not taken; a later try may do better, after `after_seconds` where the channel says so."""

    def __init__(self, message: str, *, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class TakenNever(Exception):
    """The message was refused, and will be each time."""
