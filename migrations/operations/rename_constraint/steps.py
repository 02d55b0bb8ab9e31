"""Give a constraint another name, and with it the index that it may have.

switch    RENAME CONSTRAINT, which proves and builds nothing

The way back is another rename.
"""

from __future__ import annotations

from dataclasses import dataclass

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Step
from backfilld.migrations.operations.ddl import constraints


@dataclass(frozen=True, kw_only=True)
class RenameConstraint(Plain[file.RenameConstraint]):
    """A `rename_constraint` of a migration, bound to a database."""

    def switch(self) -> tuple[Step, ...]:
        table, old, new = self.table, self.definition.old, self.definition.new
        back = Action(table=table, statements=(constraints.rename(table, new, old),), frees=True)
        return (Action(table=table, statements=(constraints.rename(table, old, new),), back=(back,)),)
