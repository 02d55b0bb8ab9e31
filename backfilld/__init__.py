"""backfilld changes a live PostgreSQL database without losing a row: `from backfilld import Client` for deploy scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backfilld.producers.client import Client

    __version__: str

__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> object:
    """`Client` and `__version__` when they are asked for: the command's help and completion do without what they import."""
    if name == "Client":
        from backfilld.producers.client import Client  # noqa: PLC0415 - see above

        return Client
    if name == "__version__":
        from importlib import metadata  # noqa: PLC0415 - see above

        try:
            return metadata.version("backfilld")
        except metadata.PackageNotFoundError:
            return "from a source tree"
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
