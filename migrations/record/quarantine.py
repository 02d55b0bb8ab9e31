"""The quarantine: rows that cannot be converted, each with its key and its error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from backfilld.migrations.queries import queries
from backfilld.migrations.record.model import Key, Quarantined

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "quarantine")


def set_aside(  # noqa: PLR0913 - one row; each column is named where it is called
    connection: Connection, run: int, *, operation: int, relation: str, key: Key, sqlstate: str, error: str
) -> None:
    """Set a row aside; a row that is there already is counted once more."""
    connection.execute(
        _SQL["set_aside"],
        {
            "run": run,
            "operation": operation,
            "relation": relation,
            "key": Jsonb(list(key)),
            "sqlstate": sqlstate,
            "error": error,
        },
    )


def blocks_way_back(  # noqa: PLR0913 - one row; each column is named where it is called
    connection: Connection, run: int, *, operation: int, key: Key, sqlstate: str, error: str
) -> None:
    """Put down that a row has no place in what was there before; it stands in the way back, and in nothing else's."""
    connection.execute(
        _SQL["blocks_way_back"],
        {"run": run, "operation": operation, "key": list(key), "sqlstate": sqlstate, "error": error},
    )


def release(connection: Connection, run: int, *, operation: int, key: Key) -> None:
    """A row was converted after all."""
    connection.execute(_SQL["release"], {"run": run, "operation": operation, "key": Jsonb(list(key))})


def listed(connection: Connection, run: int, *, limit: int = 1000) -> list[Quarantined]:
    rows = connection.execute(_SQL["quarantined"], {"run": run, "limit": limit}).fetchall()
    return [Quarantined.from_row(row) for row in rows]


def count(connection: Connection, run: int) -> int:
    row = connection.execute(_SQL["count_quarantined"], {"run": run}).fetchone()
    return int(row["quarantined"]) if row else 0


def mark_for_retry(connection: Connection, run: int) -> set[int]:
    """All rows of a run are to be tried again; returns the operations they belong to."""
    return {row["operation"] for row in connection.execute(_SQL["mark_for_retry"], {"run": run}).fetchall()}


def next_retry(connection: Connection, run: int, *, operation: int) -> Quarantined | None:
    row = connection.execute(_SQL["next_retry"], {"run": run, "operation": operation}).fetchone()
    return Quarantined.from_row(row) if row else None
