"""Give a column another type: one of the new type grows beside it, and when all is proved the two change places.

expand    the new column and the sync trigger that keeps both columns saying the same, in one short transaction
backfill  lanes give every row its new value; rows whose value does not fit are quarantined with their errors
verify    every row is looked at; then everything that depends on the column is made for the new one as well: indexes
          CONCURRENTLY, checks and foreign keys NOT VALID and validated, statistics; and for each foreign key that refers to it a
          second one, to the new column
switch    copies of materialized views, over the new column; then one transaction: the columns change names, what depends on the old one is dropped, what is ready on the new one gets
          its names, and views, policies, triggers, functions and places in publications are made anew over the name, the copies
          come in the place of the materialized views; the sync trigger turns round
contract  the old values go to the archive, and then the old column goes

A change that PostgreSQL makes in the catalog alone, as from varchar(20) to varchar(30), needs none of this: the switch is one brief
ALTER COLUMN … TYPE. Where the way back would write the table anew, it goes through a second column as that of any other change.

The two columns change places in `exchange.py`; the switch takes checks, foreign keys, NOT NULL, and indexes that are unique or
compute something off the old column. Its way back, the same exchange, builds those indexes again before it and proves the rules
after it. A primary key and an identity need a column that is NOT NULL, so the old one is proved to be that before they come back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Target
from backfilld.migrations.file import operations as file
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Action, Archived, Plain, Reliance, Step, Walk
from backfilld.migrations.operations.change_type import dependents, exchange, guards
from backfilld.migrations.operations.change_type.change import Change
from backfilld.migrations.operations.ddl import columns, constraints, indexes, statistics
from backfilld.migrations.postgres.catalog_diff import AllowedChanges
from backfilld.migrations.rollback.archive import restored
from backfilld.migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from backfilld.migrations.postgres.column_dependents import ColumnDependents


@dataclass(frozen=True, kw_only=True)
class ChangeType(Plain[file.ChangeType]):
    """A `change_type` of a migration, bound to a database."""

    @property
    def column(self) -> str:
        return self.definition.column

    def rewrite(self) -> Rewrite | None:
        if self.facts.in_place:
            return None
        change = self._change
        return Rewrite(
            table=self.table,
            facts=self.facts,
            assignments=(Assignment(target=self.facts.targets[0], expression=change.up),),
            not_null=change.dependents.not_null,
            synced=True,
            writes=change.trigger.name,
        )

    def expand(self) -> tuple[Step, ...]:
        if self.facts.in_place:
            return ()
        change = self._change
        return (
            Action(
                table=self.table,
                statements=(
                    columns.add(self.table, change.new_column, change.type),
                    *exchange.tuned(change, change.new_column),
                    *change.trigger.created(change.synced_before),
                ),
                guards=(change.trigger.fires_last,),
                back=(change.trigger.gone_with(change.new_column),),
            ),
        )

    def verify(self) -> tuple[Step, ...]:
        if self.facts.in_place:
            return ()
        change = self._change
        steps: list[Step] = [
            indexes.build(self.table, index.new, key=self.facts.key) for index in change.dependents.indexes
        ]
        for rule, proved in change.rules_of_new():
            steps += rule.steps(looks=True) if proved else (rule.added,)
        if change.dependents.not_null:
            # Lanes have just looked at every row.
            steps += change.not_null(change.new_column).steps(looks=False)
        for rule, proved in change.references_to(new=True):
            steps += rule.steps(looks=False) if proved else (rule.added,)
        if change.dependents.statistics:
            steps.append(dependents.statistics_made(change))
        steps.append(self._analyzed(change.new_column))
        return tuple(steps)

    def switch(self) -> tuple[Step, ...]:
        if self.facts.in_place:
            return self._at_once()
        change = self._change
        return (
            *dependents.copied(change, new=True),
            Action(
                table=self.table,
                locks=self._locks,
                views=self._views,
                requires=(
                    guards.unchanged(change),
                    guards.fits(change, change.new_column, "the new type"),
                    *guards.sequence_fits(change, new=True),
                    *guards.sent_as_read(change),
                    *guards.privileges_as_read(change),
                    *guards.copies_have_all(change),
                ),
                statements=(
                    *dependents.dropped(change),
                    *exchange.to_new(change),
                    *dependents.made(change),
                    change.trigger.turned(change.synced_after),
                ),
                guards=guards.same_privileges(change),
                allows=self._allows(),
                back=self._switched_back(),
            ),
        )

    def contract(self) -> tuple[Step, ...]:
        if self.facts.in_place:
            return ()
        change = self._change
        return (
            Walk(
                kind="archive",
                operation=self.number,
                table=self.table,
                key=self.facts.key,
                archived=Archived(old=(change.old_column,), new=(self.column,)),
                note=f"the old values of {self.column}, each with the new one that replaced it",
            ),
            Action(
                table=self.table,
                statements=(
                    change.trigger.silenced,
                    change.trigger.drop,
                    columns.drop_if_exists(self.table, change.old_column),
                    change.trigger.drop_function,
                ),
                back=self._old_column_again(),
            ),
        )

    def relies_on(self, *, switched: bool) -> Reliance | None:
        if self.facts.in_place:
            return None
        change = self._change
        body = change.synced_after if switched else change.synced_before
        shadow = change.old_column if switched else change.new_column
        reads = (*change.dependents.up_reads, *change.dependents.down_reads)
        return change.trigger.relied_on(body, (change.column, shadow, *reads, *(one.name for one in change.key)))

    def recheck(self) -> Walk | None:
        if self.facts.in_place:
            return None
        change = self._change
        return Walk(
            kind="recheck",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            rewrite=Rewrite(
                table=self.table,
                facts=replace(self.facts, targets=(self._old_target,)),
                assignments=(Assignment(target=self._old_target, expression=change.down),),
                # A value that came through a conversion need not survive another one.
                where=change.is_not_up_of_old,
                synced=True,
                writes=change.trigger.name,
            ),
        )

    def _at_once(self) -> tuple[Step, ...]:
        """The change of a column that PostgreSQL need not write anew."""
        change = self._change
        old, new = change.dependents.default, change.dependents.new_default
        if self.facts.back_in_place:
            statements = tuple(exchange.at_once(change, change.dependents.type, default=old))
            back: tuple[Step, ...] = (Action(table=self.table, statements=statements), self._analyzed(self.column))
        else:
            back = (
                *self._old_column_again(),
                *self._switched_back(),
                change.trigger.gone_with(change.new_column),
            )
        return (
            Action(
                table=self.table,
                requires=(guards.unchanged(change),),
                statements=tuple(exchange.at_once(change, change.type, default=new)),
                allows=self._allows(),
                back=back,
            ),
            # PostgreSQL forgets what it knew of the values.
            self._analyzed(self.column),
        )

    # The way back

    def _old_column_again(self) -> tuple[Step, ...]:
        """A column of the old type is there again, inactive, with its values and the sync trigger."""
        change = self._change
        added = columns.add(
            self.table, change.old_column, change.dependents.type, collation=change.dependents.collation
        )
        again = Action(
            table=self.table,
            statements=(added, *change.trigger.created(change.synced_restoring)),
            guards=(change.trigger.fires_last,),
        )
        built = (indexes.build(self.table, index.old) for index in change.dependents.indexes if index.harmless)
        return (again, self._restored(), *built)

    def _switched_back(self) -> tuple[Step, ...]:
        change = self._change
        steps: list[Step] = [
            indexes.build(self.table, index.old, key=self.facts.key)
            for index in change.dependents.indexes
            if not index.harmless
        ]
        if self.definition.down is None:
            steps.append(guards.all_there(change))
        elif change.dependents.not_null:
            # `down` may give NULL; by another name than the rule's, as what it finds must not lead behind the exchange.
            steps.append(replace(change.not_null(change.old_column).look, rule=""))
        if numbers := guards.sequence_fits(change, new=False):
            # Before any rule of the old column, by which a number that it cannot hold would fail the application's INSERT.
            steps.append(Action(table=self.table, statements=(), guards=numbers))
        if change.dependents.must_be_not_null:
            # Before the exchange, which would scan the table for a primary key otherwise.
            steps += change.not_null(change.old_column).steps(looks=False)
        for rule, proved in change.references_to(new=False):
            steps += rule.steps(looks=False) if proved else (rule.added,)
        steps += dependents.copied(change, new=False)
        steps.append(
            Action(
                table=self.table,
                locks=self._locks,
                views=self._views,
                requires=(
                    guards.nothing_new(change),
                    guards.fits(change, change.old_column, f"the old type ({change.dependents.type})"),
                    *guards.sequence_fits(change, new=False),
                    *guards.sent_as_read(change),
                    *guards.privileges_as_read(change),
                    *guards.copies_have_all(change),
                ),
                statements=(
                    *dependents.dropped(change),
                    *exchange.to_old(change),
                    *dependents.made(change),
                    change.trigger.turned(change.synced_before),
                ),
                guards=guards.same_privileges(change),
                # It comes back once it is proved.
                allows=self._allows(("not null", self.column)),
            )
        )
        for rule, proved in change.rules_of_old():
            steps += rule.again() if proved else ()
        if change.dependents.not_null and not change.dependents.must_be_not_null:
            proof = change.not_null(self.column)
            steps += proof.again()
            steps.append(
                Action(table=self.table, statements=constraints.settled_not_null(self.table, self.column, proof=proof))
            )
        steps.append(self._analyzed(self.column))
        return tuple(steps)

    @property
    def _old_target(self) -> Target:
        dependents = self._change.dependents
        return Target(
            column=self._change.old_column,
            type=dependents.type,
            as_text=dependents.as_text,
            plain_type=dependents.plain_type,
        )

    def _restored(self) -> Walk:
        change = self._change
        target = self._old_target
        facts = replace(self.facts, targets=(target,))
        # What was never taken away was not archived.
        expression = change.down
        if not self.facts.in_place:
            expression = restored(
                table=self.table, type_=change.dependents.type, new=(self.column,), fallback=change.down
            )
        return Walk(
            kind="restore",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            rewrite=Rewrite(
                table=self.table,
                facts=facts,
                assignments=(Assignment(target=target, expression=expression),),
                synced=True,
                writes=change.trigger.name,
            ),
            note="the archived value where the new one is still what replaced it, else `down`",
        )

    def _analyzed(self, column: str) -> Action:
        # Extended statistics are of the whole table.
        return statistics.analyze(self.table, *(() if self._dependents.statistics else (column,)))

    def _allows(self, *more: tuple[str, str]) -> AllowedChanges:
        """All else must be as it was. Where a view had no privileges of its own it has them in words now: `same_privileges`."""
        change = self._change
        views = [("view", view.written) for view in change.dependents.all_views if not view.has_grants]
        return AllowedChanges(
            retyped=(self.column,), columns=(change.new_column, change.old_column), may_differ=(*views, *more)
        )

    @property
    def _locks(self) -> tuple[TableName, ...]:
        """All tables that the exchange touches."""
        found = self._dependents
        tables = {self.table, *(policy.table for policy in found.policies), *(one.table for one in found.references)}
        tables |= {rule.references for rule in found.foreign_keys if rule.references is not None}
        return tuple(sorted(tables, key=lambda table: (table.schema, table.name)))

    @property
    def _views(self) -> tuple[TableName, ...]:
        """All views that the exchange makes anew, each before the ones that it reads."""
        return tuple(TableName(view.schema, view.name) for view in reversed(self._dependents.all_views))

    @property
    def _change(self) -> Change:
        (target,) = self.facts.targets
        return Change(
            table=self.table,
            column=self.column,
            type=target.type,
            up=self.definition.up or cast(self.column, target.plain_type),
            down=self.definition.down or cast(self.column, self._dependents.plain_type),
            key=self.facts.key,
            dependents=self._dependents,
            migration=self.migration,
            number=self.number,
        )

    @property
    def _dependents(self) -> ColumnDependents:
        if self.facts.column_dependents is None:
            msg = f"change_type of {self.table} has no facts about its column"
            raise ValueError(msg)
        return self.facts.column_dependents


def cast(column: str, type_: str) -> str:
    """A column as another type, which is format_type's own text. One with a limit would cut off what is too long."""
    return f"CAST({sql.Identifier(column).as_string()} AS {type_})"
