"""The command line and the Python client: what enqueues migrations and tells runs what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producers.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> type[Client]:
    """`Client` when it is asked for: the command's help and completion do without what it imports."""
    if name != "Client":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from producers.client import Client  # noqa: PLC0415 - see above

    return Client
