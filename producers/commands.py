"""What people ask of runs, written to the record: each in one transaction, under the run's lock, with who asked.

Nothing here talks to Redis. A command whose wish is already fulfilled changes nothing; one that makes no sense in the run's
state raises UsageError and says what would.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from backfilld.migrations.errors import Finding, Refused, UsageError
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.record import application, audit, lanes, quarantine, runs
from backfilld.migrations.record.model import Bounds, Rollback
from backfilld.migrations.record.states import ENDED, LaneKind, Phase, State, Wish
from backfilld.monitoring import after_contract
from backfilld.producers.locked import change
from backfilld.producers.waiting import find, phase_named

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.record.runs import LockedRun
    from backfilld.migrations.rollback.retention import Purged

#: A purge locks a table of ours that the lanes of other runs read now and then; they must not queue behind it.
PURGE_LOCK_TIMEOUT = "200ms"


@dataclass(frozen=True, kw_only=True)
class Approved:
    """A run, and the phase of it that may begin."""

    run: int
    phase: Phase


# --- control -----------------------------------------------------------------------------------------------------------


def pause(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Ask a run to stop until it is resumed; a worker pauses it once no batch is in flight."""

    def act(locked: LockedRun) -> None:
        if locked.state in {State.PAUSING, State.PAUSED}:
            return
        if locked.state not in {State.QUEUED, State.RUNNING, State.WAITING}:
            msg = f"run {locked.name} is {locked.state.words}; only a queued, running or waiting run can be paused"
            raise UsageError(msg)
        runs.set_state(connection, locked, State.PAUSING, actor=actor, reason="asked to pause", wish=Wish.PAUSE)

    return change(connection, reference, act)


def resume(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Let a paused or failed run continue from where it stopped."""

    def act(locked: LockedRun) -> None:
        if locked.state in {State.QUEUED, State.RUNNING}:
            return
        if locked.state is State.WAITING:
            msg = f"run {locked.name} waits for an approval: backfilld approve {locked.name} --phase {locked.phase}"
            raise UsageError(msg)
        if locked.state not in {State.PAUSING, State.PAUSED, State.FAILED}:
            msg = f"run {locked.name} is {locked.state.words} and cannot be resumed; enqueue the migration again"
            raise UsageError(msg)
        after = State.ROLLING_BACK if locked.rollback.requested else State.RUNNING
        runs.set_state(connection, locked, after, actor=actor, reason="asked to resume")
        lanes.wake_run(connection, locked.run)

    return change(connection, reference, act)


def rollback(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Roll a run back, wherever it is; a worker begins once no batch is in flight."""

    def act(locked: LockedRun) -> None:
        if locked.state in {State.ROLLING_BACK, State.ROLLED_BACK}:
            return
        if locked.state is State.CANCELLING:
            msg = (
                f"run {locked.name} is being cancelled; ask again once it is cancelled, which needs a worker, or "
                f"backfilld cancel {locked.name} --here"
            )
            raise UsageError(msg)
        newest = find(connection, locked.name)
        if newest.run != locked.run and not (locked.state is State.COMPLETED and newest.state is State.ROLLED_BACK):
            how = "came after it" if locked.state is State.COMPLETED else "has taken over what it left"
            msg = (
                f"run {locked.run} is {locked.state.words}, and the newer run {newest.run} {how}; "
                f"roll that one back first: backfilld rollback {newest.run}"
            )
            raise UsageError(msg)
        if not locked.rollback.requested:
            _check_way_back(connection, find(connection, locked.run))
            runs.set_rollback(connection, locked.run, Rollback(requested=True))
        runs.set_state(connection, locked, State.ROLLING_BACK, actor=actor, reason="asked to roll back")
        if locked.state in ENDED:
            lanes.reopen_coordinator(connection, locked.run)
        else:
            lanes.wake_run(connection, locked.run)

    return change(connection, reference, act)


def _check_way_back(connection: Connection, run: Run) -> None:
    """Raises Refused when a run cannot be rolled back now."""
    from backfilld.migrations.rollback import check as rollback_check  # noqa: PLC0415 - knows every operation, which no other command must

    found = rollback_check.look(connection, run)
    if found.possible:
        return
    remedy = found.remedy or (
        "Fix or delete these rows, then ask again"
        if found.blocked_by
        else "Undo by hand what the plan shows; what the run changed or dropped stays as it is"
    )
    raise Refused([Finding("rollback", f"run {run.name} cannot be rolled back: {found.because}", remedy)])


def end_partitions(connection: Connection, table: str, *, actor: str) -> None:
    """No worker makes the next partitions of a table any more. Raises UsageError where none does."""
    from backfilld.migrations.record import partitions  # noqa: PLC0415 - brings a model of the file along, for this command alone

    try:
        wanted = TableName.parse(table)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    with connection.transaction():
        for one in partitions.listed(connection):
            if TableName.parse(one.relation) == wanted:
                partitions.end(connection, one.relation)
                audit.record(connection, one.run, actor=actor, what="partitions.ended", table=one.relation)
                return
    msg = f"no worker makes partitions of {table}; the tables are: backfilld partitions"
    raise UsageError(msg)


def purge(connection: Connection, reference: int | str | None, *, now: bool, actor: str) -> list[Purged]:
    """Drop the old values that runs keep for a rollback: of every run whose retention has ended, or of one.

    `now` drops those of that one run before its retention ends. Raises UsageError when the run has not ended, or its retention
    has not.
    """
    from backfilld.migrations.rollback import retention  # noqa: PLC0415 - brings the catalog and the walks along, which only this command needs

    if reference is None:
        if now:
            msg = "--now is for one run; name it: backfilld purge RUN --now"
            raise UsageError(msg)
        wanted = retention.overdue(connection)
    else:
        wanted = [find(connection, reference).run]
    purged: list[Purged] = []

    def act(locked: LockedRun) -> None:
        run = find(connection, locked.run)
        if run.purged_at is not None:
            return
        if locked.state not in ENDED:
            msg = f"run {locked.name} is {locked.state.words}; what it keeps is needed until it has ended"
            raise UsageError(msg)
        if not now and run.run not in retention.overdue(connection):
            until = (
                f"until {run.kept_until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
                if run.kept_until
                else "until it is rolled back"
            )
            msg = (
                f"run {locked.name} keeps its old values {until}; to drop them now: backfilld purge {locked.name} --now"
            )
            raise UsageError(msg)
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [PURGE_LOCK_TIMEOUT])
        purged.append(retention.purge(connection, locked, actor=actor))

    for run in wanted:
        change(connection, run, act)
    return purged


