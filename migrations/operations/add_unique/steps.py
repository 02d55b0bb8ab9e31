"""Add a UNIQUE constraint, by an index that is built while the application goes on.

verify    CREATE UNIQUE INDEX CONCURRENTLY, under the constraint's name
switch    ADD CONSTRAINT … UNIQUE USING INDEX, which scans nothing

The way back drops the constraint, and its index with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Action, Plain, Statement
from backfilld.migrations.operations.ddl import concurrently

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import AddUnique as Definition
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations.base import Step

_BRIEF = "brief; gives way after lock_timeout, and tries again"


@dataclass(frozen=True, kw_only=True)
class AddUnique(Plain):
    """An `add_unique` of a migration, bound to a database."""

    definition: Definition

    @property
    def table(self) -> TableName:
        return self.definition.table

    def verify(self) -> tuple[Step, ...]:
        if self.facts.index is None:  # refused by preflight
            return ()
        return (concurrently.build(self.table, self.facts.index, key=self.facts.key),)

    def switch(self) -> tuple[Step, ...]:
        name = sql.Identifier(self.definition.name)
        add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} UNIQUE USING INDEX {}").format(
            self.table.identifier, name, name
        )
        drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(self.table.identifier, name)
        return (
            Action(
                table=self.table,
                statements=(
                    Statement(sql=add, lock="ACCESS EXCLUSIVE", note="no scan: the index proves it; " + _BRIEF),
                ),
                back=(
                    Action(
                        table=self.table,
                        statements=(Statement(sql=drop, lock="ACCESS EXCLUSIVE", note="with its index; " + _BRIEF),),
                    ),
                ),
            ),
        )
