"""One action of DDL, inside the transaction that holds the conductor's lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from migrations.errors import Finding, Refused

if TYPE_CHECKING:
    from migrations.operations import Action, Guard
    from migrations.postgres.connect import Connection


def execute(connection: Connection, action: Action) -> None:
    """Run the statements of an action between what it requires and its guards. Raises Refused when one finds what must not be."""
    if action.locks:
        in_order = sorted(action.locks, key=lambda table: (table.schema, table.name))
        tables = sql.SQL(", ").join(table.identifier for table in in_order)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))
    _ask(connection, action, action.requires)
    if action.scans:
        # Long, under a lock that lets the application go on; a pause cancels it.
        connection.execute("SET LOCAL statement_timeout = 0")
    for statement in action.statements:
        connection.execute(statement.sql)
    check(connection, action)


def check(connection: Connection, action: Action) -> None:
    """Ask an action's guards. Raises Refused when one finds what must not be."""
    _ask(connection, action, action.guards)


def _ask(connection: Connection, action: Action, guards: tuple[Guard, ...]) -> None:
    for guard in guards:
        row = connection.execute(guard.sql).fetchone()
        if row is not None:
            value = next(iter(row.values()))
            raise Refused(
                [Finding("guard", f"{action.table}: {guard.problem.replace('{!r}', repr(value))}", guard.remedy)]
            )
