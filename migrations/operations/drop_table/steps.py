"""Take a table away.

contract  its foreign keys are dropped, one by one, so that it no longer keeps rows of other tables from being deleted; then the table
          goes to the schema `backfilld` under a name of ours, with its rows, indexes, policies, triggers and privileges

No role but the owner of that schema may use it. Once the run's retention ends, the table is dropped; until then the way back gives
it its schema and its name again, in a moment and whatever its size, and then proves the foreign keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Guard, Plain, Step, object_name
from backfilld.migrations.operations.ddl import constraints, tables
from backfilld.migrations.postgres.tables import dependents_of


@dataclass(frozen=True, kw_only=True)
class DropTable(Plain[file.DropTable]):
    """A `drop_table` of a migration, bound to a database."""

    def contract(self) -> tuple[Step, ...]:
        kept = object_name("table", self.migration, self.number)
        again = Action(
            table=self.table,
            statements=tables.bring_back(self.table, kept, self.facts.parts),
            frees=True,
            needs_kept=True,
        )
        unbound = [
            constraints.dropped(self.table, rule, back=constraints.kept(self.table, rule, key=self.facts.key))
            for rule in self.facts.rules
        ]
        return (
            *unbound,
            Action(
                table=self.table,
                requires=(self._nothing_depends_on_it,),
                statements=tables.put_away(self.table, kept, self.facts.parts),
                back=(again,),
            ),
        )

    @property
    def _nothing_depends_on_it(self) -> Guard:
        return Guard(
            sql=dependents_of(self.table),
            template="{!r} was created since the run was enqueued, and depends on the table",
            remedy="Drop it, then resume",
        )
