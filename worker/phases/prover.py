"""Proves again what another session has undone, or pauses the run with what a person is asked. What a proof relies on: `proof.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.operations import Action
from backfilld.migrations.record import lanes, runs
from backfilld.migrations.record.states import Phase
from backfilld.worker.phases.proof import is_switched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.record.step_context import StepContext
    from backfilld.migrations.record.structure import StructureChange
    from backfilld.migrations.wire.messages import LaneMessage
    from backfilld.worker.phases.lane_plan import LanePlan
    from backfilld.worker.phases.planned_steps import PlannedSteps
    from backfilld.worker.phases.run_step import RunStep


class Prover:
    """For one step of a coordinator."""

    def __init__(self, step: RunStep, steps: PlannedSteps, lane_plan: LanePlan) -> None:
        self._step = step
        self._steps = steps
        self._lane_plan = lane_plan

    def again(self, context: StepContext) -> list[LaneMessage] | None:
        """Where what was proved does not hold any longer, prove it again or say what is in the way. None: it holds."""
        phase, proof = context.phase, self._step.proof
        asked = phase in {Phase.SWITCH, Phase.CONTRACT} or (phase is Phase.VERIFY and self._step.number == 0)
        if not asked:
            return None
        if changes := proof.changes():
            return self._after_changes(context, changes)
        if phase is not Phase.VERIFY and proof.retries_open(context.pass_):
            return self._step.sleep()
        if phase is Phase.VERIFY or self._step.number > 0 or proof.holds:
            return None
        runs.unverify(self._step.connection, self._step.run.run)
        if quarantined := proof.quarantined():
            self._step.pause_for_quarantine(quarantined)
            return self._step.sleep()
        return self._recheck(context) if phase is Phase.CONTRACT else self._verify_again(context, "rows were put down")

    def _after_changes(self, context: StepContext, changes: Sequence[StructureChange]) -> list[LaneMessage]:
        """Another session has changed what the proof relies on."""
        step, proof, phase = self._step, self._step.proof, context.phase
        why = "; ".join(str(change) for change in changes)
        if gone := proof.gone(changes):
            runs.unverify(step.connection, step.run.run)
            step.pause("structure", gone)
            return step.sleep()
        proof.record_void(changes)
        if phase is not Phase.VERIFY and step.number > 0:
            proof.remember(switched=True)
            step.pause("structure", proof.in_the_middle(why, phase))
            return step.sleep()
        runs.unverify(step.connection, step.run.run)
        for repair in proof.repairs(changes, switched=is_switched(phase)):
            step.execute(repair)
        proof.remember(switched=is_switched(phase))
        if phase is Phase.SWITCH:
            return self._verify_again(context, why)
        proof.forget_recheck()
        return step.go_on(step.number)

    def _verify_again(self, context: StepContext, reason: str) -> list[LaneMessage]:
        """Before the switch has begun: take back what verify has added, and walk the data once more."""
        for step in reversed(self._steps.of(Phase.VERIFY)):
            for back in step.back:
                if isinstance(back, Action) and back.index is None:
                    self._step.execute(back)
        self._step.walk_again(context.pass_ + 1, reason=reason)
        return self._step.go_on(0)

    def _recheck(self, context: StepContext) -> list[LaneMessage]:
        """After the switch lanes look at all rows once more, while the run stays where it is."""
        proof, run = self._step.proof, self._step.run.run
        found = proof.rechecked()
        if found.open:
            return self._step.sleep()
        planned = 0 if found.lanes else sum([self._lane_plan.for_walk(walk, context) for walk in proof.walks])
        if planned:
            self._step.checkpoint(self._step.number, sleeps=True)
            return lanes.startable(self._step.connection, run)
        proof.forget_recheck()
        if found.residual:
            self._step.pause("residual", proof.differing(found.residual))
            return self._step.sleep()
        runs.set_residual(self._step.connection, run, residual=0, verified=True, own=found.own)
        self.ask_about_own_values(found.own)
        return self._step.go_on(self._step.number)

    def ask_about_own_values(self, rows: int) -> None:
        """Pause once where rows may have missed an update while the trigger was off: they cannot be told from the application's."""
        if asked := self._step.proof.ask_about_own_values(rows):
            self._step.pause("own_values", asked)
