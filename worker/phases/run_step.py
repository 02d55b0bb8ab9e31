"""What each step of the coordinator writes: the run's state, the checkpoint with the messages that follow it, and one action of DDL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TARGET
from backfilld.migrations.record import lanes, runs
from backfilld.migrations.record.model import Checkpoint
from backfilld.migrations.record.states import Phase, State, allowed
from backfilld.migrations.telemetry import PhaseEntered, StateChanged
from backfilld.migrations.wire.messages import LaneMessage
from backfilld.worker.phases import ddl
from backfilld.worker.phases.proof import Proof, is_switched

if TYPE_CHECKING:
    from backfilld.migrations.operations import Action
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.runs import LockedRun
    from backfilld.migrations.record.step_context import StepContext
    from backfilld.migrations.telemetry import Event
    from backfilld.worker.lanes.known_runs import KnownRun
    from backfilld.worker.phases.lock_watch import LockWatch


class RunStep:
    """One step of a run's coordinator, in the transaction that holds its lane. `events` are published once it has committed."""

    def __init__(self, connection: Connection, known: KnownRun, lock_watch: LockWatch) -> None:
        self.connection = connection
        self.run = known.run
        self.lane = lock_watch.lane
        self.proof = Proof(connection, known.run, known.operations)
        #: How far the present phase is, in steps of its own.
        self.number: int = lock_watch.lane.cursor or 0
        self.events: list[Event] = []
        self._lock_watch = lock_watch

    def execute(self, action: Action, context: StepContext | None = None) -> None:
        """Carry out an action. One of switch or contract is done only while what was proved holds, asked under its lock.

        Without a context, and on the way back, nothing is proved that could be relied on.
        """
        self._lock_watch.before(self.connection, action)
        phase = context.phase if context is not None and context.state is not State.ROLLING_BACK else None
        relies = phase in {Phase.SWITCH, Phase.CONTRACT}
        ddl.execute(self.connection, action, under_lock=self.proof.require if relies else None)
        if phase is not None:
            self.proof.remember(switched=is_switched(phase) or phase is Phase.SWITCH)

    def walk_again(self, pass_: int, *, reason: str) -> None:
        runs.set_pass(self.connection, self.run.run, pass_, reason=reason)
        self.events.append(PhaseEntered(run=self.run.run, name=self.run.name, phase=Phase.BACKFILL))

    def pause(self, error_class: str, message: str) -> None:
        self.set_state(State.PAUSED, reason=message, error={"class": error_class, "message": message})

    def set_state(self, state: State, *, reason: str, error: dict[str, str] | None = None) -> None:
        runs.set_state(self.connection, self._lock_run_for(state), state, actor=runs.WORKER, reason=reason, error=error)
        self.events.append(StateChanged(run=self.run.run, name=self.run.name, state=state, reason=reason))

    def lock_run(self) -> LockedRun:
        locked = runs.lock(self.connection, self.run.run)
        if locked is None:
            msg = f"run {self.run.run} is gone"
            raise LookupError(msg)
        return locked

    def _lock_run_for(self, state: State) -> LockedRun:
        """The run, locked, and free to become this. Raises ChangedMeanwhile when a person has said something else meanwhile."""
        locked = self.lock_run()
        if not allowed(locked.state, state):
            raise runs.ChangedMeanwhile
        return locked

    def go_on(self, step: int) -> list[LaneMessage]:
        """The coordinator's next step is due at once."""
        self.checkpoint(step)
        return [LaneMessage(target=TARGET, run=self.run.run, lane=0, seq=self.lane.seq + 1)]

    def pause_for_quarantine(self, rows: int) -> None:
        self.pause(
            "quarantine",
            f"{rows} {'row' if rows == 1 else 'rows'} cannot be converted; fix them, then: backfilld quarantine retry {self.run.name}",
        )

    def checkpoint(self, step: int, *, sleeps: bool = False, done: bool = False) -> None:
        checkpoint = Checkpoint(cursor=step, sleeps=sleeps, done=done)
        self.connection.execute(*lanes.advance_query(self.lane, checkpoint))

    def sleep(self) -> list[LaneMessage]:
        self.checkpoint(self.number, sleeps=True)
        return []
