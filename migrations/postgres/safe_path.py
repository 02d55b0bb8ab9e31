"""Connections whose every transaction begins with an empty `search_path`, and is on disk before its COMMIT is answered.

Whoever may create a function in a schema on the path can have it called in place of one of PostgreSQL's: where an argument has
to be cast, an exact match in `public` is nearer than `pg_catalog`. With an empty path only `pg_catalog` is searched for
functions and operators.

The path is set in the transaction and never for the session: a pooler in transaction mode would give a session's setting to
somebody else, and takes no options at connect. `SET LOCAL` is a command, so nothing is looked up before the path is safe.

A role, a database or a server may have `synchronous_commit = off`. A run's state, a person's command and what a notification says
must outlive a crash all the same, so every transaction waits for the disk at least; where the server waits for more, or for a
standby, ours do too. Batches alone do without: `worker/lanes/claim.py`.
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

_SAFE_PATH = "SET LOCAL search_path = ''"
#: Finds no row where the server waits for the disk by itself. Not `SET LOCAL`, which would take `remote_apply` back to `on`.
_DURABLE = """
SELECT pg_catalog.set_config('synchronous_commit', 'on', true)
WHERE pg_catalog.current_setting('synchronous_commit') = 'off'
"""
#: The first statements of a transaction.
_FIRST = (_SAFE_PATH, _DURABLE)


class SafeCursor(psycopg.Cursor[Any]):  # Any: what a row is, its factory decides
    """Gives a statement outside of a transaction one of its own, which begins as all of ours do.

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
        # All statements in one message: one round trip, and a transaction that ends with the message, whatever comes of it. Such
        # a message takes no parameters, so they are in its text. A pipeline takes them, for two statements more and a ROLLBACK
        # after each error.
        text = psycopg.ClientCursor(connection).mogrify(query, params)
        super().execute("".join((*(f"{first};\n" for first in _FIRST), text)).encode(connection.info.encoding))
        for _ in _FIRST:
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
        """A transaction that begins as all of ours do, or a savepoint within one.

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


@contextmanager
def one_moment(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """A transaction with the safe path that reads, and sees the database as it is at its first statement."""
    psycopg.Cursor(connection).execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; {_SAFE_PATH}".encode())
    try:
        yield
    except BaseException:
        with suppress(psycopg.Error):  # what went wrong before is what the caller must know
            connection.rollback()
        raise
    connection.commit()


def begin(connection: psycopg.Connection[Any]) -> None:
    """Begin a transaction as all of ours begin, in one round trip."""
    statements = ("BEGIN", *_FIRST)
    if connection.pgconn.pipeline_status == PipelineStatus.OFF:
        psycopg.Cursor(connection).execute("; ".join(statements).encode())
    else:  # which takes one statement at a time, and sends them together
        for statement in statements:
            psycopg.Cursor(connection).execute(statement)
