"""Build an index while the application keeps running.

verify    CREATE INDEX CONCURRENTLY, after the walk, so that the walk's own updates do not pay for it

The way back drops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Plain
from backfilld.migrations.operations.ddl import indexes

if TYPE_CHECKING:
    from backfilld.migrations.operations.base import Step


@dataclass(frozen=True, kw_only=True)
class CreateIndex(Plain[file.CreateIndex]):
    """A `create_index` of a migration, bound to a database."""

    def verify(self) -> tuple[Step, ...]:
        if self.facts.index is None:  # refused by preflight
            return ()
        return (indexes.build(self.table, self.facts.index, key=self.facts.key),)
