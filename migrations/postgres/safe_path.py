"""Connections whose every transaction begins with an empty `search_path`.

Whoever may create a function in a schema on the path can have it called in place of one of PostgreSQL's: where an argument has
to be cast, an exact match in `public` is nearer than `pg_catalog`. With an empty path only `pg_catalog` is searched for
functions and operators.

The path is set in the transaction and never for the session: a pooler in transaction mode would give a session's setting to
somebody else, and takes no options at connect. `SET LOCAL` is a command, so nothing is looked up before the path is safe.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, LiteralString, Self

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import sql
    from psycopg.abc import Params

#: The first statement of a transaction.
_SAFE_PATH = "SET LOCAL search_path = ''"


class SafeCursor(psycopg.Cursor[Any]):  # Any: what a row is, its factory decides
    """Gives a statement outside of a transaction one of its own, with the safe path.

    In a pipeline it cannot: one that is opened outside of a transaction begins with `BEGIN`.
    """

    def execute(  # type: ignore[override] # templates came with psycopg 3.3, and none of ours is one
        self, query: bytes | LiteralString | sql.SQL | sql.Composed, params: Params | None = None, **options: Any
    ) -> Self:
        connection = self.connection
        if query == "BEGIN":
            begin(connection)
            return self
        in_pipeline = connection.pgconn.pipeline_status != PipelineStatus.OFF
        if in_pipeline or connection.info.transaction_status is not TransactionStatus.IDLE or not query:
            return super().execute(query, params, **options)
        # Two statements in one message: one round trip, and a transaction that ends with the message, whatever comes of it. Such
        # a message takes no parameters, so they are in its text. A pipeline takes them, for two statements more and a ROLLBACK
        # after each error.
        text = psycopg.ClientCursor(connection).mogrify(query, params)
        super().execute(f"{_SAFE_PATH};\n{text}".encode(connection.info.encoding))
        self.nextset()
        return self


class SafeConnection(psycopg.Connection[dict[str, Any]]):
    """A connection in autocommit mode whose cursors are `SafeCursor`."""

    @contextmanager
    def transaction(  # type: ignore[override] # psycopg gives its Transaction, for which nobody here has asked
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - as psycopg has it
    ) -> Iterator[None]:
        """A transaction with the safe path, or a savepoint within one.

        Not by psycopg's: it sends BEGIN alone, and what follows a round trip later.
        """
        if self.info.transaction_status is not TransactionStatus.IDLE:
            with super().transaction(savepoint_name, force_rollback):
                yield
            return
        begin(self)
        try:
            yield
        except BaseException:
            with suppress(psycopg.Error):  # what went wrong before is what the caller must know
                self.rollback()
            raise
        if force_rollback:
            self.rollback()
        else:
            self.commit()


def begin(connection: psycopg.Connection[Any]) -> None:
    """Begin a transaction with the safe path, in one round trip."""
    cursor = psycopg.Cursor(connection)
    if connection.pgconn.pipeline_status == PipelineStatus.OFF:
        cursor.execute(f"BEGIN; {_SAFE_PATH}".encode())
    else:  # which takes one statement at a time, and sends them together
        cursor.execute("BEGIN")
        psycopg.Cursor(connection).execute(_SAFE_PATH)
