"""Drop a CHECK, UNIQUE or FOREIGN KEY constraint.

switch    DROP CONSTRAINT, once the rules that the same file adds are proved

Its definition is kept with the run. The way back adds a CHECK or a foreign key NOT VALID and validates it, and builds the index of
a UNIQUE constraint CONCURRENTLY; a row that breaks the rule by then is named and stops it, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Action, Guard, Plain, Step
from backfilld.migrations.operations.ddl import constraints, grants_and_comments, indexes
from backfilld.migrations.postgres.constraints import changed

if TYPE_CHECKING:
    from backfilld.migrations.operations.ddl.constraints import Rule
    from backfilld.migrations.postgres.definitions import Constraint


@dataclass(frozen=True, kw_only=True)
class DropConstraint(Plain[file.DropConstraint]):
    """A `drop_constraint` of a migration, bound to a database."""

    def switch(self) -> tuple[Step, ...]:
        kept = self.facts.constraint
        if kept is None:  # refused by preflight
            return ()
        also = (self._references,) if self._references not in {None, self.table} else ()
        drop = constraints.drop(self.table, kept.name, also=also, note="with its index" if self.facts.index else "")
        return (
            Action(table=self.table, statements=(drop,), requires=(self._is_the_one(kept),), back=self._again(kept)),
        )

    def _is_the_one(self, kept: Constraint) -> Guard:
        return Guard(
            sql=changed(self.table, kept.name, kept.definition),
            template="the constraint {!r} has changed since the run was enqueued, so it was not dropped",
            remedy="Cancel the run, and enqueue the migration again under another name",
        )

    def _again(self, kept: Constraint) -> tuple[Step, ...]:
        if self.facts.index is None:
            rule = self._rule(kept)
            return rule.steps(looks=True) if kept.valid else (rule.added,)
        settled = [constraints.unique_using_index(self.table, kept.name, deferred=kept.deferred)]
        if self.facts.comment is not None:
            settled.append(grants_and_comments.on_constraint(self.table, kept.name, self.facts.comment))
        if self.facts.index.comment:
            settled.append(grants_and_comments.on_index(self.table.schema, kept.name, self.facts.index.comment))
        build = indexes.build(self.table, self.facts.index, key=self.facts.key)
        return (build, Action(table=self.table, statements=tuple(settled)))

    def _rule(self, kept: Constraint) -> Rule:
        orphans = None
        if self._references is not None and self.facts.equalities:
            orphans = constraints.orphaned(
                self.table,
                self.facts.rule_columns,
                references=self._references,
                referenced=self.facts.referenced,
                equalities=self.facts.equalities,
            )
        return constraints.from_catalog(
            self.table,
            kept.name,
            # As pg_get_constraintdef wrote it, without the word that says it was not validated either.
            kept.definition.removesuffix(" NOT VALID"),
            key=self.facts.key,
            columns=self.facts.rule_columns,
            references=self._references,
            orphans=orphans,
            comment=self.facts.comment,
        )

    @property
    def _references(self) -> TableName | None:
        return TableName.parse(self.facts.references) if self.facts.references else None
