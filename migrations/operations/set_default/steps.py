"""Give a column a DEFAULT, or another one.

switch    SET DEFAULT, for rows that are added from then on

No row is changed. The way back sets the DEFAULT that the column had, or drops it where it had none.
"""

from __future__ import annotations

from dataclasses import dataclass

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Step
from backfilld.migrations.operations.ddl import columns


@dataclass(frozen=True, kw_only=True)
class SetDefault(Plain[file.SetDefault]):
    """A `set_default` of a migration, bound to a database."""

    def switch(self) -> tuple[Step, ...]:
        table, column, old = self.table, self.definition.column, self.facts.default
        before = columns.drop_default(table, column) if old is None else columns.set_default(table, column, old)
        return (
            Action(
                table=table,
                statements=(columns.set_default(table, column, self.definition.default),),
                back=(Action(table=table, statements=(before,)),),
            ),
        )
