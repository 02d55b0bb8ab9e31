"""One action of DDL, inside the transaction that holds the conductor's lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrations.errors import Finding, Refused
from migrations.postgres import fingerprint

if TYPE_CHECKING:
    from migrations.names import TableName
    from migrations.operations import Action
    from migrations.postgres.connect import Connection
    from migrations.postgres.fingerprint import Difference


def execute(connection: Connection, action: Action) -> None:
    """Run the statements of an action, then its guards. Raises Refused when a guard finds what must not be."""
    if action.scans:
        # Long, under a lock that lets the application go on; a pause cancels it.
        connection.execute("SET LOCAL statement_timeout = 0")
    before = fingerprint.read(connection, action.table) if action.keeps and action.table else frozenset()
    for statement in action.statements:
        connection.execute(statement.sql)
    for guard in action.guards:
        row = connection.execute(guard.sql).fetchone()
        if row is not None:
            value = next(iter(row.values()))
            raise Refused(
                [Finding("guard", f"{action.table}: {guard.problem.replace('{!r}', repr(value))}", guard.remedy)]
            )
    if action.keeps and action.table:
        _check_kept(action.table, fingerprint.compare(before, fingerprint.read(connection, action.table), action.keeps))


def _check_kept(table: TableName, difference: Difference) -> None:
    """Raises Refused when something is otherwise that nobody asked to change; the transaction is rolled back by it."""
    if difference:
        raise Refused(
            [
                Finding(
                    "fingerprint",
                    f"{table}: this would have changed what it was not asked to ({difference})",
                    "Nothing was changed. Tell us, with the output of `backfilld plan`; or change what is named by hand first",
                )
            ]
        )
