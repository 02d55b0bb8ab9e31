"""One action of DDL, inside the transaction that holds the conductor's lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrations.errors import Finding, Refused

if TYPE_CHECKING:
    from migrations.operations import Action
    from migrations.postgres.connect import Connection


def execute(connection: Connection, action: Action) -> None:
    """Run the statements of an action, then its guards. Raises Refused when a guard finds what must not be."""
    if action.scans:
        # Long, under a lock that lets the application go on; a pause cancels it.
        connection.execute("SET LOCAL statement_timeout = 0")
    for statement in action.statements:
        connection.execute(statement.sql)
    check(connection, action)


def check(connection: Connection, action: Action) -> None:
    """Ask an action's guards. Raises Refused when one finds what must not be."""
    for guard in action.guards:
        row = connection.execute(guard.sql).fetchone()
        if row is not None:
            value = next(iter(row.values()))
            raise Refused(
                [Finding("guard", f"{action.table}: {guard.problem.replace('{!r}', repr(value))}", guard.remedy)]
            )
