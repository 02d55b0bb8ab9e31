"""One transaction of a command, under the lock of the run it is about."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg import errors

from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.record import lanes, runs
from backfilld.producers.waiting import find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.runs import LockedRun

#: A step of the coordinator (a VALIDATE, say) may hold what a command needs; after this the command gives up and says so.
LOCK_TIMEOUT = "30s"


def change(
    connection: Connection, reference: int | str, act: Callable[[LockedRun], None], *, adds_lanes: bool = False
) -> int:
    """Do `act` under the run's lock, in one transaction; returns the run's id.

    Lane 0 is locked before the run, never after it: that is the order of the coordinator's own steps.
    """
    with at_once(connection, f"run {reference}"):
        run = find(connection, reference)
        if adds_lanes:
            lanes.lock_coordinator(connection, run.run)
        locked = runs.lock(connection, run.run)
        if locked is not None:  # it was found in this transaction, but nothing kept it from being removed
            act(locked)
        return run.run


@contextmanager
def at_once(connection: Connection, what: str) -> Iterator[None]:
    """One transaction with a lock timeout. Raises BackfilldError when another session holds what it needs."""
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
            yield
    except errors.LockNotAvailable as exc:
        msg = f"{what} is busy with a long step; nothing was changed, try again"
        raise BackfilldError(msg) from exc
