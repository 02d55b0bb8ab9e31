"""Delete the rows that meet a condition.

backfill  lanes delete them, and write them into the journal
verify    every row is looked at; rows that meet the condition since are deleted too, until a pass finds none

There is nothing to expand, to switch or to contract. The way back inserts the rows again where their key is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Plain, Walk
from backfilld.migrations.walks.rewrite import Rewrite

if TYPE_CHECKING:
    from backfilld.migrations.operations.base import Step


@dataclass(frozen=True, kw_only=True)
class DeleteRows(Plain[file.DeleteRows]):
    """A `delete_rows` of a migration, bound to a database."""

    def rewrite(self) -> Rewrite:
        return Rewrite(table=self.table, facts=self.facts, assignments=(), where=self.definition.where, deletes=True)

    def undo(self) -> tuple[Step, ...]:
        note = "inserts the deleted rows again, where their key is free"
        return (Walk(kind="undo", operation=self.number, table=self.table, key=self.facts.key, note=note),)
