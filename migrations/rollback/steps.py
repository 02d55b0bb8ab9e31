"""The way back of a run: from what is on record as done, to the steps that take it back, the latest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.operations import Action, Walk, steps
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.operations import Operation, Step

_ORDER = list(Phase)


@dataclass(frozen=True, kw_only=True)
class BackStep:
    """One step of the way back, and the phase whose work it takes back."""

    phase: Phase
    step: Step


def way_back(operations: Sequence[Operation], *, phase: Phase, done: int, pass_: int = 1) -> tuple[BackStep, ...]:
    """The steps that take back a run which has done `done` steps of `phase`, and all of the phases before it.

    What no transaction holds together may be half done, and is taken back as well: the walk in hand, and an index that is
    built CONCURRENTLY. A run that went back to walk its data once more has left such indexes behind. What takes those back
    finds nothing, half of it or all, and must be right for each.
    """
    reached = Phase.VERIFY if phase is Phase.BACKFILL and pass_ > 1 else phase
    back: list[BackStep] = []
    for past in reversed(_ORDER[: _ORDER.index(reached) + 1]):
        if past is Phase.BACKFILL:
            undone = tuple(step for operation in reversed(operations) for step in operation.undo())
        else:
            taken: Sequence[Step] = steps(operations, past)
            if past is reached:
                taken = _begun(taken, done=done if reached is phase else 0)
            undone = tuple(step for one in reversed(taken) for step in one.back)
        back += [BackStep(phase=past, step=step) for step in undone]
    return tuple(back)


def _begun(planned: Sequence[Step], *, done: int) -> list[Step]:
    """The steps of a phase that may have left something: those on record, the walk in hand, and every index."""
    return [
        step
        for number, step in enumerate(planned)
        if number < done
        or (isinstance(step, Walk) and number == done)
        or (isinstance(step, Action) and step.index is not None)
    ]
