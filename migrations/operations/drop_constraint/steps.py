"""Drop a CHECK, UNIQUE or FOREIGN KEY constraint.

switch    DROP CONSTRAINT, once the rules that the same file adds are proved

Its definition is kept with the run. The way back adds a CHECK or a foreign key NOT VALID and validates it, and builds the index of
a UNIQUE constraint CONCURRENTLY; a row that breaks the rule by then is named and stops it, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Step
from backfilld.migrations.operations.ddl import constraints, grants_and_comments, indexes

if TYPE_CHECKING:
    from backfilld.migrations.facts import KeptRule
    from backfilld.migrations.postgres.definitions import IndexDefinition


@dataclass(frozen=True, kw_only=True)
class DropConstraint(Plain[file.DropConstraint]):
    """A `drop_constraint` of a migration, bound to a database."""

    def switch(self) -> tuple[Step, ...]:
        index = self.facts.index
        return tuple(
            constraints.dropped(
                self.table,
                rule,
                back=self._unique_again(rule, index)
                if index is not None
                else constraints.kept(self.table, rule, key=self.facts.key),
                note="with its index" if index is not None else "",
            )
            for rule in self.facts.rules  # one, or none where preflight has refused
        )

    def _unique_again(self, rule: KeptRule, index: IndexDefinition) -> tuple[Step, ...]:
        settled = [constraints.unique_using_index(self.table, rule.name, deferred=rule.deferred)]
        if rule.comment is not None:
            settled.append(grants_and_comments.on_constraint(self.table, rule.name, rule.comment))
        if index.comment:
            settled.append(grants_and_comments.on_index(self.table.schema, rule.name, index.comment))
        build = indexes.build(self.table, index, key=self.facts.key)
        return (build, Action(table=self.table, statements=tuple(settled)))
