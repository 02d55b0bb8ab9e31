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
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, sql

from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations import Action, bind_one, steps
from backfilld.migrations.operations.sql.steps import Sql
from backfilld.migrations.planning.lint import RULES, SMALL_ROWS
from backfilld.migrations.postgres import catalog, catalog_diff
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.sqlstates import server_is_gone
from backfilld.migrations.postgres.statements import Unclosed, split
from backfilld.migrations.queries import queries
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.operations import Operation, Statement
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.postgres.catalog_diff import Line
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.statements import SqlStatement

_SQL = queries(__package__, "dry_run")

#: Table locks from the weakest to the strongest, as `pg_locks` calls them.
_MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
#: The locks under which the application cannot write.
BLOCKING = frozenset({"SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"})

#: Copies are empty and nobody else sees them, so that whatever takes longer than this waits for something real.
_TIMEOUTS = {"lock_timeout": "50ms", "statement_timeout": "5s"}
#: More tables than this are not copied: what names the others is told by rule.
_MOST_COPIES = 20

#: First words of what can be run on a copy. Not DO, and nothing that reads or writes rows: what it calls may do anything.
_CAN_RUN = re.compile(
    r"(ALTER TABLE|CREATE (UNIQUE )?INDEX|DROP INDEX|CREATE (OR REPLACE )?(VIEW|FUNCTION|TRIGGER|CONSTRAINT TRIGGER)|CREATE POLICY"
    r"|CREATE TABLE(?!.* AS )|CREATE STATISTICS|DROP (VIEW|FUNCTION|TRIGGER|POLICY|TABLE|STATISTICS)|COMMENT ON|GRANT|REVOKE"
    r"|TRUNCATE|ANALYZE)\b",
    re.DOTALL,
)
#: What a DO block of our own may not hold: what it makes up as it runs cannot be read beforehand.
_MADE_UP = frozenset({"EXECUTE", "PERFORM", "SELECT", "CALL"})
#: What is not run, and leaves a copy as it is all the same.
_ABOUT_ROWS = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|TABLE)\b", re.IGNORECASE)
#: What makes a relation whose name is then ours to change, and where the name stands.
_MAKES = re.compile(r"CREATE (OR REPLACE )?(VIEW|TABLE|STATISTICS)( IF NOT EXISTS)?\b")
_CONCURRENTLY = re.compile(r"\A(\s*(?:CREATE\s+(?:UNIQUE\s+)?INDEX|DROP\s+INDEX))\s+CONCURRENTLY\b", re.IGNORECASE)

