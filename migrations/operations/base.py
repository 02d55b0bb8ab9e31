"""What every operation is: steps for each phase, the way back of each step, and the rewrite that its lanes do.

A step is an action, one short transaction of DDL, or a walk, which lanes do. Operations return steps as data, so that `plan`
shows what `enqueue` will do, and so that the record of a run (its phase, and how many steps of it are done) says exactly what
there is to take back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg import sql
    from psycopg.sql import Composed

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.catalog_diff import AllowedChanges
    from backfilld.migrations.postgres.definitions import IndexDefinition, KeyColumn
    from backfilld.migrations.postgres.locks import LockMode
    from backfilld.migrations.walks.copying import Copying
    from backfilld.migrations.walks.rewrite import Rewrite


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One DDL statement, the lock it takes on its table, and what else a DBA would ask."""

    sql: sql.Composed
    lock: LockMode
    #: Other tables that it locks in the same mode.
    also: tuple[TableName, ...] = ()
    #: The lock is held for a moment, and the step is tried again after lock_timeout where it cannot be had.
    brief: bool = False
    #: Whether it reads the whole table, where `note` says so; None where the note says nothing of it.
    scans: bool | None = None
    #: What else there is to say of it; neither the lock nor its duration.
    note: str = ""
    #: How many statements it stands for: a block of ours does one for each partition.
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A query that must give no row once an action's statements have run, or the action is rolled back."""

    sql: sql.Composed
    #: What a row means; `{!r}` takes the row's first column.
    template: str
    remedy: str
    #: Sent before the query, which is then asked as a role with settings of its own; all of it is rolled back after that.
    before: tuple[Composed, ...] = ()
    #: The query names rows of the table: their keys, (key text[]), a few at most; and with `rows` how many there are in all.
    names_rows: bool = False
    #: A row refuses nothing: the step is put off, and begins again with what `Action.drains` asks.
    postpones: bool = False

    def problem_of(self, found: Sequence[Mapping[str, Any]]) -> str:  # Any: what psycopg reads
        """The problem, with what the query found put into it."""
        if not self.names_rows:
            return self.template.replace("{!r}", repr(next(iter(found[0].values()))))
        named = "; ".join(", ".join(row["key"]) for row in found)
        return self.template.replace("{!r}", f"{found[0]['rows']} ({named})" if "rows" in found[0] else named)


