"""Preflight of a run that begins after others: what they make is there by then, and was not when the run was enqueued."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TARGET
from backfilld.migrations.record import lanes, runs
from backfilld.migrations.record.model import Checkpoint
from backfilld.migrations.wire.messages import LaneMessage
from backfilld.worker.lanes import claim
from backfilld.worker.lanes.batch import transaction

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.worker.lanes.claim import Claimed
    from backfilld.worker.lanes.known_runs import KnownRun

#: How often a run looks whether another one is out of its way.
LOOK_SECONDS = 2.0


class InTheWay(Exception):
    """Another run has to end before this one can begin; its message says which."""


def examine(
    connection: Connection, known: KnownRun, claimed: Claimed, *, refuses_foreign_code: bool
) -> list[LaneMessage]:
    """Put down the facts of a run that is about to begin; returns the message that leads on.

    Not in the transaction that holds the lane: what is tried on copies is rolled back, and takes locks of its own for a moment.
    A message that came twice is looked at by two, and one of them goes on while the other still looks: what that one finds is the
    run's own work, so nobody raises who does not hold the lane as it was. Raises Refused as `enqueue` does, and InTheWay.
    """
    # A worker that has nothing to examine needs none of it.
    from backfilld.migrations.planning import examine as preflight  # noqa: PLC0415 - see above

    connection.rollback()
    found = preflight.examine(connection, known.run.migration, refuses_foreign_code=refuses_foreign_code)
    with transaction(connection):
        taken = claim.take(connection, claimed.lane, claimed.context, look=None, writes="")
        if not isinstance(taken, claim.Claimed):
            return []
        if found.findings and all(one.check == "live_run" for one in found.findings):
            raise InTheWay("; ".join(str(one) for one in found.findings))
        found.require()
        lane = taken.lane
        runs.set_facts(connection, lane.run, found.facts, warnings=found.warnings)
        connection.execute(*lanes.advance_query(lane, Checkpoint(cursor=lane.cursor)))
        connection.execute("COMMIT")
    return [LaneMessage(target=TARGET, run=lane.run, lane=lane.lane, seq=lane.seq + 1)]
