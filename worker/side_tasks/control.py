"""Making wishes true: pause, cancel, and the stop of all runs, within about a second, the statement in flight included.

The wish stands in PostgreSQL before any message is sent, so a stop needs no Redis: this task polls. A message makes it look
at once. Batches in flight get a moment to commit; what is still running then is cancelled, and repeated after a resume.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal

from backfilld.migrations.errors import UsageError
from backfilld.migrations.record import lanes, pace, pulse, runs
from backfilld.migrations.record.states import State, StopReason, Wish, allowed
from backfilld.migrations.telemetry import ControlApplied, ControlSettled, SendFailed, StateChanged, StopSwitched
from backfilld.worker.side_tasks.activity import Activity

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection, Row
    from backfilld.migrations.telemetry import Observer
    from backfilld.migrations.wire.messages import ControlMessage
    from backfilld.migrations.wire.send import Sender

#: A batch of the default size has half of this still before it, on average; cancelling it would throw its work away.
GRACE_SECONDS = 0.4
#: How often the record is looked at: while something is stopping, while a run is at work, and while none is. A wish that comes
#: by message is seen at once, also then.
BUSY_SECONDS = 0.05
WORKING_SECONDS = 0.25
IDLE_SECONDS = 2.0
#: After the stop of all runs the record is looked at as often as while something is stopping, for this long.
SETTLED_SECONDS = 2.0

#: What a verb wishes, and the state that says so.
_WISHES = {"pause": (Wish.PAUSE, State.PAUSING), "cancel": (Wish.CANCEL, State.CANCELLING)}
#: What was asked of a run that is stopping, by its state.
_VERBS: dict[str, Literal["pause", "cancel", "rollback"]] = {
    State.PAUSING: "pause",
    State.CANCELLING: "cancel",
    State.ROLLING_BACK: "rollback",
}
_STOPPED = {State.PAUSING: State.PAUSED, State.CANCELLING: State.CANCELLED}


class Control:
    """Stops runs that a person asked to stop."""

    def __init__(self, *, observe: Observer, activity: Activity | None = None, send: Sender | None = None) -> None:
        """`activity` is told whether a run is at work. Without `send` the reconciler wakes a run that turns back."""
        self._send = send
        self._observe = observe
        self._activity = activity or Activity()
        self._look = threading.Event()
        #: The stop of all runs as it was last seen, and since when (`time.monotonic`).
        self._stop: pace.Stop | None = None
        self._switched = 0.0
        #: Runs that turn back and of which no batch is in flight; they are found until the coordinator has taken it up.
        self._settled: set[int] = set()

    def apply(self, connection: Connection, message: ControlMessage) -> None:
        """A control message arrived. Usually its wish is on record already; one that came by itself is written down."""
        with connection.transaction():
            locked = runs.lock(connection, message.run)
            if locked is not None:
                _write_wish(connection, locked, message)
        self._observe(ControlApplied(run=message.run, verb=message.verb, statements_cancelled=0))
        self.look()

    def run_once(self, connection: Connection) -> int:
        """Settle every run that is asked to stop; returns how many are not there yet."""
        now = pulse.read(connection)
        self._activity.tell(at_work=now.at_work)
        remaining = self._look_at_the_switch(connection, now.stop)
        stopping = pulse.stopping(connection) if now.stopping else []
        self._settled &= {row["run"] for row in stopping}
        for row in stopping:
            if self._settle(connection, row):
                continue
            remaining += 1
            if row["seconds"] >= GRACE_SECONDS:
                cancelled = pulse.cancel_statements(connection, row["run"])
                self._observe(ControlApplied(run=row["run"], verb="stop", statements_cancelled=cancelled))
        return remaining

    def _look_at_the_switch(self, connection: Connection, stop: pace.Stop | None) -> int:
        """While all runs are stopped, no batch outlives its grace; returns 1 as long as some may have to be cancelled.

        What began before the switch was thrown, and what read the record in the moment before, is found by its age: a lane
        that only looks and finds itself held is gone much sooner.
        """
        before, self._stop = self._stop, stop
        if stop != before:
            self._observe(StopSwitched(stopped=stop is not None, reason=stop.reason if stop else None))
            self._switched = time.monotonic()
        if stop is None:
            return 0
        cancelled = pulse.cancel_all_statements(connection, grace_seconds=GRACE_SECONDS)
        for run, statements in cancelled.items():
            self._observe(ControlApplied(run=run, verb="stop", statements_cancelled=statements))
        return int(time.monotonic() - self._switched < SETTLED_SECONDS)

    def wait(self, remaining: int, stopping: threading.Event) -> None:
        """Wait until it is time to look again, or a message arrived, or the process stops."""
        if not stopping.is_set():
            idle = WORKING_SECONDS if self._activity.at_work else IDLE_SECONDS
            self._look.wait(BUSY_SECONDS if remaining else idle)
        self._look.clear()

    def look(self) -> None:
        """Have the record looked at now: a message came, or the process stops."""
        self._look.set()

    def _settle(self, connection: Connection, row: Row) -> bool:
        """A stopping run whose lanes are all free has stopped. A lane that is taken from here on sees the wish."""
        run = row["run"]
        with connection.transaction():
            locked = runs.lock(connection, run)
            why = locked.why_stop if locked is not None else None
            if locked is None or why not in {StopReason.ASKED, StopReason.TURNING_BACK}:
                return True
            if lanes.in_flight(connection, run):
                return False
            if why is StopReason.TURNING_BACK:
                lanes.wake_run(connection, run)
            else:
                after = _STOPPED[locked.state]
                runs.set_state(
                    connection, locked, after, actor=runs.WORKER, reason="no batch is in flight", wish=locked.wish
                )
        if why is StopReason.TURNING_BACK:
            self._wake(connection, run)
        if why is StopReason.ASKED:
            self._observe(StateChanged(run=run, name=locked.name, state=after, reason="no batch is in flight"))
        if run not in self._settled:
            self._settled.add(run)
            self._observe(ControlSettled(run=run, verb=_VERBS[locked.state], seconds=row["seconds"]))
        return True

    def _wake(self, connection: Connection, run: int) -> None:
        """Its coordinator may begin the way back at once. What cannot be sent the reconciler sends, seconds later."""
        if self._send is None:
            return
        for message in lanes.startable(connection, run):
            try:
                self._send(message)
            except Exception as exc:  # noqa: BLE001 - whatever the broker raises
                self._observe(SendFailed(run=run, lane=message.lane, message=str(exc)))
                return


def _write_wish(connection: Connection, locked: runs.LockedRun, message: ControlMessage) -> None:
    if message.verb in _WISHES:
        wish, state = _WISHES[message.verb]
        if locked.wish is not wish and allowed(locked.state, state):
            runs.set_state(connection, locked, state, actor=message.actor, reason="asked by message", wish=wish)
    elif message.verb == "resume":
        after = State.ROLLING_BACK if locked.rollback.requested else State.RUNNING
        if locked.state not in {State.RUNNING, State.QUEUED, State.WAITING} and allowed(locked.state, after):
            runs.set_state(connection, locked, after, actor=message.actor, reason="asked by message")
            lanes.wake_run(connection, locked.run)
    elif message.verb != "wake":
        msg = f"a control message asks for {message.verb!r}"
        raise UsageError(msg)
