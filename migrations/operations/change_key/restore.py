"""The old columns once contract has dropped them: there again, with values, as they were between switch and contract.

The key's come from the archive, by the new values. A row that has come since gets one by the DEFAULT or the identity that the old column
was, whose numbers have gone on, or by `down`; where there is neither it has none, and blocks the way back by its key. Then each
referring column gets what the row that it refers to has, table by table, so that what is referred to is filled before what refers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backfilld.migrations.operations.base import Action, Step, Walk
from backfilld.migrations.operations.change_key.member import key_now
from backfilld.migrations.operations.ddl import columns, constraints, indexes
from backfilld.migrations.walks.rewrite import Rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations.change_key.member import Follower, Root
    from backfilld.migrations.operations.ddl.kept_numbers import KeptNumbers


@dataclass(frozen=True, kw_only=True)
class OldColumns:
    """The old column of the key, and those of all that refers to it."""

    number: int
    facts: Facts
    root: Root
    followers: tuple[Follower, ...]
    numbers: KeptNumbers | None

    def again(self) -> tuple[Step, ...]:
        """They are there, filled, as the switch left them."""
        root = self.root.change
        steps: list[Step] = [self._added(), *self._walks()]
        for one in self._members:
            change = one.change
            steps += [indexes.build(change.table, index.old) for index in change.dependents.indexes if index.harmless]
        proof = root.not_null(root.old_column)
        if root.keeps:
            steps += [*proof.steps(looks=True), self._fills_itself()]
        elif root.dependents.not_null:
            # The rule itself comes with the exchange; by another name than its, as what is found must not lead behind this.
            steps.append(replace(proof.look, rule=""))
        return tuple(steps)

    def _added(self) -> Action:
        """The columns, empty, and the triggers that fill them for what is written from now on."""
        members = self._members
        statements = list(self.numbers.come_back()) if self.numbers is not None else []
        for one in members:
            change = one.change
            dependents = change.dependents
            statements.append(
                columns.add(change.table, change.old_column, dependents.type, collation=dependents.collation)
            )
        for one in members:
            body = self.root.restoring if one is self.root else one.after
            statements += one.change.trigger.created(body)
        return Action(
            table=self.root.change.table,
            locks=tuple(sorted({one.change.table for one in members}, key=lambda table: (table.schema, table.name))),
            statements=tuple(statements),
            guards=tuple(one.change.trigger.fires_last for one in members),
        )

    def _fills_itself(self) -> Action:
        """The key's old column is what it was: NOT NULL, and filled by its DEFAULT or as an identity."""
        root = self.root.change
        statements = [*constraints.settled_not_null(root.table, root.old_column, proof=root.not_null(root.old_column))]
        statements.append(constraints.not_null_called_after(root.table, root.old_column, other=root.column))
        if self.numbers is None or not self.numbers.sequence.generated:
            statements.append(columns.set_default(root.table, root.old_column, self.facts.default or "NULL"))
        if self.numbers is not None:
            statements += self.numbers.given_back(root.old_column)
        statements.append(root.trigger.turned(self.root.after))
        return Action(table=root.table, statements=tuple(statements))

    # Values

    def _walks(self) -> Iterator[Walk]:
        """A walk for each table, in an order in which what is referred to has its values before they are looked up.

        A table that refers to itself is walked twice, and a longer way through one table more often; each walk of a table does the same.
        """
        tables = [self.root.change.table]
        filled_by = {self._place(self.root): 0}
        for one in self.followers:
            table = one.change.table
            after = filled_by[one.parent.table, one.parent.column]
            later = [number for number, walked in enumerate(tables) if number > after and walked == table]
            if not later:
                tables.append(table)
                later = [len(tables) - 1]
            filled_by[self._place(one)] = later[0]
        for table in tables:
            yield self._walk(table)

    def _walk(self, table: TableName) -> Walk:
        members = [one for one in self._members if one.change.table == table]
        assignments = tuple(one.restored() for one in members)
        is_root = table == self.root.change.table
        # A value is given once: what is there stays, and looking again would ask for another number.
        facts = replace(self.facts, targets=tuple(one.target for one in assignments), repeatable=False)
        names = ", ".join(one.change.column for one in members)
        return Walk(
            kind="restore",
            operation=self.number,
            table=table,
            key=key_now(self._members, table),
            rewrite=Rewrite(
                table=table,
                facts=facts,
                assignments=assignments,
                where=" OR ".join(one.lacks for one in members),
                synced=True,
                writes=" ".join(one.change.trigger.name for one in members),
            ),
            fills=is_root and self.root.later is not None,
            only_archived=is_root and self.root.later is None,
            looks_up=not is_root,
            again=True,
            note=f"the old values of {names}, by the new ones",
        )

    @property
    def _members(self) -> Sequence[Root | Follower]:
        return (self.root, *self.followers)

    @staticmethod
    def _place(one: Root | Follower) -> tuple[TableName, str]:
        return one.change.table, one.change.column
