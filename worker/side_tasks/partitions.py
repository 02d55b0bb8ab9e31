"""Makes the next partitions of tables that a run has cut by ranges, until a person ends it.

A partition is made beside the table and attached, which no reader and no writer waits for: ATTACH PARTITION locks the table SHARE
UPDATE EXCLUSIVE. The default partition it locks ACCESS EXCLUSIVE, and reads it, so it has a time limit: a row that is written to the
default partition meanwhile waits no longer than that. Where rows of a range are in the default partition already PostgreSQL refuses
one of its own; that range is told, and the others are made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.ddl import grants_and_comments
from backfilld.migrations.operations.rebuild import partitions
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.sqlstates import in_words, server_is_gone
from backfilld.migrations.record import audit, pace, runs
from backfilld.migrations.record import partitions as record

if TYPE_CHECKING:
    from datetime import date

    from backfilld.migrations.operations.rebuild.partitions import Ahead, Missing
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.partitions import Parent, Partition, PartitionedTable

#: How often tables are looked at. Shorter than what counts as hanging.
TICK_SECONDS = 45.0
#: No session waits longer for a table behind us; retried at the next tick.
LOCK_TIMEOUT = "100ms"
#: So long at most a row for the default partition waits while that is read, and so long a look may take.
STATEMENT_TIMEOUT = "2s"


def run_once(connection: Connection) -> int:
    """Look at each table, in a transaction for each partition that it lacks; returns how many were made."""
    found = record.listed(connection)
    if not found or pace.read_stop(connection):
        return 0
    return sum(_keep_ahead(connection, one) for one in found)


def _keep_ahead(connection: Connection, table: PartitionedTable) -> int:
    made: list[str] = []
    problems: list[str] = []
    tried: list[str] = []
    while True:
        try:
            with connection.transaction():
                apply_settings(
                    connection, {**SEMANTICS, "lock_timeout": LOCK_TIMEOUT, "statement_timeout": STATEMENT_TIMEOUT}
                )
                if not record.hold(connection, table.relation):
                    return len(made)
                parent, there = record.parent(connection, table.relation), record.of(connection, table.relation)
                if parent is None:
                    record.tell(connection, _unknown(table, f"there is no partitioned table {table.relation}"))
                    return len(made)
                look = partitions.ahead(table.by, parent.name, there, reaches=_reaches(connection, table))
                following = next((one for one in look.missing if one.name not in tried), None)
                if following is None:
                    _tell(connection, table, look, there, made=made, problems=problems)
                    return len(made)
                tried.append(following.name)
                _make(connection, table, parent, there, following)
                made.append(following.name)
        except psycopg.Error as exc:
            if server_is_gone(exc):
                raise
            problem = _problem(exc, tried[-1] if tried else "")
            if not tried or problem in problems:  # it is not about one partition
                _give_up(connection, table, problem)
                return len(made)
            problems.append(problem)


def _tell(  # noqa: PLR0913 - all of what a look has found
    connection: Connection,
    table: PartitionedTable,
    look: Ahead,
    there: tuple[Partition, ...],
    *,
    made: list[str],
    problems: list[str],
) -> None:
    found = replace(
        table,
        partitions_ahead=look.partitions,
        reaches=str(look.reaches) if look.reaches is not None else None,
        has_strays=_has_strays(connection, table, there),
        problem="; ".join(problems) or None,
    )
    record.tell(connection, found)
    if made:
        detail = {"table": table.relation, "partitions": made, "reaches": found.reaches}
        audit.record(connection, table.run, actor=runs.WORKER, what="partitions.made", **detail)


def _give_up(connection: Connection, table: PartitionedTable, problem: str) -> None:
    with connection.transaction():
        if record.hold(connection, table.relation):
            record.tell(connection, _unknown(table, problem))


def _unknown(table: PartitionedTable, problem: str) -> PartitionedTable:
    return replace(table, partitions_ahead=None, reaches=None, has_strays=None, problem=problem)


def _problem(exc: psycopg.Error, name: str) -> str:
    match exc:
        case psycopg.errors.CheckViolation():
            return (
                f"rows that belong to {name} are in the default partition, so it cannot be made before they are moved"
            )
        case psycopg.errors.LockNotAvailable():
            return f"another session has a lock that {name or 'a look'} needs; it is tried again"
        case psycopg.errors.QueryCanceled():
            return f"{name or 'a look'} takes longer than {STATEMENT_TIMEOUT}: there are many rows in the default partition"
        case _:
            return in_words(exc)


def _reaches(connection: Connection, table: PartitionedTable) -> date | int:
    """Today in UTC, or the greatest value."""
    by = table.by
    if not isinstance(by.from_, int):
        row = connection.execute("SELECT (now() AT TIME ZONE 'UTC')::date AS today").fetchone() or {}
        today: date = row["today"]
        return today
    query = sql.SQL("SELECT max({})::bigint AS greatest FROM {}").format(
        sql.Identifier(by.column), sql.SQL(table.relation)
    )
    row = connection.execute(query).fetchone() or {}
    return by.from_ if row["greatest"] is None else int(row["greatest"])


def _has_strays(connection: Connection, table: PartitionedTable, there: tuple[Partition, ...]) -> bool | None:
    """Whether rows are in the default partition that are not from before the first of the others; None where that takes too long."""
    default = next((one for one in there if one.begins is None), None)
    if default is None:
        return False
    query = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {} d WHERE d.{} >= {}) AS found").format(
        sql.Identifier(default.schema, default.name), sql.Identifier(table.by.column), sql.Literal(table.by.from_)
    )
    try:
        with connection.transaction():
            row = connection.execute(query).fetchone()
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):
        return None
    return bool(row and row["found"])


def _make(
    connection: Connection, table: PartitionedTable, parent: Parent, there: tuple[Partition, ...], missing: Missing
) -> None:
    """A table as the newest partition is, attached. Raises psycopg.Error."""
    partition = TableName(parent.schema, missing.name)
    # The newest that has a range: what is said of the default one may be of another kind.
    like = next((one for one in reversed(there) if one.begins is not None), None)
    options = dict(one.split("=", 1) for one in like.options) if like is not None else {}
    listed = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in options.items()
    )
    connection.execute(
        sql.SQL(
            "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE "
            "INCLUDING COMPRESSION){}{}{}"
        ).format(
            partition.identifier,
            sql.SQL(table.relation),
            sql.SQL(" USING {}").format(sql.Identifier(like.method)) if like is not None else sql.SQL(""),
            sql.SQL(" WITH ({})").format(listed) if options else sql.SQL(""),
            sql.SQL(" TABLESPACE {}").format(sql.Identifier(like.tablespace))
            if like is not None and like.tablespace
            else sql.SQL(""),
        )
    )
    if not parent.owned_directly:
        connection.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(partition.identifier, sql.SQL(parent.owner)))
    connection.execute(grants_and_comments.revoke_given(partition.identifier, what="table", from_owner=False).sql)
    if like is not None and like.secured:
        connection.execute(sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(partition.identifier))
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} {}").format(
            sql.SQL(table.relation), partition.identifier, sql.SQL(missing.bounds)
        )
    )
