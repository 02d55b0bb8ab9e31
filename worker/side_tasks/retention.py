"""Drops what is kept for runs whose retention is over, as `backfilld purge` does by hand, and what no one will ask for any more; and
looks which statements of the application come, where a run asks for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors

from backfilld.migrations.record import answers, omitted_inserts, runs
from backfilld.migrations.record import application as record
from backfilld.migrations.record.states import ENDED
from backfilld.migrations.rollback import retention
from backfilld.worker.side_tasks import application

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection

#: How often runs are looked for. Shorter than `process.HUNG_SECONDS`, after which a side task counts as hanging.
TICK_SECONDS = 45.0
#: Lock timeout: no batch waits longer than this for a purge; retried at the next tick.
LOCK_TIMEOUT = "100ms"


def run_once(connection: Connection) -> int:
    """Drop what is overdue, each run in a transaction of its own; returns how many runs that was."""
    omitted_inserts.prune(connection)
    record.forget_ended(connection)
    answers.forget_ended(connection)
    application.run_once(connection)
    purged = 0
    for run in retention.overdue(connection):
        try:
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
                locked = runs.lock(connection, run)
                # Another worker may have purged it, or it is being rolled back.
                if locked is None or locked.state not in ENDED or run not in retention.overdue(connection):
                    continue
                retention.purge(connection, locked, actor=runs.WORKER)
        except errors.LockNotAvailable:
            continue
        purged += 1
    return purged
