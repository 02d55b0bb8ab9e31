"""Comment on a table, or on one of its columns, constraints or indexes.

switch    COMMENT ON

The way back gives the comment that was there.
"""

from __future__ import annotations

from dataclasses import dataclass

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Statement, Step
from backfilld.migrations.operations.ddl import grants_and_comments


@dataclass(frozen=True, kw_only=True)
class SetComment(Plain[file.SetComment]):
    """A `set_comment` of a migration, bound to a database."""

    def switch(self) -> tuple[Step, ...]:
        back = Action(table=self.table, statements=(self._comment(self.facts.comment),))
        return (Action(table=self.table, statements=(self._comment(self.definition.comment or None),), back=(back,)),)

    def _comment(self, text: str | None) -> Statement:
        table, of = self.table, self.definition
        if of.column is not None:
            return grants_and_comments.on_column(table, of.column, text)
        if of.constraint is not None:
            return grants_and_comments.on_constraint(table, of.constraint, text)
        if of.index is not None:
            return grants_and_comments.on_index(table.schema, of.index, text)
        return grants_and_comments.on_table(table, text)
