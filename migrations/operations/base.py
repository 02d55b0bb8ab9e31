"""What every operation is: actions for each phase, and the rewrite that its lanes do.

An action is one short transaction of DDL. Operations return actions as data, so that `plan` shows what `enqueue` will do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from psycopg import sql

    from migrations.definition import TableName
    from migrations.facts import Facts
    from migrations.walks.rewrite import Rewrite


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One DDL statement, the lock it takes on its table, and what else a DBA would ask."""

    sql: sql.Composed
    lock: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A query that must give no row once an action's statements have run, or the action is rolled back."""

    sql: sql.Composed
    #: What a row means; `{}` takes the row's first column.
    problem: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Action:
    """Statements that happen together or not at all."""

    table: TableName
    statements: tuple[Statement, ...]
    guards: tuple[Guard, ...] = ()
    #: Reads the whole table, under a lock that lets the application go on; runs without a time limit.
    scans: bool = False
    #: Run when a scan finds a row that breaks the rule, before the data is walked once more.
    undo: tuple[Statement, ...] = ()


class Operation(Protocol):
    """One change to one table, bound to what is known of the database."""

    @property
    def table(self) -> TableName: ...

    @property
    def facts(self) -> Facts: ...

    def rewrite(self) -> Rewrite | None:
        """What the lanes do to each row; None when no data moves."""
        ...

    def expand(self) -> tuple[Action, ...]:
        """Add the new, beside the old."""
        ...

    def verify(self) -> tuple[Action, ...]:
        """Prove rules about the data, after a walk has found every row right."""
        ...

    def switch(self) -> tuple[Action, ...]:
        """Let the application rely on the new."""
        ...

    def contract(self) -> tuple[Action, ...]:
        """Take away what only the change itself needed."""
        ...


def object_name(kind: str, migration: str, operation: int) -> str:
    """The name of something we make: the same for each run of a migration, so that a second run finds the first one's."""
    digest = hashlib.sha256(migration.encode()).hexdigest()[:10]
    return f"{kind}_{digest}_{operation}"
