"""Other runs on the same table that have not ended: what a new one may not take from under them, nor build upon.

A run decides about columns until it has ended: its contract drops or its rollback takes away the column it adds, both names of a
rename, the column that changes its type or is dropped. And it relies on others: what its expressions read, what its rules are
about, the key that it walks. Two runs may live on one table in any order as long as neither decides about a column of the other's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.errors import InvalidMigration
from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.planning.checks.columns import mentions
from backfilld.migrations.record import runs
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.facts import Facts, LoadFacts
    from backfilld.migrations.file.migration import Operation
    from backfilld.migrations.planning.checks.findings import Case, Findings
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.statements import SqlStatement
    from backfilld.migrations.record.model import Run

#: What an operation does with a column that is a decision until its run has ended; `filled` is a write like the application's.
_DECIDES = {
    "added": "is added",
    "renamed": "is renamed",
    "changed": "gets another type",
    "replaced": "is replaced",
    "moved": "is moved to another table",
    "dropped": "is dropped",
}
#: Operations that may be about a column which another run adds: they go with the column if that run is rolled back.
_MAY_BUILD_ON_ADDED = (
    definition.Backfill,
    definition.SetNotNull,
    definition.AddCheck,
    definition.AddUnique,
    definition.AddForeignKey,
    definition.CreateIndex,
    definition.AddPrimaryKey,
    definition.SetDefault,
    definition.SetComment,
)


#: Operations after which a table is not where it was.
_ON_A_WHOLE_TABLE = (definition.RenameTable, definition.DropTable, definition.Rebuild)


@dataclass(frozen=True, kw_only=True)
class LiveOperation:
    """One operation of another run that has not ended, on one table."""

    run: Run
    operation: Operation
    facts: Facts
    #: A table with foreign keys to the column that it changes; None where it is looked at for a table of its own.
    referrer: TableName | None = None

    @property
    def decides(self) -> dict[str, str]:
        """The columns about which it decides, and what it does with each."""
        exchanged = dict.fromkeys(self.exchanged, _DECIDES["changed"])
        if self.referrer is not None:
            return exchanged
        columns = exchanged | {one.column: _DECIDES[one.what] for one in self.operation.settles if one.what in _DECIDES}
        columns |= dict.fromkeys(_written(self.operation), "is written")
        if (dependents := self.facts.column_dependents) is not None:
            columns |= dict.fromkeys((dependents.new_column, dependents.old_column), "belongs to a change of type")
        return columns

    @property
    def exchanged(self) -> set[str]:
        """The columns that get other values at its switch, and have the old ones again if it is taken back: a key, and what refers to it."""
        if not isinstance(self.operation, definition.ChangeKey):
            return set()
        own = "" if self.referrer is None else str(self.referrer)
        return {one.column for one in self.facts.referrers if one.table == own} | (
            {self.operation.column} if self.referrer is None else set()
        )

    def relies_on(self, column: str) -> bool:
        """Whether it reads a column, has a rule about it, or walks by it."""
        dependents, table = self.facts.column_dependents, self.referrer or self.operation.table
        references = dependents.references if dependents is not None else ()
        if any(one.table == table and column in one.columns for one in references):
            return True
        # What refers to a key changes with it, and finds its new values by the other columns of the foreign key.
        own = "" if self.referrer is None else str(table)
        if any(one.table == own and column in {one.target.column, *one.columns} for one in self.facts.referrers):
            return True
        if self.referrer is not None:
            return False
        if self.facts.load is not None and column in _loaded(self.facts.load):
            return True
        known = {one.name for one in self.facts.key} | set(self.facts.reads) | set(self.facts.rule_columns)
        if isinstance(self.operation, definition.AddColumn):
            return column in known
        return column in known or mentions(self.operation, column)

    def why(self, column: str) -> str:
        """What a column is to the run, in words."""
        what = self.decides.get(column, "is used")
        return f"{column} {what} by the run {self.run.name}, which is {self.run.state.words} in {self.run.phase}"

    @property
    def remedy(self) -> str:
        name = self.run.name
        if self.run.state is State.CANCELLED:
            return f"Roll back what that run left: backfilld rollback {name}"
        finish = (
            f"backfilld approve {name} --phase {self.run.phase}" if self.run.state is State.WAITING else "let it end"
        )
        return f"Finish that run first ({finish}), or take it back: backfilld rollback {name}"


def live_operations(connection: Connection, name: str) -> dict[TableName, list[LiveOperation]]:
    """The operations of runs that have not ended, by table, but for the migration of this name.

    A cancelled run counts while one of its sync triggers is there. Empty for a role that may not read the record.
    """
    found: dict[TableName, list[LiveOperation]] = {}
    try:
        with connection.transaction():
            present = [run for run in runs.with_something_left(connection) if run.name != name]
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return found
    for run in present:
        if not run.facts:
            continue  # begins after others, and is examined then: beside what there is at that time
        try:
            operations = run.migration.operations
        except InvalidMigration:
            continue  # of another release: what it does is not known here
        for operation, facts in zip(operations, run.facts, strict=True):
            live = LiveOperation(run=run, operation=operation, facts=facts)
            if operation.table is not None:
                found.setdefault(operation.table, []).append(live)
            if isinstance(operation, definition.RenameTable):
                found.setdefault(operation.renamed, []).append(live)
            if isinstance(operation, definition.MoveColumn):
                found.setdefault(operation.to, []).append(live)
            references = facts.column_dependents.references if facts.column_dependents is not None else ()
            referrers = {TableName.parse(one.table) for one in facts.referrers if one.table}
            for table in ({one.table for one in references} | referrers) - {operation.table}:
                found.setdefault(table, []).append(replace(live, referrer=table))
    return found


def check_columns(
    found: Findings, place: str, operation: Operation, live: Sequence[LiveOperation], *, facts: Facts | None = None
) -> None:
    """Put down the runs that are in the way of an operation on their table; with `facts`, of the columns that it reads."""
    decides = {one.column for one in operation.settles if one.what in _DECIDES}
    for other in live:
        if isinstance(operation, _ON_A_WHOLE_TABLE) or isinstance(other.operation, _ON_A_WHOLE_TABLE):
            what = f"the run {other.run.name}, which is {other.run.state.words} in {other.run.phase}, works on {operation.table}"
            if facts is None:
                found.refuse("live_run", f"{place}: {what}", other.remedy)
            continue
        theirs = other.decides
        taken = sorted(column for column in decides if column in theirs or other.relies_on(column))
        # Two that write one column undo each other's work, pass after pass.
        taken += sorted(_written(operation) & _written(other.operation))
        going = theirs.keys() - decides - _written(other.operation)
        needed = sorted(column for column in going if _needs(operation, column, facts))
        if not taken and needed and _may_build(operation, other):
            found.warn(
                f"{place}: {other.why(needed[0])}; if that run is rolled back, what this migration makes of {needed[0]} goes "
                "with the column"
            )
        elif taken or needed:
            found.refuse("live_run", f"{place}: {other.why((taken or needed)[0])}", other.remedy)


def check_walk(found: Findings, place: str, facts: Facts, live: Sequence[LiveOperation]) -> None:
    """Put down the runs that give the key other values by which an operation is to know rows: what it has walked would mean others."""
    for other in live:
        if exchanged := sorted(other.exchanged & {one.name for one in facts.key}):
            found.refuse("live_run", f"{place}: rows are known by it, and {other.why(exchanged[0])}", other.remedy)


def check_referenced(
    found: Findings, place: str, operation: Operation, facts: Facts, live: Mapping[TableName, Sequence[LiveOperation]]
) -> None:
    """Put down the runs that a new foreign key would refer into: they know what refers to their columns from when they began."""
    if not isinstance(operation, definition.AddForeignKey):
        return
    table = operation.references.table
    for other in live.get(table, ()):
        taken = sorted(set(facts.referenced) & other.decides.keys())
        if other.referrer is None and isinstance(other.operation, _ON_A_WHOLE_TABLE):
            what = f"the run {other.run.name}, which is {other.run.state.words} in {other.run.phase}, works on {table}"
            found.refuse("live_run", f"{place}: {what}", other.remedy)
        elif taken and not _may_build(operation, other):
            found.refuse("live_run", f"{place}: it would refer to {table}, and {other.why(taken[0])}", other.remedy)


def refuse_walked(case: Case, columns: set[str], *, what: str) -> None:
    """Put down the runs that walk the table by one of these columns, or name its rows by it."""
    for other in live_operations(case.connection, case.migration.name).get(case.table.name, ()):
        if other.referrer is None and columns & {one.name for one in other.facts.key}:
            where = f"the run {other.run.name}, which is {other.run.state.words} in {other.run.phase}, walks {case.table.name} by it"
            case.refuse("live_run", f"{what}: {where}", other.remedy)


def as_wide(facts: Facts, live: Sequence[LiveOperation]) -> Facts:
    """With a key that holds what another run makes of its columns: that may exchange them while this one walks by it."""
    wide = {
        one.operation.column: own.type
        for one in live
        if isinstance(one.operation, definition.ChangeType) and one.referrer is None
        for own in one.facts.key
        if own.name == one.operation.column
    }
    return replace(facts, key=tuple(replace(one, type=wide.get(one.name, one.type)) for one in facts.key))


def _written(operation: Operation) -> set[str]:
    """The columns that a backfill writes in place."""
    return {one.column for one in operation.settles} if isinstance(operation, definition.Backfill) else set()


def _loaded(load: LoadFacts) -> set[str]:
    """The columns that the statements of a load name: those that it writes, and those by which its way back tells an untouched row."""
    return {one.name for one in load.columns} | {*load.others}


def _needs(operation: Operation, column: str, facts: Facts | None) -> bool:
    if isinstance(operation, definition.DropConstraint | definition.RenameConstraint):
        rules = facts.rules if facts is not None else ()
        return facts is not None and (column in facts.rule_columns or any(column in one.columns for one in rules))
    if facts is not None and facts.load is not None:  # without `columns` the file names none: its fields do
        return column in _loaded(facts.load)
    if isinstance(operation, definition.AddColumn):
        return facts is not None and column in facts.reads
    return facts is None and mentions(operation, column)


def _may_build(operation: Operation, other: LiveOperation) -> bool:
    """An in-place write is like the application's, and what belongs to a column that is added goes with it."""
    if isinstance(operation, definition.Backfill):
        return True
    return isinstance(operation, _MAY_BUILD_ON_ADDED) and isinstance(other.operation, definition.AddColumn)


