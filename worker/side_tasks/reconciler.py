"""The only way back for lost messages, dead workers and wiped brokers alike: due lanes whose wake-up was lost are woken.

A worker that froze with a lane in hand is not dead: its session is ended, and the lane is free. A run that waits for an approval
while what it has proved does not hold any longer is woken too: its coordinator proves it again, or says what is in the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.record import lanes, runs
from backfilld.migrations.telemetry import LanesWoken, SendFailed, SessionFrozen
from backfilld.migrations.wire.messages import SLICE_SECONDS
from backfilld.worker.side_tasks.activity import Activity

if TYPE_CHECKING:
    import threading

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.telemetry import Observer
    from backfilld.migrations.wire.send import Sender

#: How often due lanes are looked for, while a run is at work. Also the grain of a lane's `next_run_at`.
TICK_SECONDS = 0.5
#: The same while none is: there are no lanes then, but a session of ours may be frozen.
IDLE_SECONDS = 45.0
#: How long a message may be on its way. Longer than one message's turn, so that a lane waiting behind another is not woken twice.
GRACE_SECONDS = SLICE_SECONDS + 0.5
#: How long a session of ours may hold a lane and do nothing. A little more than `idle_in_transaction_session_timeout`, which is
#: to come first where it can.
FROZEN_SECONDS = 12.0
#: Any constant does, as long as all workers use the same.
_LOCK = 0x7265636F6E63696C  # "reconcil"


class Reconciler:
    """Wakes lanes; one worker at a time in a database."""

    def __init__(
        self,
        *,
        send: Sender,
        observe: Observer,
        frozen_seconds: float = FROZEN_SECONDS,
        activity: Activity | None = None,
    ) -> None:
        self._send = send
        self._activity = activity or Activity()
        self._observe = observe
        self._frozen_seconds = frozen_seconds

    def run_once(self, connection: Connection) -> int:
        """Find and wake due lanes; returns how many were woken."""
        with connection.transaction():
            connection.execute("SET LOCAL statement_timeout = '5s'")
            # Of the transaction, so that it works through poolers and cannot be left behind.
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS mine", [_LOCK]).fetchone()
            if not row or not row["mine"]:
                return 0
            frozen = lanes.end_frozen(connection, seconds=self._frozen_seconds)
            for run in runs.wake_disturbed(connection):
                lanes.wake_run(connection, run)
            due = lanes.due(connection, grace_seconds=GRACE_SECONDS)
        for name in frozen:
            self._observe(SessionFrozen(application_name=name))
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

    def wait(self, stopping: threading.Event) -> None:
        """Wait until it is time to look again, or the process stops."""
        self._activity.wait(stopping, seconds=TICK_SECONDS, idle_seconds=IDLE_SECONDS)
