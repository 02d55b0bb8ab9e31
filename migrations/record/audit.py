"""The audit: who did what, and every change of state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "audit")


def record(connection: Connection, run: int | None, *, actor: str, what: str, **detail: Any) -> None:
    """Add one line to the audit. Any: the detail is JSON, read by people."""
    connection.execute(_SQL["record_event"], {"run": run, "actor": actor, "what": what, "detail": Jsonb(detail)})


def story(connection: Connection, run: int) -> list[dict[str, Any]]:
    """All events of a run, oldest first. Any: columns of the audit, for printing."""
    return connection.execute(_SQL["events_of"], {"run": run}).fetchall()


def whole_story(
    connection: Connection, run: int, *, after: int = 0, most: int | None = None, governor: bool = True
) -> list[dict[str, Any]]:
    """The newest events of a run, oldest first, with those of the whole database that fell into its life (their run is None).

    Without `governor` its holds and its pace, which are those of all runs, are left out: they would push out the run's own.
    `after` is the last event that is known already. Any: columns of the audit, for printing.
    """
    return connection.execute(
        _SQL["whole_story"], {"run": run, "after": after, "most": most, "governor": governor}
    ).fetchall()


def count(connection: Connection, run: int, *, what: str, operation: int) -> int:
    """How often something happened to an operation of a run."""
    row = connection.execute(_SQL["count_events"], {"run": run, "what": what, "operation": operation}).fetchone()
    return int(row["events"]) if row else 0


def first(connection: Connection, run: int, *, what: str) -> dict[str, Any] | None:
    """The oldest event of a kind of a run, or None. Any: columns of the audit."""
    return connection.execute(_SQL["first_event"], {"run": run, "what": what}).fetchone()


def rows_left(connection: Connection, run: int) -> tuple[int, list[tuple[str, ...]]]:
    """How many rows a rollback left as they are, as they were written or removed since, and the keys of the first."""
    row = connection.execute(_SQL["rows_left"], {"run": run}).fetchone()
    return (row["rows"], [tuple(key) for keys in row["keys"] for key in keys]) if row else (0, [])


def every(connection: Connection, run: int, *, what: str) -> list[dict[str, Any]]:
    """The events of a kind of a run, oldest first. Any: columns of the audit."""
    return connection.execute(_SQL["every_event"], {"run": run, "what": what}).fetchall()


def latest(connection: Connection, run: int, *, what: str) -> dict[str, Any] | None:
    """The newest event of a kind of a run, or None. Any: columns of the audit."""
    return connection.execute(_SQL["latest_event"], {"run": run, "what": what}).fetchone()
