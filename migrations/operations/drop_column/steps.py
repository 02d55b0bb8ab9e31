"""Take a column away, once its values are archived.

switch    DROP NOT NULL, so that the application may leave the column out
contract  lanes copy the column into the archive, and look again that no row is missing; then DROP COLUMN

The way back adds the column again, gives every row its value from the archive, and then brings back what the column carried:
indexes CONCURRENTLY, constraints by a scan that blocks no statement. Rows added since get what `down` gives, or the column's default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Archived, Plain, Step, Walk, object_name
from backfilld.migrations.operations.ddl import columns, dropped_column
from backfilld.migrations.rollback.archive import restored
from backfilld.migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from backfilld.migrations.facts import Dropped


@dataclass(frozen=True, kw_only=True)
class DropColumn(Plain[file.DropColumn]):
    """A `drop_column` of a migration, bound to a database."""

    def switch(self) -> tuple[Step, ...]:
        if not self._dropped.not_null:
            return ()
        drop = columns.drop_not_null(self.table, self.definition.column, note="the application may leave it out")
        return (Action(table=self.table, statements=(drop,), back=(self._restore(), *self._not_null_again())),)

    def contract(self) -> tuple[Step, ...]:
        archive = Walk(
            kind="archive",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            archived=Archived(old=(self.definition.column,)),
            note="copies the column into the archive, then checks that no row is missing",
        )
        drop = columns.drop(self.table, self.definition.column, note="its values are in the archive")
        return (archive, Action(table=self.table, statements=(drop,), back=self._again()))

    def _again(self) -> tuple[Step, ...]:
        """The column as it was: first its values, then what it carried."""
        table, dropped = self.table, self._dropped
        return (
            Action(table=table, statements=dropped_column.added(table, self.definition.column, dropped), frees=True),
            self._restore(),
            *dropped_column.carried(table, dropped, key=self.facts.key),
        )

    def _restore(self) -> Walk:
        """Rows without a value get the archived one, or that of `down` or the default where the archive does not have the row.

        The same walk whether the column is gone or has only been left out: it is done once on the way back.
        """
        given = self.definition.down or self._dropped.default
        value = restored(
            table=self.table,
            type_=self._dropped.type,
            fallback=given or "NULL",
        )
        rewrite = Rewrite(
            table=self.table,
            facts=self.facts,
            assignments=(Assignment(target=self.facts.targets[0], expression=value),),
            where=f"{value} IS NOT NULL",
            fills_null=True,
        )
        return Walk(
            kind="restore",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            rewrite=rewrite,
            fills=given is not None,
            note="from the archive, where the row has no value yet",
        )

    def _not_null_again(self) -> tuple[Step, ...]:
        name = object_name("backfilld_not_null", self.migration, self.number)
        return dropped_column.not_null_again(self.table, self.definition.column, name=name, key=self.facts.key)

    @property
    def _dropped(self) -> Dropped:
        if self.facts.dropped is None:
            msg = f"{self.table}.{self.definition.column} was not examined before its drop"
            raise LookupError(msg)
        return self.facts.dropped
