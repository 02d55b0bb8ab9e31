"""Says in the database that this worker is there, and what keeps it from working: for those who ask why nothing moves."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.record import workers
from backfilld.migrations.telemetry import nobody
from backfilld.worker.side_tasks.side_task import SideTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backfilld.migrations.postgres.connect import Connection

#: How often a worker looks at itself. What has changed is reported at once.
LOOK_SECONDS = 4.0
#: A report takes milliseconds; a database that hangs is not waited for.
STOP_SECONDS = 2.0


class Presence:
    """One worker on record, until it stops."""

    def __init__(self, *, transforms: Sequence[str], look: Callable[[], tuple[bool, str | None]]) -> None:
        """`look` tells whether a process of this worker can take work, and what keeps it, or a part of it, from that."""
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self._transforms = tuple(transforms)
        self._look = look
        #: What was reported last, and when (`time.monotonic`).
        self._said: tuple[bool, str | None] | None = None
        self._said_at = 0.0

    def run_once(self, connection: Connection) -> int:
        works, problem = now = self._look()
        if now == self._said and time.monotonic() - self._said_at < workers.REPORT_SECONDS:
            return 0
        workers.report(connection, self.worker, works=works, problem=problem, transforms=self._transforms)
        self._said, self._said_at = now, time.monotonic()
        return 1

    def wait(self, stopping: threading.Event) -> None:
        """Wait until it is time to say it again, or the process stops."""
        stopping.wait(LOOK_SECONDS)

    def leave(self, connection: Connection) -> None:
        """The worker stops."""
        workers.forget(connection, self.worker)


@contextmanager
def announced(
    database_url: str, *, transforms: Sequence[str], look: Callable[[], tuple[bool, str | None]]
) -> Iterator[None]:
    """This worker is on record until the end of the context. A database that is away is the other side tasks' to report."""
    presence, stopping = Presence(transforms=transforms, look=look), threading.Event()
    task = SideTask(
        "presence",
        presence.run_once,
        database_url=database_url,
        stopping=stopping,
        wait=lambda _reported: presence.wait(stopping),
        observe=nobody,
    )
    task.start()
    try:
        yield
    finally:
        stopping.set()
        task.join(timeout=STOP_SECONDS)
        with suppress(BackfilldError, psycopg.Error), connected(database_url) as connection:
            presence.leave(connection)
