"""What people ask of runs, as changes to the record: each in one transaction, under the run's lock, with who asked.

Nothing here talks to Redis. A command that finds its wish fulfilled already changes nothing; one that cannot mean
anything raises UsageError and says what would.
"""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import errors
from pydantic import ValidationError

from backfilld.migrations.errors import BackfilldError, Finding, Refused, UsageError
from backfilld.migrations.file.run_settings import RunSettings
from backfilld.migrations.identifiers import Wrong
from backfilld.migrations.record import audit, lanes, pace, quarantine, runs
from backfilld.migrations.record.model import Bounds, Rollback
from backfilld.migrations.record.states import ENDED, LaneKind, Phase, State, Wish
from backfilld.monitoring.pace import Changed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.record.pace import Stop
    from backfilld.migrations.record.runs import LockedRun
    from backfilld.migrations.rollback.retention import Purged

#: A step of the coordinator (a VALIDATE, say) may hold what a command needs; a person is told rather than left waiting.
LOCK_TIMEOUT = "30s"

#: Dropping what is kept locks a table of ours that other runs' lanes look at now and then; they must not wait behind us.
PURGE_LOCK_TIMEOUT = "200ms"

#: The narrowest and widest that `pace --width` takes; `pace` in the schema holds the same.
WIDTHS = range(1, 65)

#: Phases that a run may wait in front of, and that a gate may ask for.
PHASES = tuple(phase for phase in Phase if phase is not Phase.DONE)


@dataclass(frozen=True, kw_only=True)
class Enqueued:
    """A run of a migration: made just now, or there already."""

    run: Run
    is_new: bool
    warnings: tuple[str, ...] = ()


class RunStopped(BackfilldError):
    """The run will not get there by itself: it failed, was cancelled, or was paused by what it met."""

    def __init__(self, run: Run) -> None:
        self.run = run
        error = f": {run.error.get('message', '')}" if run.error else ""
        what_now = (
            "enqueue the file again" if run.state in ENDED | {State.CANCELLING} else f"backfilld explain {run.name}"
        )
        super().__init__(f"run {run.name} is {run.state} in phase {run.phase}{error}; what to do: {what_now}")


# --- finding -----------------------------------------------------------------------------------------------------------


def find(connection: Connection, reference: int | str) -> Run:
    """The run of an id or a name. Raises UsageError naming what there is."""
    run = runs.find(connection, str(reference))
    if run is not None:
        return run
    names = list(dict.fromkeys(run.name for run in runs.listed(connection, ended=True)))
    close = difflib.get_close_matches(str(reference), names, n=1)
    hint = (
        f"Did you mean {close[0]}?"
        if close
        else f"There is {', '.join(names[:10])}."
        if names
        else "There are none yet."
    )
    msg = f"there is no run {reference}. {hint}"
    raise UsageError(msg)


def is_open(run: Run, phase: Phase = Phase.SWITCH) -> bool:
    """Whether what `phase` brings can be relied on: the phase is over and, from verify on, the data is proved right.

    Raises RunStopped when the run failed or was cancelled: waiting for it would be in vain.
    """
    if run.state in {State.FAILED, State.CANCELLING, State.CANCELLED, State.ROLLING_BACK, State.ROLLED_BACK}:
        raise RunStopped(run)
    proved = run.verified_at is not None or Phase.VERIFY.is_past(phase)
    return run.phase.is_past(phase) and proved


def has_ended_well(run: Run) -> bool:
    """Whether somebody who waits may go on: all is done, or all but what waits for an approval.

    Raises RunStopped when it will not get there by itself; a run that a person paused may yet.
    """
    if run.state is State.PAUSED and run.error is not None:
        raise RunStopped(run)
    gate_is_open = is_open(run)
    return run.state is State.COMPLETED or (run.state is State.WAITING and gate_is_open)


def is_rolled_back(run: Run) -> bool:
    """Whether everything a run did is taken back. Raises RunStopped when it is not on the way there."""
    if run.state not in {State.ROLLING_BACK, State.ROLLED_BACK}:
        raise RunStopped(run)
    return run.state is State.ROLLED_BACK


# --- enqueueing --------------------------------------------------------------------------------------------------------


def enqueue(connection: Connection, migration: Migration, *, actor: str) -> Enqueued:
    """A run of this migration: the one there is, or a new one once preflight has nothing against it.

    Raises UsageError when the name belongs to another migration, and Refused by preflight; nothing is written then.
    """
    from backfilld.migrations.planning import examine  # noqa: PLC0415 - knows every operation, which no other command must

    existing = _same(connection, migration)
    if existing is not None:
        return Enqueued(run=existing, is_new=False, warnings=_differences(existing, migration))
    examination = examine.examine(connection, migration)
    try:
        examination.require()
        run = runs.insert(connection, migration, examination.facts, actor=actor)
    except (Refused, UsageError):
        # Two deploys enqueue the same file at once; the one that comes second gets the run of the first. What preflight has
        # against it may be what that run has done by now.
        existing = _same(connection, migration)
        if existing is None:
            raise
        return Enqueued(run=existing, is_new=False, warnings=_differences(existing, migration))
    return Enqueued(run=find(connection, run), is_new=True, warnings=tuple(examination.warnings))