@dataclass(frozen=True, kw_only=True)
class Action:
    """Statements that happen together or not at all."""

    #: The table they are about; None for raw SQL that names none.
    table: TableName | None
    statements: tuple[Statement, ...]
    #: Tables that are locked before the first statement, all at once and in the order of their names, with the strongest lock
    #: that any of the statements takes, and `table` with them; see `backfilld.migrations.postgres.locks`.
    locks: tuple[TableName, ...] = ()
    #: Views that are locked before `locks`, which must not be empty then, the outermost first. Readers of a view lock it before the
    #: table; behind a table that is locked already they would hold the views that the statements need.
    views: tuple[TableName, ...] = ()
    #: Done before anything of the application's is locked, in the same transaction: in nobody's way, however long they take.
    first: tuple[Statement, ...] = ()
    #: Guards that are asked before the first statement, once the tables are locked.
    requires: tuple[Guard, ...] = ()
    guards: tuple[Guard, ...] = ()
    #: Catalog changes that this action may make to its table. None: do not compare.
    allows: AllowedChanges | None = None
    #: Reads the whole table, under a lock that blocks no reads or writes; runs without a time limit.
    scans: bool = False
    #: The index that the one statement builds or drops CONCURRENTLY, outside of a transaction; None for ordinary actions.
    index: Index | None = None
    #: Rows that break the rule a scan or an index is to prove: a query that gives their keys as texts, a few at most.
    offenders: sql.Composed | None = None
    #: The columns that this rule is about, so that lanes which write one of them may fix such rows; empty for any column.
    proves: tuple[str, ...] = ()
    #: For an action whose one statement only looks, and must find no row: the rule that such a row breaks, for messages.
    looks_for: str = ""
    #: The constraint that this action looks for, adds or proves; empty for other actions. A row that breaks it leads back to
    #: the first step that has this name.
    rule: str = ""
    #: For a step of the way back: statements of the application succeed after it that fail before it. It is done before anything
    #: that takes long; of its own operation it needs nothing but a step that frees too.
    frees: bool = False
    #: For a step of the way back: it needs a table that is kept until the retention ends.
    needs_kept: bool = False
    #: Statements of the user's own: they may rely on every step before them, so none of the way back changes places with them.
    is_users: bool = False
    #: For a step of the way back: why it cannot be done, in words; empty for all that can.
    impossible: str = ""
    #: How many keys wait to be brought over (`keys`), for an action that brings over the last of them: with more than `MOST_KEYS_FIRST`,
    #: or where one of them cannot be, the step before it is done again, which is the walk that does so.
    drains: sql.Composed | None = None
    #: Takes the action back, step by step, once it has committed.
    back: tuple[Step, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Index:
    """What an action without a transaction leaves behind, by which its outcome is known."""

    schema: str
    name: str
    #: Whether the index is there when all is done.
    present: bool
    #: What is built; or, for a drop, what is dropped: an index of that name which is another is left alone.
    definition: IndexDefinition


@dataclass(frozen=True, kw_only=True)
class Archived:
    """What an archive walk copies of each row, as texts."""

    #: The columns that are about to go.
    old: tuple[str, ...]
    #: The columns that replaced them, as they are at the same moment; none where nothing did.
    new: tuple[str, ...] = ()
    #: The rows that are copied; None for all. Where it raises an error for a row of a batch, all rows of that batch are.
    only: sql.Composed | None = None


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Work that lanes do between two actions."""

    #: archive: copy what is about to be dropped into the archive · restore: give rows what they had, by a rewrite ·
    #: undo: give rows back what the journal says they had · recheck: look at all rows again before the contract ·
    #: compare: count what each persona may do with rows by the old policies and by the new · confirm: the same after the switch ·
    #: stage: wait until the source of a load is staged · check: look at its lines before the first row is written ·
    #: drain, drain_back: bring over the rows that a journal of keys names · match: write down the keys of rows that differ in two tables.
    kind: Literal[
        "archive",
        "restore",
        "undo",
        "recheck",
        "compare",
        "confirm",
        "stage",
        "check",
        "drain",
        "drain_back",
        "match",
    ]
    #: The operation it belongs to, by its number in the file. An operation has one walk of each kind.
    operation: int
    table: TableName
    #: The unique key that is walked.
    key: tuple[KeyColumn, ...]
    #: Whether rows that are added during the walk, at the end of the key's order, are walked too.
    to_open_end: bool = True
    #: What the lanes do to each row, where it can be said as a rewrite: for `restore`, whose expression is `archive.restored`'s, and
    #: for `recheck`.
    rewrite: Rewrite | None = None
    #: For `recheck`: rows that are not as they should be are written; otherwise they are only counted, for a person to look at.
    writes: bool = True
    #: For `restore`: rows without a value get one, so that what a later step of the way back would find cannot be told before it.
    fills: bool = False
    #: For `restore`: a row that was not archived gets no value, and blocks the way back.
    only_archived: bool = False
    #: For `restore`: every value is looked up in other rows, and nothing of the table was archived.
    looks_up: bool = False
    #: A later step does the same walk once more, or one of this kind in another table.
    again: bool = False
    #: For `archive`: what is copied. The walk is over once lanes have looked again and found a copy of every row.
    archived: Archived | None = None
    #: For `drain` and `compare`: from where to where.
    copying: Copying | None = None
    note: str = ""
    back: tuple[Step, ...] = ()


Step = Action | Walk


@dataclass(frozen=True, kw_only=True)
class Reliance:
    """What the proof of an operation relies on until its run has ended."""

    table: TableName
    columns: tuple[str, ...]
    #: The sync trigger, by its name.
    trigger: str
    #: Makes the trigger again, as it was, where another session has dropped, disabled or changed it.
    again: Action

    @property
    def part(self) -> dict[str, object]:
        """As `structure.remember` takes it."""
        relation = self.table.identifier.as_string()
        return {"name": str(self.table), "relation": relation, "columns": list(self.columns), "trigger": self.trigger}


class Operation(Protocol):
    """One change to one table, bound to what is known of the database."""

    @property
    def table(self) -> TableName | None:
        """The table; None for raw SQL that names none."""

    @property
    def facts(self) -> Facts: ...

    def rewrite(self) -> Rewrite | None:
        """What the lanes do to each row in the backfill phase; None when no data moves."""
        ...

    def expand(self) -> tuple[Step, ...]:
        """Add the new, beside the old."""
        ...

    def fill(self) -> tuple[Step, ...]:
        """Complete what the lanes of the backfill phase have begun, before verify looks at it."""
        ...

    def undo(self) -> tuple[Step, ...]:
        """Take back what the lanes of the backfill phase did to columns that were there before."""
        ...

    def verify(self) -> tuple[Step, ...]:
        """Prove rules about the data, after a walk has found every row right."""
        ...

    def switch(self) -> tuple[Step, ...]:
        """Let the application rely on the new."""
        ...

    def contract(self) -> tuple[Step, ...]:
        """Take away what only the change itself needed."""
        ...

    def relies_on(self, *, switched: bool) -> Reliance | None:
        """What its proof relies on, before or after the switch; None where no sync trigger keeps it."""
        ...

    def also_relies_on(self, *, switched: bool) -> tuple[Reliance, ...]:
        """The same of other sync triggers that it has."""
        ...

    def parts(self) -> tuple[Operation, ...]:
        """What its lanes do in other tables: an operation for each, of which nothing but the rewrite is asked."""
        ...

    def recheck(self) -> Walk | None:
        """How all rows are looked at again after the switch, where what was proved does not hold any longer."""
        ...


_Definition_co = TypeVar("_Definition_co", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Bound(Generic[_Definition_co]):
    """An operation of a migration, bound to a database. It does nothing in any phase; the others say what they do."""

    definition: _Definition_co
    facts: Facts
    #: The migration's name, and the operation's number in it: the names of what it makes are made of both.
    migration: str
    number: int

    def rewrite(self) -> Rewrite | None:
        return None

    def expand(self) -> tuple[Step, ...]:
        return ()

    def fill(self) -> tuple[Step, ...]:
        return ()

    def undo(self) -> tuple[Step, ...]:
        return ()

    def verify(self) -> tuple[Step, ...]:
        return ()

    def switch(self) -> tuple[Step, ...]:
        return ()

    def contract(self) -> tuple[Step, ...]:
        return ()

    def relies_on(self, *, switched: bool) -> Reliance | None:
        del switched
        return None

    def also_relies_on(self, *, switched: bool) -> tuple[Reliance, ...]:
        del switched
        return ()

    def parts(self) -> tuple[Operation, ...]:
        return ()

    def recheck(self) -> Walk | None:
        return None


class OnTable(Protocol):
    """The model of an operation on one table, as the file has it."""

    @property
    def table(self) -> TableName: ...


_OnTable_co = TypeVar("_OnTable_co", bound=OnTable, covariant=True)


class Plain(Bound[_OnTable_co]):
    """An operation on one table."""

    @property
    def table(self) -> TableName:
        return self.definition.table


def object_name(kind: str, migration: str, operation: int) -> str:
    """The name of something we make: the same for each run of a migration, so that a second run finds the first one's."""
    digest = hashlib.sha256(migration.encode()).hexdigest()[:10]
    # Three digits, so that names sort in the order of the file, and with them the triggers that fire.
    return f"{kind}_{digest}_{operation:03}"
