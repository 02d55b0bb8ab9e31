"""Move a column to another table, whose rows refer to those of this one, each to another.

expand    the column in the other table, and sync triggers that keep both saying the same, in one short transaction
backfill  lanes copy the values; a row that has none in the other table gets one there
verify    every row is looked at; then ANALYZE
switch    DROP NOT NULL, where the column has it, so that the application may leave it out
contract  what would be lost with the column must be gone; then it goes, with the triggers

Neither column is the primary: the last statement counts, in whichever table it wrote. Nothing is archived, as every value is in the
other table; the way back takes it from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Guard, Plain, Reliance, Statement, Step, Walk, object_name
from backfilld.migrations.operations.ddl import columns, dropped_column, put_down, statistics
from backfilld.migrations.operations.ddl.moved_function import Moved
from backfilld.migrations.operations.ddl.sync_trigger import SyncTrigger
from backfilld.migrations.walks.rewrite import Assignment, Copied, Rewrite

if TYPE_CHECKING:
    from backfilld.migrations.facts import Dropped
    from backfilld.migrations.identifiers import TableName


@dataclass(frozen=True, kw_only=True)
class MoveColumn(Plain[file.MoveColumn]):
    """A `move_column` of a migration, bound to a database."""

    def rewrite(self) -> Rewrite:
        moved = self._moved
        return Rewrite(
            table=self.table,
            facts=self.facts,
            assignments=(),
            where=moved.is_not_there(row=self._row),
            synced=True,
            writes=self._on_to.name,
            copies=Copied(table=moved.to, on=moved.on, by=moved.by, column=moved.column),
        )

    def expand(self) -> tuple[Step, ...]:
        (target,) = self.facts.targets
        added = columns.add(
            self.definition.to, target.column, target.plain_type, collation=self.facts.collation or None
        )
        gone = columns.drop_if_exists(self.definition.to, target.column)
        return (
            Action(
                table=self.table,
                locks=self._locks,
                statements=(added, *self._triggers(counts=False)),
                back=(
                    Action(
                        table=self.table, locks=self._locks, statements=(*self._no_triggers, gone, *self._no_functions)
                    ),
                ),
            ),
        )

    def verify(self) -> tuple[Step, ...]:
        return (statistics.analyze(self.definition.to, self.definition.column),)

    def switch(self) -> tuple[Step, ...]:
        name = self.definition.column
        strict = (columns.drop_not_null(self.table, name, note="the application may leave it out"),)
        proof = object_name("backfilld_not_null", self.migration, self.number)
        return (
            Action(
                table=self.table,
                locks=self._locks,
                statements=(
                    self._on_from.turned(self._moved.from_body(counts=True)),
                    *(strict if self._dropped.not_null else ()),
                ),
                guards=(self._on_from.fires, self._on_to.fires, self._on_truncate.fires),
                back=(
                    Action(
                        table=self.table,
                        requires=(self._same,),
                        statements=(self._on_from.turned(self._moved.from_body(counts=False, filled=False)),),
                        frees=True,
                    ),
                    *(
                        dropped_column.not_null_again(self.table, name, name=proof, key=self.facts.key)
                        if self._dropped.not_null
                        else ()
                    ),
                ),
            ),
        )

    def contract(self) -> tuple[Step, ...]:
        name = self.definition.column
        lost = dropped_column.nothing_lost(self.table, name, self._dropped, instead=f"{self.definition.to}.{name}")
        return (
            Action(
                table=self.table,
                locks=self._locks,
                requires=(lost,),
                statements=(*self._no_triggers, columns.drop_if_exists(self.table, name), *self._no_functions),
                back=(
                    Action(
                        table=self.table,
                        locks=self._locks,
                        statements=(
                            *dropped_column.added(self.table, name, self._dropped),
                            *self._triggers(counts=True, filled=False),
                        ),
                        frees=True,
                    ),
                    self._restored(),
                    *dropped_column.carried(self.table, self._dropped, key=self.facts.key),
                ),
            ),
        )

    def relies_on(self, *, switched: bool) -> Reliance:
        moved = self._moved
        return self._on_from.relied_on(moved.from_body(counts=switched), (moved.column, *moved.by))

    def also_relies_on(self, *, switched: bool) -> tuple[Reliance, ...]:
        del switched
        moved = self._moved
        named = (moved.column, *moved.on)
        return (
            self._on_to.relied_on(moved.to_body, named),
            self._on_truncate.relied_on(moved.truncated_body, named),
        )

    def recheck(self) -> Walk:
        return Walk(
            kind="recheck",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            rewrite=self.rewrite(),
            writes=False,  # an application may have written either table, and nothing tells which last
        )

    def _restored(self) -> Walk:
        """The column gets what the other table holds; rows are written where they differ, so that the triggers find nothing to do."""
        moved = self._moved
        value = moved.there(row=self._row)
        return Walk(
            kind="restore",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            rewrite=Rewrite(
                table=self.table,
                facts=self.facts,
                assignments=(Assignment(target=self.facts.targets[0], expression=value),),
                synced=True,
                reads_others=True,
                writes=self._on_from.name,
            ),
            note=f"the values that {moved.to} has",
        )

    @property
    def _same(self) -> Guard:
        """No row that was put down holds anything else than the other table."""
        moved = self._moved
        return put_down.guard(
            self.table,
            key=self.facts.key,
            migration=self.migration,
            operation=self.number,
            condition=sql.SQL(moved.is_not_there(row="t")),
            template=f"rows whose {moved.column} is not what {moved.to} holds, with their keys: {{!r}}",
        )

    # The triggers

    def _triggers(self, *, counts: bool, filled: bool = True) -> tuple[Statement, ...]:
        return (
            *self._on_from.created(self._moved.from_body(counts=counts, filled=filled)),
            *self._on_to.created(self._moved.to_body),
            *self._on_truncate.created(self._moved.truncated_body),
        )

    @property
    def _no_triggers(self) -> tuple[Statement, ...]:
        return (self._on_from.drop, self._on_to.drop, self._on_truncate.drop)

    @property
    def _no_functions(self) -> tuple[Statement, ...]:
        return (self._on_from.drop_function, self._on_to.drop_function, self._on_truncate.drop_function)

    @property
    def _on_from(self) -> SyncTrigger:
        name = object_name("sync", self.migration, self.number)
        return SyncTrigger(table=self.table, name=name, fires_on="AFTER INSERT OR UPDATE")

    @property
    def _on_to(self) -> SyncTrigger:
        name = f"{object_name('sync', self.migration, self.number)}_to"
        return SyncTrigger(table=self.definition.to, name=name, fires_on="AFTER INSERT OR UPDATE OR DELETE")

    @property
    def _on_truncate(self) -> SyncTrigger:
        name = f"{object_name('sync', self.migration, self.number)}_gone"
        return SyncTrigger(table=self.definition.to, name=name, fires_on="AFTER TRUNCATE", for_each="STATEMENT")

    @property
    def _moved(self) -> Moved:
        (target,) = self.facts.targets
        return Moved(
            table=self.table,
            to=self.definition.to,
            column=target.column,
            type=target.plain_type,
            on=self.definition.on,
            by=self.facts.referenced,
            equalities=self.facts.equalities,
            key=tuple(one.name for one in self.facts.key),
            migration=self.migration,
            operation=self.number,
        )

    @property
    def _row(self) -> str:
        """A row, as expressions know it."""
        return sql.Identifier(self.table.name).as_string()

    @property
    def _locks(self) -> tuple[TableName, ...]:
        return tuple(sorted((self.table, self.definition.to), key=lambda table: (table.schema, table.name)))

    @property
    def _dropped(self) -> Dropped:
        if self.facts.dropped is None:
            msg = f"{self.table}.{self.definition.column} was not examined before it was moved"
            raise LookupError(msg)
        return self.facts.dropped