def _same(connection: Connection, migration: Migration) -> Run | None:
    """The run that has this migration's name. Raises UsageError when it is of another migration."""
    existing = runs.find(connection, migration.name)
    if existing is None or existing.state in {State.CANCELLED, State.ROLLED_BACK}:
        return None
    if existing.checksum != migration.checksum:
        msg = (
            f"run {existing.run} is called {migration.name} too and does something else: its checksum is "
            f"{_short(existing.checksum)}, that of the file {_short(migration.checksum)}. Give the changed migration a "
            f"new name"
            + ("" if existing.state in ENDED else f", or end the run first: backfilld cancel {existing.name}")
        )
        raise UsageError(msg)
    return existing


def _differences(run: Run, migration: Migration) -> tuple[str, ...]:
    """Settings are not part of the checksum: say that those of the file were not taken over."""
    if run.state in ENDED:
        return ()
    there, wanted = run.settings.model_dump(mode="json"), migration.settings.model_dump(mode="json")
    different = ", ".join(name for name in wanted if wanted[name] != there[name])
    if not different:
        return ()
    return (
        f"run {run.name} goes on with its own settings; the file differs in {different} (see `backfilld pace --help`)",
    )


def _short(checksum: str) -> str:
    return checksum.removeprefix("sha256:")[:12]


# --- control -----------------------------------------------------------------------------------------------------------


