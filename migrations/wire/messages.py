"""The wire: what travels through Redis, and nothing else does.

No SQL and no code: who can write to Redis can wake lanes and ask for control, not run statements.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Keys in Redis start with this. The braces keep all of them on one shard of a cluster.
NAMESPACE = "{backfilld}"

LANES_QUEUE = "lanes"
CONTROL_QUEUE = "control"

ADVANCE_LANE = "advance_lane"
APPLY_CONTROL = "apply_control"

#: A message's worth of work. Long enough that the queue costs nothing, short enough that lanes take turns on few threads and
#: that a drain ends soon. The reconciler's grace must be longer.
SLICE_SECONDS = 2.0

#: The verbs a control message may carry.
CONTROL_VERBS = frozenset({"pause", "resume", "cancel", "wake"})


@dataclass(frozen=True, kw_only=True)
class LaneMessage:
    """The order "take the next steps of this lane". A message whose `seq` is not the lane's own is stale."""

    target: str
    run: int
    lane: int
    seq: int

    @property
    def args(self) -> tuple[str, int, int, int]:
        return (self.target, self.run, self.lane, self.seq)


@dataclass(frozen=True, kw_only=True)
class ControlMessage:
    """The order "make this run do what was asked". Understood also when it arrives without a wish in PostgreSQL."""

    target: str
    run: int
    verb: str
    #: Who asked, for the record.
    actor: str

    @property
    def args(self) -> tuple[str, int, str, str]:
        return (self.target, self.run, self.verb, self.actor)
