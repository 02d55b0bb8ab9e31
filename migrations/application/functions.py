"""Functions of the application whose bodies are text, which PostgreSQL reads again each time that a session first calls them.

A body in SQL is parsed by CREATE FUNCTION, so a copy of the function tells whether it still can be. Of one in PL/pgSQL that says
nothing: the extension plpgsql_check does, where it is installed, and where it is not nobody knows what becomes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import errors, sql

from backfilld.migrations.application.corpus import Statement
from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.queries import queries, templates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "application")
_TEMPLATES = templates(__package__, "statements")
_PLPGSQL = "it is in PL/pgSQL, whose body is not read before it runs: CREATE EXTENSION plpgsql_check, or try it by hand"


@dataclass(frozen=True, kw_only=True)
class Function(Statement):
    """A function: `text` is its body."""

    #: `FUNCTION` or `PROCEDURE`, for CREATE and DROP.
    kind: str
    arguments: str
    result: str
    path: str
    #: Of one in PL/pgSQL, what asks plpgsql_check; None for one in SQL.
    checked_by: sql.Composed | None = None
    #: Of a trigger's function, the table, as it is named in SQL.
    fired_by: str = ""

    def raise_error(self, connection: Connection, copies: Mapping[str, int]) -> None:
        """Raise what plpgsql_check says of the copy, as the error that it would be."""
        if self.checked_by is None:
            return
        row = connection.execute(self.checked_by, [copies.get(self.fired_by, 0)]).fetchone()
        if row is not None:
            try:
                error: type[Exception] = errors.lookup(row["sqlstate"])
            except KeyError:  # one of the application's own
                error = errors.RaiseException
            raise error(row["message"])

    def create(self, body: str) -> sql.Composed:
        """A copy of the function with another body, for one session."""
        returns = f" RETURNS {self.result}" if self.kind == "FUNCTION" else ""
        # What PostgreSQL wrote of its signature, in its own quotes.
        head = f"CREATE {self.kind} pg_temp.backfilld_check({self.arguments}){returns} LANGUAGE {'sql' if self.checked_by is None else 'plpgsql'} AS "
        return sql.Composed([_raw(head), sql.Literal(body)])


def _raw(text: str) -> sql.SQL:
    return sql.SQL(text)


def read(connection: Connection, tables: Sequence[TableName]) -> tuple[list[Function], list[tuple[Statement, str]]]:
    """The functions that may read these tables: those that can be checked, and the others, each with the reason."""
    names = [table.name for table in tables]
    quoted = [table.identifier.as_string() for table in tables]
    oids = {row["oid"]: row["name"] for row in connection.execute(_SQL["oids"], {"tables": quoted})}
    checker = connection.execute(_SQL["extension"], {"name": "plpgsql_check"}).fetchone()
    asks = None
    if checker is not None:
        asks = _TEMPLATES["plpgsql_errors"].format(check=sql.Identifier(checker["schema"], "plpgsql_check_function_tb"))
    checked: list[Function] = []
    unchecked: list[tuple[Statement, str]] = []
    with connection.transaction(force_rollback=True):
        apply_settings(connection, {"search_path": ""})  # so that types have their schema, and arguments none
        rows = connection.execute(_SQL["functions"], {"names": names, "tables": list(oids)}).fetchall()
    for row in rows:
        kind = "PROCEDURE" if row["kind"] == "p" else "FUNCTION"
        one = Function(
            text=row["body"],
            source=f"{kind.lower()} {row['name']}",
            kind=kind,
            arguments=row["arguments"],
            result=row["result"] or "",
            path=row["path"],
            checked_by=asks if row["language"] == "plpgsql" else None,
            fired_by=oids.get(row["fired_by"], ""),
        )
        if row["language"] == "plpgsql" and (asks is None or (row["is_trigger"] and not one.fired_by)):
            unchecked.append((one, _PLPGSQL))
        else:
            checked.append(one)
    return checked, unchecked
