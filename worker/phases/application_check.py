"""Checks of the application around a run's switch and its contract: before the switch and after it, and before anything is taken away.

Not in the transaction that holds the lane: a check plans and runs statements of the application, which takes as long as it takes. The
run can be paused, cancelled and rolled back meanwhile, and what was found is put down only where the lane is as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TARGET
from backfilld.migrations.record import application as record
from backfilld.migrations.record import lanes, runs
from backfilld.migrations.record.model import Checkpoint
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.wire.messages import LaneMessage
from backfilld.worker.lanes import claim
from backfilld.worker.lanes.batch import transaction

if TYPE_CHECKING:
    from backfilld.migrations.application.checked import Checked, Moment
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.step_context import StepContext
    from backfilld.worker.lanes.claim import Claimed
    from backfilld.worker.lanes.known_runs import KnownRun
    from backfilld.worker.phases.api_probes import ApiProbes

#: How often a contract that is held looks again: a window passes and a deploy ends without anybody telling us.
LOOK_SECONDS = 30.0
#: A check is as good as new for so long; the steps of contract begin within a second of it.
FRESH_SECONDS = 60.0
#: A check is begun anew after this where nobody has come back from it. Twice as long as statements are run in one.
MOST_SECONDS = 60.0


class Held(Exception):
    """Contract is held for what was found of the application; its message says what."""


def due(connection: Connection, known: KnownRun, claimed: Claimed) -> Moment | None:
    """The check that is to be made before the next step; None for none."""
    application, context = known.run.migration.checked_application, claimed.context
    begins = context.phase in {Phase.SWITCH, Phase.CONTRACT} and not claimed.lane.cursor
    if application is None or not begins or context.state not in {State.QUEUED, State.RUNNING}:
        return None
    # What no run without `application` needs.
    from backfilld.migrations.application.checked import Moment  # noqa: PLC0415 - see above

    if context.phase is Phase.SWITCH:
        made = record.last_check(connection, known.run.run, moment=Moment.BEFORE_SWITCH)
        is_late = made.seconds is None or made.seconds > FRESH_SECONDS
        return Moment.BEFORE_SWITCH if is_late and not _waits_for_approval(connection, known, context) else None
    if record.last_check(connection, known.run.run, moment=Moment.AFTER_SWITCH).detail is None:
        return Moment.AFTER_SWITCH
    if not known.steps.of(Phase.CONTRACT):
        return None
    waits = _waits_for_approval(connection, known, context)
    return _while_waiting(connection, known) if waits else _before_contract(connection, known)


def _while_waiting(connection: Connection, known: KnownRun) -> Moment | None:
    """Once, before it waits: the side task looks again while it does."""
    from backfilld.migrations.application.checked import Moment  # noqa: PLC0415 - see above

    made = record.last_check(connection, known.run.run, moment=Moment.WAITING)
    return Moment.WAITING if made.detail is None else None


def _before_contract(connection: Connection, known: KnownRun) -> Moment | None:
    """As often as it is held, and where the last one is old."""
    from backfilld.migrations.application.checked import Moment  # noqa: PLC0415 - see above

    last = record.last_check(connection, known.run.run, moment=Moment.BEFORE_CONTRACT)
    if last.detail is None or last.seconds is None or last.seconds > FRESH_SECONDS:
        return Moment.BEFORE_CONTRACT
    is_held = _holds(known, _checked(last.detail), accepted=last.accepted)
    return Moment.BEFORE_CONTRACT if is_held else None


def carry_out(  # noqa: PLR0913 - what a check needs, each by its name
    connection: Connection,
    known: KnownRun,
    claimed: Claimed,
    moment: Moment,
    *,
    probes: ApiProbes,
    replica_url: str | None = None,
) -> list[LaneMessage]:
    """Make a check, and put it on record; returns the message that leads on. Raises Held where contract must not begin."""
    from backfilld.migrations.application import code_verdict, gate, moments  # noqa: PLC0415 - knows every operation, which no other step must
    from backfilld.migrations.application.checked import Moment as At  # noqa: PLC0415 - comes with it

    run, lane = known.run, claimed.lane
    # Another worker does not begin the same check while this one is at it, nor for long where this one dies.
    lanes.postpone(connection, lane, delay_seconds=MOST_SECONDS)
    connection.execute("COMMIT")
    match moment:
        case At.BEFORE_SWITCH:
            found = moments.before_switch(connection, run)
        case At.AFTER_SWITCH:
            found = moments.after_switch(connection, run, replica_url=replica_url)
        case At.WAITING:
            found = gate.look(connection, run)
        case _:
            found = moments.before_contract(connection, run, replica_url=replica_url)
    if moment in {At.AFTER_SWITCH, At.BEFORE_CONTRACT}:
        found = found.and_also(probes.told(connection, run, moment))
    if moment is At.BEFORE_CONTRACT:
        found = found.and_also(code_verdict.told(connection, run))
    last = record.last_check(connection, run.run, moment=At.BEFORE_CONTRACT)
    held = moment is At.BEFORE_CONTRACT and _holds(known, found, accepted=last.accepted)
    with transaction(connection):
        taken = claim.take(connection, lane, claimed.context, look=None, writes="")
        if not isinstance(taken, claim.Claimed):
            return []
        if not (held and last.detail is not None and found.is_like(_checked(last.detail))):
            moments.put(connection, run.run, found, actor=runs.WORKER)
        if not held:
            connection.execute(*lanes.advance_query(taken.lane, Checkpoint(cursor=taken.lane.cursor)))
        connection.execute("COMMIT")
    if held:
        raise Held("; ".join(one.in_words for one in found.holding[:3]))
    return [LaneMessage(target=TARGET, run=lane.run, lane=lane.lane, seq=taken.lane.seq + 1)]


def _holds(known: KnownRun, found: Checked, *, accepted: bool) -> bool:
    application = known.run.migration.checked_application
    return application is not None and application.on_regression == "hold" and not accepted and bool(found.holding)


def _checked(detail: object) -> Checked:
    from backfilld.migrations.application.checked import Checked  # noqa: PLC0415 - see above

    return Checked.from_json(detail)  # type: ignore[arg-type] # the detail of an event, as `to_json` wrote it


def _waits_for_approval(connection: Connection, known: KnownRun, context: StepContext) -> bool:
    if context.phase not in context.settings.approve:
        return False
    now = runs.get(connection, known.run.run)
    return now is None or context.phase not in now.approved
