"""Give a column another name, while applications that use either name keep running.

expand    a second column under the new name, and the sync trigger that keeps both the same, in one short transaction
backfill  lanes copy the values
verify    every row is looked at; then each index of the column is built a second time for the new name, and ANALYZE
switch    the two columns swap their names, and the sync trigger turns round
contract  the second column, which has the old name now, goes with its trigger, in one transaction

Both hold the same values, so no statement notices the swap; and everything that depends on the column itself (views, policies,
constraints, foreign keys in and out, identity, sequences, defaults, generated columns, publications, statistics) has followed
it to the new name without being touched. The column itself is the primary all along, and the second one its shadow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import ShadowColumn
from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Reliance, Step, Walk, object_name
from backfilld.migrations.operations.ddl import columns, grants_and_comments, indexes, statistics
from backfilld.migrations.operations.ddl.sync_function import Pair, Side
from backfilld.migrations.operations.ddl.sync_trigger import SyncTrigger
from backfilld.migrations.postgres.catalog_diff import AllowedChanges
from backfilld.migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from backfilld.migrations.facts import Facts


@dataclass(frozen=True, kw_only=True)
class RenameColumn(Plain[file.RenameColumn]):
    """A `rename_column` of a migration, bound to a database."""

    @property
    def old(self) -> str:
        return self.definition.old

    @property
    def new(self) -> str:
        return self.definition.new

    def rewrite(self) -> Rewrite:
        return self._copied(to=self.new, by=self.old)

    def expand(self) -> tuple[Step, ...]:
        return (self._added(self.new, primary=self.old, back=(self._trigger.gone_with(self.new),)),)

    def verify(self) -> tuple[Step, ...]:
        return (
            *(indexes.build(self.table, index, key=self.facts.key) for index in self._shadow.indexes),
            statistics.analyze(self.table, self.new),
        )

    def switch(self) -> tuple[Step, ...]:
        guards = (self._trigger.fires, self._trigger.fires_last)
        back = self._swapped(primary=self.old, shadow=self.new)
        return (replace(self._swapped(primary=self.new, shadow=self.old), guards=guards, back=(back,)),)

    def contract(self) -> tuple[Step, ...]:
        again: tuple[Step, ...] = (
            replace(self._added(self.old, primary=self.new), frees=True),
            Walk(
                kind="restore",
                operation=self.number,
                table=self.table,
                key=self._facts_as_switched.key,
                rewrite=self._copied(to=self.old, by=self.new),
                note="the values under the new name are copied to the old one",
            ),
            *(indexes.build(self.table, index) for index in self._shadow.indexes_as_old),
        )
        return (
            Action(
                table=self.table,
                statements=(
                    self._trigger.drop,
                    columns.drop(self.table, self.old),
                    self._trigger.drop_function,
                ),
                back=again,
            ),
        )

    def relies_on(self, *, switched: bool) -> Reliance:
        primary, shadow = (self.new, self.old) if switched else (self.old, self.new)
        body = self._body(primary=primary, shadow=shadow)
        return self._trigger.relied_on(body, (primary, shadow, *(one.name for one in self.facts.key)))

    def recheck(self) -> Walk:
        return Walk(
            kind="recheck",
            operation=self.number,
            table=self.table,
            key=self._facts_as_switched.key,
            rewrite=self._copied(to=self.old, by=self.new),
            writes=False,  # an application may have written under either name, and nothing tells under which last
        )

    def _added(self, shadow: str, *, primary: str, back: tuple[Step, ...] = ()) -> Action:
        """The shadow column under a name, and the trigger, while the primary has the other name."""
        known = self._shadow
        function, *trigger = self._trigger.created(self._body(primary=primary, shadow=shadow))
        statements = [function, columns.add(self.table, shadow, known.type, collation=known.collation)]
        if known.default:
            # Not as a part of ADD COLUMN, which would give it to the rows that are there.
            statements.append(columns.set_default(self.table, shadow, known.default))
        statements += [grants_and_comments.grant(self.table, grant, column=shadow) for grant in known.grants]
        if known.comment:
            statements.append(grants_and_comments.on_column(self.table, shadow, known.comment))
        return Action(
            table=self.table,
            statements=(*statements, *trigger),
            guards=(self._trigger.fires_last,),
            back=back,
        )

    def _swapped(self, *, primary: str, shadow: str) -> Action:
        """The primary gets this name, and its shadow that one, which are each other's until then."""
        aside = object_name("backfilld_swap", self.migration, self.number)
        renames = tuple(
            columns.rename(self.table, before, after)
            for before, after in ((shadow, aside), (primary, shadow), (aside, primary))
        )
        return Action(
            table=self.table,
            statements=(self._trigger.turned(self._body(primary=primary, shadow=shadow)), *renames),
            # Both hold the same, so that nothing but the names may be otherwise.
            allows=AllowedChanges(renamed=((primary, shadow), (shadow, primary))),
        )

    def _body(self, *, primary: str, shadow: str) -> str:
        """The sync function, while the primary and its shadow have these names."""
        known = self._shadow
        return Pair(
            table=self.table,
            primary=Side(
                column=primary, type=known.type, default=known.default or None, fills_itself=known.fills_itself
            ),
            shadow=Side(column=shadow, type=known.type, default=known.default or None),
            counts_shadow=(self.migration, self.number) if shadow == self.old else None,
        ).body()

    def _copied(self, *, to: str, by: str) -> Rewrite:
        """What lanes do: the shadow gets the primary's values."""
        facts = self.facts if to == self.new else self._facts_as_switched
        (target,) = facts.targets
        return Rewrite(
            table=self.table,
            facts=facts,
            assignments=(Assignment(target=target, expression=sql.Identifier(by).as_string()),),
            synced=True,
            writes=self._trigger.name,
        )

    @property
    def _facts_as_switched(self) -> Facts:
        """What is known of the table, in the names that columns have after the switch."""
        return replace(
            self.facts,
            key=tuple(replace(one, name=self.new) if one.name == self.old else one for one in self.facts.key),
            targets=tuple(replace(one, column=self.old) for one in self.facts.targets),
        )

    @property
    def _shadow(self) -> ShadowColumn:
        return self.facts.shadow or ShadowColumn(type="")

    @property
    def _trigger(self) -> SyncTrigger:
        return SyncTrigger(table=self.table, name=object_name("sync", self.migration, self.number))
