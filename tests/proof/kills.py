"""Every statement that this process sends is counted, and the process kills itself at one of them.

Two moments of each statement are told apart: before it is sent, when what the server answered to the one before is known
and nothing more has happened; and when it is sent and its answer was not waited for, so that the server does it all the
same. The second moment of a COMMIT is the one after which nobody knows what became of it.

What psycopg sends is counted where it hands a statement to libpq: statements of pipelines, of transactions' contexts and of
other connections of the process are counted too.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from psycopg import BaseConnection
    from psycopg.pq.abc import PGconn


@dataclass(frozen=True, kw_only=True)
class Kill:
    """The moment of a death: at this statement of the process, counted from 1, before or after it is sent."""

    at: int
    sent: bool = False

    def __str__(self) -> str:
        return f"{'after' if self.sent else 'before'} statement {self.at}"


class Counter:
    """Counts the statements of all connections but those in `own`, which are the harness's."""

    def __init__(self, kill: Kill | None, tell: Callable[[int, str, bool], None]) -> None:
        self.count = 0
        #: Connections whose statements are not counted.
        self.own: set[int] = set()
        self._kill = kill
        self._tell = tell
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Count from here on, in this process. Nothing takes it back: the process is there for this."""
        send, command = psycopg.Cursor._execute_send, psycopg.Connection._exec_command
        counter = self

        def execute_send(cursor: psycopg.Cursor[Any], query: Any, **options: Any) -> None:  # Any: handed on as they are
            doing = partial(send, cursor, query, **options)
            counter._sending(cursor._conn, query.query, doing)

        def exec_command(
            connection: psycopg.Connection[Any], statement: Any, *rest: Any
        ) -> Generator[Any, Any, Any]:  # Any: what psycopg yields to whoever waits for the socket
            text = statement if isinstance(statement, bytes) else str(statement).encode()
            steps = command(connection, statement, *rest)
            if connection._pipeline:
                result = yield from steps
                counter._wrap_last(connection, text)
                return result
            number = counter._before(text, connection)
            waited = next(steps)  # sent, unless it was refused before
            counter._after(number, connection.pgconn)
            while True:
                ready = yield waited
                try:
                    waited = steps.send(ready)
                except StopIteration as end:
                    return end.value

        psycopg.Cursor._execute_send = execute_send  # type: ignore[method-assign, assignment] # counting is put in its place
        psycopg.Connection._exec_command = exec_command  # type: ignore[method-assign, assignment] # likewise

    def _sending(self, connection: BaseConnection[Any], text: bytes, doing: Callable[[], None]) -> None:
        if (
            id(connection) in self.own or not text.strip()
        ):  # a pool asks with an empty statement whether somebody is there
            doing()
        elif connection._pipeline:
            doing()  # puts it at the end of the pipeline's queue; it is sent when the queue is
            self._wrap_last(connection, text)
        else:
            number = self._before(text, connection)
            doing()
            self._after(number, connection.pgconn)

    def _wrap_last(self, connection: BaseConnection[Any], text: bytes) -> None:
        assert connection._pipeline is not None
        queue = connection._pipeline.command_queue
        doing = queue.pop()

        def send() -> None:
            number = self._before(text, connection)
            doing()
            self._after(number, connection.pgconn)

        queue.append(send)

    def _before(self, text: bytes, connection: BaseConnection[Any]) -> int:
        # A pipeline of ours begins a transaction, or is inside of one.
        alone = connection.pgconn.transaction_status == TransactionStatus.IDLE and not connection._pipeline
        with self._lock:
            self.count += 1
            number = self.count
            self._tell(number, text.decode(errors="replace"), alone or text == b"COMMIT")
            if self._kill is not None and number == self._kill.at and not self._kill.sent:
                os.kill(os.getpid(), signal.SIGKILL)
        return number

    def _after(self, number: int, pgconn: PGconn) -> None:
        if self._kill is not None and number == self._kill.at:
            while pgconn.flush():  # to the last byte: what libpq still holds would die with us
                pass
            os.kill(os.getpid(), signal.SIGKILL)
