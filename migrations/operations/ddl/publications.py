"""A table in a publication: it goes and comes in one transaction, and subscribers go on under the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Statement
from backfilld.migrations.operations.ddl.columns import operand
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.identifiers import TableName

_NOTE = "subscribers go on under the same name"


def drop(publication: str, table: TableName) -> Statement:
    """The publication sends the table no more."""
    altered = sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(sql.Identifier(publication), table.identifier)
    return Statement(sql=altered, lock=LockMode.SHARE_UPDATE_EXCLUSIVE, note=_NOTE)


def add(
    publication: str, table: TableName, *, columns: Sequence[str] | None = None, where: str | None = None
) -> Statement:
    """The publication sends the table, or these columns and rows of it."""
    listed = sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))) if columns else sql.SQL("")
    filtered = sql.SQL(" WHERE {}").format(operand(where)) if where else sql.SQL("")
    altered = sql.SQL("ALTER PUBLICATION {} ADD TABLE {}{}{}").format(
        sql.Identifier(publication), table.identifier, listed, filtered
    )
    return Statement(sql=altered, lock=LockMode.SHARE_UPDATE_EXCLUSIVE, note=_NOTE)
