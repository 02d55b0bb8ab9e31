"""Backups beside the runs: by the clock, restored by the clock, given up when their time is over, and cleaned up after the dead.

What takes long is done in a thread of its own, so that the task comes back at each tick: one that does not counts as hanging.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.backup_settings import seconds_of
from backfilld.migrations.backups import contents, prove, sweep, take
from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.postgres.connect import connected, open_session_at
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.record import audit, backups, pace, runs
from backfilld.migrations.telemetry import SideTaskFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup
    from backfilld.migrations.telemetry import Observer

#: How often is looked; shorter than what counts as hanging.
TICK_SECONDS = 30.0
#: What failed by the clock is tried again after this.
RETRY = timedelta(minutes=10)


class Stopped(Exception):
    """The process stops."""


class BackupKeeper:
    """Keeps the backups of one database; of several workers one does what the clock asks for."""

    def __init__(self, place: Place, *, observe: Observer, stopping: threading.Event) -> None:
        self._place = place
        self._observe = observe
        self._stopping = stopping
        self._work: threading.Thread | None = None

    def run_once(self, connection: Connection) -> int:
        """Clean up, and begin what is due; returns how many backups were failed, removed or begun."""
        done = sweep.abandoned(connection, self._place)
        done += len(sweep.expire(connection, self._place))
        if self._work is not None and self._work.is_alive():
            return done
        due = what_is_due(self._place, backups.listed(connection, most=200), now=_now(connection))
        if due is not None:
            self._work = threading.Thread(target=self._do, args=(due,), name="backfilld-backups", daemon=True)
            self._work.start()
            done += 1
        return done

    def join(self, timeout: float | None = None) -> None:
        """Wait until what was begun is over."""
        if self._work is not None:
            self._work.join(timeout)

    def _do(self, due: Callable[[Place, Callable[[], str | None]], object]) -> None:
        """Do what is due, unless another worker is at it."""
        try:
            session = open_session_at(
                self._place.url, application_name=named("backups by the clock"), settings=contents.SESSION
            )
            with session, connected(self._place.url) as record:
                session.execute("BEGIN")
                if not backups.hold(session, backups.CLOCK, 0):
                    return
                due(self._place, lambda: self._look(session, record))
        except Stopped:
            pass
        except (BackfilldError, psycopg.Error) as exc:
            self._tell(take.in_words(exc))
        except Exception as exc:  # noqa: BLE001 - a thread's edge: the next tick starts afresh
            self._tell(repr(exc))

    def _look(self, session: Connection, record: Connection) -> str | None:
        """Give a sign of life, and say why to wait. Raises Stopped."""
        if self._stopping.is_set():
            raise Stopped
        session.execute("SELECT")
        return "all runs are stopped" if pace.read_stop(record) else pace.read(record).hold_reason

    def _tell(self, problem: str) -> None:
        self._observe(SideTaskFailed(task="backups", error_class="fatal", message=problem))
        try:
            with connected(self._place.url) as record:
                audit.record(record, None, actor=runs.WORKER, what="backup.failed", step="make", error=problem)
        except (BackfilldError, psycopg.Error):
            pass  # it was told in the log, and a database that is away is told by others


def what_is_due(
    place: Place, known: Sequence[Backup], *, now: datetime
) -> Callable[[Place, Callable[[], str | None]], object] | None:
    """What the clock asks for next: a backup of all tables, or a restore of the newest; None for nothing. Pure.

    `known` are the newest of those on record, the newest first.
    """
    schedule = place.settings.schedule
    if not place.keeps:
        return None
    of_the_clock = [one for one in known if one.run is None and one.scope == "all"]
    good = [one for one in of_the_clock if one.state == "taken" and one.snapshot_at is not None]
    failed = [one for one in of_the_clock if one.state == "failed"]
    if any(now - one.began_at < RETRY for one in failed) or any(one.state == "taking" for one in of_the_clock):
        return None
    if schedule.every is not None:
        newest = good[0].snapshot_at if good else None
        if newest is None or now - newest >= timedelta(seconds=seconds_of(schedule.every)):
            return _take
    if schedule.prove_every is not None and good:
        proved = max((one.proved_at for one in known if one.proved_at is not None), default=None)
        if proved is None or now - proved >= timedelta(seconds=seconds_of(schedule.prove_every)):
            number = good[0].backup
            return lambda place, watch: prove.prove(place, number, watch)
    return None


def _take(place: Place, watch: Callable[[], str | None]) -> None:
    taken = take.take(place, take.Wanted(requested_by="the clock"), watch)
    prove.verify(place, taken.backup, watch)


def _now(connection: Connection) -> datetime:
    row = connection.execute("SELECT clock_timestamp() AS now").fetchone()
    if row is None:
        raise LookupError("clock_timestamp")
    now: datetime = row["now"]
    return now
