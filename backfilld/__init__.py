"""backfilld changes a live PostgreSQL database without losing a row: `from backfilld import Client` for deploy scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backfilld.producers.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> type[Client]:
    """`Client` when it is asked for: the command's help and completion do without what it imports."""
    if name != "Client":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from backfilld.producers.client import Client  # noqa: PLC0415 - see above

    return Client
