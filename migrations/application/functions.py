"""Functions of the application whose bodies are text, which PostgreSQL reads again each time that a session first calls them.

A body in SQL is parsed by CREATE FUNCTION, so a copy of the function tells whether it still can be. Of one in PL/pgSQL that says
nothing, and nobody knows what becomes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.application.corpus import Statement
from backfilld.migrations.postgres.statements import Unclosed, split
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "application")
_PLPGSQL = "it is in PL/pgSQL, whose body is not read before it runs: try it by hand"


@dataclass(frozen=True, kw_only=True)
class Function(Statement):
    """A function in SQL: `text` is its body."""

    #: `FUNCTION` or `PROCEDURE`, for CREATE and DROP.
    kind: str
    arguments: str
    result: str
    path: str

    def create(self, body: str) -> sql.Composed:
        """A copy of the function with another body, for one session."""
        returns = f" RETURNS {self.result}" if self.kind == "FUNCTION" else ""
        # What PostgreSQL wrote of its signature, in its own quotes.
        head = f"CREATE {self.kind} pg_temp.backfilld_check({self.arguments}){returns} LANGUAGE sql AS "
        return sql.Composed([_raw(head), sql.Literal(body)])


def _raw(text: str) -> sql.SQL:
    return sql.SQL(text)


def read(connection: Connection, tables: Sequence[TableName]) -> tuple[list[Function], list[tuple[Statement, str]]]:
    """The functions that may read these tables: those that can be checked, and the others, each with the reason."""
    names = [table.name for table in tables]
    quoted = [table.identifier.as_string() for table in tables]
    oids = [row["oid"] for row in connection.execute(_SQL["oids"], {"tables": quoted})]
    checked: list[Function] = []
    unchecked: list[tuple[Statement, str]] = []
    for row in connection.execute(_SQL["functions"], {"names": names, "tables": oids}).fetchall():
        kind = "PROCEDURE" if row["kind"] == "p" else "FUNCTION"
        one = Function(
            text=row["body"],
            source=f"{kind.lower()} {row['name']}",
            kind=kind,
            arguments=row["arguments"],
            result=row["result"] or "",
            path=row["path"],
        )
        if row["language"] != "sql":
            unchecked.append((one, _PLPGSQL))
        elif any(_mentions(f"{one.arguments} {one.result}", name) for name in names):
            unchecked.append(
                (one, "its arguments or its result are rows of the table itself, which a copy does not have")
            )
        else:
            checked.append(one)
    return checked, unchecked


def _mentions(text: str, name: str) -> bool:
    try:
        return any(token.name == name for one in split(text) for token in one.tokens)
    except Unclosed:
        return True
