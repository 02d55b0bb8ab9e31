"""Sources of loads that only workers read: one worker at a time sends each into its stage, in a thread of its own.

The run's coordinator asks for it, by waiting; lanes are free meanwhile. Who reads a source holds an advisory lock of a transaction, so that
of several workers one does, and another continues where one that died has left off. What cannot be reached is tried again; what is
not as the migration says fails the run.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.errors import BackfilldError, Refused
from backfilld.migrations.file.operations import Load
from backfilld.migrations.loading import stage, staged_by_workers
from backfilld.migrations.loading.source import place_of
from backfilld.migrations.postgres.connect import connected, open_session_at
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.record import audit, lanes, pace, runs
from backfilld.migrations.record.states import State, allowed
from backfilld.migrations.telemetry import SideTaskFailed, StateChanged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.loading.stage import Staging
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.source_settings import SourceSettings
    from backfilld.migrations.telemetry import Observer

#: How often is looked for sources that are asked for.
TICK_SECONDS = 2.0
#: How often, while no run is at work.
IDLE_SECONDS = 30.0
#: A run is queued until its first step is done, which this may be.
_ASKING = frozenset({State.QUEUED, State.RUNNING})
#: While work is on hold, how often is asked whether it still is.
HOLD_SECONDS = 0.5


class Stopped(Exception):
    """The process stops, or the run does."""


class SourceReader:
    """Reads the sources of loads, one after the other."""

    def __init__(
        self, places: Sequence[SourceSettings], *, database_url: str, observe: Observer, stopping: threading.Event
    ) -> None:
        self._places = places
        self._url = database_url
        self._observe = observe
        self._stopping = stopping
        self._work: threading.Thread | None = None

    def run_once(self, connection: Connection) -> int:
        """Begin with the next source that is asked for; returns how many were begun."""
        if self._work is not None and self._work.is_alive():
            return 0
        due = [one for one in staged_by_workers.asked_for(connection) if self._knows(connection, one)]
        if not due or pace.read_stop(connection):
            return 0
        self._work = threading.Thread(target=self._do_all, args=(due,), name="backfilld-sources", daemon=True)
        self._work.start()
        return 1

    def join(self, timeout: float | None = None) -> None:
        """Wait until what was begun is over."""
        if self._work is not None:
            self._work.join(timeout)

    def _knows(self, connection: Connection, staging: Staging) -> bool:
        run = runs.get(connection, staging.run)
        load = run.migration.operations[staging.operation] if run is not None else None
        return isinstance(load, Load) and place_of(load.source, self._places) is not None

    def _do_all(self, due: Sequence[Staging]) -> None:
        for one in due:
            try:
                self._do(one)
            except Stopped:
                continue
            except (BackfilldError, psycopg.Error) as exc:
                self._observe(SideTaskFailed(task="sources", error_class="connection", message=str(exc)))
            except Exception as exc:  # noqa: BLE001 - a thread's edge: the next tick starts afresh
                self._observe(SideTaskFailed(task="sources", error_class="fatal", message=repr(exc)))

    def _do(self, staging: Staging) -> None:
        """Send one source into its stage, unless another worker is at it."""
        session = open_session_at(
            self._url, application_name=named("a source"), settings=staged_by_workers.HOLDING_SESSION
        )
        with session, connected(self._url) as connection:
            session.execute("BEGIN")
            if not staged_by_workers.hold(session, staging):
                return
            run, now = runs.get(connection, staging.run), stage.read(connection, staging.run, staging.operation)
            if run is None or now is None or now.is_done:
                return
            try:
                now = self._from_the_beginning(connection, run, now)
                done = self._send(session, connection, run, now)
            except Refused as exc:
                self._fail(connection, run, str(exc))
                return
            except staged_by_workers.Away as exc:
                staged_by_workers.tell_problem(connection, now, str(exc))
                return
            audit.record(
                connection, run.run, actor=runs.WORKER, what="load.staged", operation=now.operation, lines=done.lines
            )
            lanes.wake_run(connection, run.run)

    def _from_the_beginning(self, connection: Connection, run: Run, staging: Staging) -> Staging:
        """Where what was begun cannot be continued, it is begun anew, and that is told."""
        load = run.migration.operations[staging.operation]
        if not isinstance(load, Load) or load.source.database is None or not staging.read_offset:
            return staging
        number = staging.operation
        audit.record(
            connection, run.run, actor=runs.WORKER, what="load.restarted", operation=number, lines=staging.lines
        )
        return stage.begin_anew(connection, staging)

    def _send(self, session: Connection, connection: Connection, run: Run, staging: Staging) -> Staging:
        self._look(session, connection, run.run)
        return staged_by_workers.send(
            connection,
            run,
            staging,
            self._places,
            tell=lambda _now: self._look(session, connection, run.run),
        )

    def _look(self, session: Connection, connection: Connection, run: int) -> None:
        """Give a sign of life, and wait while all work is on hold. Raises Stopped."""
        while True:
            session.execute("SELECT")
            now = runs.get(connection, run)
            if self._stopping.is_set() or now is None or now.state not in _ASKING:
                raise Stopped
            if not (pace.read_stop(connection) or pace.read(connection).hold_reason):
                return
            self._stopping.wait(HOLD_SECONDS)

    def _fail(self, connection: Connection, run: Run, problem: str) -> None:
        with connection.transaction():
            locked = runs.lock(connection, run.run)
            if locked is None or not allowed(locked.state, State.FAILED):
                return
            error = {"class": "source", "message": problem}
            runs.set_state(connection, locked, State.FAILED, actor=runs.WORKER, reason=problem, error=error)
        self._observe(StateChanged(run=run.run, name=run.name, state=State.FAILED, reason=problem))
