"""One action of DDL, inside the transaction that holds the conductor's lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg.rows import tuple_row

from migrations.errors import Finding, Refused
from migrations.postgres.outcomes import classify

if TYPE_CHECKING:
    from migrations.operations import Action
    from migrations.postgres.connect import Connection


def execute(connection: Connection, action: Action) -> None:
    """Run the statements of an action, then its guards.

    Raises Refused when a guard finds what must not be, and psycopg.Error, also when a look finds a row that breaks a rule.
    """
    if action.scans:
        # Long, under a lock that lets the application go on; a pause cancels it.
        connection.execute("SET LOCAL statement_timeout = 0")
    for statement in action.statements:
        cursor = connection.execute(statement.sql)
        if action.looks_for and cursor.fetchone() is not None:
            msg = f"rows break {action.looks_for}"
            raise psycopg.errors.CheckViolation(msg)
    for guard in action.guards:
        row = connection.execute(guard.sql).fetchone()
        if row is not None:
            value = next(iter(row.values()))
            raise Refused(
                [Finding("guard", f"{action.table}: {guard.problem.replace('{!r}', repr(value))}", guard.remedy)]
            )


def offenders(connection: Connection, rule: Action) -> tuple[str, ...] | None:
    """Keys of rows that break a rule, a few at most; None where that cannot be asked. As long as a scan, and without its locks."""
    if rule.offenders is None:
        return None
    connection.execute("SET LOCAL statement_timeout = 0")
    try:
        with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
            found = cursor.execute(rule.offenders).fetchall()
    except psycopg.Error as exc:
        if classify(exc) != "data":
            raise
        return None  # the rule's own expression is an error for some row
    return tuple(key[0] if len(key) == 1 else f"({', '.join(key)})" for key in found)