def check_statement(found: Findings, place: str, statement: SqlStatement, live: Sequence[LiveOperation]) -> None:
    """Put down the runs from under which a statement would take a column, a trigger or the table."""
    words = [token.word for token in statement.tokens]
    if words[0] not in {"ALTER", "DROP"}:
        return
    named = {name for _, _, name in statement.qualified}
    for other in live:
        table = other.operation.table
        if table is None or other.referrer is not None or (table.schema, table.name) not in named:
            continue
        if column := _touched(statement, other):
            found.refuse("live_run", f"{place}: {other.why(column)}", other.remedy)
        elif words[:2] == ["DROP", "TABLE"] or {"TRIGGER", "SCHEMA"} & set(words) or "RENAME TO" in " ".join(words):
            what = f"the run {other.run.name}, which is {other.run.state.words} in {other.run.phase}, works on {table}"
            found.refuse("live_run", f"{place}: {what} and has a sync trigger there", other.remedy)


def _touched(statement: SqlStatement, other: LiveOperation) -> str | None:
    """A column of the run's that the statement names, beside the table itself."""
    table = other.operation.table
    names = {token.name for token in statement.tokens} - {table.name if table is not None else None, None}
    candidates = {*other.decides, *(one.name for one in other.facts.key), *other.facts.reads, *other.facts.rule_columns}
    return next(iter(sorted(candidates & names)), None)
