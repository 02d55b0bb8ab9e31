"""Give columns that are there new values, where a condition holds.

backfill  lanes set the values, and write down what they replace in the journal
verify    every row is looked at; rows changed or added since are walked again, until a pass finds none

There is nothing to expand, to switch or to contract. An expression that reads a column it sets is walked by key, and each key
that was there at the start is visited exactly once. So is a table that a Python function changes: SQL cannot ask what it did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Plain, Walk
from backfilld.migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from backfilld.migrations.operations.base import Step


@dataclass(frozen=True, kw_only=True)
class Backfill(Plain[file.Backfill]):
    """A `backfill` of a migration, bound to a database."""

    def rewrite(self) -> Rewrite:
        targets = {target.column: target for target in self.facts.targets}
        return Rewrite(
            table=self.table,
            facts=self.facts,
            assignments=tuple(
                Assignment(target=targets[column], expression=text)
                for column, text in (self.definition.assignments or {}).items()
            ),
            where=self.definition.where,
            transform=self.definition.transform,
        )

    def undo(self) -> tuple[Step, ...]:
        note = "restores the old values in rows that still hold what the run wrote"
        return (Walk(kind="undo", operation=self.number, table=self.table, key=self.facts.key, note=note),)
