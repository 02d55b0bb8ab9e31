"""The command that a person types next, by where a run is: one answer for every verb that prints one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.record.states import ACTIVE, ENDED, Phase, State

if TYPE_CHECKING:
    from collections.abc import Mapping

_TAKE_BACK = "backfilld rollback {name}, to undo what it left; or enqueue the file again, which takes over what can be taken over"
#: What brings a run in each state on, where nothing else is in its way; empty for one that is over.
_BY_STATE: Mapping[State, str] = {
    State.QUEUED: "backfilld gate {name} --wait",
    State.RUNNING: "backfilld gate {name} --wait",
    State.WAITING: "backfilld approve {name} --phase {phase}",
    State.PAUSING: "backfilld resume {name}",
    State.PAUSED: "backfilld resume {name}",
    State.FAILED: "backfilld explain {name}",
    State.CANCELLING: _TAKE_BACK,
    State.CANCELLED: _TAKE_BACK,
    State.ROLLING_BACK: "backfilld rollback {name} --wait",
    State.ROLLED_BACK: "",
    State.COMPLETED: "",
}
#: By what a run has stopped for; explained by `explain` where it is not here.
_BY_ERROR = {"quarantine": "backfilld quarantine list {name}"}


def next_command(
    name: str, state: State, phase: Phase, *, error_class: str | None = None, has_worker: bool = True
) -> str:
    """What brings the run on, or says why it stands; empty for one that is over. Pure."""
    command = _BY_STATE[state]
    if state in ACTIVE and not has_worker:
        command = "backfilld worker, as none is running; or, in this process: backfilld run FILE"
    elif state in {State.PAUSED, State.FAILED} and error_class is not None:
        command = _BY_ERROR.get(error_class, "backfilld explain {name}")
    elif state is State.RUNNING and phase.is_past(Phase.SWITCH):
        command = "backfilld gate {name} --phase contract --wait"
    return command.format(name=name, phase=phase)


def for_rows_set_aside(name: str, state: State, *, of_load: bool) -> str:
    """What a person does about rows that are set aside. Pure."""
    if state not in ENDED:
        return f"fix the rows, or the rule that they break, then: backfilld quarantine retry {name}"
    if of_load:
        return f"fix the lines in a file, and load that: backfilld quarantine export {name} --format csv > fix.csv"
    return f"fix the rows by hand: the run is {state.words}, and tries none of them again"
