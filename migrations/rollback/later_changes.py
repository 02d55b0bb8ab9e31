"""What has changed since a run that its way back relies on: columns that are gone or have another type, and which later run did it.

PostgreSQL is asked whether it would take the statements of the way back, as they are: a journal of integers goes back into a column
that is bigint by now, and not into one that is jsonb. What it says is then told in words: which column, and which run to roll back
first. A run that decides about a column of a later one (drops it, renames it) is taken back after that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backfilld.migrations.errors import InvalidMigration
from backfilld.migrations.file import operations as file
from backfilld.migrations.loading.unload import Unload
from backfilld.migrations.operations import Walk
from backfilld.migrations.operations.load.steps import Load
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.postgres.sqlstates import in_words
from backfilld.migrations.record import runs
from backfilld.migrations.record.model import JournalShare
from backfilld.migrations.record.states import State
from backfilld.migrations.rollback.deletion import DeletedRows, Reinsertion
from backfilld.migrations.rollback.journal import Journal
from backfilld.migrations.rollback.retention import is_kept
from backfilld.migrations.rollback.undo import Undo
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.migrations.walks.next_batch import JournalSlice

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Operation, Step
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run

#: What PostgreSQL says of a statement that names what is not there, or is of another type: its class of SQLSTATEs, but for rights.
_NAMES_AND_TYPES, _RIGHTS = "42", "42501"
#: What an operation does with a column that is taken back in its turn.
_DECIDES = {
    "added": "added",
    "renamed": "renamed",
    "changed": "changed the type of",
    "replaced": "replaced",
    "moved": "moved",
    "dropped": "dropped",
}
#: Nothing is sent: it is only asked whether PostgreSQL takes the statement.
_ANY_SLICE = JournalSlice(batch=0, entry=0, last_entry=0, first=1, last=1, pass_=1)


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What the way back of a run would stop at."""

    because: str
    remedy: str


def look(connection: Connection, run: Run, operations: Sequence[Operation], steps: Sequence[Step]) -> Changed | None:
    """What later runs have changed that the way back needs; None for nothing. `steps` are those of the way back that are left."""
    later = _Later.of(connection, run)
    if run.state is State.COMPLETED and (found := next(_decided_again(run, later), None)):
        return found
    walks = [step for step in steps if isinstance(step, Walk) and step.kind == "undo"]
    if walks and is_kept(connection, "journal", run.run):
        for walk in walks:
            if (found := _refused(connection, run, operations, walk, later)) is not None:
                return found
    return None


@dataclass(frozen=True, kw_only=True)
class _Later:
    """Later runs that are not taken back, by the columns about which they decide."""

    columns: dict[tuple[TableName, str], tuple[Run, str]]
    tables: dict[TableName, tuple[Run, str]]

    @classmethod
    def of(cls, connection: Connection, run: Run) -> _Later:
        columns: dict[tuple[TableName, str], tuple[Run, str]] = {}
        tables: dict[TableName, tuple[Run, str]] = {}
        for one in runs.later(connection, run.run):
            for table, column, verb in _decided(one):
                columns[table, column] = one, verb  # the latest is taken back first
            for operation in _operations(one):
                if isinstance(operation, file.RenameTable | file.DropTable):
                    tables[operation.table] = one, "renamed" if isinstance(operation, file.RenameTable) else "dropped"
        return cls(columns=columns, tables=tables)

    def changed(self, table: TableName, columns: Sequence[str]) -> Changed | None:
        """The run that is to be taken back first, where one of them decided about the table or the columns."""
        found = [(self.tables[table], str(table))] if table in self.tables else []
        found += [
            (self.columns[key], f"{table}.{key[1]}") for key in self.columns if key[0] == table and key[1] in columns
        ]
        if not found:
            return None
        (run, verb), name = max(found, key=lambda one: one[0][0].run)
        return Changed(
            because=f"the later run {run.name}, which is {run.state.words}, has {verb} {name}",
            remedy=f"Roll that one back first: backfilld rollback {run.run}",
        )


