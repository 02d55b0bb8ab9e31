"""Load a file into a table.

enqueue   sends the file into the stage, a table of ours
expand    waits until the whole file is staged; lanes check its lines; one statement each looks for lines with one key
backfill  lanes insert and update rows, and write what they replace into the journal
verify    every line that is left is compared with its row
switch    the counts must agree; the stage goes

There is nothing to contract. The way back deletes rows that were inserted, and gives updated ones what they had.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from backfilld.migrations.file import operations as file
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.loading import check, stage
from backfilld.migrations.loading.loaded_rows import LoadedRows
from backfilld.migrations.loading.loading import Loading
from backfilld.migrations.operations.base import Action, Guard, Plain, Statement, Walk, object_name
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.walks.keys import KeyWalk

if TYPE_CHECKING:
    from backfilld.migrations.operations.base import Step


def stage_of(migration: str, operation: int) -> TableName:
    """The stage of a load."""
    return TableName("backfilld", object_name("stage", migration, operation))


def _staging_note(source: file.Source, into: TableName) -> str:
    if source.query is not None and source.database is None:
        return f"one statement puts what the query gives into {into}"
    return (
        f"{'a worker' if source.is_read_by_a_worker else '`enqueue`'} sends {source.name} into {into}, 2 MB at a time"
    )


@dataclass(frozen=True, kw_only=True)
class Load(Plain[file.Load]):
    """A `load` of a migration, bound to a database."""

    @cached_property
    def loading(self) -> Loading:
        """What its statements are made of."""
        if self.facts.load is None:
            msg = f"operation {self.number} of {self.migration} was not examined as a load"
            raise LookupError(msg)
        return Loading(
            definition=self.definition,
            facts=self.facts.load,
            key=self.facts.key,
            number=self.number,
            stage=stage_of(self.migration, self.number),
        )

    def journal(self, run: int) -> LoadedRows:
        """Where a run keeps what it replaces and inserts."""
        return LoadedRows(
            run=run,
            operation=self.number,
            walk=KeyWalk(table=self.table, key=self.facts.key),
            targets=self.loading.targets,
            others=self.loading.facts.others,
        )

    def expand(self) -> tuple[Step, ...]:
        loading = self.loading
        drop = Statement(sql=stage.drop(loading.stage), lock=LockMode.NONE, note="takes the stage away")
        all_lines = tuple(
            Statement(sql=statement, lock=LockMode.NONE, note=f"on the stage alone: {what}")
            for statement, what in check.of_all_lines(loading)
        )
        return (
            Walk(
                kind="stage",
                operation=self.number,
                table=self.table,
                key=self.facts.key,
                note=_staging_note(self.definition.source, loading.stage),
                back=(Action(table=None, statements=(drop,)),),
            ),
            Walk(
                kind="check",
                operation=self.number,
                table=self.table,
                key=self.facts.key,
                note="lanes check the lines; those that cannot be loaded are set aside, each with its error",
            ),
            Action(table=None, statements=all_lines, scans=True),
        )

    def undo(self) -> tuple[Step, ...]:
        note = "deletes rows that were inserted and are untouched, and gives those that were updated what they had"
        return (Walk(kind="undo", operation=self.number, table=self.table, key=self.facts.key, note=note),)

    def switch(self) -> tuple[Step, ...]:
        loading = self.loading
        agree = Guard(
            sql=check.disagreement(loading),
            template="the counts of the load do not agree: {!r}",
            remedy="Nothing is lost: the stage and the journal are there. Report it with the output of `backfilld status --json`",
        )
        drop = Statement(sql=stage.drop(loading.stage), lock=LockMode.NONE, note="takes the stage away")
        return (Action(table=None, statements=(drop,), requires=(agree,)),)