def cancel(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Ask a run to stop for good; a worker cancels it once no batch is in flight."""

    def act(locked: LockedRun) -> None:
        if locked.state in {State.CANCELLING, State.CANCELLED}:
            return
        if locked.state in ENDED | {State.ROLLING_BACK}:
            msg = f"run {locked.name} is {locked.state.words}; there is nothing left to cancel"
            raise UsageError(msg)
        runs.set_state(connection, locked, State.CANCELLING, actor=actor, reason="asked to cancel", wish=Wish.CANCEL)

    return change(connection, reference, act)


def approve(
    connection: Connection, reference: int | str, phase: str | None, *, actor: str, yes: bool = False
) -> Approved:
    """Let a phase begin that waits for a person: the one named, which may be in advance, or else the one that waits.

    Raises UsageError when the run is past approving, and for no name where nothing waits; and Refused, unless `yes`, while
    statements still come that contract would make fail.
    """
    named = None if phase is None else phase_named(phase)
    approved: list[Phase] = []
    # Before the run is locked: statements are bound on copies, which takes a moment.
    found = () if yes else _application_findings(connection, find(connection, reference), named)

    def act(locked: LockedRun) -> None:
        if locked.state in {State.CANCELLING, State.CANCELLED, State.ROLLING_BACK, State.ROLLED_BACK}:
            msg = f"run {locked.name} is {locked.state.words}; there is nothing left to approve"
            raise UsageError(msg)
        wanted = named or _waiting_phase(locked)
        approved.append(wanted)
        if wanted is Phase.CONTRACT and yes and _accept_application(connection, locked, actor=actor):
            lanes.wake_run(connection, locked.run)
        if wanted in locked.approved or locked.phase.is_past(wanted):
            return
        if wanted is Phase.CONTRACT and not yes:
            _check_contract(connection, find(connection, locked.run), found)
        runs.approve(connection, locked.run, wanted, actor=actor)
        if locked.state is State.WAITING and locked.phase is wanted:
            runs.set_state(connection, locked, State.RUNNING, actor=actor, reason=f"{wanted} approved")
            lanes.wake_run(connection, locked.run)

    return Approved(run=change(connection, reference, act), phase=approved[0])


def accept_residual(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Let a run end although rows still need work, which the application keeps writing; how many and who says so is on record.

    Raises UsageError for a run that has not paused for such rows, and Refused where something of its file relies on every row.
    """
    from backfilld.migrations.operations import bind  # noqa: PLC0415 - knows every operation, which no other command must
    from backfilld.migrations.operations.residual import in_need  # noqa: PLC0415 - comes with it

    def act(locked: LockedRun) -> None:
        run = find(connection, locked.run)
        if locked.state is State.RUNNING and audit.latest(connection, run.run, what="residual.accepted") is not None:
            return
        if locked.state is not State.PAUSED or run.error_class != "residual":
            msg = f"run {locked.name} is {locked.state.words} and has not paused for rows that still need work"
            raise UsageError(msg)
        operations = run.migration.operations
        found = lanes.residual_of(connection, run.run, pass_=run.pass_ - 1)  # the present pass has walked nothing yet
        if needed := [operations[number].summary for number in in_need(bind(run.migration, run.facts), found)]:
            raise Refused(
                [
                    Finding(
                        "residual",
                        f"{needed_by} of the same file relies on every row, and {run.residual_rows} still need work",
                        f"Fix what writes them, then: backfilld resume {run.name}",
                    )
                    for needed_by in needed
                ]
            )
        audit.record(connection, run.run, actor=actor, what="residual.accepted", rows=run.residual_rows)
        runs.set_state(connection, locked, State.RUNNING, actor=actor, reason="residual rows accepted")
        lanes.wake_run(connection, locked.run)

    return change(connection, reference, act)


def _application_findings(connection: Connection, run: Run, named: Phase | None) -> tuple[Finding, ...]:
    """What speaks against contract of a run that has switched, by its application's statements as of now."""
    from backfilld.migrations.application import gate  # noqa: PLC0415 - knows every operation, which no other command must

    wanted = named or (run.phase if run.state is State.WAITING else None)
    return gate.against_contract(connection, run) if wanted is Phase.CONTRACT else ()


def _accept_application(connection: Connection, locked: LockedRun, *, actor: str) -> bool:
    """Put on record that contract may begin in spite of what is found of the application; whether that is news."""
    run = find(connection, locked.run)
    if (
        run.migration.checked_application is None
        or audit.latest(connection, run.run, what=application.ACCEPTED) is not None
    ):
        return False
    audit.record(connection, run.run, actor=actor, what=application.ACCEPTED)
    return True


def _check_contract(connection: Connection, run: Run, of_application: tuple[Finding, ...]) -> None:
    """Raises Refused while the application sends what fails after contract."""
    found = [
        Finding(
            "after_contract",
            one.in_words,
            "Deploy an application that no longer sends such statements, then ask again; or let them fail: "
            f"backfilld approve {run.name} --phase {Phase.CONTRACT} --yes",
        )
        for one in after_contract.read(connection, [run]).get(run.run, ())
        if one.still_comes
    ]
    found += of_application
    if found:
        raise Refused(found)


def _waiting_phase(locked: LockedRun) -> Phase:
    """The phase a run waits for. Raises UsageError naming what can be approved in advance."""
    if locked.state is State.WAITING:
        return locked.phase
    ahead = [
        phase
        for phase in sorted(locked.settings.approve, key=list(Phase).index)
        if phase not in locked.approved and not locked.phase.is_past(phase)
    ]
    which = " or ".join(f"--phase {phase}" for phase in ahead)
    advice = f"; to approve in advance: backfilld approve {locked.name} {which}" if ahead else ""
    msg = f"run {locked.name} is {locked.state.words} in phase {locked.phase} and waits for no approval{advice}"
    raise UsageError(msg)


def retry(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Try every quarantined row of a run again, once the rows are fixed."""
    from backfilld.migrations.loading import stage  # noqa: PLC0415 - brings the walks along, which only this command needs

    def act(locked: LockedRun) -> None:
        if locked.state not in {State.RUNNING, State.PAUSED, State.FAILED, State.WAITING}:
            msg = f"run {locked.name} is {locked.state.words}; rows can be retried while it is running, waiting, paused or failed"
            if stage.set_aside(connection, locked.run).lines:
                msg += f". Its lines as a file, to be fixed and loaded: backfilld quarantine export {locked.name}"
            raise UsageError(msg)
        operations = quarantine.mark_for_retry(connection, locked.run) | stage.mark_for_retry(connection, locked.run)
        if not operations and not find(connection, locked.run).unconverted:
            msg = f"run {locked.name} has no quarantined rows"
            raise UsageError(msg)
        # Rows of a batch that was undone are met again where the lane is.
        _insert_retries(connection, locked, operations)
        audit.record(connection, locked.run, actor=actor, what="quarantine.retry", operations=sorted(operations))
        if locked.state is State.WAITING:
            return  # they are tried once the phase is approved
        if locked.state is not State.RUNNING:
            runs.set_state(connection, locked, State.RUNNING, actor=actor, reason="retrying quarantined rows")
        lanes.wake_run(connection, locked.run)

    return change(connection, reference, act, adds_lanes=True)


def _insert_retries(connection: Connection, locked: LockedRun, operations: set[int]) -> None:
    """One lane per operation, in the present walk, or in a new one when the walk is over.

    Not always a new one: a new walk forgets the open lanes of the old.
    """
    if not operations:
        return
    run = find(connection, locked.run)
    loads = any(run.migration.operations[operation].kind == "load" for operation in operations)
    if loads and not any(lane.kind == "backfill" for lane in lanes.of_run(connection, locked.run)):
        return  # lines of a load that has not begun: the coordinator makes the lane with the others
    pass_ = locked.pass_
    if locked.phase not in {Phase.BACKFILL, Phase.SWITCH, Phase.CONTRACT}:
        pass_ += 1
        runs.set_pass(connection, locked.run, pass_, reason="retrying quarantined rows")
    waiting = {
        lane.operation
        for lane in lanes.of_run(connection, locked.run)
        if lane.kind == "retry" and lane.pass_ == pass_ and lane.done_at is None
    }
    for operation in sorted(operations - waiting):
        relation = str(run.migration.operations[operation].table)
        lanes.insert(
            connection,
            locked.run,
            kind=LaneKind.RETRY,
            operation=operation,
            pass_=pass_,
            relation=relation,
            bounds=Bounds(),
        )
