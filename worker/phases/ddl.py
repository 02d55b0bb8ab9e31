"""One action of DDL, inside the transaction that holds the coordinator's lane."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.operations import Action
from backfilld.migrations.postgres import catalog_diff
from backfilld.migrations.postgres.lexer import self_containment_problem
from backfilld.migrations.postgres.locks import needed
from backfilld.migrations.postgres.pipelines import pipeline
from backfilld.migrations.postgres.sqlstates import classify
from backfilld.migrations.record import runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Guard, Statement, Step
    from backfilld.migrations.postgres.catalog_diff import Difference
    from backfilld.migrations.postgres.connect import Connection


@contextmanager
def together(connection: Connection, step: Step | None) -> Iterator[None]:
    """Send the statements of an action, its checkpoint and its COMMIT in one round trip, or two where a guard is asked.

    The lock is then held for as long as the server works, not for as long as the network needs to and fro. The first statement
    that fails is the error, and none after it is done. What may hold several statements cannot be sent so.
    """
    if isinstance(step, Action) and step.index is None and all(_is_one(statement) for statement in step.statements):
        with pipeline(connection):
            yield
    else:
        yield


def _is_one(statement: Statement) -> bool:
    return self_containment_problem(statement.sql.as_string()) is None


def execute(connection: Connection, action: Action, *, under_lock: Callable[[], None] | None = None) -> None:
    """Run the statements of an action between what it requires and its guards; `under_lock` is called once its lock is held.

    Raises Refused when a guard finds what must not be, ChangedMeanwhile when one puts it off, and psycopg.Error, also when a look finds a row that breaks a rule.
    """
    lock = needed(action)
    if lock is not None and under_lock is not None:
        lock = replace(lock, first=True)
    for early in action.first:
        connection.execute(early.sql)
    for asked_first in lock.statements if lock is not None else ():
        connection.execute(asked_first)
    if under_lock is not None:
        under_lock()
    _ask(connection, action, action.requires)
    if action.scans:
        # Long, under a lock that lets the application work; a pause cancels it.
        connection.execute("SET LOCAL statement_timeout = 0")
    before = catalog_diff.read(connection, action.table) if action.allows and action.table else frozenset()
    for statement in action.statements:
        cursor = connection.execute(statement.sql)
        if action.looks_for and cursor.fetchone() is not None:
            msg = f"rows break {action.looks_for}"
            raise psycopg.errors.CheckViolation(msg)
    check(connection, action)
    if action.allows and action.table:
        _check_catalog(
            action.table, catalog_diff.compare(before, catalog_diff.read(connection, action.table), action.allows)
        )


def check(connection: Connection, action: Action) -> None:
    """Ask an action's guards. Raises Refused when one finds what must not be."""
    _ask(connection, action, action.guards)


def _ask(connection: Connection, action: Action, guards: tuple[Guard, ...]) -> None:
    for guard in guards:
        if found := _found(connection, guard):
            if guard.postpones:
                raise runs.ChangedMeanwhile
            raise Refused([Finding("guard", f"{action.table}: {guard.problem_of(found)}", guard.remedy)])


def _found(connection: Connection, guard: Guard) -> list[dict[str, Any]]:  # Any: what psycopg reads
    if not guard.before:
        return connection.execute(guard.sql).fetchall()
    with connection.transaction(force_rollback=True):
        for statement in guard.before:
            connection.execute(statement)
        return connection.execute(guard.sql).fetchall()


def _check_catalog(table: TableName, difference: Difference) -> None:
    """Raises Refused when anything else changed than what was asked for, which rolls back the transaction."""
    if difference:
        raise Refused(
            [
                Finding(
                    "catalog diff",
                    f"{table}: this step would have changed more than the migration asks for ({difference})",
                    "Nothing was changed. Report it with the output of `backfilld plan`, or first change by hand what is named",
                )
            ]
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
    keys = (key[0] if len(key) == 1 else f"({', '.join(key)})" for key in found)
    return tuple(sorted(keys, key=lambda key: (len(key), key)))  # numbers in their order, though they are texts
