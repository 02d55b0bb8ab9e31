"""Build an index while the application goes on.

verify    CREATE INDEX CONCURRENTLY, after the walk, so that the walk's own updates do not pay for it

The way back drops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrations.operations import concurrently

if TYPE_CHECKING:
    from migrations.definition import CreateIndex as Definition
    from migrations.definition import TableName
    from migrations.facts import Facts
    from migrations.operations.base import Step
    from migrations.walks.rewrite import Rewrite


@dataclass(frozen=True, kw_only=True)
class CreateIndex:
    """A `create_index` of a migration, bound to a database."""

    definition: Definition
    facts: Facts

    @property
    def table(self) -> TableName:
        return self.definition.table

    def rewrite(self) -> Rewrite | None:
        return None

    def expand(self) -> tuple[Step, ...]:
        return ()

    def undo(self) -> tuple[Step, ...]:
        return ()

    def verify(self) -> tuple[Step, ...]:
        if self.facts.index is None:  # refused by preflight
            return ()
        return (concurrently.build(self.table, self.facts.index, key=self.facts.key),)

    def switch(self) -> tuple[Step, ...]:
        return ()

    def contract(self) -> tuple[Step, ...]:
        return ()
