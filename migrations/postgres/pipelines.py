"""Several statements in one round trip, after which the server's clock for idle transactions runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg import generators

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.abc import PQGen

    from backfilld.migrations.postgres.connect import Connection


class _Pipeline(psycopg.Pipeline):
    """A pipeline that sends its statements together, and a Sync behind them.

    psycopg sends each statement at once, and a Flush where results are asked for and where the pipeline ends. PostgreSQL stops its
    clock for idle transactions at any message and starts it again only when it has answered a Sync: a client that freezes after
    a Flush, or between two statements, holds its transaction and all that it has locked for ever. The Sync costs no round trip.

    Not `Pipeline.sync()` at the end of each block: psycopg sends another Sync and the Flush after it, a round trip later.
    """

    def _communicate_gen(self) -> PQGen[None]:
        """Send nothing yet: what is queued goes out with its Sync."""
        yield from ()

    def _fetch_gen(self, *, flush: bool) -> PQGen[None]:
        if flush and self.result_queue:
            self._enqueue_sync()
        while self.command_queue:
            self.command_queue.popleft()()
        yield from generators.send(self.pgconn)
        yield from super()._fetch_gen(flush=False)


@contextmanager
def pipeline(connection: Connection) -> Iterator[None]:
    """Send the statements of the block in one round trip; in more where a result is asked for in between.

    The first statement that fails is the error of the block, or of what asks for a result, and none after it is done. Between two
    round trips an open transaction goes on, so the block begins one itself where its statements belong together.
    """
    opened = connection._pipeline or _Pipeline(connection)  # noqa: SLF001 - as `Connection.pipeline`, which takes no class
    connection._pipeline = opened  # noqa: SLF001 - as above
    try:
        with opened:
            yield
    finally:
        if opened.level == 0:
            connection._pipeline = None  # noqa: SLF001 - as above
