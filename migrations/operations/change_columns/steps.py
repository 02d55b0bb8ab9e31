"""Let other columns of the row say what some say now: one that is split, or several that are merged.

expand    the new columns and the sync trigger that keeps both sets saying the same, in one short transaction
backfill  lanes give every row its new values; rows whose values cannot be computed are quarantined with their errors
verify    every row is looked at; then ANALYZE
switch    the sync trigger turns round: the new columns are the primary; NOT NULL of the old ones goes, as what no longer fits them
          must be no error of the application's
contract  what would be lost with the old columns must be gone; their values go to the archive; then they go, with the trigger

Nothing changes its name, so both versions of the application work from expand to contract. What a row says is agreed where the old
columns are what `down` gives of the new ones (`ddl/sync_columns.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Replaced
from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import (
    Action,
    Archived,
    Guard,
    Plain,
    Reliance,
    Statement,
    Step,
    Walk,
    object_name,
)
from backfilld.migrations.operations.ddl import columns, dropped_column, put_down, statistics
from backfilld.migrations.operations.ddl.sync_columns import ColumnSets
from backfilld.migrations.operations.ddl.sync_function import RollbackConflicts, Side
from backfilld.migrations.operations.ddl.sync_trigger import SyncTrigger
from backfilld.migrations.rollback.archive import restored
from backfilld.migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.facts import Target


@dataclass(frozen=True, kw_only=True)
class ChangeColumns(Plain[file.ChangeColumns]):
    """A `change_columns` of a migration, bound to a database."""

    def rewrite(self) -> Rewrite:
        return self._rewritten(self.facts.targets, self.definition.up, where=self._differs_or_empty())

    def expand(self) -> tuple[Step, ...]:
        added = [columns.add(self.table, target.column, target.type) for target in self.facts.targets]
        return (
            Action(
                table=self.table,
                statements=(*added, *self._trigger.created(self._before)),
                guards=(self._trigger.fires_last,),
                back=(self._gone(self.facts.targets),),
            ),
        )

    def verify(self) -> tuple[Step, ...]:
        return (statistics.analyze(self.table, *self._new),)

    def switch(self) -> tuple[Step, ...]:
        strict = self._strict
        return (
            Action(
                table=self.table,
                requires=(self._fits(empty=self._new, full=self._old),),
                statements=(
                    self._trigger.turned(self._after()),
                    *(columns.drop_not_null(self.table, name) for name in strict),
                ),
                back=(
                    Action(
                        table=self.table,
                        requires=(self._fits(empty=self._old, full=self._new),),
                        statements=(self._trigger.turned(self._before),),
                        frees=True,
                    ),
                    *(step for name in strict for step in self._not_null_again(name)),
                ),
            ),
        )

    def contract(self) -> tuple[Step, ...]:
        nothing_lost = tuple(self._nothing_lost())
        return (
            Action(table=self.table, statements=(), guards=nothing_lost),
            Walk(
                kind="archive",
                operation=self.number,
                table=self.table,
                key=self.facts.key,
                archived=Archived(old=self._old, new=self._new),
                note=f"the values of {', '.join(self._old)}, with the new ones that replaced them",
            ),
            replace(self._gone(self._replaced.targets), requires=nothing_lost, back=self._old_again()),
        )

    def relies_on(self, *, switched: bool) -> Reliance:
        known = self._replaced
        named = (*self._old, *self._new, *known.up_reads, *known.down_reads, *(one.name for one in self.facts.key))
        return self._trigger.relied_on(self._after() if switched else self._before, named)

    def recheck(self) -> Walk:
        return Walk(
            kind="recheck",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            # What an application wrote into the new columns need not be what `up` gives of the old ones, so `down` is asked alone.
            rewrite=self._rewritten(self._replaced.targets, self.definition.down, where=None),
        )

    # The sync trigger

    @property
    def _trigger(self) -> SyncTrigger:
        return SyncTrigger(table=self.table, name=object_name("sync", self.migration, self.number))

    @property
    def _before(self) -> str:
        """The body of its function before the switch: the old columns are the primary."""
        return self._sets.body()

    def _after(self, *, walked_by: Iterable[str] = ()) -> str:
        """The body of its function after the switch: the new columns are the primary."""
        return replace(
            self._sets,
            settled=True,
            reads=self._replaced.down_reads,
            walked_by=tuple(walked_by),
            counts_shadow=(self.migration, self.number),
        ).body()

    @property
    def _sets(self) -> ColumnSets:
        known, key = self._replaced, tuple(one.name for one in self.facts.key)
        old = tuple(
            Side(
                column=target.column,
                type=target.type,
                expression=self.definition.down[target.column],
                default=dropped.default if constant else None,
                fills_itself=dropped.default is not None and not constant,
            )
            for target, dropped, constant in zip(known.targets, known.dropped, known.constant_defaults, strict=True)
        )
        new = tuple(
            Side(column=one.column, type=one.type, expression=self.definition.up[one.column])
            for one in self.facts.targets
        )
        conflicts = RollbackConflicts(migration=self.migration, operation=self.number, key=key)
        return ColumnSets(table=self.table, old=old, new=new, rollback_conflicts=conflicts)

    # Rows

    def _rewritten(self, targets: Sequence[Target], expressions: dict[str, str], *, where: str | None) -> Rewrite:
        return Rewrite(
            table=self.table,
            facts=replace(self.facts, targets=tuple(targets)),
            assignments=tuple(Assignment(target=one, expression=expressions[one.column]) for one in targets),
            where=where,
            synced=True,
            writes=self._trigger.name,
        )

    def _differs_or_empty(self) -> str:
        """SQL over a row: it does not agree."""
        empty = " AND ".join(f"{self._in_row(name)} IS NOT DISTINCT FROM NULL" for name in self._new)
        targets = self._replaced.targets
        now = ", ".join(f"CAST({self._in_row(one.column)} AS {one.type})" for one in targets)
        said = ", ".join(f"CAST((\n{self.definition.down[one.column]}\n) AS {one.type})" for one in targets)
        return f"({empty}) OR ROW({now})::record OPERATOR(pg_catalog.*<>) ROW({said})::record"

    def _in_row(self, column: str) -> str:
        return sql.Identifier(self.table.name, column).as_string()

    def _fits(self, *, empty: Sequence[str], full: Sequence[str]) -> Guard:
        """No row may be without values in one set because those in the other did not fit.

        The sync trigger has put such a row down as a rollback conflict, or lanes have quarantined it.
        """
        is_full = sql.SQL(" OR ").join(
            sql.SQL("t.{} IS DISTINCT FROM NULL").format(sql.Identifier(name)) for name in full
        )
        is_empty = sql.SQL(" AND ").join(
            sql.SQL("t.{} IS NOT DISTINCT FROM NULL").format(sql.Identifier(name)) for name in empty
        )
        return put_down.guard(
            self.table,
            key=self.facts.key,
            migration=self.migration,
            operation=self.number,
            condition=sql.SQL("({}) AND {}").format(is_full, is_empty),
            template=f"rows of whose {', '.join(full)} nothing could be computed for {', '.join(empty)}, with their keys: {{!r}}",
        )

    # The old columns

    def _gone(self, targets: Sequence[Target]) -> Action:
        """The trigger goes, and columns that only it kept right."""
        trigger = self._trigger
        return Action(
            table=self.table,
            statements=(
                trigger.silenced,
                trigger.drop,
                *(columns.drop_if_exists(self.table, one.column) for one in targets),
                trigger.drop_function,
            ),
        )

    def _nothing_lost(self) -> Iterable[Guard]:
        """Nothing uses an old column but what comes back with it."""
        for target, dropped in zip(self._replaced.targets, self._replaced.dropped, strict=True):
            yield dropped_column.nothing_lost(self.table, target.column, dropped, instead=", ".join(self._new))

    def _old_again(self) -> tuple[Step, ...]:
        """The old columns as they were: first their values, then what they carried."""
        known = self._replaced
        pairs = list(zip(known.targets, known.dropped, strict=True))
        added: list[Statement] = []
        for target, dropped in pairs:
            added += dropped_column.added(self.table, target.column, dropped)
        restoring = self._after(walked_by=(one.name for one in self.facts.key))
        return (
            Action(
                table=self.table,
                statements=(*added, *self._trigger.created(restoring)),
                guards=(self._trigger.fires_last,),
                frees=True,
            ),
            self._restored(),
            *(step for _, dropped in pairs for step in dropped_column.carried(self.table, dropped, key=self.facts.key)),
        )

    def _restored(self) -> Walk:
        several = len(self._old) > 1
        values = {
            target.column: restored(
                table=self.table,
                type_=target.type,
                new=self._new,
                fallback=self.definition.down[target.column],
                place=place if several else None,
            )
            for place, target in enumerate(self._replaced.targets, start=1)
        }
        return Walk(
            kind="restore",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            rewrite=self._rewritten(self._replaced.targets, values, where=None),
            note="the archived values where the new ones are still what replaced them, else `down`",
        )

    def _not_null_again(self, column: str) -> tuple[Step, ...]:
        number = self._old.index(column)
        name = f"{object_name('backfilld_not_null', self.migration, self.number)}_{number}"
        return dropped_column.not_null_again(self.table, column, name=name, key=self.facts.key)

    @property
    def _strict(self) -> tuple[str, ...]:
        """The old columns that are NOT NULL."""
        known = self._replaced
        return tuple(
            target.column for target, dropped in zip(known.targets, known.dropped, strict=True) if dropped.not_null
        )

    @property
    def _old(self) -> tuple[str, ...]:
        return tuple(one.column for one in self._replaced.targets)

    @property
    def _new(self) -> tuple[str, ...]:
        return tuple(one.column for one in self.facts.targets)

    @property
    def _replaced(self) -> Replaced:
        return self.facts.replaced or Replaced(targets=(), dropped=(), constant_defaults=(), up_reads=(), down_reads=())
