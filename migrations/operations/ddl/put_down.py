"""Rows that a sync trigger or a lane has put down, because what belongs into them could not be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.definitions import KeyColumn

#: At most this many rows are named.
_NAMED = 5


def guard(  # noqa: PLR0913 - one query; each part is named where it is called
    table: TableName,
    *,
    key: Sequence[KeyColumn],
    migration: str,
    operation: int,
    condition: sql.Composable,
    template: str,
) -> Guard:
    """None of them may meet a condition, which knows the row as `t`; `template` takes their keys."""
    at = sql.SQL(" AND ").join(
        sql.SQL("t.{} = CAST(m.key[{}] AS {})").format(
            sql.Identifier(column.name), sql.Literal(place), sql.SQL(column.type)
        )
        for place, column in enumerate(key, start=1)
    )
    query = sql.SQL(
        "SELECT m.key, count(*) OVER () AS rows FROM ("
        "SELECT f.key FROM backfilld.rollback_conflicts f WHERE f.operation = {number} AND f.run = {run} "
        "UNION SELECT ARRAY(SELECT jsonb_array_elements_text(q.key)) FROM backfilld.quarantine q "
        "WHERE q.operation = {number} AND q.run = {run}) m JOIN {table} t ON {at} "
        "WHERE {condition} ORDER BY m.key LIMIT {named}"
    ).format(
        named=sql.Literal(_NAMED),
        table=table.identifier,
        at=at,
        number=sql.Literal(operation),
        run=sql.SQL("(SELECT max(r.run) FROM backfilld.runs r WHERE r.name = {})").format(sql.Literal(migration)),
        condition=condition,
    )
    return Guard(sql=query, template=template, remedy="Fix these rows, then resume", names_rows=True)
