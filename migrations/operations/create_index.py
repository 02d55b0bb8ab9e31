"""Build an index while the application goes on.

verify    CREATE INDEX CONCURRENTLY, after the walk, so that the walk's own updates do not pay for it

The way back drops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrations.operations import concurrently
from migrations.operations.base import Plain

if TYPE_CHECKING:
    from migrations.definition import CreateIndex as Definition
    from migrations.definition import TableName
    from migrations.operations.base import Step


@dataclass(frozen=True, kw_only=True)
class CreateIndex(Plain):
    """A `create_index` of a migration, bound to a database."""

    definition: Definition

    @property
    def table(self) -> TableName:
        return self.definition.table

    def verify(self) -> tuple[Step, ...]:
        if self.facts.index is None:  # refused by preflight
            return ()
        return (concurrently.build(self.table, self.facts.index, key=self.facts.key),)
