"""What the view shows at one moment, and the thread that reads it again and again over a connection that is kept open.

The thread is a daemon of its own, not one of a pool: quitting does not wait for a server that does not answer.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from backfilld.migrations.postgres.connect import reachable
from backfilld.migrations.postgres.safe_path import one_moment
from backfilld.migrations.record import audit, lanes, runs
from backfilld.migrations.record import pace as pace_store
from backfilld.migrations.record.states import ENDED
from backfilld.monitoring import pace, progress
from backfilld.monitoring.words import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Lane, Pace, Run
    from backfilld.migrations.record.pace import Stop
    from backfilld.monitoring.pace import Signal
    from backfilld.monitoring.progress import Progress
    from backfilld.producers.client import Client

#: Twice a second: a person sees it move, and the database hardly notices.
LOOK_SECONDS = 0.5
#: Between tries while the database is away.
RETRY_SECONDS = 1.0
#: A look takes milliseconds. One that takes so long never ends: its connection is cut, and another opened.
PATIENCE_SECONDS = 10.0
#: More than any window shows.
EVENTS = 60


@dataclass(frozen=True, kw_only=True)
class Detail:
    """The details of the chosen run."""

    progress: Progress
    settings: RunSettings
    #: Those of the present walk, without the coordinator.
    lanes: tuple[Lane, ...]
    #: The newest, oldest first. Any: columns of the audit.
    events: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Everything on the screen, read at one moment."""

    #: The database, as a person would call it.
    place: str
    runs: tuple[Progress, ...]
    pace: Pace
    stop: Stop | None
    signals: tuple[Signal, ...]
    detail: Detail | None


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """The record cannot be read; why, in words."""

    reason: str


class Reader:
    """Reads pictures and shows them, until it is stopped."""

    def __init__(self, client: Client, show: Callable[[Picture | Trouble], None], *, run: int | None) -> None:
        """`show` is called in the reader's thread. With a `run`, that run alone is watched."""
        self._client = client
        self._show = show
        self._only = run
        self._chosen = run
        #: Runs that have ended since they were first seen: as they were at their end.
        self._ended: dict[int, Progress | None] = {}
        self._awake, self._stopping = threading.Event(), threading.Event()
        self._connection: Connection | None = None
        self._looking_since: float | None = None

    def start(self) -> None:
        threading.Thread(target=self._read, name="watch-reader", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()
        self._awake.set()

    def choose(self, run: int | None) -> None:
        """Look at this run closely from now on."""
        if run != self._chosen:
            self._chosen = run
            self._awake.set()

    def hurry(self) -> None:
        """Look at once: something was changed."""
        self._awake.set()

    def cut_if_hung(self) -> None:
        """Give a look up that has taken too long; the thread then opens another connection."""
        since, connection = self._looking_since, self._connection
        if since is None or connection is None or time.monotonic() - since < PATIENCE_SECONDS:
            return
        self._looking_since = None
        # A shutdown wakes the thread that waits for the socket; closing the connection from here would race with it.
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._client.connection() as connection:
                    self._connection = connection
                    while not self._stopping.is_set():
                        self._look(connection)
                        self._awake.wait(LOOK_SECONDS)
                        self._awake.clear()
            # A thread's edge: any error of the database or the record is shown, and the read is retried.
            except Exception as exc:  # noqa: BLE001
                self._tell(Trouble(reason=redact(str(exc).strip()) or type(exc).__name__))
            finally:
                self._connection, self._looking_since = None, None
            self._stopping.wait(RETRY_SECONDS)

    def _look(self, connection: Connection) -> None:
        self._looking_since = time.monotonic()
        with reachable():
            picture = self.picture(connection)
        self._looking_since = None
        self._tell(picture)

    def _tell(self, told: Picture | Trouble) -> None:
        if not self._stopping.is_set():
            self._show(told)

    def picture(self, connection: Connection) -> Picture:
        """The picture of this moment."""
        with one_moment(connection):
            connection.execute("SELECT set_config('statement_timeout', %s, true)", [f"{PATIENCE_SECONDS:.0f}s"])
            wanted = self._wanted(connection)
            found = progress.read_within(connection, wanted)
            now, stop = pace_store.read(connection), pace_store.read_stop(connection)
            shown = self._shown(found)
            chosen = self._chosen if self._chosen in {one.run for one in shown} else None
            chosen = chosen or (shown[0].run if shown else None)
            detail = self._detail(connection, chosen, wanted, shown) if chosen is not None else None
        info = connection.info
        return Picture(
            place=f"{info.dbname} at {info.host or 'localhost'}",
            runs=shown,
            pace=now,
            stop=stop,
            signals=pace.signals(now, self._client.limits),
            detail=detail,
        )

    def _wanted(self, connection: Connection) -> list[Run]:
        """The runs that may have changed since the last look: those in progress, and those that ended just now."""
        if self._only is not None:
            found = runs.get(connection, self._only)
            return [found] if found else []
        going_on = runs.listed(connection, ended=False)
        ended = [
            run for run, known in self._ended.items() if known is None and run not in {one.run for one in going_on}
        ]
        return going_on + [run for run in (runs.get(connection, run) for run in ended) if run is not None]

    def _shown(self, found: list[Progress]) -> tuple[Progress, ...]:
        """What was found, with the runs that were seen to their end before; newest first."""
        for one in found:
            self._ended[one.run] = one if one.state in ENDED else None
        there = {one.run: one for one in found}
        there |= {run: one for run, one in self._ended.items() if one is not None}
        return tuple(sorted(there.values(), key=lambda one: -one.run))

    def _detail(
        self, connection: Connection, chosen: int, wanted: list[Run], shown: tuple[Progress, ...]
    ) -> Detail | None:
        run = next((one for one in wanted if one.run == chosen), None) or runs.get(connection, chosen)
        if run is None:
            return None
        walking = [lane for lane in lanes.of_run(connection, chosen) if lane.kind != "coordinator"]
        newest = max((lane.pass_ for lane in walking), default=0)
        kinds = {lane.kind for lane in walking if lane.pass_ == newest and lane.done_at is None}
        return Detail(
            progress=next(one for one in shown if one.run == chosen),
            settings=run.settings,
            # Of a finished walk all lanes are shown; of one in progress, not those of the walk before it.
            lanes=tuple(lane for lane in walking if lane.pass_ == newest and (not kinds or lane.kind in kinds)),
            events=tuple(audit.whole_story(connection, chosen, most=EVENTS, governor=False)),
        )
