"""The only way back for lost messages, dead workers and wiped brokers alike: due lanes that nobody woke are woken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrations.events import LanesWoken, SendFailed
from migrations.store import lanes
from worker.runner import SLICE_SECONDS

if TYPE_CHECKING:
    from migrations.events import Observer
    from migrations.postgres.connect import Connection
    from worker.runner import Sender

#: How often due lanes are looked for. Also the grain of a lane's `next_run_at`.
TICK_SECONDS = 0.5
#: How long a message may be on its way. Longer than a slice, so that a lane waiting behind another is not woken twice.
GRACE_SECONDS = SLICE_SECONDS + 0.5
#: Any constant does, as long as all workers use the same.
_LOCK = 0x7265636F6E63696C  # "reconcil"


class Reconciler:
    """Wakes lanes; one at a time in a database, whoever gets there first."""

    def __init__(self, *, send: Sender, observe: Observer) -> None:
        self._send = send
        self._observe = observe

    def run_once(self, connection: Connection) -> int:
        """Find and wake due lanes; returns how many were woken."""
        with connection.transaction():
            connection.execute("SET LOCAL statement_timeout = '5s'")
            # Of the transaction, so that it works through poolers and cannot be left behind.
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS mine", [_LOCK]).fetchone()
            if not row or not row["mine"]:
                return 0
            due = lanes.due(connection, grace_seconds=GRACE_SECONDS)
        woken = 0
        for message in due:
            try:
                self._send(message)
            except Exception as exc:  # noqa: BLE001 - whatever the broker raises, the next tick tries again
                self._observe(SendFailed(run=message.run, lane=message.lane, message=str(exc)))
                break
            woken += 1
        if woken:
            self._observe(LanesWoken(lanes=woken))
        return woken