#: Errors that a copy answers as the table itself would. Not 42704, 42809 and 42P16: triggers, policies and foreign keys are
#: not copied, a partitioned table's copy is an ordinary one, and temporary tables may not do all that others may.
_TELLING = (
    errors.SyntaxError,
    errors.UndefinedColumn,
    errors.DuplicateColumn,
    errors.UndefinedFunction,
    errors.DatatypeMismatch,
    errors.CannotCoerce,
    errors.InvalidObjectDefinition,
    errors.InvalidColumnReference,
    errors.GroupingError,
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a statement did to the copies; by rule, where it was not run."""

    #: The strongest lock on a table; empty where it was not measured, as behind a stronger one that is held already.
    lock: str = ""
    #: Other tables that the application cannot write meanwhile, each with its lock.
    also: tuple[str, ...] = ()
    rewrites: bool = False
    scans: bool = False
    builds_index: bool = False
    #: A scan was spared, because a constraint proves what it would have shown.
    proved: bool = False
    #: Why it was not run; empty where it was.
    by_rule_because: str = ""

    @property
    def measured(self) -> bool:
        return not self.by_rule_because

    @property
    def is_long(self) -> bool:
        """Whether it takes as long as the table is large."""
        return self.rewrites or self.scans or self.builds_index


@dataclass(frozen=True)
class Place:
    """Where a statement stands: in which phase of which operation, and which of its steps and statements it is."""

    phase: Phase
    operation: int
    step: int
    statement: int


@dataclass(kw_only=True)
class DryRun:
    """What was seen of a migration."""

    seen: dict[Place, Seen] = field(default_factory=dict)

    def at(self, place: Place) -> Seen:
        return self.seen.get(place, Seen(by_rule_because="it was not rehearsed"))


def dry_run(connection: Connection, found: Findings, migration: Migration, facts: Sequence[Facts]) -> DryRun:
    """Run the migration's statements on copies; what must not be run is refused in `found`."""
    if not any(
        steps([bind_one(migration, number, known)], phase) for number, known in enumerate(facts) for phase in Phase
    ):
        return DryRun()
    with _copies(connection, _named(connection, found, migration, facts)) as copies:
        return _Stage(connection, found, migration, facts, copies).play()


def _named(connection: Connection, found: Findings, migration: Migration, facts: Sequence[Facts]) -> list[TableName]:
    """The tables that the operations are about or their statements name."""
    tables = {operation.table: None for operation in migration.operations if operation.table is not None}
    for number, known in enumerate(facts):
        operation = bind_one(migration, number, known)
        for phase in Phase:
            for step in steps([operation], phase):
                for statement in step.statements if isinstance(step, Action) else ():
                    for name in _names(statement.sql.as_string()):
                        tables |= {TableName(*name): None} if _kind(connection, name) in {"r", "p"} else {}
    tables |= dict.fromkeys(found.tables)
    return list(tables)[:_MOST_COPIES]


@contextmanager
def _copies(connection: Connection, tables: Sequence[TableName]) -> Iterator[dict[TableName, int]]:
    """An empty copy of each table in pg_temp, under the table's own name, with its oid; dropped at the end.

    They are committed first: whoever makes a table holds every lock on it until the end of his transaction.
    """
    made: dict[TableName, int] = {}
    try:
        for table in tables:
            if any(table.name == other.name for other in made) or (oid := _copy(connection, table)) is None:
                continue  # told by rule then
            made[table] = oid
        yield made
    finally:
        if not connection.closed and not connection.broken:
            for table in made:
                connection.execute(
                    sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.Identifier("pg_temp", table.name))
                )


def _copy(connection: Connection, table: TableName) -> int | None:
    copy = sql.Identifier("pg_temp", table.name)
    try:
        with connection.transaction():
            apply_settings(connection, {"search_path": "", "lock_timeout": "2s"})
            connection.execute(
                sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING ALL)").format(copy, table.identifier)
            )
            return catalog.oid_of(connection, copy)
    except psycopg.Error as exc:
        if server_is_gone(exc):
            raise
        return None


@dataclass(frozen=True)
class _State:
    """The copies at one moment: their files, and the locks that are held on them."""

    files: dict[int, int] = field(default_factory=dict)
    locks: frozenset[tuple[int, str]] = frozenset()


