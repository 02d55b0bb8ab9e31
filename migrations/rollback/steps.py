"""The way back of a run: from what is on record as done, to the steps that take it back.

The latest is taken back first, but for one thing: the application does not wait. What lets its statements succeed again (a rule
that goes, a column that comes back) is done before anything that takes as long as the table is large.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backfilld.migrations.operations import Action, Walk, steps
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.operations import Operation, Step

_ORDER = list(Phase)


@dataclass(frozen=True, kw_only=True)
class BackStep:
    """One step of the way back, and the phase of the way back that it belongs to: it never goes forward."""

    phase: Phase
    #: The operation whose work it takes back, by its number in the file.
    operation: int
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
            undone = [
                (number, step) for number, operation in reversed([*enumerate(operations)]) for step in operation.undo()
            ]
        else:
            taken = [(number, step) for number, operation in enumerate(operations) for step in steps([operation], past)]
            if past is reached:
                taken = _begun(taken, done=done if reached is phase else 0)
            undone = [(number, step) for number, one in reversed(taken) for step in one.back]
        back += [BackStep(phase=past, operation=number, step=step) for number, step in undone]
    return tuple(_application_first(_archive_last(back)))


def _begun(planned: Sequence[tuple[int, Step]], *, done: int) -> list[tuple[int, Step]]:
    """The steps of a phase that may have left something: those on record, the walk in hand, and every index."""
    return [
        (operation, step)
        for number, (operation, step) in enumerate(planned)
        if number < done
        or (isinstance(step, Walk) and number == done)
        or (isinstance(step, Action) and step.index is not None)
    ]


def _archive_last(back: Sequence[BackStep]) -> list[BackStep]:
    """An archive is made right before its operation drops what it keeps, and no other step waits for it."""
    ordered: list[BackStep] = []
    kept: dict[int, BackStep] = {}
    for one in back:
        if isinstance(one.step, Walk) and one.step.kind == "archive":
            kept.setdefault(one.operation, one)
            continue
        if one.operation in kept and not _frees(one):
            ordered.append(replace(kept.pop(one.operation), phase=one.phase))
        ordered.append(one)
    return [*ordered, *kept.values()]


def _application_first(back: Sequence[BackStep]) -> list[BackStep]:
    """What frees the application comes before everything else, as far as the user's own SQL leaves it room.

    Two operations never decide about one column, so that their steps may change places; statements of the user's may rely on
    all that comes before them, and keep their place. A step that waits for no old transaction comes before one that does.
    """
    ordered: list[BackStep] = []
    between: list[BackStep] = []
    for one in back:
        if isinstance(one.step, Action) and one.step.is_users:
            ordered += [*_freeing_first(between), one]
            between = []
        else:
            between.append(one)
    ordered += _freeing_first(between)
    latest = Phase.EXPAND
    for number, one in reversed([*enumerate(ordered)]):
        latest = max(latest, one.phase, key=_ORDER.index)
        ordered[number] = replace(one, phase=latest)
    return ordered


def _freeing_first(several: Sequence[BackStep]) -> list[BackStep]:
    return sorted(several, key=lambda one: 2 if not _frees(one) else int(_waits(one)))


def _frees(one: BackStep) -> bool:
    return isinstance(one.step, Action) and one.step.frees


def _waits(one: BackStep) -> bool:
    return isinstance(one.step, Action) and one.step.index is not None
