"""One action of DDL, inside the transaction that holds the conductor's lane."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from migrations.errors import Finding, Refused
from migrations.operations import Action
from migrations.postgres.expressions import smuggled
from migrations.postgres.locks import needed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from migrations.operations import Statement, Step
    from migrations.postgres.connect import Connection


@contextmanager
def together(connection: Connection, step: Step | None) -> Iterator[None]:
    """Send the statements of an action, its checkpoint and its COMMIT in one round trip, or two where a guard is asked.

    The lock is then held for as long as the server works, not for as long as the network needs to and fro. The first statement
    that fails is the error, and none after it is done. What may hold several statements cannot be sent so.
    """
    if isinstance(step, Action) and step.index is None and all(_is_one(statement) for statement in step.statements):
        with connection.pipeline():
            yield
    else:
        yield


def _is_one(statement: Statement) -> bool:
    return smuggled(statement.sql.as_string()) is None


def execute(connection: Connection, action: Action) -> None:
    """Run the statements of an action, then its guards. Raises Refused when a guard finds what must not be."""
    if (lock := needed(action)) is not None and lock.first:
        connection.execute(lock.statement)
    if action.scans:
        # Long, under a lock that lets the application go on; a pause cancels it.
        connection.execute("SET LOCAL statement_timeout = 0")
    for statement in action.statements:
        connection.execute(statement.sql)
    for guard in action.guards:
        row = connection.execute(guard.sql).fetchone()
        if row is not None:
            value = next(iter(row.values()))
            raise Refused(
                [Finding("guard", f"{action.table}: {guard.problem.replace('{!r}', repr(value))}", guard.remedy)]
            )
