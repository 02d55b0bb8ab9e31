"""What `backfilld check` said of the application's code. It is about a migration, by its checksum: there may be no run yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backfilld.migrations.queries import queries
from backfilld.migrations.record import audit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "audit")
#: The event of a verdict.
WHAT = "application.code"


def put(  # noqa: PLR0913 - a verdict, of whom and of what
    connection: Connection,
    *,
    run: int | None,
    checksum: str,
    until: str,
    commands: Sequence[dict[str, Any]],  # Any: JSON
    actor: str,
) -> None:
    """Put a verdict on record: of each command whether it passes, and from which phase on it does not."""
    detail: dict[str, Any] = {"checksum": checksum, "until": until, "commands": list(commands)}  # Any: JSON
    audit.record(connection, run, actor=actor, what=WHAT, **detail)


def latest(connection: Connection, checksum: str) -> dict[str, Any] | None:
    """The newest verdict for a migration of this checksum, or None. Any: columns of the audit."""
    return connection.execute(_SQL["latest_verdict"], {"what": WHAT, "checksum": checksum}).fetchone()
