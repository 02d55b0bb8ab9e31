"""The life of a run: its states, its phases, which change may follow which, and which of its lanes may work when.

A wish is a state: `pause` writes `pausing`, and only a worker writes `paused`, once no batch is in flight.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a run stands. A hold is not a state: it is `hold_reason`."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    COMPLETED = "completed"

    @property
    def words(self) -> str:
        """The state as a sentence has it: `rolling back`."""
        return self.replace("_", " ")


#: Steps of the verify phase that are the coordinator's own: make the lanes, and judge what they found. After them the data is
#: known to be right, and the steps of the operations follow.
VERIFY_OWN_STEPS = 2
#: Steps of the backfill phase that are the coordinator's own: make the lanes, and wait for them.
BACKFILL_OWN_STEPS = 2


class Phase(StrEnum):
    """The phases of a change, in order."""

    EXPAND = "expand"
    BACKFILL = "backfill"
    VERIFY = "verify"
    SWITCH = "switch"
    CONTRACT = "contract"
    DONE = "done"

    @property
    def next(self) -> Phase:
        """The phase that follows; `done` follows itself."""
        order = list(Phase)
        return order[min(order.index(self) + 1, len(order) - 1)]

    @property
    def own_steps(self) -> int:
        """How many steps the coordinator takes in this phase before those of the operations."""
        return {Phase.BACKFILL: BACKFILL_OWN_STEPS, Phase.VERIFY: VERIFY_OWN_STEPS}.get(self, 0)

    def is_past(self, other: Phase) -> bool:
        """Whether a run in this phase has finished `other`."""
        order = list(Phase)
        return order.index(self) > order.index(other)


class LaneKind(StrEnum):
    """What a lane does: walk a part of a table, try rows of the quarantine again, or coordinate the run.

    A recheck looks at all rows once more, where the proof that opened the gate does not hold any longer. A lane that compares counts
    what each persona may do with rows before and after other policies; one that confirms, whether they are as it was said.
    A check looks at the lines of a load before the first row is written.
    A drain brings rows over that a journal of keys names, to the new table or back to the old one; a match writes such keys down.
    A follower drains from verify on until contract, whoever waits for an approval.
    """

    COORDINATOR = "coordinator"
    BACKFILL = "backfill"
    VERIFY = "verify"
    RETRY = "retry"
    RECHECK = "recheck"
    ARCHIVE = "archive"
    RESTORE = "restore"
    UNDO = "undo"
    COMPARE = "compare"
    CONFIRM = "confirm"
    CHECK = "check"
    DRAIN = "drain"
    DRAIN_BACK = "drain_back"
    MATCH = "match"
    FOLLOW = "follow"


#: Lanes that bring over what a journal of keys names; a walk of theirs may be done again.
DRAINS = frozenset({LaneKind.DRAIN, LaneKind.DRAIN_BACK})


class Wish(StrEnum):
    """What a person asked of a run and the workers have not yet done."""

    PAUSE = "pause"
    CANCEL = "cancel"


#: States in which workers take steps.
ACTIVE = frozenset({State.QUEUED, State.RUNNING, State.ROLLING_BACK})
#: States on the way to a stop: no new batch starts, the one in flight is let go or cancelled.
STOPPING = frozenset({State.PAUSING, State.CANCELLING})
#: States a run leaves only through `resume` or `enqueue`, or never.
ENDED = frozenset({State.CANCELLED, State.ROLLED_BACK, State.COMPLETED})
#: States in which nothing happens until a person acts.
RESTING = ENDED | {State.PAUSED, State.FAILED, State.WAITING}

TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset(
        {
            State.RUNNING,  # worker: took the first step
            State.PAUSING,  # person: pause, before any step
            State.PAUSED,  # worker: the first step could not get its lock in time; `error` says why
            State.CANCELLING,  # person: cancel, before any step
            State.FAILED,  # worker: the first step met an error that will not go away
            State.ROLLING_BACK,  # person: rollback, before any step
        }
    ),
    State.RUNNING: frozenset(
        {
            State.WAITING,  # worker: the next phase needs an approval
            State.PAUSING,  # person: pause
            State.PAUSED,  # worker: a cap or a row that breaks a rule stopped the run; `error` says which
            State.CANCELLING,  # person: cancel
            State.FAILED,  # worker: an error that will not go away
            State.COMPLETED,  # worker: every phase is done and verified
            State.ROLLING_BACK,  # person: rollback
        }
    ),
    State.WAITING: frozenset(
        {
            State.RUNNING,  # person: approve
            State.PAUSING,  # person: pause
            State.CANCELLING,  # person: cancel
            State.ROLLING_BACK,  # person: rollback
        }
    ),
    State.PAUSING: frozenset(
        {
            State.PAUSED,  # worker: no batch is in flight any more
            State.RUNNING,  # person: resume, before the pause was complete
            State.CANCELLING,  # person: cancel
            State.ROLLING_BACK,  # person: rollback
        }
    ),
    State.PAUSED: frozenset(
        {
            State.RUNNING,  # person: resume, or a retry of quarantined rows
            State.CANCELLING,  # person: cancel
            State.ROLLING_BACK,  # person: rollback
        }
    ),
    State.CANCELLING: frozenset({State.CANCELLED}),  # worker: no batch is in flight any more
    State.FAILED: frozenset(
        {
            State.RUNNING,  # person: resume, after the cause was fixed
            State.CANCELLING,  # person: cancel
            State.ROLLING_BACK,  # person: rollback; resume, where it was the rollback that failed
        }
    ),
    State.ROLLING_BACK: frozenset({State.ROLLED_BACK, State.FAILED}),  # worker: everything added was taken away, or not
    State.CANCELLED: frozenset({State.ROLLING_BACK}),  # person: rollback of what the cancelled run left
    State.ROLLED_BACK: frozenset(),
    State.COMPLETED: frozenset({State.ROLLING_BACK}),  # person: rollback, as long as old values are kept
}


#: Which lanes work in which phase of a run that goes forward, beside the coordinator.
FORWARD: dict[Phase, frozenset[LaneKind]] = {
    Phase.EXPAND: frozenset({LaneKind.CHECK}),
    Phase.BACKFILL: frozenset({LaneKind.BACKFILL, LaneKind.RETRY, LaneKind.DRAIN}),
    Phase.VERIFY: frozenset({LaneKind.VERIFY, LaneKind.COMPARE, LaneKind.FOLLOW}),
    Phase.SWITCH: frozenset({LaneKind.RETRY, LaneKind.CONFIRM, LaneKind.DRAIN, LaneKind.FOLLOW}),
    Phase.CONTRACT: frozenset({LaneKind.RETRY, LaneKind.RECHECK, LaneKind.ARCHIVE, LaneKind.FOLLOW}),
}
#: Which lanes work while a run is rolled back, whatever its phase.
BACK = frozenset({LaneKind.ARCHIVE, LaneKind.RESTORE, LaneKind.UNDO, LaneKind.DRAIN_BACK, LaneKind.MATCH})


class StopReason(StrEnum):
    """Why a run takes no step, and why a step that is under way must end."""

    ASKED = "the run was asked to stop"
    TURNING_BACK = "the run was asked to roll back"
    RESTING = "the run is not active"
    ALL_STOPPED = "all runs are stopped"


def why_stop(state: State, *, rollback_pending: bool, all_stopped: bool) -> StopReason | None:
    """Why a step must stop now, or None. Everything that may run for longer than a moment asks this, between two of its parts.

    While a rollback is pending, what is under way belongs to the way forward; only the coordinator may begin a step, which takes
    the rollback up.
    """
    if state in STOPPING:
        return StopReason.ASKED
    if state not in ACTIVE:
        return StopReason.RESTING
    if state is State.ROLLING_BACK and rollback_pending:
        return StopReason.TURNING_BACK
    return StopReason.ALL_STOPPED if all_stopped else None


def may_work(state: State, phase: Phase, kind: LaneKind) -> bool:
    """Whether a lane of this kind may work while its run is in this state and phase, as `backfilld.may_work` says in SQL."""
    if state not in ACTIVE and not (state is State.WAITING and kind is LaneKind.FOLLOW):
        return False
    kinds = BACK if state is State.ROLLING_BACK else FORWARD.get(phase, frozenset())
    return kind is LaneKind.COORDINATOR or kind in kinds


def allowed(before: State, after: State) -> bool:
    """Whether a run may go from one state to the other."""
    return after in TRANSITIONS[before]
