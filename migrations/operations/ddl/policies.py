"""Policies, each statement with its lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Statement
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.postgres.policies import PUBLIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.policies import Policy


def create(table: TableName, policy: Policy) -> tuple[Statement, ...]:
    """A policy, and what is said of it."""
    parts: list[sql.Composable] = [
        sql.SQL("CREATE POLICY {} ON {} AS {} FOR {} TO {}").format(
            sql.Identifier(policy.name),
            table.identifier,
            sql.SQL("PERMISSIVE" if policy.permissive else "RESTRICTIVE"),
            sql.SQL(policy.command.upper()),
            _roles(policy.roles),
        )
    ]
    for words, condition in (("USING", policy.using), ("WITH CHECK", policy.check)):
        if condition is not None:
            # A text of a user's may end in a comment.
            end = sql.SQL("\n" if "--" in condition else "")
            parts.append(sql.SQL("{} ({}{})").format(sql.SQL(words), sql.SQL(condition), end))
    made = Statement(sql=sql.SQL(" ").join(parts), lock=LockMode.ACCESS_EXCLUSIVE, brief=True)
    if policy.comment is None:
        return (made,)
    comment = sql.SQL("COMMENT ON POLICY {} ON {} IS {}").format(
        sql.Identifier(policy.name), table.identifier, sql.Literal(policy.comment)
    )
    return (made, Statement(sql=comment, lock=LockMode.SHARE_UPDATE_EXCLUSIVE, brief=True))


def drop(table: TableName, name: str, *, if_exists: bool = False) -> Statement:
    """A policy goes."""
    words = sql.SQL("DROP POLICY IF EXISTS {} ON {}" if if_exists else "DROP POLICY {} ON {}")
    gone = words.format(sql.Identifier(name), table.identifier)
    return Statement(sql=gone, lock=LockMode.ACCESS_EXCLUSIVE, brief=True)


def _roles(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("PUBLIC") if name == PUBLIC else sql.Identifier(name) for name in names)
