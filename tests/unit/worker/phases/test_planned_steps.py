"""The steps of a run are put together once."""

from __future__ import annotations

from dataclasses import dataclass, field

from backfilld.migrations.facts import Facts
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations import Action
from backfilld.migrations.operations.base import Bound
from backfilld.migrations.record.model import Reached
from backfilld.migrations.record.states import Phase
from backfilld.worker.phases.planned_steps import PlannedSteps

TABLE = TableName("public", "jobs")
BACK = Action(table=TABLE, statements=())


@dataclass(frozen=True, kw_only=True)
class Counted(Bound[None]):
    """An operation with one step, and a note of how often it was asked for it."""

    asked: list[str] = field(default_factory=list)

    @property
    def table(self) -> TableName:
        return TABLE

    def expand(self) -> tuple[Action, ...]:
        self.asked.append("expand")
        return (Action(table=TABLE, statements=(), back=(BACK,)),)


def test_steps_and_the_way_back_are_composed_once() -> None:
    operation = Counted(definition=None, facts=Facts(relation="jobs"), migration="m", number=0)
    planned = PlannedSteps((operation,))
    for _ in range(3):
        (step,) = planned.of(Phase.EXPAND)
        assert step.back == (BACK,)
        assert planned.of(Phase.VERIFY) == ()
    assert operation.asked == ["expand"]
    for _ in range(3):
        (back,) = planned.back_from(Reached(phase=Phase.EXPAND, steps=1, pass_=1))
        assert (back.phase, back.step) == (Phase.EXPAND, BACK)
        assert planned.back_from(Reached(phase=Phase.EXPAND, steps=0, pass_=1)) == ()
    assert operation.asked == ["expand"] * 3, "once for each of the two ways back"
