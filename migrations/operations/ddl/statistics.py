"""Extended statistics, and ANALYZE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Action, Statement
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from backfilld.migrations.identifiers import TableName


def create(table: TableName, schema: str, name: str, *, kinds: str, of: str) -> Statement:
    """Statistics of columns and expressions, in PostgreSQL's own words."""
    created = sql.SQL("CREATE STATISTICS {}{} ON {} FROM {}").format(
        sql.Identifier(schema, name), sql.SQL(f" ({kinds})" if kinds else ""), sql.SQL(of), table.identifier
    )
    return Statement(sql=created, lock=LockMode.SHARE_UPDATE_EXCLUSIVE)


def drop(schema: str, name: str) -> Statement:
    """Statistics go, if they are there."""
    gone = sql.SQL("DROP STATISTICS IF EXISTS {}").format(sql.Identifier(schema, name))
    return Statement(sql=gone, lock=LockMode.SHARE_UPDATE_EXCLUSIVE)


def rename(schema: str, name: str, to: str) -> Statement:
    """Statistics get another name."""
    renamed = sql.SQL("ALTER STATISTICS {} RENAME TO {}").format(sql.Identifier(schema, name), sql.Identifier(to))
    return Statement(sql=renamed, lock=LockMode.NONE)


def set_schema(schema: str, name: str, to: str) -> Statement:
    """Statistics, which have a schema of their own, go to another."""
    moved = sql.SQL("ALTER STATISTICS {} SET SCHEMA {}").format(sql.Identifier(schema, name), sql.Identifier(to))
    return Statement(sql=moved, lock=LockMode.NONE)


def analyze(table: TableName, *columns: str) -> Action:
    """Look at a sample of the table, or of some columns, so that plans do not get worse for want of statistics."""
    listed = sql.SQL(", ").join(sql.Identifier(column) for column in columns)
    analyzed = sql.SQL("ANALYZE {}").format(table.identifier)
    if columns:
        analyzed += sql.SQL(" ({})").format(listed)
    statement = Statement(sql=analyzed, lock=LockMode.SHARE_UPDATE_EXCLUSIVE, note="reads a sample of the table")
    return Action(table=table, statements=(statement,), scans=True)
