"""The way back of a run: from what is on record as done, to the steps that take it back, the latest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrations.operations import Walk, steps
from migrations.states import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrations.operations import Operation, Step


@dataclass(frozen=True, kw_only=True)
class BackStep:
    """One step of the way back, and the phase whose work it takes back."""

    phase: Phase
    step: Step


def way_back(operations: Sequence[Operation], *, phase: Phase, done: int) -> tuple[BackStep, ...]:
    """The steps that take back a run which has done `done` steps of `phase`, and all of the phases before it.

    A step that may be half done, because no transaction holds it together, is taken back too: a walk, or an index that is
    built CONCURRENTLY. What takes those back finds either nothing or half of it, and must be right for both.
    """
    order = list(Phase)
    back: list[BackStep] = []
    for past in reversed(order[: order.index(phase) + 1]):
        if past is Phase.BACKFILL:
            undone = tuple(step for operation in reversed(operations) for step in operation.undo())
        else:
            taken = steps(operations, past)
            if past is phase:
                taken = taken[: done + 1] if done < len(taken) and _may_be_half_done(taken[done]) else taken[:done]
            undone = tuple(step for one in reversed(taken) for step in one.back)
        back += [BackStep(phase=past, step=step) for step in undone]
    return tuple(back)


def _may_be_half_done(step: Step) -> bool:
    return isinstance(step, Walk) or step.index is not None
