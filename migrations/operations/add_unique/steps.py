"""Add a UNIQUE constraint, by an index that is built while the application keeps running.

verify    CREATE UNIQUE INDEX CONCURRENTLY, under the constraint's name
switch    ADD CONSTRAINT … UNIQUE USING INDEX, which scans nothing

The way back drops the constraint, and its index with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain
from backfilld.migrations.operations.ddl import constraints, indexes

if TYPE_CHECKING:
    from backfilld.migrations.operations.base import Step


@dataclass(frozen=True, kw_only=True)
class AddUnique(Plain[file.AddUnique]):
    """An `add_unique` of a migration, bound to a database."""

    def verify(self) -> tuple[Step, ...]:
        if self.facts.index is None:  # refused by preflight
            return ()
        return (indexes.build(self.table, self.facts.index, key=self.facts.key),)

    def switch(self) -> tuple[Step, ...]:
        name = self.definition.name
        gone = constraints.drop(self.table, name, note="with its index")
        return (
            Action(
                table=self.table,
                statements=(constraints.unique_using_index(self.table, name),),
                back=(Action(table=self.table, statements=(gone,), frees=True),),
            ),
        )
