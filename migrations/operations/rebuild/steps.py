"""Make a table anew beside itself while it is used, and put the new one in its place.

expand    a schema of the run's own with the new table in it, bare; a journal of keys and the triggers that write it
backfill  lanes copy all rows; rows that do not fit are quarantined with their errors. Then, on the new table, which nobody else uses:
          rows that were written meanwhile go, the key is built, what the journal names is brought over, the indexes are built, and
          the table gets all that belongs to it
verify    lanes compare both tables, row by row and bit by bit; the key of a row that differs goes into the journal
switch    what the journal names is brought over; then one transaction: the last keys, foreign keys in and out, triggers, publications
          and sequences change hands, the two tables change their schemas, and the journal turns round; then each foreign key is proved
contract  the journal goes, and the old table is put away until the retention ends

From the switch on the old table follows the new one, so the way back is the same exchange. After contract it is compared and brought
up to date first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Reliance, Statement, Step, Walk, object_name
from backfilld.migrations.operations.ddl import statistics, tables
from backfilld.migrations.operations.rebuild.exchange import Exchange
from backfilld.migrations.operations.rebuild.new_table import NewTable
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.walks.rewrite import Rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.walks.copying import Copying

#: The index by which the rows of the new table are put in order; it goes again.
_CLUSTER = "backfilld_cluster"


@dataclass(frozen=True, kw_only=True)
class Rebuild(Plain[file.Rebuild]):
    """A `rebuild` of a migration, bound to a database."""

    @cached_property
    def new(self) -> NewTable:
        if self.facts.definition is None:
            msg = f"nothing is known of {self.table}"
            raise TypeError(msg)
        return NewTable(
            table=self.table,
            definition=self.facts.definition,
            of=self.definition,
            key=self.facts.key,
            migration=self.migration,
            number=self.number,
        )

    def rewrite(self) -> Rewrite | None:
        # Not `self.new` alone: preflight asks before the key is chosen.
        copies = self.new.forward if self.facts.definition is not None else None
        return Rewrite(table=self.table, facts=self.facts, assignments=(), remakes=copies) if copies else None

    def expand(self) -> tuple[Step, ...]:
        new = self.new
        gone = (
            *new.journal.gone,
            Statement(sql=sql.SQL("DROP TABLE IF EXISTS {}").format(new.next.identifier), lock=LockMode.NONE),
            *(tables.drop_schema(one.schema) for one in (new.next, new.past)),
        )
        return (
            Action(
                table=self.table,
                statements=(*self._schemas, *new.created, *new.journal.created),
                back=(Action(table=self.table, statements=gone),),
            ),
        )

    def fill(self) -> tuple[Step, ...]:
        new = self.new
        keys_out = Statement(
            sql=new.forward.keys_out(), lock=LockMode.NONE, note="rows that were written while they were copied"
        )
        return (
            self._built((keys_out,)),
            *self._clustered(),
            *(self._built((one,)) for one in new.made("key")),
            statistics.analyze(new.next),
            self._drained(new.forward),
            *(self._built((one,)) for one in new.made("unique")),
            *(self._built((one,)) for one in new.made("index")),
            Action(table=new.next, statements=new.belongs_to_it),
            statistics.analyze(new.next),
        )

    def switch(self) -> tuple[Step, ...]:
        forward, backward = Exchange(new=self.new, forward=True), Exchange(new=self.new, forward=False)
        journal = self.new.journal
        back: tuple[Step, ...] = (
            *([self._drained(self.new.back), *copies] if (copies := self._copies(self.new.past)) else ()),
            self._drained(self.new.back),
            backward.action,
            *backward.proofs,
            journal.older_snapshots_gone("back"),
        )
        return (
            journal.older_snapshots_gone("before"),
            *self._copies(self.new.next),
            self._drained(self.new.forward),
            replace(forward.action, back=back),
            *forward.proofs,
        )

    def contract(self) -> tuple[Step, ...]:
        new = self.new
        again = Action(
            table=self.table,
            statements=(
                *self._schemas,
                *tables.bring_back(new.past, new.kept, self.facts.parts, self._partitions),
                *self._statistics_moved(back=True),
                *new.journal.created,
            ),
            needs_kept=True,
        )
        return (
            new.journal.older_snapshots_gone("after"),
            Action(
                table=self.table,
                statements=(
                    *new.journal.gone,
                    *self._statistics_moved(back=False),
                    *tables.put_away(new.past, new.kept, self.facts.parts, self._partitions),
                    *(tables.drop_schema(one.schema) for one in (new.next, new.past)),
                ),
                back=(again, self._compared),
            ),
        )

    def relies_on(self, *, switched: bool) -> Reliance | None:
        columns = self.new.columns if switched else self.new.definition.columns
        return self.new.journal.relied_on(tuple(one.name for one in columns))

    def recheck(self) -> Walk:
        return replace(self._compared, kind="recheck")

    @property
    def _partitions(self) -> tuple[str, ...]:
        """Those of the old table."""
        return tuple(one.name for one in self.new.definition.own_partitions)

    @property
    def _schemas(self) -> tuple[Statement, ...]:
        return tuple(
            tables.make_schema(one.schema, owner=self.new.definition.owner) for one in (self.new.next, self.new.past)
        )

    def _copies(self, comes: TableName) -> tuple[Action, ...]:
        """Materialized views over the table that is about to come, with their rows: in the exchange they only move."""
        if not self.new.definition.copied:
            return ()
        gone = Action(table=comes, statements=self.new.copies_gone(comes.schema))
        return (Action(table=comes, statements=self.new.copies_made(comes.schema), scans=True, back=(gone,)),)

    def _built(self, statements: tuple[Statement, ...]) -> Action:
        """Something that takes as long as the new table is large, and that nobody waits for."""
        return Action(table=self.new.next, statements=statements, scans=True)

    @property
    def _compared(self) -> Walk:
        return Walk(
            kind="match",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            copying=self.new.back,
            note="the old table against the new one: keys of rows that differ go into the journal",
        )

    def _drained(self, copying: Copying) -> Walk:
        return Walk(
            kind="drain_back" if copying.backwards else "drain",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            copying=copying,
            note=f"rows that were written since, brought over to {copying.target}",
        )

    def _clustered(self) -> Iterator[Action]:
        """Rows in the order of some columns, before the new table has an index of its own."""
        if not (columns := self.definition.cluster_by):
            return
        table, name = self.new.next, sql.Identifier(_CLUSTER)
        listed = sql.SQL(", ").join(map(sql.Identifier, columns))
        for one in (
            sql.SQL("CREATE INDEX {} ON {} ({})").format(name, table.identifier, listed),
            sql.SQL("CLUSTER {} USING {}").format(table.identifier, name),
            sql.SQL("DROP INDEX {}").format(sql.Identifier(table.schema, _CLUSTER)),
        ):
            yield self._built((Statement(sql=one, lock=LockMode.NONE, note="the new table, which nobody else uses"),))

    def _statistics_moved(self, *, back: bool) -> Iterator[Statement]:
        """Extended statistics of the old table, which is put away: they have a schema and a name of their own."""
        for place, one in enumerate(self.new.definition.statistics):
            kept = f"{object_name('statistics', self.migration, self.number)}_{place}"
            past = self.new.past.schema
            if back:
                yield statistics.set_schema(tables.KEPT_IN, kept, past)
                yield statistics.rename(past, kept, one.name)
            else:
                yield statistics.rename(past, one.name, kept)
                yield statistics.set_schema(past, kept, tables.KEPT_IN)
