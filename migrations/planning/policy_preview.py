"""Who would gain or lose which rows by other policies, told before a migration is enqueued.

The same comparison as the lanes of verify make, of all rows of a small table and of a sample of a large one. It only reads, takes no
lock above ACCESS SHARE, and is given up after some seconds: then the plan says so, and verify counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations import bind
from backfilld.migrations.operations.replace_policies.steps import ReplacePolicies
from backfilld.migrations.policies.comparison import GIVEN_ROWS, Comparison
from backfilld.migrations.policies.counting import Range, Read, count, count_other, not_counted
from backfilld.migrations.policies.rules import Command
from backfilld.migrations.postgres.sqlstates import in_words
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.facts import OtherTable
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.planning.examination import Examination
    from backfilld.migrations.policies.results import Counted
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.policies import Persona

#: Up to so many rows all are looked at, and of a larger table about so many: less than a second for a persona.
MOST_ROWS = 20_000
#: For one persona, and for all of a migration: who waits at a terminal reads "verify counts them" sooner than that.
SECONDS, SECONDS_IN_ALL = 3.0, 20.0
#: An ALTER TABLE of somebody else is not queued behind us for longer than this.
_LOCK_SECONDS = 1.0
_UNDEFINED_COLUMN = "42703"


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What one `replace_policies` would do, as far as it was counted."""

    operation: int
    relation: str
    #: How many rows of the table were looked at, and whether they are all; otherwise they are a sample of its pages.
    rows: int = 0
    all_rows: bool = True
    counted: tuple[Counted, ...] = ()
    #: What the file does not expect, in words: a phase waits for a person then.
    unexpected: tuple[str, ...] = ()
    #: What could not be counted and why; verify counts it, or fails for the same reason.
    not_counted: tuple[str, ...] = ()


def look(connection: Connection, migration: Migration, found: Examination) -> tuple[Preview, ...]:
    """The previews of a migration that was not refused; none where it replaces no policies. Raises only for the loss of the connection."""
    until = time.monotonic() + SECONDS_IN_ALL
    return tuple(
        _Look(connection, one, found.rows[one.table], until).preview(adds_columns=_adds_columns(migration, one))
        for one in bind(migration, found.facts)
        if isinstance(one, ReplacePolicies)
    )


def _adds_columns(migration: Migration, operation: ReplacePolicies) -> bool:
    """Whether an earlier operation of the file adds a column to the table."""
    return any(
        isinstance(earlier, definition.AddColumn) and earlier.table == operation.table
        for earlier in migration.operations[: operation.number]
    )


class _Look:
    """One operation's preview, in a transaction that is rolled back."""

    def __init__(self, connection: Connection, operation: ReplacePolicies, rows: int, until: float) -> None:
        self._connection, self._operation, self._rows, self._until = connection, operation, rows, until
        self._all_rows = rows <= MOST_ROWS
        self._given = 0
        self._counted: list[Counted] = []
        self._not_counted: list[str] = []

    def preview(self, *, adds_columns: bool) -> Preview:
        one = self._operation
        with self._connection.transaction(force_rollback=True):
            for name, seconds in (("statement_timeout", SECONDS), ("lock_timeout", _LOCK_SECONDS)):
                self._connection.execute(
                    sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), sql.Literal(round(seconds * 1000)))
                )
            self._try(f"the rows of {one.table}", self._of_table)
            for other in one.others:
                self._try(f"the rows of {other.relation}", partial(self._of_other, other))
            read = Read(table=one.table, personas=one.personas, stages=one.stages)
            self._counted += [told for other in one.uncounted for told in not_counted(other, read)]
        if adds_columns and any((told.error_then or "").startswith(_UNDEFINED_COLUMN) for told in self._counted):
            # Said of no persona: the column is there when verify counts.
            self._counted, self._not_counted = [], ["the policies read a column that the file adds: verify counts"]
        said = [(told, told.unexpected(one.definition.expect)) for told in self._in_order()]
        return Preview(
            operation=one.number,
            relation=str(one.table),
            rows=self._given,
            all_rows=self._all_rows,
            counted=tuple(told for told, _ in said),
            unexpected=tuple(f"from {told.phase} on {words}{told.examples(words)}" for told, words in said if words),
            not_counted=tuple(self._not_counted),
        )

    def _in_order(self) -> list[Counted]:
        """The table itself first; as the file has its personas."""
        personas = [persona.name for persona in self._operation.personas]
        return sorted(
            self._counted,
            key=lambda told: (
                told.relation != str(self._operation.table),
                told.relation,
                list(Phase).index(told.phase),
                personas.index(told.persona),
                list(Command).index(Command(told.command)),
            ),
        )

    def _of_table(self) -> None:
        one = self._operation
        sample = sql.SQL("") if self._all_rows else _sample(MOST_ROWS / self._rows)
        comparison = Comparison(table=one.table, key=one.facts.key, condition=sql.SQL("true"), sample=sample)
        for statement in comparison.rows():
            self._connection.execute(statement)
        given = self._connection.execute(GIVEN_ROWS).fetchone()
        self._given = int(given["rows"]) if given is not None else 0
        rows = Range(connection=self._connection, comparison=comparison, read_only=True)
        for persona in one.personas:
            self._try(f"the rows of {one.table} for {persona.name}", partial(self._of_persona, rows, persona))

    def _of_persona(self, rows: Range, persona: Persona) -> None:
        self._counted += count(rows, persona, self._operation.old, self._operation.stages)

    def _of_other(self, other: OtherTable) -> None:
        one = self._operation
        read = Read(table=one.table, personas=one.personas, stages=one.stages)
        self._counted += count_other(self._connection, other, read, seconds=SECONDS)

    def _try(self, what: str, do: Callable[[], None]) -> None:
        """Do it in a savepoint; what keeps it from being done is put down."""
        if time.monotonic() > self._until:
            self._not_counted.append(f"{what}: the time for a plan is over; verify counts them")
            return
        try:
            with self._connection.transaction(force_rollback=True):
                do()
        except Refused as refused:
            self._not_counted += [f"{what}: {finding.problem}; verify would fail" for finding in refused.findings]
        except psycopg.Error as exc:
            if exc.sqlstate is None:  # the connection is lost
                raise
            late = isinstance(exc, psycopg.errors.QueryCanceled)
            because = f"it takes longer than {SECONDS:g} s" if late else in_words(exc)
            self._not_counted.append(f"{what}: {because}; verify counts them")


def _sample(part: float) -> sql.Composed:
    """Of whole pages, and the same in each query of a statement."""
    return sql.SQL(" TABLESAMPLE pg_catalog.system ({}) REPEATABLE (1)").format(sql.Literal(round(part * 100, 6)))
