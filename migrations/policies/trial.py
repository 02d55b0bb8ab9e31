"""New policies tried on an empty, temporary copy of their table: how PostgreSQL writes them, and what it makes of them for a persona.

The copy has the table's own name, and its indexes. Everything is rolled back.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, sql

from backfilld.migrations.policies.comparison import become
from backfilld.migrations.postgres import catalog, policies, readings
from backfilld.migrations.postgres.sqlstates import in_words, was_interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.policies import Persona, Policy
    from backfilld.migrations.postgres.readings import Way


@dataclass(frozen=True, kw_only=True)
class Failed:
    """PostgreSQL does not take a policy, or a statement of a persona fails under it."""

    policy: str
    problem: str
    recursion: bool = False


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What was seen on the copy."""

    #: As PostgreSQL writes them.
    policies: tuple[Policy, ...] = ()
    #: The policies that it does not take.
    failed: tuple[Failed, ...] = ()
    #: How they would read the table itself, under its own policies.
    reads: tuple[Way, ...] = ()


@contextmanager
def copy_of(connection: Connection, table: Table, added: Sequence[tuple[str, str]] = ()) -> Iterator[sql.Identifier]:
    """A copy of the table in place of the one that there may be, with columns that it gets before, each with its type."""
    name = sql.Identifier("pg_temp", table.name.name)
    with connection.transaction(force_rollback=True):
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING INDEXES)").format(
                sql.Identifier(table.name.name), table.name.identifier
            )
        )
        for column, type_ in added:  # found to be types when their own operation was examined
            connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(name, sql.Identifier(column), sql.SQL(type_))
            )
        connection.execute(sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(name))
        yield name


def written(  # noqa: PLR0913 - each is named where it is called
    connection: Connection,
    copy: sql.Identifier,
    wanted: Sequence[Policy],
    *,
    create: Callable[[Policy], sql.Composed],
    table: Table,
    forced: bool,
) -> Tried:
    """Make the policies on the copy. Their expressions are written, read and written again: what comes out then is what the table's
    own policies will be found to be.
    """
    failed: list[Failed] = []
    again: tuple[Policy, ...] = tuple(wanted)
    for _ in range(2):
        for policy in again:
            try:
                with connection.transaction():
                    connection.execute(
                        sql.SQL("DROP POLICY IF EXISTS {} ON {}").format(sql.Identifier(policy.name), copy)
                    )
                    connection.execute(create(policy))
            except psycopg.Error as exc:
                if was_interrupted(exc):
                    raise
                failed.append(Failed(policy=policy.name, problem=in_words(exc)))
        if failed:
            return Tried(failed=tuple(failed))
        again = policies.policies_of(connection, catalog.oid_of(connection, copy))
    ways = readings.ways(connection, table.oid, of=[catalog.oid_of(connection, copy)], forced=forced)
    return Tried(policies=again, reads=tuple(ways))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What PostgreSQL makes of the policies for a persona that reads the copy."""

    #: The statement's error, in words; empty for none.
    problem: str = ""
    recursion: bool = False
    #: Conditions that are asked for each row, as EXPLAIN writes them.
    filters: tuple[str, ...] = ()
    #: An index finds the rows, where sequential scans are dear.
    uses_index: bool = False


def as_persona(connection: Connection, copy: sql.Identifier, persona: Persona) -> Seen:
    """Have a persona plan a SELECT, an UPDATE and a DELETE of the copy. What it may do with the table does not matter here."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(
                sql.SQL("GRANT SELECT, UPDATE, DELETE ON {} TO {}").format(copy, sql.Identifier(persona.role))
            )
            connection.execute("SET LOCAL enable_seqscan = off")
            column = catalog_columns(connection, copy)[0]
            statements = [
                sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {}").format(copy),
                sql.SQL("EXPLAIN (FORMAT JSON) UPDATE {} SET {column} = {column} WHERE {column} IS NULL").format(
                    copy, column=sql.Identifier(column)
                ),
                sql.SQL("EXPLAIN (FORMAT JSON) DELETE FROM {} WHERE {} IS NULL").format(copy, sql.Identifier(column)),
            ]
            for statement in become(persona):
                connection.execute(statement)
            plans = [connection.execute(statement).fetchone() for statement in statements]
    except psycopg.Error as exc:
        if was_interrupted(exc):
            raise
        return Seen(problem=in_words(exc), recursion=isinstance(exc, errors.InvalidObjectDefinition))
    plan = next(iter(plans[0].values())) if plans[0] else []
    top = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return _seen(top)


def catalog_columns(connection: Connection, copy: sql.Identifier) -> list[str]:
    """The columns of the copy that can be written, in order."""
    rows = connection.execute(
        "SELECT a.attname::text AS name FROM pg_attribute a WHERE a.attrelid = %s::oid AND a.attnum > 0 AND NOT a.attisdropped "
        "AND a.attgenerated = '' AND a.attidentity <> 'a' ORDER BY a.attnum",
        [catalog.oid_of(connection, copy)],
    )
    return [row["name"] for row in rows]


def _seen(node: Mapping[str, Any]) -> Seen:  # Any: a plan in JSON
    """The scan of the copy itself: of what hangs below it, sub-plans run once, or once for each row of it."""
    if "Relation Name" not in node and (below := node.get("Plans")):
        return _seen(below[0])
    if node.get("Node Type") == "Bitmap Heap Scan":
        return Seen(filters=_conditions(node), uses_index=True)
    return Seen(filters=_conditions(node), uses_index="Index Cond" in node)


def _conditions(node: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(node[name]) for name in ("Filter", "One-Time Filter") if name in node)
