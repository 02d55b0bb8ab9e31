"""Temporary copies of tables, and which statements can be run on them in place of the tables themselves."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations import bind_one
from backfilld.migrations.operations.ddl import policies
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.postgres.policies import policies_of
from backfilld.migrations.postgres.sqlstates import server_is_gone
from backfilld.migrations.postgres.statements import Unclosed, split
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.operations import Operation
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.statements import SqlStatement

_SQL = queries(__package__, "dry_run")

#: First words of what can be run on a copy. Not DO, and nothing that reads or writes rows: what it calls may do anything.
_CAN_RUN = re.compile(
    r"(ALTER TABLE|CREATE (UNIQUE )?INDEX|DROP INDEX|CREATE (OR REPLACE )?(VIEW|FUNCTION|TRIGGER|CONSTRAINT TRIGGER)|CREATE POLICY"
    r"|CREATE TABLE(?!.* AS )|CREATE STATISTICS|DROP (VIEW|FUNCTION|TRIGGER|POLICY|TABLE|STATISTICS)|COMMENT ON|GRANT|REVOKE"
    r"|TRUNCATE|ANALYZE)\b",
    re.DOTALL,
)
#: What a DO block of our own may not hold: what it makes up as it runs cannot be read beforehand.
_MADE_UP = frozenset({"EXECUTE", "PERFORM", "SELECT", "CALL"})
#: What makes a relation whose name is then ours to change, and where the name stands.
_MAKES = re.compile(r"CREATE (OR REPLACE )?(VIEW|TABLE|STATISTICS)( IF NOT EXISTS)?\b")


class Copies:
    """The copies of tables, by the tables' names, and statements about the tables as statements about the copies."""

    def __init__(self, connection: Connection, oids: Mapping[TableName, int]) -> None:
        self.oids = oids
        self._connection = connection
        self._names = {(table.schema, table.name): sql.Identifier("pg_temp", table.name) for table in oids}
        #: Relations that statements have made, by their names in pg_temp: nothing waits for what is done to them.
        self.made: set[str] = set()
        #: What names stood for before anything was tried.
        self._kinds: dict[tuple[str, str], str | None] = {}

    def bound(self, migration: Migration, number: int, facts: Facts, *, name: str) -> Operation:
        """An operation on the copy in place of its table, in a migration of this name."""
        operation = migration.operations[number]
        if operation.table in self.oids and not isinstance(operation, definition.Sql):
            copy = TableName("pg_temp", operation.table.name)
            operation = operation.model_copy(update={"table": copy})
            facts = replace(facts, relation=str(copy))
        operations = list(migration.operations)
        operations[number] = operation
        on_copies = migration.model_copy(update={"name": name, "operations": tuple(operations)})
        return bind_one(on_copies, number, facts)

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """The names that stand for a copy, or for what a statement has made, in the order in which they came."""
        return tuple(self._names)

    def renames(self, name: tuple[str, str], copy: sql.Identifier) -> None:
        """From now on a statement that names this means the copy."""
        self._names[name] = copy

    def about_copies(
        self,
        statement: SqlStatement,
        *,
        unqualified: Mapping[str, tuple[str, str]] | None = None,
        also: Mapping[tuple[str, str], sql.Identifier] | None = None,
    ) -> str:
        """The text of any statement with the copies' names; of names without a schema those that are told to mean a table. `also` are
        names that stand for a copy in what is asked, and not in what is done.
        """
        names = {**(also or {}), **self._names}
        places = {start: (end, names[name]) for start, end, name in statement.qualified if name in names}
        before = ""
        for token, after in zip(statement.tokens, (*statement.tokens[1:], None), strict=True):
            # `INSERT INTO jobs (id)` calls nothing.
            is_call = after is not None and after.text == "(" and before.upper() != "INTO"
            name = (unqualified or {}).get(token.name or "")
            if name in names and before != "." and not is_call and token.start not in places:
                places[token.start] = (token.start + len(token.text), names[name])
            before = token.text
        text, at = "", 0
        for start, (end, copy) in sorted(places.items()):
            text += statement.text[at:start] + copy.as_string()
            at = end
        return text + statement.text[at:]

    def translated(self, text: str, *, is_ours: bool) -> tuple[str, str]:
        """Why a statement cannot be run on copies, if so, and its text with the copies' names.

        Of users' DO blocks none is run; ours are read for what they do.
        """
        try:
            statements = split(text)
        except Unclosed as exc:
            return str(exc), text
        if len(statements) != 1:
            return "it is more than one statement", text
        (statement,) = statements
        if statement.bare.startswith("DO ") and is_ours:
            return self._unlike_ddl(statement), text
        if _CAN_RUN.match(statement.bare) is None:
            return "what it will do is not known beforehand", text
        names = dict(self._names)
        if (made := _made(statement)) is not None and self._kind(made) is None:
            names[made] = self._names[made] = sql.Identifier("pg_temp", made[1])
            if all(table.name != made[1] for table in self.oids):
                self.made.add(made[1])
        for _, _, name in statement.qualified:
            if name not in names and name[0] != "pg_temp" and self._kind(name) is not None:
                return f"{TableName(*name)} has no copy", text
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
                return "what it will do is not known beforehand"
            for name in {name for one in statements for _, _, name in one.qualified}:
                if name[0] != "pg_temp" and self._kind(name) is not None:
                    return f"{TableName(*name)} has no copy"
        return ""

    def _kind(self, name: tuple[str, str]) -> str | None:
        if name not in self._kinds:
            self._kinds[name] = kind_of(self._connection, name)
        return self._kinds[name]


@contextmanager
def copied(connection: Connection, tables: Sequence[TableName]) -> Iterator[Copies]:
    """An empty copy of each table in pg_temp, under the table's own name, with its oid; dropped at the end.

    They are committed first: a transaction holds every lock on a table that it has made.
    """
    made: dict[TableName, int] = {}
    try:
        for table in tables:
            if any(table.name == other.name for other in made) or (oid := _copy(connection, table)) is None:
                continue  # told by rule then
            made[table] = oid
        yield Copies(connection, made)
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
            # Statements know the primary key by its name; LIKE gives it the one that an unnamed key would have.
            key = connection.execute(
                _SQL["primary_keys"], {"table": table.identifier.as_string(), "copy": copy.as_string()}
            ).fetchone()
            if key is not None and key["name"] != key["of_copy"]:
                names = [sql.Identifier(key[column]) for column in ("of_copy", "name")]
                connection.execute(sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}").format(copy, *names))
            # LIKE leaves out policies, which statements may drop.
            for policy in policies_of(connection, catalog.oid_of(connection, table.identifier)):
                connection.execute(policies.create(TableName("pg_temp", table.name), policy)[0].sql)
            return catalog.oid_of(connection, copy)
    except psycopg.Error as exc:
        if server_is_gone(exc):
            raise
        return None


def kind_of(connection: Connection, name: tuple[str, str]) -> str | None:
    """What kind of relation a name stands for; None for none."""
    row = connection.execute(_SQL["relation"], {"schema": name[0], "name": name[1]}).fetchone()
    return None if row is None or name[0] in {"pg_catalog", "information_schema"} else str(row["kind"])


def _made(statement: SqlStatement) -> tuple[str, str] | None:
    """The name that a statement gives to a relation it makes."""
    if _MAKES.match(statement.bare) is None:
        return None
    return next((name for _, _, name in statement.qualified), None)
