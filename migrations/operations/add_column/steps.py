"""Add a column, with values for the rows that are there and the ones that come.

expand    the column and its sync trigger, in one short transaction
backfill  lanes give every row its value
verify    every row is looked at; then CHECK (… IS NOT NULL) NOT VALID, and VALIDATE
switch    SET NOT NULL, which trusts the validated check and scans nothing
contract  the sync trigger goes, first its function's body, so that no statement can meet half of it

Until contract the column is computed: the trigger gives each inserted or updated row the expression's value, whoever wrote it.
A value that cannot be computed becomes NULL rather than an error of the application's; verify finds the row.

From contract on, and without `backfill:` from the beginning, the application may write into the column. A run that goes back
from there archives the column before it drops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Action, Archived, Plain, Statement, Step, Walk, object_name
from backfilld.migrations.operations.ddl.rule import BRIEF, Rule, not_null, not_null_check
from backfilld.migrations.operations.ddl.sync_function import SyncTrigger, one_way
from backfilld.migrations.operations.ddl.sync_trigger import created, dropped, fires_last, silenced
from backfilld.migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import AddColumn as Definition
    from backfilld.migrations.identifiers import TableName


@dataclass(frozen=True, kw_only=True)
class AddColumn(Plain):
    """An `add_column` of a migration, bound to a database."""

    definition: Definition
    migration: str
    number: int

    @property
    def table(self) -> TableName:
        return self.definition.table

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
            fills_null=not self.facts.repeatable,
            not_null=self.definition.not_null,
            synced=self.definition.backfill is not None,
            writes=self.sync,
        )

    def expand(self) -> tuple[Step, ...]:
        statements = [*self._column_statements()]
        if self.definition.backfill is None:
            # Nothing computes the column, so what is in it may be the application's from the beginning.
            back = (*self._keep(), self._gone())
            return (Action(table=self.table, statements=tuple(statements), back=back),) if statements else ()
        statements += created(self._trigger, self._body())
        return (
            Action(
                table=self.table,
                statements=tuple(statements),
                guards=(fires_last(self._trigger),),
                back=(self._gone(),),
            ),
        )

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
            Action(table=self.table, statements=(silenced(self._trigger),), back=self._keep()),
            Action(table=self.table, statements=dropped(self._trigger)),
        )

    def _column_statements(self) -> tuple[Statement, ...]:
        if self.facts.adopts:
            return ()
        type_ = sql.SQL(self.facts.targets[0].type)  # as format_type wrote it
        add = sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(self.table.identifier, self._column, type_)
        if self.definition.default is None:
            return (Statement(sql=add, lock="ACCESS EXCLUSIVE", note="no rewrite; " + BRIEF),)
        default = sql.SQL(" DEFAULT (\n{}\n)").format(sql.SQL(self.definition.default))  # checked by preflight
        if self.facts.default_fills and self.definition.backfill is None:
            return (
                Statement(sql=add + default, lock="ACCESS EXCLUSIVE", note="no rewrite: a constant default; " + BRIEF),
            )
        set_default = (
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET").format(self.table.identifier, self._column) + default
        )
        return (
            Statement(sql=add, lock="ACCESS EXCLUSIVE", note="no rewrite: the default comes after; " + BRIEF),
            Statement(sql=set_default, lock="ACCESS EXCLUSIVE", note="for rows to come"),
        )

    def _body(self) -> str:
        """The sync function: the new row, read as the table is, gives the column its value."""
        return one_way(
            self.table,
            self.definition.column.name,
            str(self.definition.backfill),
            only_null=not self.facts.repeatable,
        )

    def _keep(self) -> tuple[Step, ...]:
        """Before the column goes on the way back: what the application has written into it is archived."""
        if not self.facts.key:
            return ()
        walk = Walk(
            kind="archive",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            archived=Archived(old=self.definition.column.name),
            note="what the application wrote into the column is kept in the archive",
        )
        return (walk,)

    def _gone(self) -> Action:
        """Take away all that expand added; what the column holds is computed, or was archived before."""
        drop_column = sql.SQL("ALTER TABLE {} DROP COLUMN IF EXISTS {}").format(self.table.identifier, self._column)
        drop_trigger, drop_function = dropped(self._trigger)
        return Action(
            table=self.table,
            statements=(
                drop_trigger,
                Statement(sql=drop_column, lock="ACCESS EXCLUSIVE", note=BRIEF),
                drop_function,
            ),
        )

    @property
    def _column(self) -> sql.Identifier:
        return sql.Identifier(self.definition.column.name)

    @property
    def _not_null(self) -> Rule:
        name = object_name("backfilld_not_null", self.migration, self.number)
        return not_null_check(self.table, self.definition.column.name, name=name, key=self.facts.key)

    @property
    def _trigger(self) -> SyncTrigger:
        return SyncTrigger(table=self.table, name=self.sync)
