"""Make a column NOT NULL.

backfill  with `backfill`, lanes give rows whose value is NULL one; without it no data moves
verify    no NULL is left; then CHECK (… IS NOT NULL) NOT VALID, and VALIDATE, which scans while the application keeps running
switch    SET NOT NULL, which trusts the validated check and scans nothing

A NULL that the application writes between the walk and the check is met by the scan, and walked again. Without `backfill` it
stops the run, which names a few such rows by key; the check is dropped until they are fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Plain, Step, Walk, object_name
from backfilld.migrations.operations.ddl.constraints import Rule, not_null, not_null_check
from backfilld.migrations.walks.rewrite import Assignment, Rewrite


@dataclass(frozen=True, kw_only=True)
class SetNotNull(Plain[file.SetNotNull]):
    """A `set_not_null` of a migration, bound to a database."""

    def rewrite(self) -> Rewrite | None:
        if self.definition.backfill is None:
            return None
        return Rewrite(
            table=self.table,
            facts=self.facts,
            assignments=(Assignment(target=self.facts.targets[0], expression=self.definition.backfill),),
            fills_null=True,
            not_null=True,
        )

    def undo(self) -> tuple[Step, ...]:
        if self.definition.backfill is None:
            return ()
        note = "sets rows that still hold the value the run wrote back to NULL"
        return (Walk(kind="undo", operation=self.number, table=self.table, key=self.facts.key, note=note),)

    def verify(self) -> tuple[Step, ...]:
        return self._check.steps(looks=self.definition.backfill is None)

    def switch(self) -> tuple[Step, ...]:
        return (not_null(self.table, self.definition.column, proof=self._check),)

    @property
    def _check(self) -> Rule:
        name = object_name("backfilld_not_null", self.migration, self.number)
        return not_null_check(self.table, self.definition.column, name=name, key=self.facts.key)
