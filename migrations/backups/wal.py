"""Where a backup ends in the WAL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "backups")


def restore_point(record: Connection, name: str) -> str | None:
    """Where in the WAL a point of this name is from now on; None where this role may make none."""
    may = record.execute(_SQL["may_name_a_point"]).fetchone()
    if not may or not may["may"]:
        return None
    row = record.execute(_SQL["restore_point"], {"name": name}).fetchone()
    return str(row["restore_point_lsn"]) if row else None


def flushed(record: Connection) -> str | None:
    """Up to where the WAL is on disk."""
    found = record.execute(_SQL["flushed"]).fetchone()
    return found["lsn"] if found else None


def point_name(backup: int, label: str) -> str:
    """Unique: recovery stops at the first point of a name."""
    return f"backfilld-{backup}-{label[-8:]}"
