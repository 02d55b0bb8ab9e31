"""What PostgreSQL does for each statement of a migration, seen on empty copies of its tables and then rolled back.

1. Make a temporary copy of each table that the statements name. This is the one moment in which the tables themselves are
   locked, in the mode of a SELECT.
2. Bind the operations once more, to the copies and under another name, so that nothing of a run's own is touched.
3. In one transaction, run the statements of all phases in order; after each, read the locks, the files, and the messages in
   which PostgreSQL says that it rewrites or scans.
4. Roll back, and drop the copies.

What names anything else that is permanent is not run: its lock is then told by rule.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors

from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations import Action, bind_one, steps
from backfilld.migrations.operations.sql.steps import Sql
from backfilld.migrations.planning.checks.event_triggers import refuse_event_trigger
from backfilld.migrations.planning.dry_run_copies import copied, kind_of
from backfilld.migrations.planning.dry_run_findings import DryRun, Place, Seen, judge, refuse_failed, shown
from backfilld.migrations.postgres import catalog_diff
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.locks import BLOCKS_WRITES, LockMode, from_pg_locks, strength
from backfilld.migrations.postgres.sqlstates import server_is_gone
from backfilld.migrations.postgres.statements import names, split
from backfilld.migrations.queries import queries
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.operations import Operation, Statement
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.planning.dry_run_copies import Copies
    from backfilld.migrations.postgres.catalog_diff import Line
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "dry_run")

#: Copies are empty and no other session sees them: a statement that takes longer than this waits for something real.
_TIMEOUTS = {"lock_timeout": "50ms", "statement_timeout": "5s"}
#: More tables than this are not copied: statements that name the others are judged by rule.
_MOST_COPIES = 20

#: What is not run, and leaves a copy as it is all the same.
_ABOUT_ROWS = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|TABLE)\b", re.IGNORECASE)
_VALIDATES = re.compile(r"\bVALIDATE\s+CONSTRAINT\b", re.IGNORECASE)
#: How PostgreSQL names a table in its messages.
_NAMED = re.compile(r'\b(on|rewriting|verifying) table "(?P<table>.*)"')
_CONCURRENTLY = re.compile(r"\A(\s*(?:CREATE\s+(?:UNIQUE\s+)?INDEX|DROP\s+INDEX))\s+CONCURRENTLY\b", re.IGNORECASE)


def dry_run(  # noqa: PLR0913 - what to run, and who looks
    connection: Connection,
    found: Findings,
    migration: Migration,
    facts: Sequence[Facts],
    *,
    phases: Sequence[Phase] = tuple(Phase),
    after_phase: Callable[[Phase, Copies], None] | None = None,
) -> DryRun:
    """Run the migration's statements on copies, of these phases; what must not be run is refused in `found`.

    `after_phase` may look at the copies in the transaction, as each phase leaves them.
    """
    if not any(
        steps([bind_one(migration, number, known)], phase) for number, known in enumerate(facts) for phase in Phase
    ):
        return DryRun()
    with copied(connection, tables_named(connection, found.tables, migration, facts)) as copies:
        return _Stage(connection, found, migration, facts, copies).play(phases, after_phase)


def tables_named(
    connection: Connection, known: Iterable[TableName], migration: Migration, facts: Sequence[Facts]
) -> list[TableName]:
    """The tables that the operations are about or their statements name."""
    tables = {operation.table: None for operation in migration.operations if operation.table is not None}
    seen = {(table.schema, table.name) for table in tables}
    for number, one in enumerate(facts):
        operation = bind_one(migration, number, one)
        for phase in Phase:
            for step in steps([operation], phase):
                for statement in step.statements if isinstance(step, Action) else ():
                    for name in names(statement.sql.as_string()):
                        if name not in seen and kind_of(connection, name) in {"r", "p"}:
                            tables[TableName(*name)] = None
                        seen.add(name)
    tables |= dict.fromkeys(known)
    return list(tables)[:_MOST_COPIES]


@dataclass(frozen=True)
class _State:
    """The copies at one moment: their files, and the locks that are held on them."""

    files: dict[int, int] = field(default_factory=dict)
    locks: frozenset[tuple[int, LockMode]] = frozenset()


class _Stage:
    """The one transaction in which everything is tried."""

    def __init__(
        self,
        connection: Connection,
        found: Findings,
        migration: Migration,
        facts: Sequence[Facts],
        copies: Copies,
    ) -> None:
        self._connection = connection
        self._found = found
        self._migration = migration
        self._copies = copies
        name = f"dry_run {secrets.token_hex(8)}"  # that no migration and no other dry run has
        self._operations = [copies.bound(migration, number, known, name=name) for number, known in enumerate(facts)]
        #: Operations with a skipped statement: their copies may no longer match the real tables.
        self._astray: set[int] = set()
        self._heard: list[str] = []
        self._round_trip = 0.0
        self._state = _State()

    def play(self, phases: Sequence[Phase], after_phase: Callable[[Phase, Copies], None] | None) -> DryRun:
        dry_run = DryRun()
        hear = lambda notice: self._heard.append(notice.message_primary or "")  # noqa: E731 - to be taken off again
        self._connection.add_notice_handler(hear)
        try:
            with self._connection.transaction(force_rollback=True):
                apply_settings(self._connection, {**SEMANTICS, **_TIMEOUTS, "client_min_messages": "debug1"})
                self._have_schema()
                self._round_trip = min(self._seconds(b"SELECT 1") for _ in range(3))
                self._state = self._read_state()
                for phase in phases:
                    for number, operation in enumerate(self._operations):
                        self._play_operation(dry_run, phase, number, operation)
                    if after_phase is not None:
                        after_phase(phase, self._copies)
                self._warn_of_mismatched_keys()
        finally:
            self._connection.remove_notice_handler(hear)
        return dry_run

    def _have_schema(self) -> None:
        """Functions of ours live in a schema that `init` makes, and there may not have been one."""
        try:
            with self._connection.transaction():
                self._connection.execute("CREATE SCHEMA IF NOT EXISTS backfilld")
        except errors.InsufficientPrivilege:
            pass  # statements that need it are judged by rule

    def _warn_of_mismatched_keys(self) -> None:
        """Copies have no foreign keys but those that the migration has made.

        One that a `change_type` has made anew was there before, and is on its way: the columns that refer come first.
        """
        changed = {
            (one.table.name, one.column)
            for one in self._migration.operations
            if isinstance(one, definition.ChangeType | definition.ChangeKey)
        }
        changed |= {
            (one.table.name, column)
            for one in self._migration.operations
            if isinstance(one, definition.Rebuild)
            for column in one.columns
        }
        if not self._connection.execute(_SQL["copies_have_keys"]).fetchall():
            return  # as nearly always, and asking for those that do not match is planned for longer than it runs
        for row in self._connection.execute(_SQL["mismatched_keys"]).fetchall():
            ends = {(row["table_name"], row["column_name"]), (row["other_table"], row["other_column"])}
            if ends & changed:
                continue
            self._found.warn(
                f"the foreign key {row['key']} refers from {row['table_name']}.{row['column_name']} ({row['type']}) to "
                f"{row['other_table']}.{row['other_column']} ({row['other_type']}): use change_type first, so that each value of one "
                "has a place in the other"
            )

    def _play_operation(self, dry_run: DryRun, phase: Phase, number: int, operation: Operation) -> None:
        for step_number, step in enumerate(steps([operation], phase)):
            if not isinstance(step, Action):
                continue
            before = self._record() if isinstance(operation, Sql) else None
            for statement_number, statement in enumerate(step.statements):
                place = Place(phase, number, step_number, statement_number)
                dry_run.seen[place] = seen = self._try(number, statement)
                self._judge(place, statement, seen)
            if before is not None:
                self._try_back(dry_run, Place(phase, number, step_number, 0), step, before)

    def _try(self, number: int, statement: Statement) -> Seen:
        """Run one statement, and see what it does."""
        text = _CONCURRENTLY.sub(r"\1", statement.sql.as_string().strip())
        because, text = self._copies.translated(text, is_ours=not isinstance(self._operations[number], Sql))
        if because:
            if _ABOUT_ROWS.match(text) is None:
                self._astray.add(number)
            return Seen(by_rule_because=because)
        self._heard.clear()
        try:
            with self._connection.transaction():
                seconds = self._seconds(text.encode())
        except psycopg.Error as exc:
            if server_is_gone(exc):
                raise
            # Where the copy is no longer what the table would be, the error may be about the copy alone.
            if refuse_event_trigger(self._found, exc):
                pass
            elif not self._astray:
                refuse_failed(self._found, self._migration.operations[number], number, statement, exc)
            self._astray.add(number)
            return Seen(by_rule_because=f"it fails on an empty copy ({exc.diag.message_primary or exc})")
        return replace(self._see(number, statement), seconds=max(0.0, seconds - self._round_trip))

    def _seconds(self, text: bytes) -> float:
        """How long a statement takes, with its round trip. Raises psycopg.Error."""
        began = time.monotonic()
        self._connection.execute(text)
        return time.monotonic() - began

    def _see(self, number: int, statement: Statement) -> Seen:
        before, now = self._state, self._read_state()
        self._state = now
        came = now.locks - before.locks
        held = {mode for _, mode in now.locks}
        # A mode that is held already does not show again: then what the statement is known to take must be among those.
        taken = {mode for _, mode in came} | {mode for mode in held | {LockMode.NONE} if mode == statement.lock}
        heard = " · ".join(message for message in self._heard if not self._is_about_new(message, statement))
        text = statement.sql.as_string()
        concurrent = _CONCURRENTLY.match(text) is not None
        moved = any(now.files.get(oid, file) != file for oid, file in before.files.items())
        rewrites = moved or "rewriting table" in heard
        return Seen(
            lock=None if concurrent else max(taken, key=strength, default=None if held else LockMode.NONE),
            also=self._others(number, came),
            rewrites=rewrites,
            # The copy of a constraint is valid; the constraint itself need not be, or nobody would validate it.
            scans="verifying table" in heard
            or "validating foreign key" in heard
            or _VALIDATES.search(text) is not None,
            # A rewrite builds the table's indexes anew by itself; a table's first long column gives it an empty one out of line.
            builds_index='building index "' in heard.replace('building index "pg_toast_', "")
            and not rewrites
            and not concurrent,
            proved="are sufficient to prove" in heard,
        )

    def _is_about_new(self, message: str, statement: Statement) -> bool:
        """Whether a message is about a table that this dry run has made: it is empty, and nobody waits for it."""
        named = _NAMED.search(message)
        subject = next((name for one in split(statement.sql.as_string()) for _, _, name in one.qualified), None)
        name = named["table"] if named is not None else subject[1] if subject is not None else None
        return name in self._copies.made

    def _others(self, number: int, taken: frozenset[tuple[int, LockMode]]) -> tuple[tuple[TableName, LockMode], ...]:
        """The locks on tables that are not the operation's own and that keep the application from writing."""
        own = self._migration.operations[number].table
        return tuple(
            (table, mode)
            for table, oid in self._copies.oids.items()
            for other, mode in sorted(taken)
            if own is not None and table != own and oid == other and mode in BLOCKS_WRITES
        )

    def _judge(self, place: Place, statement: Statement, seen: Seen) -> None:
        number, operation = place.operation, self._migration.operations[place.operation]
        if any(not doubt.back and doubt.place == place.of_raw for doubt in self._found.doubts):
            return  # the linter has said it better
        # Of our own: what would have proved it away may be what was left out.
        if seen.stops_writes and (isinstance(operation, definition.Sql) or not self._astray):
            judge(self._found, operation, number, statement, seen)

    def _try_back(
        self, dry_run: DryRun, at: Place, step: Action, before: tuple[frozenset[Line], frozenset[str]]
    ) -> None:
        """Whether `rollback` leaves everything as it was before `run`."""
        number = at.operation
        operation = self._migration.operations[number]
        below = operation.place(at.step, "rollback") if isinstance(operation, definition.Sql) else "rollback"
        place = f"operations[{number}].sql.{below}"
        if number in self._astray:
            self._found.warn(f"{place} was not tried, because `run` was not")
            return
        state = self._state
        with self._connection.transaction(force_rollback=True):
            left_out = self._play_back(dry_run, at, step)
            lines, objects = self._record()
        self._state = state
        if left_out:
            self._found.warn(f"{place}: {left_out}")
            return
        gone = sorted(str(line) for line in before[0] - lines) + sorted(before[1] - objects)
        left = sorted(str(line) for line in lines - before[0]) + sorted(objects - before[1])
        if gone or left:
            told = "; ".join(
                [f"it does not restore {one}" for one in gone] + [f"it leaves {one} behind" for one in left]
            )
            self._found.warn(f"{place} does not undo everything: {told}")

    def _play_back(self, dry_run: DryRun, at: Place, step: Action) -> str:
        """Run what takes a step back; returns which statement could not be run, and why."""
        for back in step.back:
            for number, statement in enumerate(back.statements if isinstance(back, Action) else ()):
                seen = dry_run.seen_back[replace(at, statement=number)] = self._try(at.operation, statement)
                because = seen.by_rule_because
                if because and not statement.sql.as_string().upper().startswith("SELECT"):
                    return f"{shown(statement)} was not tried: {because}"
        return ""

    def _record(self) -> tuple[frozenset[Line], frozenset[str]]:
        """What the catalog says at this moment of the copies and of what there is."""
        lines = frozenset(
            line
            for table in self._copies.oids
            for line in catalog_diff.read(self._connection, TableName("pg_temp", table.name))
        )
        return lines, frozenset(f"{row['kind']} {row['name']}" for row in self._connection.execute(_SQL["objects"]))

    def _read_state(self) -> _State:
        rows = self._connection.execute(_SQL["state"], {"oids": list(self._copies.oids.values())}).fetchall()
        return _State(
            files={row["oid"]: row["file"] for row in rows if row["file"] is not None},
            locks=frozenset((row["oid"], from_pg_locks(mode)) for row in rows for mode in row["modes"]),
        )