class _Stage:
    """The one transaction in which everything is tried."""

    def __init__(
        self,
        connection: Connection,
        found: Findings,
        migration: Migration,
        facts: Sequence[Facts],
        copies: dict[TableName, int],
    ) -> None:
        self._connection = connection
        self._found = found
        self._migration = migration
        self._copies = copies
        self._token = secrets.token_hex(8)
        self._operations = [self._bound(number, known) for number, known in enumerate(facts)]
        self._names = {(table.schema, table.name): sql.Identifier("pg_temp", table.name) for table in copies}
        #: Operations of which a statement was left out, so that the copies may no longer be what the tables would be.
        self._astray: set[int] = set()
        self._heard: list[str] = []
        #: What names stood for before anything was tried.
        self._kinds: dict[tuple[str, str], str | None] = {}
        self._state = _State()

    def play(self) -> DryRun:
        dry_run = DryRun()
        hear = lambda notice: self._heard.append(notice.message_primary or "")  # noqa: E731 - to be taken off again
        self._connection.add_notice_handler(hear)
        try:
            with self._connection.transaction(force_rollback=True):
                apply_settings(self._connection, {**SEMANTICS, **_TIMEOUTS, "client_min_messages": "debug1"})
                self._have_schema()
                self._state = self._read_state()
                for phase in Phase:
                    for number, operation in enumerate(self._operations):
                        self._play_operation(dry_run, phase, number, operation)
        finally:
            self._connection.remove_notice_handler(hear)
        return dry_run

    def _bound(self, number: int, facts: Facts) -> Operation:
        """An operation on the copy, under a name that no migration and no other dry run has."""
        operation = self._migration.operations[number]
        if operation.table in self._copies and not isinstance(operation, definition.Sql):
            copy = TableName("pg_temp", operation.table.name)
            operation = operation.model_copy(update={"table": copy})
            facts = replace(facts, relation=str(copy))
        operations = list(self._migration.operations)
        operations[number] = operation
        rehearsed = self._migration.model_copy(
            update={"name": f"dry_run {self._token}", "operations": tuple(operations)}
        )
        return bind_one(rehearsed, number, facts)

    def _have_schema(self) -> None:
        """Functions of ours live in a schema that `init` makes, and there may not have been one."""
        try:
            with self._connection.transaction():
                self._connection.execute("CREATE SCHEMA IF NOT EXISTS backfilld")
        except errors.InsufficientPrivilege:
            pass  # what needs it is told by rule

    def _play_operation(self, dry_run: DryRun, phase: Phase, number: int, operation: Operation) -> None:
        before = self._record() if isinstance(operation, Sql) and steps([operation], phase) else None
        for step_number, step in enumerate(steps([operation], phase)):
            if not isinstance(step, Action):
                continue
            for statement_number, statement in enumerate(step.statements):
                place = Place(phase, number, step_number, statement_number)
                dry_run.seen[place] = seen = self._try(number, statement)
                self._judge(number, statement, seen)
            if before is not None:
                self._try_back(number, step, before)

    def _try(self, number: int, statement: Statement) -> Seen:
        """Run one statement, and see what it does."""
        text = _CONCURRENTLY.sub(r"\1", statement.sql.as_string().strip())
        because, text = self._for_copies(number, text)
        if because:
            if _ABOUT_ROWS.match(text) is None:
                self._astray.add(number)
            return Seen(by_rule_because=because)
        self._heard.clear()
        try:
            with self._connection.transaction():
                self._connection.execute(text.encode())
        except psycopg.Error as exc:
            if server_is_gone(exc):
                raise
            self._fail(number, statement, exc)
            self._astray.add(number)
            return Seen(by_rule_because=f"on an empty copy it fails ({exc.diag.message_primary or exc})")
        return self._see(number, statement)

    def _see(self, number: int, statement: Statement) -> Seen:
        before, now = self._state, self._read_state()
        self._state = now
        came = now.locks - before.locks
        new = {_written(mode) for _, mode in came}
        held = {_written(mode) for _, mode in now.locks}
        # A mode that is held already does not show again: then what the statement is known to take must be among those.
        taken = new | ({statement.lock} & (held | {"none"}))
        heard = " · ".join(self._heard)
        concurrent = _CONCURRENTLY.match(statement.sql.as_string()) is not None
        moved = any(now.files.get(oid, file) != file for oid, file in before.files.items())
        rewrites = moved or "rewriting table" in heard
        return Seen(
            lock="" if concurrent else max(taken, key=_strength, default="" if held else "none"),
            also=self._others(number, came),
            rewrites=rewrites,
            scans="verifying table" in heard or "validating foreign key" in heard,
            # A rewrite builds the table's indexes anew by itself; a table's first long column gives it an empty one out of line.
            builds_index='building index "' in heard.replace('building index "pg_toast_', "")
            and not rewrites
            and not concurrent,
            proved="are sufficient to prove" in heard,
        )

    def _others(self, number: int, taken: frozenset[tuple[int, str]]) -> tuple[str, ...]:
        """The locks on tables that are not the operation's own and that keep the application from writing."""
        own = self._migration.operations[number].table
        return tuple(
            f"{table} in {_written(mode)}"
            for table, oid in self._copies.items()
            for other, mode in sorted(taken)
            if own is not None and table != own and oid == other and _written(mode) in BLOCKING
        )

    def _for_copies(self, number: int, text: str) -> tuple[str, str]:
        """Why a statement cannot be run here, if so, and its text with the copies' names."""
        try:
            statements = split(text)
        except Unclosed as exc:
            return str(exc), text
        if len(statements) != 1:
            return "it is more than one statement", text
        (statement,) = statements
        if statement.bare.startswith("DO ") and not isinstance(self._operations[number], Sql):
            return self._unlike_ddl(statement), text
        if _CAN_RUN.match(statement.bare) is None:
            return "what it does cannot be told beforehand", text
        names = dict(self._names)
        if (made := _made(statement)) is not None and self._kind(made) is None:
            names[made] = self._names[made] = sql.Identifier("pg_temp", made[1])
        for _, _, name in statement.qualified:
            if name not in names and name[0] != "pg_temp" and self._kind(name) is not None:
                return f"{TableName(*name)} is not copied", text
        return "", statement.renamed(names)

    def _unlike_ddl(self, block: SqlStatement) -> str:
        """Why a DO block of our own is more than DDL about copies; empty when it is not."""
        for body in block.strings:
            inner = re.sub(r"\A\$\w*\$|\$\w*\$\Z", "", body)
            try:
                statements = split(inner)
            except Unclosed as exc:
                return str(exc)
            if any(token.word in _MADE_UP for one in statements for token in one.tokens):
                return "what it does cannot be told beforehand"
            for name in {name for one in statements for _, _, name in one.qualified}:
                if name[0] != "pg_temp" and self._kind(name) is not None:
                    return f"{TableName(*name)} is not copied"
        return ""

    def _judge(self, number: int, statement: Statement, seen: Seen) -> None:
        """Refuse what holds the application up for as long as the table is large."""
        if not (seen.measured and seen.is_long and seen.lock in BLOCKING):
            return
        operation = self._migration.operations[number]
        did = "rewrites its table" if seen.rewrites else "builds an index" if seen.builds_index else "scans its table"
        place = f"operations[{number}].{operation.kind}"
        problem = f"{place}: {_shown(statement)}: it {did} under {seen.lock}, seen on a copy (long-lock)"
        if not isinstance(operation, definition.Sql):
            if self._astray:
                return  # what would have proved it away may be what was left out
            self._found.refuse("dry_run", problem, "Write the change so that it needs neither, and tell us of this")
            return
        looked_at = {"long-lock", *(name for name, rule in RULES.items() if rule.by_size)} & set(operation.allow)
        rows = max((count for name, count in self._found.rows.items() if self._names_it(statement, name)), default=0)
        if rows >= SMALL_ROWS and not looked_at:
            remedy = f"{_instead(seen, statement)}; or, having looked at it, write `allow: [long-lock]`"
            self._found.refuse("dry_run", f"{problem}, and there are about {rows:,} rows", remedy)
        else:
            self._found.warn(problem)

    def _names_it(self, statement: Statement, table: TableName) -> bool:
        return (table.schema, table.name) in _names(statement.sql.as_string())

    def _fail(self, number: int, statement: Statement, exc: psycopg.Error) -> None:
        """A statement that PostgreSQL does not accept, where the copy is what the table would be."""
        if self._astray or not isinstance(exc, _TELLING):
            return
        kind = self._migration.operations[number].kind
        self._found.refuse(
            "dry_run",
            f"operations[{number}].{kind}: {_shown(statement)}: {exc.diag.message_primary or exc}",
            exc.diag.message_hint or "Nothing was changed; mend the operation",
        )

    def _try_back(self, number: int, step: Action, before: tuple[frozenset[Line], frozenset[str]]) -> None:
        """Whether `rollback` leaves everything as it was before `run`."""
        place = f"operations[{number}].sql.rollback"
        if number in self._astray:
            self._found.warn(f"{place} was not rehearsed, because `run` could not be")
            return
        state = self._state
        with self._connection.transaction(force_rollback=True):
            left_out = self._play_back(number, step)
            lines, objects = self._record()
        self._state = state
        if left_out:
            self._found.warn(f"{place}: {left_out}")
            return
        gone = sorted(str(line) for line in before[0] - lines) + sorted(before[1] - objects)
        left = sorted(str(line) for line in lines - before[0]) + sorted(objects - before[1])
        if gone or left:
            told = "; ".join([f"it does not bring back {one}" for one in gone] + [f"it leaves {one}" for one in left])
            self._found.warn(f"{place} does not take everything back: {told}")

    def _play_back(self, number: int, step: Action) -> str:
        """Run what takes a step back; returns which statement could not be run, and why."""
        for back in step.back:
            for statement in back.statements if isinstance(back, Action) else ():
                because = self._try(number, statement).by_rule_because
                if because and not statement.sql.as_string().upper().startswith("SELECT"):
                    return f"{_shown(statement)} was not rehearsed: {because}"
        return ""

    def _record(self) -> tuple[frozenset[Line], frozenset[str]]:
        """What the catalog says at this moment of the copies and of what there is."""
        lines = frozenset(
            line
            for table in self._copies
            for line in catalog_diff.read(self._connection, TableName("pg_temp", table.name))
        )
        return lines, frozenset(f"{row['kind']} {row['name']}" for row in self._connection.execute(_SQL["objects"]))

    def _read_state(self) -> _State:
        rows = self._connection.execute(_SQL["state"], {"oids": list(self._copies.values())}).fetchall()
        return _State(
            files={row["oid"]: row["file"] for row in rows},
            locks=frozenset((row["oid"], mode) for row in rows for mode in row["modes"]),
        )

    def _kind(self, name: tuple[str, str]) -> str | None:
        if name not in self._kinds:
            self._kinds[name] = _kind(self._connection, name)
        return self._kinds[name]


