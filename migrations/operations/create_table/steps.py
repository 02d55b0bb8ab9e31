"""Create a table.

expand    CREATE TABLE with its keys, checks, comments and row level security, in one transaction; then each foreign key, NOT VALID
verify    VALIDATE of each foreign key, over rows that an application may have added since

A foreign key locks the table that it refers to for a moment, and no two of them at once. The way back drops the foreign keys, and
then the table, if it is empty; one with rows is kept as `drop_table` keeps one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Statement, Step, object_name
from backfilld.migrations.operations.ddl import grants_and_comments, tables
from backfilld.migrations.operations.ddl.columns import operand
from backfilld.migrations.operations.ddl.constraints import Rule
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.operations.tables import NewColumn, NewForeignKey
    from backfilld.migrations.identifiers import TableName


@dataclass(frozen=True, kw_only=True)
class CreateTable(Plain[file.CreateTable]):
    """A `create_table` of a migration, bound to a database."""

    def expand(self) -> tuple[Step, ...]:
        gone = tables.drop_or_put_away(self.table, object_name("table", self.migration, self.number))
        made = Action(table=self.table, statements=self._made(), back=(Action(table=self.table, statements=(gone,)),))
        return (made, *(rule.added for rule in self._foreign_keys))

    def verify(self) -> tuple[Step, ...]:
        return tuple(rule.proved for rule in self._foreign_keys)

    def _made(self) -> tuple[Statement, ...]:
        definition, table = self.definition, self.table
        statements = [created(definition, table)]
        if self.facts.row_security:
            statements.append(tables.row_security(table, "ENABLE"))
        if definition.comment:
            statements.append(grants_and_comments.on_table(table, definition.comment))
        statements += [
            grants_and_comments.on_column(table, column.name, column.comment)
            for column in definition.columns
            if column.comment
        ]
        # No session sees the table before the transaction has committed.
        return tuple(Statement(sql=one.sql, lock=LockMode.NONE) for one in statements)

    @property
    def _foreign_keys(self) -> tuple[Rule, ...]:
        return tuple(
            Rule(
                table=self.table,
                name=key.name,
                words=f"the foreign key {key.name}",
                body=foreign_key_body(key, key.references.table.identifier),
                columns=key.columns,
                lock=LockMode.SHARE_ROW_EXCLUSIVE,
                references=key.references.table,
            )
            for key in self.definition.all_foreign_keys
        )


def created(definition: file.CreateTable, table: TableName) -> Statement:
    """CREATE TABLE, without foreign keys."""
    parts = [_column(column) for column in definition.columns]
    if definition.primary_key is not None:
        parts.append(sql.SQL("PRIMARY KEY ({})").format(_listed(definition.primary_key)))
    parts += [sql.SQL("UNIQUE ({})").format(_listed(columns)) for columns in definition.unique]
    parts += [
        sql.SQL("CONSTRAINT {} CHECK {}").format(sql.Identifier(one.name), operand(one.check))
        for one in definition.checks
    ]
    create = sql.SQL("CREATE TABLE {} (\n  {}\n)").format(table.identifier, sql.SQL(",\n  ").join(parts))
    return Statement(sql=create, lock=LockMode.NONE)


def foreign_key_body(key: NewForeignKey, table: sql.Identifier) -> sql.Composed:
    """FOREIGN KEY (…) REFERENCES `table` with its actions; without columns it is the primary key."""
    body = sql.SQL("FOREIGN KEY ({}) REFERENCES {}").format(_listed(key.columns), table)
    if key.references.columns is not None:
        body += sql.SQL(" ({})").format(_listed(key.references.columns))
    for event, action in (("DELETE", key.on_delete), ("UPDATE", key.on_update)):
        if action != "no action":
            body += sql.SQL(f" ON {event} {action.upper()}")  # of a closed list
    return body


def _column(column: NewColumn) -> sql.Composed:
    clauses = sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type))  # checked by preflight
    if column.identity is not None:
        clauses += sql.SQL(f" GENERATED {column.identity.upper()} AS IDENTITY")
    if column.default is not None:
        clauses += sql.SQL(" DEFAULT {}").format(operand(column.default))
    if column.not_null:
        clauses += sql.SQL(" NOT NULL")
    return clauses


def _listed(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
