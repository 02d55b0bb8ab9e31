"""The steps of a run's operations, put together once: composing the DDL of a run anew for each of its steps is what takes time."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from backfilld.migrations.operations import steps
from backfilld.migrations.rollback.steps import way_back

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backfilld.migrations.operations import Operation, Step
    from backfilld.migrations.record.model import Reached
    from backfilld.migrations.record.states import Phase
    from backfilld.migrations.rollback.steps import BackStep


class PlannedSteps:
    """The steps of each phase, and the way back. Operations are values, so what was put together stays right."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        #: The steps of a phase, operation by operation.
        self.of: Callable[[Phase], tuple[Step, ...]] = cache(lambda phase: steps(operations, phase))
        #: The steps that take back a run which had come so far.
        self.back_from: Callable[[Reached], tuple[BackStep, ...]] = cache(
            lambda reached: way_back(operations, phase=reached.phase, done=reached.steps, pass_=reached.pass_)
        )
