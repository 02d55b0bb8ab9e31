"""The two ways in which a delivery fails. Neither message ever holds a secret of the channel."""

from __future__ import annotations


class NotTaken(Exception):
    """The message was not accepted; a retry may succeed, after `after_seconds` where the channel names them."""

    def __init__(self, message: str, *, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class TakenNever(Exception):
    """The message was refused, and every retry would be."""
