"""The application's statements in each state that a migration brings a database into, on empty copies of its tables.

In one transaction, which is rolled back: the statements are bound and planned as things are today, then the DDL of a phase is run on
the copies, and the statements that bound before are bound and planned again. Only what binds today and does not bind later is
a finding, and only a table that an index could be used for today and none later.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, sql

from backfilld.migrations.application.binding import Way, aside, bind, find_way
from backfilld.migrations.application.corpus import leave_no_trace
from backfilld.migrations.application.functions import Function
from backfilld.migrations.application.usable import newly_scanned
from backfilld.migrations.operations import Action, steps
from backfilld.migrations.operations.sql.steps import Sql
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.sqlstates import in_words, server_is_gone
from backfilld.migrations.postgres.statements import Unclosed, split
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backfilld.migrations.application.corpus import Statement
    from backfilld.migrations.application.paths import Paths
    from backfilld.migrations.application.usable import Plan
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Operation
    from backfilld.migrations.planning.dry_run_copies import Copies
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.statements import SqlStatement
    from backfilld.migrations.record.states import Phase

_SQL = queries(__package__, "application")

#: As in a dry run: copies are empty, so what takes longer waits for something real, and is let be.
_TIMEOUTS = {"lock_timeout": "50ms", "statement_timeout": "5s"}
#: How statements are planned: as one that is prepared, without parallel workers (temporary tables have none), and by an index
#: wherever one can be used.
PLANNED = {
    "plan_cache_mode": "force_generic_plan",
    "max_parallel_workers_per_gather": "0",
    "enable_seqscan": "off",
    "row_security": "on",
}
_CONCURRENTLY = re.compile(r"\A(\s*(?:CREATE\s+(?:UNIQUE\s+)?INDEX|DROP\s+INDEX))\s+CONCURRENTLY\b", re.IGNORECASE)
#: What takes a relation's name away in a way that a temporary one does not have: it is dropped then.
_TAKEN_AWAY = re.compile(r"\AALTER TABLE (?P<copy>\"?pg_temp\"?\..+) SET SCHEMA .*\Z", re.DOTALL)
#: What is about other things than what a statement reads: functions, triggers, comments and privileges.
_BESIDE = re.compile(
    r"(CREATE|DROP|ALTER) (OR REPLACE )?(FUNCTION|TRIGGER|CONSTRAINT TRIGGER|SCHEMA)\b|COMMENT|GRANT|REVOKE|NOTIFY|SELECT|DO\b|LOCK"
    r"|ALTER VIEW .* OWNER TO\b"
    r"|INSERT|UPDATE|DELETE|ANALYZE|ALTER INDEX .* RENAME\b|ALTER TABLE .* (ENABLE|DISABLE) (ALWAYS |REPLICA )?TRIGGER\b",
    re.DOTALL,
)
#: What asks the catalog and not the application's data.
_CATALOG = re.compile(r"\bpg_[a-z]|\binformation_schema\b")
_OF_ROWS = "it takes or gives rows of a table that gets another name, or goes"


@dataclass(frozen=True, kw_only=True)
class Break:
    """A statement that binds today and does not bind from a phase on."""

    statement: Statement
    phase: Phase
    sqlstate: str
    message: str


@dataclass(frozen=True, kw_only=True)
class LosesIndex:
    """A statement that can use an index on a table today, and none from a phase on."""

    statement: Statement
    phase: Phase
    table: TableName


@dataclass(kw_only=True)
class Found:
    """What became of the statements, state by state."""

    #: Statements that were bound on the copies, and those that name none of the tables.
    checked: list[Statement] = field(default_factory=list)
    elsewhere: int = 0
    #: Statements that do not bind today, or not on copies, each with the error.
    unchecked: list[tuple[Statement, str]] = field(default_factory=list)
    breaks: list[Break] = field(default_factory=list)
    loses_index: list[LosesIndex] = field(default_factory=list)
    #: What of the migration could not be done to the copies: what it does to statements is not known.
    untried: list[str] = field(default_factory=list)


@dataclass
class _Watched:
    """A statement that still binds: its text for the copies, the way it binds, and its plan of today; a function has neither."""

    statement: Statement
    text: str
    way: Way = Way()  # noqa: RUF009 - a value
    plan: Plan | None = None
    #: A function whose arguments and result are those of the copies.
    made: Function | None = None
    scans: set[TableName] = field(default_factory=set)


class States:
    """The states of one migration on copies of its tables."""

    def __init__(  # noqa: PLR0913 - what there is to know, each by its name
        self,
        connection: Connection,
        migration: Migration,
        facts: Sequence[Facts],
        copies: Copies,
        *,
        paths: Paths,
        name: str,
        phases: Sequence[Phase],
    ) -> None:
        self._connection = connection
        self._copies = copies
        self._paths = paths
        self._phases = phases
        self._operations = [copies.bound(migration, number, one, name=name) for number, one in enumerate(facts)]
        self._copy_oids = {table.identifier.as_string(): oid for table, oid in copies.oids.items()}
        self._by_copy = {table.name: table for table in copies.oids}
        self._parts = paths.readers.standing_for(migration)
        self._views: list[TableName] = []
        self._found = Found()
        self._watched: list[_Watched] = []

    def check(self, statements: Sequence[Statement]) -> Found:
        """Bind the statements in each state. Raises only for the loss of the connection."""
        with self._connection.transaction(force_rollback=True):
            leave_no_trace(self._connection)
            apply_settings(self._connection, {**SEMANTICS, **_TIMEOUTS})
            self._name_indexes()
            self._make_views()
            for path, several in self._paths.grouped(statements).items():
                with self._as_application(path):
                    for one in several:
                        self._begin(one, self._paths.tables_on(path))
            for phase in self._phases:
                if self._play(phase):
                    self._look_again(phase)
        return self._found

    @contextmanager
    def _as_application(self, path: str) -> Iterator[None]:
        with self._connection.transaction(force_rollback=True):
            apply_settings(self._connection, {**PLANNED, "search_path": path})
            yield

    def _name_indexes(self) -> None:
        """Give the copies' indexes the names of the tables' own, by which DDL knows them."""
        for table in self._copies.oids:
            copy = sql.Identifier("pg_temp", table.name)
            own, copied = (
                self._connection.execute(_SQL["indexes_in_order"], {"table": one.as_string()}).fetchall()
                for one in (table.identifier, copy)
            )
            if [one["known_by"] for one in own] != [one["known_by"] for one in copied]:
                continue
            for before, after in zip(copied, own, strict=True):
                name = sql.Identifier("pg_temp", after["name"])
                try:
                    with self._connection.transaction():
                        if before["name"] != after["name"]:
                            self._connection.execute(
                                sql.SQL("ALTER INDEX pg_temp.{} RENAME TO {}").format(
                                    sql.Identifier(before["name"]), sql.Identifier(after["name"])
                                )
                            )
                except psycopg.errors.DuplicateTable:
                    continue  # of a table in another schema: its DROP INDEX is then not tried
                self._copies.renames((after["schema"], after["name"]), name)

    def _make_views(self) -> None:
        """Have the views over the copies, as they are over the tables: DDL about them is then played on these."""
        for view in self._paths.readers.views:
            if not all(one in self._copies.oids or one in self._views for one in view.reads):
                continue  # it would read a real table, and keep a lock on it
            (parsed,) = split(view.definition)
            try:
                with self._connection.transaction():
                    self._connection.execute(view.on_copies(self._copies.about_copies(parsed)))
            except psycopg.Error as exc:
                if server_is_gone(exc):
                    raise
                continue
            self._copies.renames((view.name.schema, view.name.name), sql.Identifier("pg_temp", view.name.name))
            self._views.append(view.name)

    def _give_up_views(self) -> bool:
        """Drop the views, and ask no more of statements that name one; whether there were any."""
        views, self._views = self._views, []
        for view in views:
            self._connection.execute(
                sql.SQL("DROP VIEW IF EXISTS {} CASCADE").format(sql.Identifier("pg_temp", view.name))
            )
        names = {view.name for view in views}
        for one in list(self._watched):
            if any(token.name in names for parsed in split(one.text) for token in parsed.tokens):
                self._watched.remove(one)
                self._found.checked.remove(one.statement)
                because = "it reads a view, and the migration was not tried with views over the copies"
                self._found.unchecked.append((one.statement, because))
        return bool(views)

    def _begin(self, statement: Statement, tables: Mapping[str, tuple[str, str]]) -> None:
        """Bind a statement as things are today, and find the way in which it binds."""
        # A function may read a table that its text has in a string, and a trigger's does not name its table at all.
        is_function = isinstance(statement, Function)
        if not is_function and not self._paths.mentions(statement.text):
            self._found.elsewhere += _CATALOG.search(statement.text) is None
            return
        try:
            parsed = split(statement.text)
        except Unclosed:
            self._found.unchecked.append((statement, "it cannot be read as SQL"))
            return
        about = ";\n".join(self._copies.about_copies(one, unqualified=tables, also=self._parts) for one in parsed)
        if not is_function and about == ";\n".join(one.text for one in parsed):
            self._found.elsewhere += _CATALOG.search(about) is None
            return
        error: psycopg.Error | None = None
        # A name without a schema may be something else than the table: an alias, a column. The second way leaves it as it is.
        for one in dict.fromkeys((self._on_copies(parsed, tables), self._on_copies(parsed, {}))):
            try:
                if isinstance(statement, Function):
                    if statement.checked_by is not None and not self._paths.may_plan(statement):
                        self._found.unchecked.append(
                            (statement, "a function or a view in it is of a role with fewer rights")
                        )
                        return
                    made = self._of_copies(statement)
                    self._create(made, one)
                    watched = _Watched(statement, one, made=made)
                else:
                    way, bound = find_way(self._connection, one, plans=self._paths.may_plan(statement))
                    watched = _Watched(statement, one, way, bound.plan)
            except psycopg.Error as exc:
                if server_is_gone(exc):
                    raise
                error = error or exc
            else:
                self._watched.append(watched)
                self._found.checked.append(statement)
                return
        assert error is not None  # noqa: S101 - one of the two was tried
        self._found.unchecked.append((statement, f"it does not bind today: {in_words(error)}"))

    def _on_copies(self, parsed: Sequence[SqlStatement], tables: Mapping[str, tuple[str, str]]) -> str:
        """The text with the copies' names. A name that WITH gives is left: PostgreSQL tells where it is the table's, and finds the copy."""
        return ";\n".join(
            self._copies.about_copies(
                one,
                unqualified={name: table for name, table in tables.items() if name not in one.own_names},
                also=self._parts,
            )
            for one in parsed
        )

    def _of_copies(self, function: Function) -> Function:
        """The function with rows of the copies where it takes or gives rows of the tables: types have their schema, arguments none."""
        arguments, result = (self._on_copies(split(text), {}) for text in (function.arguments, function.result))
        return replace(function, arguments=arguments, result=result)

    def _create(self, function: Function, body: str) -> None:
        with aside(self._connection):
            self._connection.execute(function.create(body))
            function.raise_error(self._connection, self._copy_oids)

    def _play(self, phase: Phase) -> bool:
        """Run the DDL of a phase on the copies; whether there was any."""
        played = False
        for number, operation in enumerate(self._operations):
            for step in steps([operation], phase):
                for statement in step.statements if isinstance(step, Action) else ():
                    played = True
                    self._try(number, operation, statement.sql.as_string().strip())
        return played

    def _try(self, number: int, operation: Operation, text: str) -> None:
        because, text = self._copies.translated(_CONCURRENTLY.sub(r"\1", text), is_ours=not isinstance(operation, Sql))
        if not because:
            try:
                with self._connection.transaction():
                    self._connection.execute(_TAKEN_AWAY.sub(r"DROP TABLE \g<copy> CASCADE", text).encode())
            except psycopg.errors.WrongObjectType:
                # The copy of a view is a table.
                self._connection.execute(re.sub(r"\ADROP VIEW\b", "DROP TABLE", text).encode())
            except psycopg.Error as exc:
                if server_is_gone(exc):
                    raise
                if self._give_up_views():
                    self._try(number, operation, text)
                    return
                because = in_words(exc)
        if because and _BESIDE.match(text.upper()) is None:
            self._found.untried.append(f"operations[{number}]: {' '.join(text.split())[:200]} ({because})")

    def _look_again(self, phase: Phase) -> None:
        """Bind what still bound before this phase."""
        still: list[_Watched] = []
        by_statement = {id(one.statement): one for one in self._watched}
        for path, several in self._paths.grouped([one.statement for one in self._watched]).items():
            with self._as_application(path):
                for statement in several:
                    one = by_statement[id(statement)]
                    if self._still_binds(one, phase):
                        still.append(one)
        self._watched = still

    def _still_binds(self, one: _Watched, phase: Phase) -> bool:
        try:
            if one.made is not None:
                self._create(one.made, one.text)
                return True
            now = bind(self._connection, one.text, one.way, plans=one.plan is not None).plan
        except psycopg.Error as exc:
            if server_is_gone(exc):
                raise
            if one.made is not None and isinstance(exc, errors.UndefinedObject) and one.made != one.statement:
                # The function keeps its type when the table gets another name, or goes with it; the copy of it knows the old name.
                self._found.checked.remove(one.statement)
                self._found.unchecked.append((one.statement, _OF_ROWS))
                return False
            self._breaks(one, phase, exc.sqlstate or "", _as_the_application_sees_it(in_words(exc)))
            return False
        if (gone := self._found_outside(one, now)) is not None:
            self._breaks(one, phase, errors.UndefinedTable.sqlstate or "", f'relation "{gone}" does not exist')
            return False
        for schema, name in sorted(newly_scanned(one.plan, now) if one.plan is not None and now is not None else ()):
            table = self._by_copy.get(name) if schema.startswith("pg_temp") else None
            if table is not None and table not in one.scans:
                one.scans.add(table)
                self._found.loses_index.append(LosesIndex(statement=one.statement, phase=phase, table=table))
        return True

    def _found_outside(self, one: _Watched, now: Plan | None) -> str | None:
        """A table that is read itself, as its copy does not have the name any more that the text has without a schema."""
        if one.plan is None or now is None:
            return None
        come = sorted((now.scanned | now.by_index) - one.plan.scanned - one.plan.by_index)
        real = {(table.schema, table.name) for table in self._copies.oids}
        return next((name for schema, name in come if (schema, name) in real), None)

    def _breaks(self, one: _Watched, phase: Phase, sqlstate: str, message: str) -> None:
        self._found.breaks.append(Break(statement=one.statement, phase=phase, sqlstate=sqlstate, message=message))


def _as_the_application_sees_it(message: str) -> str:
    """An error without the schema of the copies in it."""
    return re.sub(r"pg_temp(_\d+)?\.", "", message.replace('"pg_temp".', ""))
