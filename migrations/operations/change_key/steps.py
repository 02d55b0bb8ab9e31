"""Give a key other values of another type, and every column that refers to it with them: all of them in one switch.

expand    a new column beside each, and a sync trigger for each, in one short transaction
backfill  lanes give each row of the key's table its value, once; then each referring row gets the value of the row it refers to
verify    every row is looked at; then what the columns carry is made for the new ones: indexes CONCURRENTLY, NOT NULL and foreign keys
          NOT VALID and validated
switch    one transaction: all columns change names, the foreign keys with them; the triggers turn round
contract  lanes copy the old values of the key to the archive; the old columns go, with the triggers

After the switch the old key fills itself by its DEFAULT or as an identity, or is given by `down`, and the old referring columns are
looked up by the new ones, so until contract the way back is the same exchange, and loses nothing. After it the old columns come back
first: the key from the archive, with numbers that go on where the sequence was for rows that have come since, and then each referring
column from what it refers to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import (
    Action,
    Archived,
    Bound,
    Plain,
    Reliance,
    Statement,
    Step,
    Walk,
    object_name,
)
from backfilld.migrations.operations.change_key.member import NUMBERS, Follower, Root, key_now
from backfilld.migrations.operations.change_key.remade import Remade
from backfilld.migrations.operations.change_key.restore import OldColumns
from backfilld.migrations.operations.change_type import dependents, exchange, guards
from backfilld.migrations.operations.change_type.change import Change
from backfilld.migrations.operations.ddl import columns, constraints, indexes, statistics
from backfilld.migrations.operations.ddl.kept_numbers import KeptNumbers
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.walks.rewrite import Rewrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.postgres.column_dependents import ColumnDependents


@dataclass(frozen=True, kw_only=True)
class Part(Bound[file.ChangeKey]):
    """What lanes do in one table that refers to the key."""

    followers: tuple[Follower, ...]

    @property
    def table(self) -> TableName:
        return TableName.parse(self.facts.relation)

    def rewrite(self) -> Rewrite:
        return Rewrite(
            table=self.table,
            facts=self.facts,
            assignments=tuple(one.assignment for one in self.followers),
            synced=True,
            writes=" ".join(one.change.trigger.name for one in self.followers),
        )


@dataclass(frozen=True, kw_only=True)
class ChangeKey(Plain[file.ChangeKey]):
    """A `change_key` of a migration, bound to a database."""

    def rewrite(self) -> Rewrite:
        own = [one for one in self._followers if one.change.table == self.table]
        return Rewrite(
            table=self.table,
            facts=replace(self.facts, targets=(*self.facts.targets, *(one.known.target for one in own))),
            assignments=(self._root.assignment, *(one.assignment for one in own)),
            synced=True,
            writes=" ".join(change.trigger.name for change in (self._root.change, *(one.change for one in own))),
        )

    def parts(self) -> tuple[Part, ...]:
        tables = dict.fromkeys(one.change.table for one in self._followers if one.change.table != self.table)
        return tuple(self._part([one for one in self._followers if one.change.table == table]) for table in tables)

    def _part(self, followers: Sequence[Follower]) -> Part:
        known = followers[0].known
        return Part(
            definition=self.definition,
            facts=replace(
                self.facts,
                relation=known.table,
                key=known.key,
                targets=tuple(one.known.target for one in followers),
                keys_because=known.keys_because,
                volatile=False,
                referrers=(),
                column_dependents=None,
            ),
            migration=self.migration,
            number=self.number,
            followers=tuple(followers),
        )

    def expand(self) -> tuple[Step, ...]:
        statements: list[Statement] = []
        for one in self._members:
            change = one.change
            statements.append(columns.add(change.table, change.new_column, change.type))
            statements += exchange.tuned(change, change.new_column)
            statements += change.trigger.created(one.before)
        return (
            Action(
                table=self.table,
                locks=self._tables,
                statements=tuple(statements),
                guards=tuple(one.change.trigger.fires_last for one in self._members),
                back=(self._gone([one.change.new_column for one in self._members]),),
            ),
        )

    def verify(self) -> tuple[Step, ...]:
        steps: list[Step] = [
            indexes.build(one.change.table, index.new, key=one.change.key)
            for one in self._members
            for index in one.change.dependents.indexes
        ]
        for one in self._members:
            change = one.change
            if change.dependents.not_null:
                steps += change.not_null(change.new_column).steps(looks=False)
            elif isinstance(one, Follower):
                steps += one.whole.steps(looks=False)
        for one in self._members:
            change = one.change
            for known, (rule, proved) in zip(change.dependents.rules, change.rules_of_new(), strict=True):
                # What a row refers to was looked up, so that no row can break a foreign key.
                steps += rule.steps(looks=known.references is None) if proved else (rule.added,)
            if change.dependents.statistics:
                steps.append(dependents.statistics_made(change))
        steps += self._analyzed(new=True)
        return tuple(steps)

    def switch(self) -> tuple[Step, ...]:
        root, followers, remade = self._root.change, [one.change for one in self._followers], self._remade
        statements = list(remade.dropped())
        for change in (*reversed(followers), root):
            statements += exchange.old_leaves(change)
        for change in (root, *followers):
            statements += exchange.new_comes(change)
        statements += [one.whole.drop for one in self._followers if not one.change.dependents.not_null]
        statements += remade.made()
        statements += [one.change.trigger.turned(one.after) for one in self._members]
        return (
            Action(
                table=self.table,
                locks=self._exchanged,
                views=remade.views,
                requires=(
                    *(guards.unchanged(one.change) for one in self._members),
                    *remade.sent_as_read,
                    *remade.privileges_as_read,
                ),
                statements=tuple(statements),
                guards=(*(one.change.trigger.fires for one in self._members), *remade.same_privileges),
                back=self._switched_back(),
            ),
        )

    def contract(self) -> tuple[Step, ...]:
        root = self._root
        dropped = self._gone([one.change.old_column for one in reversed(self._members)])
        kept = self._numbers.kept_aside(root.change.old_column) if self._numbers is not None else ()
        return (
            Walk(
                kind="archive",
                operation=self.number,
                table=self.table,
                key=key_now(self._members, self.table),
                archived=Archived(old=(root.change.old_column,), new=(root.change.column,)),
                note=f"the old values of {root.change.column}, each with the new one that replaced it",
            ),
            replace(dropped, statements=(*kept, *dropped.statements), back=self._old_columns.again()),
        )

    @property
    def _old_columns(self) -> OldColumns:
        return OldColumns(
            number=self.number,
            facts=self.facts,
            root=self._root,
            followers=self._followers,
            numbers=self._numbers,
        )

    @property
    def _numbers(self) -> KeptNumbers | None:
        """The sequence that goes with the old column."""
        if self.facts.numbers is None:
            return None
        default = None if self.facts.numbers.generated else self.facts.default
        kept = object_name("table", self.migration, self.number)
        return KeptNumbers(table=self.table, kept=kept, sequence=self.facts.numbers, default=default)

    def relies_on(self, *, switched: bool) -> Reliance:
        return self._reliance(self._root, switched=switched)

    def also_relies_on(self, *, switched: bool) -> tuple[Reliance, ...]:
        return tuple(self._reliance(one, switched=switched) for one in self._followers)

    def _reliance(self, one: Root | Follower, *, switched: bool) -> Reliance:
        change = one.change
        shadow = change.old_column if switched else change.new_column
        named = one.known.columns if isinstance(one, Follower) else ()
        return change.trigger.relied_on(one.after if switched else one.before, (change.column, shadow, *named))

    # The way back

    def _switched_back(self) -> tuple[Step, ...]:
        steps: list[Step] = [
            indexes.build(one.change.table, index.old, key=one.change.key)
            for one in self._members
            for index in one.change.dependents.indexes
            if not index.harmless
        ]
        steps += [self._followed(follower) for follower in self._followers]
        for one in self._members:
            change = one.change
            if change.dependents.must_be_not_null and not change.keeps:
                # Before the exchange, which would scan the table for a primary key otherwise.
                steps += change.not_null(change.old_column).steps(looks=False)
        root, followers, remade = self._root.change, [one.change for one in self._followers], self._remade
        statements = list(remade.dropped())
        for change in (*reversed(followers), root):
            statements += exchange.new_leaves(change)
        for change in (root, *followers):
            statements += exchange.old_comes(change)
        statements += remade.made()
        statements += [one.change.trigger.turned(one.before) for one in self._members]
        steps.append(
            Action(
                table=self.table,
                locks=self._exchanged,
                views=remade.views,
                requires=(
                    *(guards.nothing_new(one.change) for one in self._members),
                    *remade.sent_as_read,
                    *remade.privileges_as_read,
                ),
                statements=tuple(statements),
                guards=remade.same_privileges,
            )
        )
        for change in (root, *followers):
            for rule, proved in change.rules_of_old():
                steps += rule.again() if proved else ()
        for change in (root, *followers):
            if change.dependents.not_null and not change.dependents.must_be_not_null and not change.keeps:
                proof = change.not_null(change.column)
                steps += proof.again()
                settled = constraints.settled_not_null(change.table, change.column, proof=proof)
                steps.append(Action(table=change.table, statements=settled))
        steps += self._analyzed(new=False)
        return tuple(steps)

    def _followed(self, follower: Follower) -> Action:
        """Look whether every row has the old value of the row that it refers to."""
        look = Statement(
            sql=follower.strays, lock=LockMode.ACCESS_SHARE, scans=True, note="scans the table; must find no row"
        )
        return Action(
            table=follower.change.table,
            statements=(look,),
            scans=True,
            offenders=follower.strays,
            looks_for=f"the old value of {follower.change.column}",
        )

    def _gone(self, names: Sequence[str]) -> Action:
        """The triggers go, and a column of each table: these, in the order of the members."""
        members = self._members if names and names[0] == self._members[0].change.new_column else self._members[::-1]
        return Action(
            table=self.table,
            locks=self._tables,
            statements=(
                *(one.change.trigger.silenced for one in members),
                *(one.change.trigger.drop for one in members),
                *(columns.drop_if_exists(one.change.table, name) for one, name in zip(members, names, strict=True)),
                *(one.change.trigger.drop_function for one in members),
            ),
        )

    def _analyzed(self, *, new: bool) -> Iterable[Action]:
        for one in self._members:
            change = one.change
            # Extended statistics are of the whole table.
            column = () if change.dependents.statistics else (change.new_column if new else change.column,)
            yield statistics.analyze(change.table, *column)

    # The columns that change together

    @property
    def _members(self) -> tuple[Root | Follower, ...]:
        return (self._root, *self._followers)

    @property
    def _root(self) -> Root:
        (target,) = self.facts.targets[:1]
        fills_itself, numbers = self.facts.default is not None, self._numbers
        return Root(
            change=self._changed(target.type),
            target=target,
            values=self.definition.values,
            down=self.definition.down,
            later=(numbers.next if numbers is not None else self.facts.default)
            if fills_itself
            else self.definition.down,
        )

    def _changed(self, type_: str) -> Change:
        return Change(
            table=self.table,
            column=self.definition.column,
            type=type_,
            up="",
            down="",
            key=self.facts.key,
            dependents=self._dependents,
            migration=self.migration,
            number=self.number,
            keeps=self.facts.default is not None,
        )

    @property
    def _followers(self) -> tuple[Follower, ...]:
        root = self._root.change
        known = {(root.table, root.column): root}
        found: list[Follower] = []
        for number, one in enumerate(self.facts.referrers, start=1):
            table = self._named(one.table)
            change = Change(
                table=table,
                column=one.column,
                type=one.target.type,
                up="",
                down="",
                key=one.key,
                dependents=one.dependents,
                migration=self.migration,
                number=self.number + NUMBERS * number,
            )
            referenced = dict(zip(one.columns, one.referenced, strict=True))[one.column]
            references = self._named(one.references)
            parent = known[references, referenced]
            known[table, one.column] = change
            found.append(Follower(change=change, known=one, references=references, parent=parent))
        return tuple(found)

    def _named(self, text: str) -> TableName:
        return TableName.parse(text) if text else self.table

    @property
    def _tables(self) -> tuple[TableName, ...]:
        """All tables that are touched."""
        tables = {self.table, *(self._named(one.table) for one in self.facts.referrers)}
        return tuple(sorted(tables, key=lambda table: (table.schema, table.name)))

    @property
    def _exchanged(self) -> tuple[TableName, ...]:
        """The same, and those of which something is made anew when the columns exchange their names."""
        tables = {*self._tables, *self._remade.tables}
        return tuple(sorted(tables, key=lambda table: (table.schema, table.name)))

    @property
    def _remade(self) -> Remade:
        return Remade(changes=tuple(one.change for one in self._members))

    @property
    def _dependents(self) -> ColumnDependents:
        if self.facts.column_dependents is None:
            msg = f"change_key of {self.table} has no facts about its column"
            raise ValueError(msg)
        return self.facts.column_dependents
