"""ALTER TABLE, and what it does to columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Statement
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from backfilld.migrations.identifiers import TableName


def alter_table(  # noqa: PLR0913 - what is known of one statement; each part is named where it is called
    table: TableName,
    what: sql.Composable,
    *,
    lock: LockMode = LockMode.ACCESS_EXCLUSIVE,
    also: tuple[TableName, ...] = (),
    brief: bool = True,
    scans: bool | None = None,
    note: str = "",
) -> Statement:
    """ALTER TABLE, followed by one of its clauses."""
    altered = sql.SQL("ALTER TABLE {} {}").format(table.identifier, what)
    return Statement(sql=altered, lock=lock, also=also, brief=brief, scans=scans, note=note)


def add(  # noqa: PLR0913 - the clauses of one statement
    table: TableName,
    column: str,
    type_: str,
    *,
    collation: str | None = None,
    default: str | None = None,
    note: str = "no rewrite",
) -> Statement:
    """A column of a type, as format_type wrote it. With a DEFAULT it must be a constant, or PostgreSQL rewrites the table."""
    what = sql.SQL("ADD COLUMN {} {}{}{}").format(
        sql.Identifier(column),
        sql.SQL(type_),
        sql.SQL(f" COLLATE {collation}" if collation else ""),  # as PostgreSQL wrote it
        sql.SQL("") if default is None else sql.SQL(" DEFAULT {}").format(operand(default)),
    )
    return alter_table(table, what, note=note)


def drop(table: TableName, column: str, *, note: str = "") -> Statement:
    """A column goes. No CASCADE: if something was made of it meanwhile, PostgreSQL names it and nothing is dropped."""
    return alter_table(table, sql.SQL("DROP COLUMN {}").format(sql.Identifier(column)), note=note)


def drop_if_exists(table: TableName, column: str) -> Statement:
    """A column goes, if it is there."""
    return alter_table(table, sql.SQL("DROP COLUMN IF EXISTS {}").format(sql.Identifier(column)))


def rename(table: TableName, column: str, to: str) -> Statement:
    """A column gets another name."""
    return alter_table(table, sql.SQL("RENAME COLUMN {} TO {}").format(sql.Identifier(column), sql.Identifier(to)))


def set_type(table: TableName, column: str, type_: str, *, collation: str | None = None) -> Statement:
    """Another type, where that changes the catalog alone; otherwise PostgreSQL rewrites the table."""
    collated = sql.SQL(f" COLLATE {collation}" if collation else "")  # as PostgreSQL wrote it
    return _alter_column(
        table, column, sql.SQL("TYPE {}{}").format(sql.SQL(type_), collated), scans=False, note="no rewrite and no scan"
    )


def set_default(table: TableName, column: str, default: str) -> Statement:
    """Rows that are added from now on get this."""
    what = sql.SQL("SET DEFAULT {}").format(operand(default))
    return _alter_column(table, column, what, note="for new rows")


def drop_default(table: TableName, column: str) -> Statement:
    """Rows that are added from now on get NULL."""
    return _alter_column(table, column, sql.SQL("DROP DEFAULT"))


def set_not_null(table: TableName, column: str) -> Statement:
    """NOT NULL; scans nothing where a validated check proves it."""
    return _alter_column(
        table, column, sql.SQL("SET NOT NULL"), scans=False, note="no scan: the validated check proves it"
    )


def drop_not_null(table: TableName, column: str, *, note: str = "") -> Statement:
    """The column may be NULL."""
    return _alter_column(table, column, sql.SQL("DROP NOT NULL"), note=note)


def set_statistics(table: TableName, column: str, target: int) -> Statement:
    """How closely ANALYZE looks at the column."""
    what = sql.SQL("SET STATISTICS {}").format(sql.Literal(target))
    return _alter_column(table, column, what, lock=LockMode.SHARE_UPDATE_EXCLUSIVE)


def set_options(table: TableName, column: str, options: str) -> Statement:
    """Options of the column (n_distinct), as PostgreSQL wrote them."""
    what = sql.SQL("SET ({})").format(sql.SQL(options))
    return _alter_column(table, column, what, lock=LockMode.SHARE_UPDATE_EXCLUSIVE)


def own_sequence(table: TableName, column: str, sequence: str, *, type_: str | None = None) -> Statement:
    """A sequence, quoted by PostgreSQL, goes when the column goes; with `type_` it gives values of that type."""
    alter = sql.SQL("ALTER SEQUENCE {}{} OWNED BY {}").format(
        sql.SQL(sequence),
        sql.SQL(f" AS {type_}" if type_ is not None else ""),
        sql.Identifier(table.schema, table.name, column),
    )
    return Statement(sql=alter, lock=LockMode.NONE, note="SHARE ROW EXCLUSIVE on the sequence")


def operand(expression: str) -> sql.Composed:
    """An expression of PostgreSQL's own, or one that preflight checked; the line breaks end a trailing comment."""
    return sql.SQL("(\n{}\n)").format(sql.SQL(expression))


def _alter_column(  # noqa: PLR0913 - as `alter_table`
    table: TableName,
    column: str,
    what: sql.Composable,
    *,
    lock: LockMode = LockMode.ACCESS_EXCLUSIVE,
    scans: bool | None = None,
    note: str = "",
) -> Statement:
    altered = sql.SQL("ALTER COLUMN {} {}").format(sql.Identifier(column), what)
    return alter_table(table, altered, lock=lock, scans=scans, note=note)