def _names(text: str) -> set[tuple[str, str]]:
    try:
        return {name for statement in split(text) for _, _, name in statement.qualified}
    except Unclosed:
        return set()


def _kind(connection: Connection, name: tuple[str, str]) -> str | None:
    """What kind of relation a name stands for; None for none."""
    row = connection.execute(_SQL["relation"], {"schema": name[0], "name": name[1]}).fetchone()
    return None if row is None or name[0] in {"pg_catalog", "information_schema"} else str(row["kind"])


def _made(statement: SqlStatement) -> tuple[str, str] | None:
    """The name that a statement gives to a relation it makes."""
    if _MAKES.match(statement.bare) is None:
        return None
    return next((name for _, _, name in statement.qualified), None)


def _written(mode: str) -> str:
    """A lock's mode as LOCK TABLE has it: ACCESS EXCLUSIVE for AccessExclusiveLock."""
    return " ".join(re.findall("[A-Z][a-z]+", mode.removesuffix("Lock"))).upper()


def _strength(lock: str) -> int:
    return next((number for number, mode in enumerate(_MODES) if _written(mode) == lock), -1)


def _shown(statement: Statement) -> str:
    text = " ".join(statement.sql.as_string().split())
    return f"{text[:77]}..." if len(text) > 80 else text


def _instead(seen: Seen, statement: Statement) -> str:
    """The operation that does the same without holding the application up."""
    text = statement.sql.as_string().upper()
    if seen.builds_index:
        return "Use create_index, or add_unique for a constraint"
    for words, operation in (
        ("FOREIGN KEY", "add_foreign_key"),
        ("CHECK", "add_check"),
        ("SET NOT NULL", "set_not_null"),
        ("ADD COLUMN", "add_column"),
        ("TYPE", "change_type"),
        ("ADD ", "add_column"),
    ):
        if words in text:
            return f"Use {operation}"
    return "Do it in steps, or while the application is stopped"
