"""The search paths under which the application sends its statements, and what a name without a schema means under each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.application.functions import Function
from backfilld.migrations.postgres.statements import Unclosed, split
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.application.corpus import Statement
    from backfilld.migrations.application.readers import Readers
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "application")


class Paths:
    """The search path of each statement, by the first role that sent it; of one of a file, by the first role that is asked for."""

    def __init__(
        self,
        connection: Connection,
        tables: Sequence[TableName],
        roles: Iterable[str],
        default: str,
        readers: Readers,
    ) -> None:
        #: Through what else the tables are read.
        self.readers = readers
        self._default = default
        wanted = sorted({*roles, default})
        rows = connection.execute(_SQL["search_paths"], {"roles": wanted}).fetchall()
        self._of_role = {row["role"]: _expanded(row["path"], row["role"]) for row in rows}
        self._connection = connection
        self._known = {(one.schema, one.name) for one in (*tables, *readers.names)}
        # A name in quotes has each of its own doubled.
        self._words = {name.replace('"', '""').casefold() for _, name in self._known}
        self._tables: dict[str, dict[str, tuple[str, str]]] = {}
        for path in self._of_role.values():
            self._with(path)
        self._foreign = frozenset(row["name"] for row in connection.execute(_SQL["foreign_names"]))

    def of(self, statement: Statement) -> str:
        if isinstance(statement, Function) and statement.path:
            return self._with(_expanded(statement.path, self._default))
        return self._of_role[statement.roles[0] if statement.roles else self._default]

    def _with(self, path: str) -> str:
        if path not in self._tables:
            asked = {"names": sorted({name for _, name in self._known}), "schemas": _schemas(path)}
            found = [(row["schema"], row["name"]) for row in self._connection.execute(_SQL["first_on_path"], asked)]
            self._tables[path] = {name: (schema, name) for schema, name in found if (schema, name) in self._known}
        return path

    def grouped(self, statements: Sequence[Statement]) -> dict[str, list[Statement]]:
        """The statements by their path."""
        groups: dict[str, list[Statement]] = {}
        for one in statements:
            groups.setdefault(self.of(one), []).append(one)
        return groups

    def tables_on(self, path: str) -> dict[str, tuple[str, str]]:
        """The tables that a name without a schema means under a path, by that name."""
        return self._tables[path]

    def mentions(self, text: str) -> bool:
        """Whether the name of one of the tables, or of what reads them, is anywhere in a text: what has it not need not be read any further."""
        text = text.casefold()
        return any(name in text for name in self._words)

    def concerns(self, statement: Statement) -> bool:
        """Whether a statement names one of the tables, or what reads them."""
        if not self.mentions(statement.text):
            return False
        tables = self._with(self.of(statement))
        named = self._tables[tables]
        try:
            parsed = split(statement.text)
        except Unclosed:
            return False
        return any(
            any(name in self._known for _, _, name in one.qualified) or any(token.name in named for token in one.tokens)
            for one in parsed
        )

    def may_plan(self, statement: Statement) -> bool:
        """Whether planning a statement calls nothing that belongs to a role with fewer rights: it would run with ours."""
        try:
            return not any(token.name in self._foreign for one in split(statement.text) for token in one.tokens)
        except Unclosed:
            return False


def _expanded(path: str, role: str) -> str:
    return path.replace('"$user"', sql.Identifier(role).as_string()).replace("$user", sql.Identifier(role).as_string())


def _schemas(path: str) -> list[str]:
    try:
        tokens = [token for one in split(path) for token in one.tokens]
    except Unclosed:
        return []
    return [token.name for token in tokens if token.name is not None]
