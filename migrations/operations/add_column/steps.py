"""Add a column, with values for the rows that are there and the ones that come.

expand    the column and its sync trigger, in one short transaction
backfill  lanes give every row its value
verify    every row is looked at; then CHECK (… IS NOT NULL) NOT VALID, and VALIDATE
switch    SET NOT NULL, which trusts the validated check and scans nothing
contract  the sync trigger goes, first its function's body, so that no statement can meet half of it

What the application writes into the column is never replaced: the lanes fill what is NULL, and the trigger computes only rows to
which no value was given (`ddl/column_function.py` has the table). With `computed: true` the column is derived for good: every row
that is written gets the expression's value until contract. A value that cannot be computed is no error of the application's: the
row keeps what it has and is quarantined.

A run that goes back archives what the application has written into the column before it drops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Archived, Plain, Reliance, Statement, Step, Walk, object_name
from backfilld.migrations.operations.ddl import columns
from backfilld.migrations.operations.ddl.column_function import Computed
from backfilld.migrations.operations.ddl.constraints import Rule, not_null, not_null_check
from backfilld.migrations.operations.ddl.sync_trigger import SyncTrigger
from backfilld.migrations.postgres.definitions import PLACE
from backfilld.migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from psycopg import sql


@dataclass(frozen=True, kw_only=True)
class AddColumn(Plain[file.AddColumn]):
    """An `add_column` of a migration, bound to a database."""

    @property
    def sync(self) -> str:
        """The name of the sync function, and of the value of `backfilld.writes` that stands for it."""
        return object_name("sync", self.migration, self.number)

    @property
    def expression(self) -> str | None:
        """What existing rows get; None when the default gave it to them already."""
        if self.definition.backfill is not None:
            return self.definition.backfill
        return self.definition.default if not self.facts.default_fills else None

    def rewrite(self) -> Rewrite | None:
        if self.expression is None:
            return None
        return Rewrite(
            table=self.table,
            facts=self.facts,
            assignments=(Assignment(target=self.facts.targets[0], expression=self.expression),),
            fills_null=self._fills,
            not_null=self.definition.not_null,
            synced=self.definition.backfill is not None,
            writes=self.sync,
        )

    @property
    def _fills(self) -> bool:
        """Only what is NULL: what is there is the application's, or cannot be told from it."""
        return not (self.definition.computed and self.facts.repeatable)

    def expand(self) -> tuple[Step, ...]:
        statements = [*self._column_statements()]
        # What is in the column may be the application's from the beginning.
        back = (*self._keep(), self._gone())
        if self.definition.backfill is None:
            return (Action(table=self.table, statements=tuple(statements), back=back),) if statements else ()
        statements += self._trigger.created(self._computed(self.definition.backfill).body())
        return (Action(table=self.table, statements=tuple(statements), guards=(self._trigger.fires_last,), back=back),)

    def verify(self) -> tuple[Step, ...]:
        # Where no lane has just looked at every row, the application may have written a NULL over the default.
        return self._not_null.steps(looks=self.expression is None) if self.definition.not_null else ()

    def switch(self) -> tuple[Step, ...]:
        if not self.definition.not_null:
            return ()
        return (not_null(self.table, self.definition.column.name, proof=self._not_null),)

    def contract(self) -> tuple[Step, ...]:
        if self.definition.backfill is None:
            return ()
        return (
            Action(table=self.table, statements=(self._trigger.silenced,)),
            Action(table=self.table, statements=(self._trigger.drop, self._trigger.drop_function)),
        )

    def relies_on(self, *, switched: bool) -> Reliance | None:
        del switched
        if self.definition.backfill is None:
            return None
        computed = self._computed(self.definition.backfill)
        return self._trigger.relied_on(computed.body(), (computed.column, *computed.reads, *computed.key))

    def recheck(self) -> Walk | None:
        rewrite = self.rewrite()
        if self.definition.backfill is None or rewrite is None or not rewrite.verifiable:
            return None
        return Walk(kind="recheck", operation=self.number, table=self.table, key=self.facts.key, rewrite=rewrite)

    def _column_statements(self) -> tuple[Statement, ...]:
        if self.facts.adopts:
            return ()
        name, type_, default = self.definition.column.name, self.facts.targets[0].type, self.definition.default
        if default is None:
            return (columns.add(self.table, name, type_),)
        if self.facts.default_fills and self.definition.backfill is None:
            return (columns.add(self.table, name, type_, default=default, note="no rewrite: a constant default"),)
        return (
            columns.add(self.table, name, type_, note="no rewrite: the default is set afterwards"),
            columns.set_default(self.table, name, default),
        )

    def _computed(self, expression: str) -> Computed:
        """The sync function: the new row, read as the table is, gives the column its value."""
        (target,) = self.facts.targets
        return Computed(
            table=self.table,
            column=target.column,
            type=target.type,
            expression=expression,
            migration=self.migration,
            operation=self.number,
            key=() if self.facts.key == PLACE else tuple(one.name for one in self.facts.key),
            reads=self.facts.reads,
            derived=self.definition.computed,
            repeatable=self.facts.repeatable,
            # What cannot be repeated is for the rows that are there: new ones have the DEFAULT.
            default=self.definition.default if self.facts.constant_default and self.facts.repeatable else None,
            counts_omitted=self.definition.not_null and self.definition.default is None,
        )

    def _keep(self) -> tuple[Step, ...]:
        """Before the column goes on the way back: what the application has written into it is archived."""
        if not self.facts.key or self.facts.key == PLACE:
            return ()
        walk = Walk(
            kind="archive",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            archived=Archived(old=(self.definition.column.name,), only=self._own_values()),
            note="what the application wrote into the column is kept in the archive",
        )
        return (walk,)

    def _own_values(self) -> sql.Composed | None:
        """The rows whose value is the application's, as far as that can be told."""
        rewrite = self.rewrite()
        return rewrite.holds_own_value if rewrite is not None and self.facts.repeatable else None

    def _gone(self) -> Action:
        """Take away all that expand added; what the column holds is computed, or was archived before."""
        return self._trigger.gone_with(self.definition.column.name)

    @property
    def _not_null(self) -> Rule:
        name = object_name("backfilld_not_null", self.migration, self.number)
        return not_null_check(self.table, self.definition.column.name, name=name, key=self.facts.key)

    @property
    def _trigger(self) -> SyncTrigger:
        return SyncTrigger(table=self.table, name=self.sync)