def pause(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Ask a run to stop until somebody resumes it; a worker does so once no batch is in flight."""

    def act(held: LockedRun) -> None:
        if held.state in {State.PAUSING, State.PAUSED}:
            return
        if held.state not in {State.QUEUED, State.RUNNING, State.WAITING}:
            msg = f"run {held.name} is {held.state}; only a run that is going on can be paused"
            raise UsageError(msg)
        runs.set_state(connection, held, State.PAUSING, actor=actor, reason="asked to pause", wish=Wish.PAUSE)

    return _change(connection, reference, act)


def resume(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Let a paused or failed run go on from where it stopped."""

    def act(held: LockedRun) -> None:
        if held.state in {State.QUEUED, State.RUNNING}:
            return
        if held.state is State.WAITING:
            msg = f"run {held.name} waits for an approval: backfilld approve {held.name} --phase {held.phase}"
            raise UsageError(msg)
        if held.state not in {State.PAUSING, State.PAUSED, State.FAILED}:
            msg = f"run {held.name} is {held.state}, which nothing brings back; enqueue the migration again"
            raise UsageError(msg)
        after = State.ROLLING_BACK if held.rollback.requested else State.RUNNING
        runs.set_state(connection, held, after, actor=actor, reason="asked to resume")
        lanes.wake_run(connection, held.run)

    return _change(connection, reference, act)


def rollback(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Take a run back, from wherever it is; a worker begins once no batch is in flight."""

    def act(held: LockedRun) -> None:
        if held.state in {State.ROLLING_BACK, State.ROLLED_BACK}:
            return
        if held.state is State.CANCELLING:
            msg = f"run {held.name} is being cancelled; ask again when it is"
            raise UsageError(msg)
        newest = find(connection, held.name)
        if newest.run != held.run:
            msg = (
                f"run {held.run} is {held.state}, and run {newest.run} has its name and what it left; "
                f"roll that one back: backfilld rollback {newest.run}"
            )
            raise UsageError(msg)
        if not held.rollback.requested:
            _check_way_back(connection, newest)
            runs.set_rollback(connection, held.run, Rollback(requested=True))
        runs.set_state(connection, held, State.ROLLING_BACK, actor=actor, reason="asked to roll back")
        if held.state in ENDED:
            lanes.reopen_conductor(connection, held.run)
        else:
            lanes.wake_run(connection, held.run)

    return _change(connection, reference, act)


def _check_way_back(connection: Connection, run: Run) -> None:
    """Raises Refused when a run cannot be taken back as it stands."""
    from backfilld.migrations.rollback import check as rollback_check  # noqa: PLC0415 - knows every operation, which no other command must

    found = rollback_check.look(connection, run)
    if found.possible:
        return
    remedy = (
        "Mend or delete these rows, then ask again"
        if found.blocked_by
        else "Take back by hand what the plan shows; what the run changed or dropped stays as it is"
    )
    raise Refused([Finding("rollback", f"run {run.name} cannot be rolled back: {found.because}", remedy)])


def purge(connection: Connection, reference: int | str | None, *, now: bool, actor: str) -> list[Purged]:
    """Drop the old values that are kept for runs so that they can go back: of all whose time is over, or of one.

    With `now` that one's go although their time is not over. Raises UsageError when it has not ended, or its time is not over.
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

    def act(held: LockedRun) -> None:
        run = find(connection, held.run)
        if run.purged_at is not None:
            return
        if held.state not in ENDED:
            msg = f"run {held.name} is {held.state}; what it keeps is needed until it has ended"
            raise UsageError(msg)
        if not now and run.run not in retention.overdue(connection):
            until = f"until {run.kept_until:%Y-%m-%d %H:%M} UTC" if run.kept_until else "until it is rolled back"
            msg = (
                f"run {held.name} keeps its old values {until}; to drop them before: backfilld purge {held.name} --now"
            )
            raise UsageError(msg)
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [PURGE_LOCK_TIMEOUT])
        purged.append(retention.purge(connection, held, actor=actor))

    for run in wanted:
        _change(connection, run, act)
    return purged


def cancel(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Ask a run to stop for good; a worker does so once no batch is in flight."""

    def act(held: LockedRun) -> None:
        if held.state in {State.CANCELLING, State.CANCELLED}:
            return
        if held.state in ENDED | {State.ROLLING_BACK}:
            msg = f"run {held.name} is {held.state}; there is nothing left to cancel"
            raise UsageError(msg)
        runs.set_state(connection, held, State.CANCELLING, actor=actor, reason="asked to cancel", wish=Wish.CANCEL)

    return _change(connection, reference, act)


def approve(connection: Connection, reference: int | str, phase: str, *, actor: str) -> int:
    """Let a phase begin that waits for a person; may be said in advance, and twice."""
    approved = _phase(phase)

    def act(held: LockedRun) -> None:
        if held.state in {State.CANCELLING, State.CANCELLED, State.ROLLING_BACK, State.ROLLED_BACK}:
            msg = f"run {held.name} is {held.state}; there is nothing left to approve"
            raise UsageError(msg)
        if approved in held.approved or held.phase.is_past(approved):
            return
        runs.approve(connection, held.run, approved, actor=actor)
        if held.state is State.WAITING and held.phase is approved:
            runs.set_state(connection, held, State.RUNNING, actor=actor, reason=f"{approved} approved")
            lanes.wake_run(connection, held.run)

    return _change(connection, reference, act)


def tune(
    connection: Connection,
    reference: int | str | None,
    changes: dict[str, Any],  # Any: values of RunSettings, checked there
    *,
    width: int | None,
    actor: str,
) -> tuple[Changed, ...]:
    """Change how a run behaves from its next batch on, and how many lanes of this database may work at once.

    Returns what was named, each with what it was before. Without a run only the width can be changed.
    """
    if not changes and width is None:
        return ()
    if width is not None and width not in WIDTHS:
        msg = f"--width: {width} is not between {WIDTHS[0]} and {WIDTHS[-1]}"
        raise UsageError(msg)
    changed: list[Changed] = []

    def act(held: LockedRun) -> None:
        if held.state in ENDED:
            msg = f"run {held.name} is {held.state}; its pace does not matter any more"
            raise UsageError(msg)
        if changes:
            changed.extend(_tune(connection, held, changes, actor=actor))
        if width is not None:
            changed.append(_set_width(connection, width, run=held.run, actor=actor))

    if reference is not None:
        _change(connection, reference, act)
        return tuple(changed)
    if changes:
        option = _option(next(iter(changes)))
        msg = f"{option} is a run's own; name the run: backfilld pace RUN {option} …"
        raise UsageError(msg)
    if width is not None:
        with _at_once(connection, "the pace of this database"):
            changed.append(_set_width(connection, width, run=None, actor=actor))
    return tuple(changed)


def _tune(
    connection: Connection, held: LockedRun, changes: dict[str, Any], *, actor: str
) -> list[Changed]:  # Any: as above
    settings = _tuned(held.settings, changes)
    before, after = held.settings.model_dump(mode="json"), settings.model_dump(mode="json")
    different = {name: (before[name], after[name]) for name in changes if before[name] != after[name]}
    if different:
        runs.tune(connection, held.run, settings, changes=different, actor=actor)
    if "windows" in different:
        # What sleeps until the old window opens looks at the new ones.
        lanes.wake_run(connection, held.run, coordinator=False)
    return [Changed(name=name, before=before[name], after=after[name]) for name in changes]


def _tuned(settings: RunSettings, changes: dict[str, Any]) -> RunSettings:  # Any: checked here
    try:
        return RunSettings.model_validate({**settings.model_dump(mode="json"), **changes})
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        option = _option(str(first["loc"][0]))
        wrong = first.get("ctx", {}).get("error")
        if isinstance(wrong, Wrong):
            msg = f"{option}: {wrong}"
        else:
            msg = f"{option}: {first['input']} is not possible: {first['msg'].removeprefix('Input ')}"
        raise UsageError(msg) from None


def _option(setting: str) -> str:
    return "--window" if setting == "windows" else "--" + setting.replace("_", "-")


def _set_width(connection: Connection, width: int, *, run: int | None, actor: str) -> Changed:
    before = pace.read(connection).max_width
    if width != before:
        pace.set_max_width(connection, width)
        audit.record(connection, run, actor=actor, what="pace.width", max_width=(before, width))
    return Changed(name="width", before=before, after=width)


def stop_all(connection: Connection, *, actor: str) -> Stop:
    """Stop all runs of the database, those of the future included, until somebody lifts the stop; returns who asked first."""
    with _at_once(connection, "the pace of this database"):
        pace.stop_all(connection, actor=actor)
        stop = pace.read_stop(connection)
    if stop is None:  # lifted by somebody else in this very moment
        msg = "the stop was lifted while it was asked for; ask again"
        raise BackfilldError(msg)
    return stop


def resume_all(connection: Connection, *, actor: str) -> bool:
    """Lift the stop of all runs; a run that is paused by itself stays paused. False when there was none."""
    with _at_once(connection, "the pace of this database"):
        return pace.resume_all(connection, actor=actor)


def retry(connection: Connection, reference: int | str, *, actor: str) -> int:
    """Try every quarantined row of a run again, once what was wrong with them is mended."""

    def act(held: LockedRun) -> None:
        if held.state not in {State.RUNNING, State.PAUSED, State.FAILED}:
            msg = f"run {held.name} is {held.state}; rows are tried again while it is running, paused or failed"
            raise UsageError(msg)
        operations = quarantine.mark_for_retry(connection, held.run)
        if not operations:
            msg = f"run {held.name} has no quarantined rows"
            raise UsageError(msg)
        _insert_retries(connection, held, operations)
        audit.record(connection, held.run, actor=actor, what="quarantine.retry", operations=sorted(operations))
        if held.state is not State.RUNNING:
            runs.set_state(
                connection, held, State.RUNNING, actor=actor, reason="quarantined rows are to be tried again"
            )
        lanes.wake_run(connection, held.run)

    return _change(connection, reference, act, adds_lanes=True)


def _insert_retries(connection: Connection, held: LockedRun, operations: set[int]) -> None:
    """One lane per operation, in the walk that is going on, or in a new one when the walk is over.

    A walk that is not over must not be left for a new one: its open lanes would be forgotten.
    """
    run = find(connection, held.run)
    pass_ = held.pass_
    if held.phase is not Phase.BACKFILL:
        pass_ += 1
        runs.set_pass(connection, held.run, pass_, reason="quarantined rows are to be tried again")
    waiting = {
        lane.operation
        for lane in lanes.of_run(connection, held.run)
        if lane.kind == "retry" and lane.pass_ == pass_ and lane.done_at is None
    }
    for operation in sorted(operations - waiting):
        relation = str(run.migration.operations[operation].table)
        lanes.insert(
            connection,
            held.run,
            kind=LaneKind.RETRY,
            operation=operation,
            pass_=pass_,
            relation=relation,
            bounds=Bounds(),
        )


def _change(
    connection: Connection, reference: int | str, act: Callable[[LockedRun], None], *, adds_lanes: bool = False
) -> int:
    """Do `act` under the run's lock, in one transaction; returns the run's id.

    Lane 0 is locked before the run, never after it: that is the order of the coordinator's own steps.
    """
    with _at_once(connection, f"run {reference}"):
        run = find(connection, reference)
        if adds_lanes:
            lanes.lock_conductor(connection, run.run)
        held = runs.lock(connection, run.run)
        if held is not None:  # it was found in this transaction, but nothing kept it from being removed
            act(held)
        return run.run


@contextmanager
def _at_once(connection: Connection, what: str) -> Iterator[None]:
    """One transaction that does not wait for ever. Raises BackfilldError when somebody holds what it needs."""
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
            yield
    except errors.LockNotAvailable as exc:
        msg = f"{what} is busy with a step that takes long, and nothing was changed; try again"
        raise BackfilldError(msg) from exc


def phase_named(text: str) -> Phase:
    """One of the phases by its name. Raises UsageError."""
    return _phase(text)


def _phase(text: str) -> Phase:
    if text not in PHASES:
        msg = f"--phase: {text} is not one of {', '.join(PHASES)}"
        raise UsageError(msg)
    return Phase(text)
