"""What a cancelled run of the same migration left behind is taken over by the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.postgres.connect import Connection


def left_by_cancelled_run(connection: Connection, name: str) -> bool:
    """Whether the last run of this name was cancelled, so that what it left behind is for the next one to take over."""
    return cancelled_definition(connection, name) is not None


def cancelled_definition(connection: Connection, name: str) -> Mapping[str, Any] | None:  # Any: the file as JSON
    """The file of the last run of this name, if that was cancelled."""
    # Not to_regclass: for a role without rights in the schema it is an error. Such a role has no runs to take over either.
    readable = connection.execute(
        "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'backfilld' "
        "AND c.relname = 'runs' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')"
    )
    if not readable.rowcount:
        return None
    row = connection.execute(
        "SELECT state = 'cancelled' AS cancelled, definition FROM backfilld.runs WHERE name = %s ORDER BY run DESC LIMIT 1",
        [name],
    ).fetchone()
    return row["definition"] if row and row["cancelled"] else None
