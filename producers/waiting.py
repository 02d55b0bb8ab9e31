"""Questions about a run that scripts wait for: which run is meant, is its gate open, has it ended well.

The record is opened here for everyone who asks, and nothing is written.
"""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backfilld.migrations.errors import BackfilldError, NotFinished, UsageError
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.record import runs, schema
from backfilld.migrations.record.states import ENDED, Phase, State
from backfilld.monitoring import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.monitoring.progress import Progress

#: Phases that a run may wait in front of, and that a gate may ask for.
PHASES = tuple(phase for phase in Phase if phase is not Phase.DONE)


#: How many ended runs `recent` gives.
RECENT_RUNS = 10


class RunStopped(BackfilldError):
    """The run will not get there by itself: it failed, was cancelled, or was paused by what it met."""

    def __init__(self, run: Run) -> None:
        self.run = run
        error = f": {str(run.error.get('message', '')).removesuffix('.')}" if run.error else ""
        what_now = f"backfilld explain {run.name}"
        if run.state in ENDED | {State.CANCELLING}:
            what_now = "enqueue the file again"
        if run.state is State.CANCELLED:
            what_now += f", or undo what it left: backfilld rollback {run.name}"
        super().__init__(f"run {run.name} is {run.state.words} in phase {run.phase}{error}; what to do: {what_now}")


@contextmanager
def record(url: str) -> Iterator[Connection]:
    """A connection to a database that has our schema. Raises UsageError when it has none, Unreachable when it is away."""
    with connected(url) as connection:
        schema.check(connection)
        if schema.version(connection) < schema.newest():
            msg = "the database has no schema backfilld, or an old one: backfilld init"
            raise UsageError(msg)
        yield connection


def recent(connection: Connection) -> tuple[list[Progress], int]:
    """The runs in progress and those that ended last, newest first; and how many more have ended."""
    found = [*runs.listed(connection, ended=False), *runs.last_ended(connection, most=RECENT_RUNS)]
    shown = progress.read(connection, sorted(found, key=lambda run: -run.run))
    ended = sum(one.state in ENDED for one in shown)
    return shown, max(sum(runs.count_ended(connection).values()) - ended, 0)


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
    """Whether the result of `phase` can be relied on: the phase is over and, from verify on, the data is verified.

    Raises RunStopped when the run failed or was cancelled: waiting for it would be in vain.
    """
    if run.state in {State.FAILED, State.CANCELLING, State.CANCELLED, State.ROLLING_BACK, State.ROLLED_BACK}:
        raise RunStopped(run)
    proved = run.verified_at is not None or Phase.VERIFY.is_past(phase)
    return run.phase.is_past(phase) and proved


def require_open(connection: Connection, reference: int | str, phase: Phase) -> Run:
    """The run whose gate is open. Raises NotFinished, saying how far it is, RunStopped, and UsageError for no such run."""
    run = find(connection, reference)
    if is_open(run, phase):
        return run
    now = progress.read(connection, [run])[0]
    wait = f"to wait for it: backfilld gate {run.name} --phase {phase} --wait"
    raise NotFinished(f"{how_far(now)}; {wait}")


def opened(name: str, phase: Phase) -> str:
    """What an open gate says; the data is verified from verify on."""
    return f"open: {phase} of {name} is over" + ("" if Phase.VERIFY.is_past(phase) else ", and its data is verified")


def how_far(now: Progress, *, after: str = "") -> str:
    """Where a run is, for those who wait for it."""
    why = "; ".join(now.changed_since) or now.hold_reason
    reason = f" ({why})" if why else ""
    return f"run {now.name} is {now.state.words} in phase {now.phase}{after}, {now.percent:.1f} % done{reason}"


def has_ended_well(run: Run) -> bool:
    """Whether a script that waits may continue: all is done, or all but what waits for an approval.

    Raises RunStopped when it will not get there by itself; a run that a person paused, or has not approved yet, may yet.
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


def phase_named(text: str) -> Phase:
    """One of the phases by its name. Raises UsageError."""
    if text not in PHASES:
        msg = f"--phase: {text} is not one of {', '.join(PHASES)}"
        raise UsageError(msg)
    return Phase(text)