def _operations(run: Run) -> Sequence[file.Operation]:
    try:
        return run.migration.operations
    except InvalidMigration:
        return ()  # of another release: what it does is not known here


def _decided(run: Run) -> Iterator[tuple[TableName, str, str]]:
    """Columns about which a run decides, each with what it does."""
    for operation in _operations(run):
        if operation.table is None:
            continue
        for one in operation.settles:
            if one.what in _DECIDES:
                yield operation.table, one.column, _DECIDES[one.what]
        if isinstance(operation, file.MoveColumn):
            yield operation.to, operation.column, "moved"


def _decided_again(run: Run, later: _Later) -> Iterator[Changed]:
    for table, column, _ in _decided(run):
        if (found := later.changed(table, [column])) is not None:
            yield found


def _refused(
    connection: Connection, run: Run, operations: Sequence[Operation], walk: Walk, later: _Later
) -> Changed | None:
    """Whether PostgreSQL refuses what a walk of the way back sends."""
    operation = operations[walk.operation]
    if _is_restored_before(run, walk):
        return None
    problem = _problem(connection, _undo(operation, walk, run=run.run))
    if problem is None:
        return None
    columns = _columns(operation)
    if (found := later.changed(walk.table, columns)) is not None:
        return found
    table = catalog.describe(connection, walk.table)
    there = {one.name for one in table.columns} if table is not None else set()
    missing = [f"{walk.table}.{name}" for name in columns if name not in there]
    if table is None:
        missing = [str(walk.table)]
    why = (
        f"{', '.join(missing)} is not there any more" if missing else f"what it writes to has changed since: {problem}"
    )
    return Changed(because=why, remedy="Give the table back what it had when the run ended, then ask again")


def _is_restored_before(run: Run, walk: Walk) -> bool:
    """Whether other operations of the same file decide about the table: their way back comes before, and is not done yet."""
    return any(
        one.table == walk.table and (isinstance(one, file.Rebuild | file.RenameTable | file.DropTable) or _settles(one))
        for number, one in enumerate(run.migration.operations)
        if number != walk.operation
    )


def _settles(operation: file.Operation) -> bool:
    return any(one.what in _DECIDES for one in operation.settles)


def _problem(connection: Connection, undo: Undo) -> str | None:
    """What PostgreSQL says against a statement, about names and types."""
    query, parameters = undo.query(_ANY_SLICE)
    try:
        with connection.transaction(force_rollback=True):
            apply_settings(connection, {"lock_timeout": "100ms", "search_path": ""})
            connection.execute(sql.SQL("EXPLAIN {}").format(query), parameters)
    except psycopg.Error as exc:
        if (exc.sqlstate or "").startswith(_NAMES_AND_TYPES) and exc.sqlstate != _RIGHTS:
            return in_words(exc)
    return None


def _undo(operation: Operation, walk: Walk, *, run: int) -> Undo:
    """What the lanes of the walk send."""
    by_key, share = KeyWalk(table=walk.table, key=walk.key), JournalShare(parts=1, part=0, block=1)
    if isinstance(operation, Load):
        return Unload(journal=operation.journal(run), share=share, facts=operation.loading.facts)
    own = operation.rewrite()
    deletes = own is not None and own.deletes
    journal = (DeletedRows if deletes else Journal)(
        run=run, operation=walk.operation, walk=by_key, targets=operation.facts.targets
    )
    return (Reinsertion if deletes else Undo)(journal=journal, share=share)


def _columns(operation: Operation) -> list[str]:
    """The columns that the way back of an operation names."""
    facts = operation.facts
    found = [one.name for one in facts.key] + [one.column for one in facts.targets]
    if facts.load is not None:
        found += [one.name for one in facts.load.columns] + [*facts.load.others]
    return found
