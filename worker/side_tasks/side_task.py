"""Side tasks run beside the lanes, again and again, each in a thread with a connection of its own.

The shell owns sleeping, stopping and errors; the tasks are `run_once(connection)`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.postgres import connect
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.postgres.sqlstates import classify
from backfilld.migrations.telemetry import SideTaskFailed, SideTaskTicked

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.telemetry import Observer

#: Between attempts to reach a database that is away.
RECONNECT_SECONDS = 0.5


class SideTask(threading.Thread):
    """Calls a task again and again until the process stops. An error is reported and the task continues at its next tick."""

    def __init__(  # noqa: PLR0913 - the composition root names each part
        self,
        name: str,
        task: Callable[[Connection], int],
        *,
        database_url: str,
        stopping: threading.Event,
        wait: Callable[[int], object],
        observe: Observer,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._task = task
        self._database_url = database_url
        self._stopping = stopping
        self._wait = wait
        self._observe = observe
        #: When the task last came back, well or not: what liveness is judged by (`time.monotonic`).
        self.last_tick = time.monotonic()

    def run(self) -> None:
        connection: Connection | None = None
        while not self._stopping.is_set():
            result = 0
            try:
                if connection is None or connection.closed or connection.broken:
                    connection = connect.connect(self._database_url, application_name=named(self.name))
                result = self._task(connection)
                self._observe(SideTaskTicked(task=self.name))
            except psycopg.Error as exc:
                self._observe(SideTaskFailed(task=self.name, error_class=classify(exc), message=str(exc).strip()))
                self._stopping.wait(RECONNECT_SECONDS)
            except BackfilldError as exc:
                self._observe(SideTaskFailed(task=self.name, error_class="connection", message=str(exc)))
                self._stopping.wait(RECONNECT_SECONDS)
            except Exception as exc:  # noqa: BLE001 - the edge of a thread: the next tick starts afresh
                self._observe(SideTaskFailed(task=self.name, error_class="fatal", message=repr(exc)))
                self._stopping.wait(RECONNECT_SECONDS)
            self.last_tick = time.monotonic()
            self._wait(result)
        if connection is not None:
            connection.close()
