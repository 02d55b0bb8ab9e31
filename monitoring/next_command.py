"""The command that a person types next, by where a run is: one answer for every verb that prints one."""

from __future__ import annotations

from typing import assert_never

from backfilld.migrations.record.states import Phase, State


def next_command(  # noqa: PLR0911 - a command for each state
    name: str, state: State, phase: Phase, *, error_class: str | None = None
) -> str:
    """What brings the run on, or says why it stands; empty for one that is over. Pure."""
    match state:
        case State.WAITING:
            return f"backfilld approve {name} --phase {phase}"
        case State.QUEUED | State.RUNNING:
            return f"backfilld gate {name} {'--phase contract ' if phase.is_past(Phase.SWITCH) else ''}--wait"
        case State.PAUSING:
            return f"backfilld resume {name}"
        case State.PAUSED | State.FAILED if error_class == "quarantine":
            return f"backfilld quarantine list {name}"
        case State.PAUSED if error_class is None:
            return f"backfilld resume {name}"
        case State.PAUSED | State.FAILED:
            return f"backfilld explain {name}"
        case State.CANCELLING | State.CANCELLED:
            return (
                f"backfilld rollback {name}, to undo what it left; or enqueue the file again, which takes over what can be "
                "taken over"
            )
        case State.ROLLING_BACK:
            return f"backfilld rollback {name} --wait"
        case State.ROLLED_BACK | State.COMPLETED:
            return ""
        case _:
            assert_never(state)
