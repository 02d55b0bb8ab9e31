"""Take a column's DEFAULT away.

contract  DROP DEFAULT, once it is approved: an application that leaves the column out gets NULL from then on, or an error

The way back sets the DEFAULT again.
"""

from __future__ import annotations

from dataclasses import dataclass

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Step
from backfilld.migrations.operations.ddl import columns


@dataclass(frozen=True, kw_only=True)
class DropDefault(Plain[file.DropDefault]):
    """A `drop_default` of a migration, bound to a database."""

    def contract(self) -> tuple[Step, ...]:
        table, column, old = self.table, self.definition.column, self.facts.default
        if old is None:  # refused by preflight
            return ()
        again = Action(table=table, statements=(columns.set_default(table, column, old),), frees=True)
        return (Action(table=table, statements=(columns.drop_default(table, column),), back=(again,)),)
