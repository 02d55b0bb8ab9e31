"""backfilld changes a live PostgreSQL database without losing a row: `from backfilld import Client` for deploy scripts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backfilld.migrations.errors import (
        BackfilldError,
        Finding,
        InvalidMigration,
        InvalidSettings,
        NotFinished,
        Refused,
        Unreachable,
        UsageError,
    )
    from backfilld.monitoring.progress import Progress
    from backfilld.producers.client import Client
    from backfilld.producers.waiting import RunStopped

    __version__: str

__all__ = [
    "BackfilldError",
    "Client",
    "Finding",
    "InvalidMigration",
    "InvalidSettings",
    "NotFinished",
    "Progress",
    "Refused",
    "RunStopped",
    "Unreachable",
    "UsageError",
    "__version__",
]

#: Where what is not an error stands; the others are in `migrations.errors`.
_ELSEWHERE = {
    "Client": "backfilld.producers.client",
    "Progress": "backfilld.monitoring.progress",
    "RunStopped": "backfilld.producers.waiting",
}


def __getattr__(name: str) -> object:
    """Each name when it is asked for: the command's help and completion do without what they import."""
    if name == "__version__":
        from importlib import metadata  # noqa: PLC0415 - see above

        try:
            return metadata.version("backfilld")
        except metadata.PackageNotFoundError:
            return "from a source tree"
    if name in __all__:
        found: object = getattr(import_module(_ELSEWHERE.get(name, "backfilld.migrations.errors")), name)
        return found
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
