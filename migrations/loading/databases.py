"""What a query of another PostgreSQL gives, as CSV: all of it as of one moment, in one transaction that writes nothing.

The moment cannot be had again by another session. So what was cut off begins anew, as of another moment.
"""

from __future__ import annotations

import secrets
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backfilld.migrations.loading.reader import Reader, Unreadable
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings, open_session_at
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.postgres.sqlstates import in_words
from backfilld.migrations.queries import templates

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.source_settings import SourceSettings

_TEMPLATES = templates(__package__, "databases")

#: Texts of values are those that PostgreSQL reads as the same values, whatever the settings of that server are.
_SESSION = {
    **SEMANTICS,
    "client_encoding": "UTF8",
    "bytea_output": "hex",
    "statement_timeout": "0",
    "lock_timeout": "30s",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}


@contextmanager
def one_moment(place: SourceSettings) -> Iterator[Connection]:
    """A session of another database in a transaction that sees one moment and writes nothing. Raises Unreadable."""
    if place.url is None:
        msg = f"the source {place.name} is no database"
        raise Unreadable(msg)
    try:
        connection = open_session_at(place.url.get_secret_value(), application_name=named("a source"), settings={})
    except psycopg.ProgrammingError:
        # libpq's message quotes what it could not read, and a password may be in it.
        msg = f"the url of the source {place.name} is none that libpq understands"
        raise Unreadable(msg) from None
    except psycopg.Error as exc:
        raise Unreadable(str(exc).strip()) from exc
    with closing(connection):
        with told():
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            apply_settings(connection, _SESSION)
        yield connection


@contextmanager
def told() -> Iterator[None]:
    """What that server says is Unreadable."""
    try:
        yield
    except psycopg.Error as exc:
        raise Unreadable(in_words(exc)) from exc


def look(connection: Connection, query: str) -> tuple[tuple[str, ...], int, int]:
    """The fields of a query, about how many lines it gives, and about how many bytes each has. Raises psycopg.Error."""
    with connection.transaction(force_rollback=True), connection.cursor() as cursor:
        cursor.execute(_TEMPLATES["look"].format(query=_inside(query)))
        fields = tuple(one.name for one in cursor.description or ())
        cursor.execute(_TEMPLATES["explain"].format(query=_inside(query)))
        (plan,) = (cursor.fetchone() or {}).values()
    top = plan[0]["Plan"]
    return fields, int(top["Plan Rows"]), int(top["Plan Width"])


class DatabaseReader(Reader):
    """The rows that a query gives."""

    def __init__(self, connection: Connection, query: str, *, bytes_expected: int) -> None:
        """Raises Unreadable."""
        self._expected = bytes_expected
        self._read = 0
        self._moment = secrets.token_hex(8)
        self._rows = self._copy(connection, query)

    def _copy(self, connection: Connection, query: str) -> Generator[bytes]:
        with connection.cursor() as cursor, cursor.copy(_TEMPLATES["copy"].format(query=_inside(query))) as copy:
            for part in copy:
                yield bytes(part)

    def close(self) -> None:
        """Nothing more is wanted of it."""
        with suppress(psycopg.Error):
            self._rows.close()

    @property
    def bytes_total(self) -> int:  # type: ignore[override] # not known before the end
        """As the planner thinks, until it is known."""
        return self._read if self.at_end else max(self._expected, self._read)

    @property
    def position(self) -> int:
        return self._read

    @property
    def digest(self) -> str:
        return self._moment

    def pass_over(self, offset: int) -> str:
        if offset:
            msg = "a moment cannot be had again"
            raise ValueError(msg)
        return self._moment

    def read(self, size: int) -> bytes:
        parts, length = [], 0
        with told():
            while length < size:
                part = next(self._rows, None)
                if part is None:
                    self.at_end = True
                    break
                parts.append(part)
                length += len(part)
        self._read += length
        return b"".join(parts)

    def take(self, content: bytes) -> None:
        self.offset += len(content)

    def place_of(self, start: int) -> None:
        """Its line is the number of its row."""
        del start


def _inside(query: str) -> sql.SQL:
    return sql.SQL(f"\n{query}\n")  # checked by preflight to be one query
