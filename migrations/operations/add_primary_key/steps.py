"""Make columns the primary key.

verify    CREATE UNIQUE INDEX CONCURRENTLY; for a column that may be NULL also a check, NOT VALID and validated
switch    SET NOT NULL, which trusts the checks, and ADD CONSTRAINT … PRIMARY KEY USING INDEX, which scans nothing

The way back drops the constraint, and its index with it, and lets the columns be NULL that could be before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Step, object_name
from backfilld.migrations.operations.ddl import columns, constraints, indexes
from backfilld.migrations.operations.ddl.constraints import not_null_check, settled_not_null

if TYPE_CHECKING:
    from backfilld.migrations.operations.ddl.constraints import Rule


@dataclass(frozen=True, kw_only=True)
class AddPrimaryKey(Plain[file.AddPrimaryKey]):
    """An `add_primary_key` of a migration, bound to a database."""

    def verify(self) -> tuple[Step, ...]:
        if self.facts.index is None:  # refused by preflight
            return ()
        checks = [step for proof in self._proofs.values() for step in proof.steps(looks=True)]
        return (*checks, indexes.build(self.table, self.facts.index, key=self.facts.key))

    def switch(self) -> tuple[Step, ...]:
        if self.facts.index is None:
            return ()
        name = self.facts.index.name
        proved = [
            statement
            for column, proof in self._proofs.items()
            for statement in settled_not_null(self.table, column, proof=proof)
        ]
        freed = [columns.drop_not_null(self.table, column) for column in self._proofs]
        gone = constraints.drop(self.table, name, note="with its index")
        return (
            Action(
                table=self.table,
                statements=(*proved, constraints.primary_key_using_index(self.table, name)),
                back=(Action(table=self.table, statements=(gone, *freed), frees=True),),
            ),
        )

    @property
    def _proofs(self) -> dict[str, Rule]:
        """For each column that may be NULL, the check that proves it is not."""
        name = object_name("backfilld_not_null", self.migration, self.number)
        return {
            column: not_null_check(self.table, column, name=f"{name}_{number}", key=self.facts.key)
            for number, column in enumerate(self.facts.nullable)
        }
