"""Turn row level security on.

switch    ENABLE ROW LEVEL SECURITY, and FORCE where the file says so

The way back turns off what was off before.
"""

from __future__ import annotations

from dataclasses import dataclass

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Step
from backfilld.migrations.operations.ddl import tables


@dataclass(frozen=True, kw_only=True)
class EnableRowSecurity(Plain[file.EnableRowSecurity]):
    """An `enable_row_security` of a migration, bound to a database."""

    def switch(self) -> tuple[Step, ...]:
        done = [] if self.facts.row_security else ["ENABLE"]
        undone = [] if self.facts.row_security else ["DISABLE"]
        if self.definition.force:
            done, undone = [*done, "FORCE"], ["NO FORCE", *undone]
        back = Action(
            table=self.table, statements=tuple(tables.row_security(self.table, what) for what in undone), frees=True
        )
        statements = tuple(tables.row_security(self.table, what) for what in done)
        return (Action(table=self.table, statements=statements, back=(back,)),)
