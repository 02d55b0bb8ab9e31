"""Give a column another name, while applications that know either name go on.

expand    a second column under the new name, and the sync trigger that keeps both the same, in one short transaction
backfill  lanes copy the values
verify    every row is looked at; then each index of the column is built a second time for the new name, and ANALYZE
switch    the two columns swap their names, and the sync trigger turns round
contract  the second column, which has the old name now, goes with its trigger, in one transaction

Both hold the same values, so nobody notices the swap; and whatever depends on the column itself (views, policies,
constraints, foreign keys in and out, identity, sequences, defaults, generated columns, publications, statistics) has followed
it to the new name without being touched. The column itself is the sync trigger's authority all along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import ShadowColumn
from backfilld.migrations.operations.base import Action, Plain, Statement, Step, Walk, object_name
from backfilld.migrations.operations.ddl import concurrently
from backfilld.migrations.operations.ddl.rule import BRIEF
from backfilld.migrations.operations.ddl.sync_function import Pair, Side, SyncTrigger
from backfilld.migrations.operations.ddl.sync_trigger import created, dropped, fires, fires_last, turned
from backfilld.migrations.postgres.catalog_diff import AllowedChanges
from backfilld.migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import RenameColumn as Definition
    from backfilld.migrations.identifiers import TableName


@dataclass(frozen=True, kw_only=True)
class RenameColumn(Plain):
    """A `rename_column` of a migration, bound to a database."""

    definition: Definition
    migration: str
    number: int

    @property
    def table(self) -> TableName:
        return self.definition.table

    @property
    def old(self) -> str:
        return self.definition.old

    @property
    def new(self) -> str:
        return self.definition.new

    def rewrite(self) -> Rewrite:
        return self._copied(to=self.new, by=self.old)

    def expand(self) -> tuple[Step, ...]:
        return (self._added(self.new, column=self.old, back=(self._gone(self.new),)),)

    def verify(self) -> tuple[Step, ...]:
        analyze = sql.SQL("ANALYZE {} ({})").format(self.table.identifier, sql.Identifier(self.new))
        return (
            *(concurrently.build(self.table, index, key=self.facts.key) for index in self._twin.indexes),
            Action(
                table=self.table,
                statements=(
                    Statement(
                        sql=analyze,
                        lock="SHARE UPDATE EXCLUSIVE",
                        note="reads a sample, so that plans are as good under the new name",
                    ),
                ),
                scans=True,
            ),
        )

    def switch(self) -> tuple[Step, ...]:
        guards = (fires(self._trigger), fires_last(self._trigger))
        back = self._swapped(column=self.old, twin=self.new)
        return (replace(self._swapped(column=self.new, twin=self.old), guards=guards, back=(back,)),)

    def contract(self) -> tuple[Step, ...]:
        again: tuple[Step, ...] = (
            self._added(self.old, column=self.new),
            Walk(
                kind="restore",
                operation=self.number,
                table=self.table,
                key=self._facts_as_switched.key,
                rewrite=self._copied(to=self.old, by=self.new),
                note="the values under the new name are copied to the old one",
            ),
            *(concurrently.build(self.table, index) for index in self._twin.indexes_as_old),
        )
        drop_column = sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(self.table.identifier, sql.Identifier(self.old))
        drop_trigger, drop_function = dropped(self._trigger)
        return (
            Action(
                table=self.table,
                statements=(
                    drop_trigger,
                    # No CASCADE: if somebody made something of the old name, PostgreSQL says what, and nothing happens.
                    Statement(sql=drop_column, lock="ACCESS EXCLUSIVE", note=BRIEF),
                    drop_function,
                ),
                back=again,
            ),
        )

    def _added(self, twin: str, *, column: str, back: tuple[Step, ...] = ()) -> Action:
        """The twin under a name, and the trigger, while the column itself has the other name."""
        table, name = self.table.identifier, sql.Identifier(twin)
        add = sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(table, name, sql.SQL(self._twin.type))
        if self._twin.collation:
            add += sql.SQL(" COLLATE {}").format(sql.SQL(self._twin.collation))
        if self._twin.default:
            # Not as a part of ADD COLUMN, which would give it to the rows that are there.
            add += sql.SQL(", ALTER COLUMN {} SET DEFAULT (\n{}\n)").format(name, sql.SQL(self._twin.default))
        function, *trigger = created(self._trigger, self._body(column=column, twin=twin))
        statements = [function, Statement(sql=add, lock="ACCESS EXCLUSIVE", note="no rewrite; " + BRIEF)]
        for grant in self._twin.grants:
            granted = sql.SQL("GRANT {} ({}) ON TABLE {} TO {}{}").format(
                sql.SQL(grant.privilege),
                name,
                table,
                sql.SQL(grant.grantee),  # quoted by PostgreSQL
                sql.SQL(" WITH GRANT OPTION" if grant.grantable else ""),
            )
            statements.append(Statement(sql=granted, lock="none"))
        if self._twin.comment:
            comment = sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(table, name, sql.Literal(self._twin.comment))
            statements.append(Statement(sql=comment, lock="SHARE UPDATE EXCLUSIVE"))
        return Action(
            table=self.table,
            statements=(*statements, *trigger),
            guards=(fires_last(self._trigger),),
            back=back,
        )

    def _gone(self, twin: str) -> Action:
        """Take the twin away; the column itself has all that was written under either name."""
        drop_column = sql.SQL("ALTER TABLE {} DROP COLUMN IF EXISTS {}").format(
            self.table.identifier, sql.Identifier(twin)
        )
        drop_trigger, drop_function = dropped(self._trigger)
        return Action(
            table=self.table,
            statements=(
                drop_trigger,
                Statement(sql=drop_column, lock="ACCESS EXCLUSIVE", note=BRIEF),
                drop_function,
            ),
        )

    def _swapped(self, *, column: str, twin: str) -> Action:
        """The column gets this name, and its twin that one, which are each other's until then."""
        aside = object_name("backfilld_swap", self.migration, self.number)
        renames = tuple(
            Statement(
                sql=sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
                    self.table.identifier, sql.Identifier(before), sql.Identifier(after)
                ),
                lock="ACCESS EXCLUSIVE",
                note=BRIEF,
            )
            for before, after in ((twin, aside), (column, twin), (aside, column))
        )
        return Action(
            table=self.table,
            statements=(turned(self._trigger, self._body(column=column, twin=twin)), *renames),
            # Both hold the same, so that nothing but the names may be otherwise.
            keeps=AllowedChanges(renamed=((column, twin), (twin, column))),
        )

    def _body(self, *, column: str, twin: str) -> str:
        """The sync function, while the column and its twin have these names."""
        known = self._twin
        return Pair(
            table=self.table,
            authority=Side(
                column=column, type=known.type, default=known.default or None, fills_itself=known.fills_itself
            ),
            mirror=Side(column=twin, type=known.type, default=known.default or None),
        ).body()

    def _copied(self, *, to: str, by: str) -> Rewrite:
        """What lanes do: the twin gets the column's values."""
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
    def _twin(self) -> ShadowColumn:
        return self.facts.twin or ShadowColumn(type="")

    @property
    def _trigger(self) -> SyncTrigger:
        return SyncTrigger(table=self.table, name=object_name("sync", self.migration, self.number))
