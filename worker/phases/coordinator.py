"""The coordinator: lane 0 of a run, which does the phases while the other lanes walk the data.

Each step is one transaction: an action of DDL, or the way from one phase to the next, together with the coordinator's own
checkpoint. A step is therefore done once or not at all, whichever process is killed; and all lanes having ended is noticed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.operations import Action, Walk
from backfilld.migrations.operations.ddl.constraints import NAMED_ROWS
from backfilld.migrations.operations.ddl.key_journal import MOST_KEYS_FIRST
from backfilld.migrations.operations.replace_policies.steps import ReplacePolicies
from backfilld.migrations.postgres.sqlstates import classify
from backfilld.migrations.record import audit, lanes, quarantine, runs
from backfilld.migrations.record.model import Reached, Rollback
from backfilld.migrations.record.states import (
    BACKFILL_OWN_STEPS,
    DRAINS,
    FORWARD,
    VERIFY_OWN_STEPS,
    LaneKind,
    Phase,
    State,
)
from backfilld.migrations.rollback import undo
from backfilld.migrations.telemetry import PhaseEntered
from backfilld.worker.lanes.write import undone_by
from backfilld.worker.phases import policies, staged, walked_tables
from backfilld.worker.phases.lane_plan import LanePlan
from backfilld.worker.phases.prover import Prover
from backfilld.worker.phases.run_step import RunStep

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    from backfilld.migrations.operations import Step
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.lanes import Walked
    from backfilld.migrations.record.step_context import StepContext
    from backfilld.migrations.wire.messages import LaneMessage
    from backfilld.worker.lanes.known_runs import KnownRun
    from backfilld.worker.phases.index_build import IndexBuilds
    from backfilld.worker.phases.lock_watch import LockWatch

#: Passes over the data before a person is asked: an application that keeps writing rows that need work has a bug.
MAX_PASSES = 10
#: What lets a row be changed that a trigger keeps as it is.
SKIP_BATCHES = "Have it skip our batches: WHEN (coalesce(current_setting('backfilld.batch', true), '') = '')"
#: Rounds of an archive: one copies, and one more looks at every row again; more where rows come in behind the lanes meanwhile.
ARCHIVE_ROUNDS = 4


class Coordinator(RunStep):
    """Decides what the step is."""

    def __init__(
        self,
        connection: Connection,
        known: KnownRun,
        lock_watch: LockWatch,
        *,
        index_builds: IndexBuilds,
    ) -> None:
        super().__init__(connection, known, lock_watch)
        self._steps = known.steps
        self._backfills = known.backfills
        self.operations = known.operations
        self._loads = known.loads
        self._index_builds = index_builds
        self._lane_plan = LanePlan(connection, known)
        self._prover = Prover(self, known.steps, self._lane_plan)

    def step(self, context: StepContext) -> list[LaneMessage]:
        """Do the next thing of the run's phase; returns the messages to send once it has committed.

        Raises Refused when a guard finds what must not be, Blocked when other sessions hold the lock, and psycopg.Error.
        """
        if context.state is State.QUEUED:
            self.set_state(State.RUNNING, reason="the first step")
        if context.state is State.ROLLING_BACK:
            return self._roll_back(context)
        phase = context.phase
        first = self._prover.again(context)
        if first is None and self._must_wait(context):
            self.set_state(State.WAITING, reason=f"{phase} waits for approval")
            first = self.sleep()
        if first is not None:
            return first
        match phase:
            case Phase.BACKFILL:
                return self._backfill(context)
            case Phase.VERIFY:
                return self._verify(context)
            case Phase.EXPAND | Phase.SWITCH | Phase.CONTRACT:
                return self._act(context)
            case Phase.DONE:
                return self.sleep()

    def rule(self, context: StepContext) -> Action | None:
        """The rule about the data that the next step is to prove; None when it is another kind of step."""
        step = self.pending(context)
        if context.state is State.ROLLING_BACK:
            return step if isinstance(step, Action) and (step.rule or step.offenders is not None) else None
        if context.phase is not Phase.VERIFY:
            return None
        return step if isinstance(step, Action) and (step.scans or step.offenders is not None) else None

    def gives_up(self, context: StepContext, rule: Action) -> bool:
        """Whether a person has to fix the rows that break a rule: no lane of the run can, or lanes have tried MAX_PASSES times.

        Where the verify phase looks for such rows before it adds the rule, the look of the next pass decides: by then the rule is
        taken back.
        """
        if context.state is State.ROLLING_BACK:
            return True
        rewrites = any(
            work.table == rule.table
            and (not rule.proves or {target.column for target in work.rewrite.facts.targets} & set(rule.proves))
            for work in self._backfills
        )
        looked = not rule.looks_for and any(
            isinstance(step, Action) and step.looks_for and step.offenders == rule.offenders
            for step in self._steps.of(Phase.VERIFY)
        )
        # Lanes that walk again write the same values again, and none that are not unique become so.
        return context.pass_ % MAX_PASSES == 0 or rule.index is not None or not (rewrites or looked)

    def take_back(
        self, context: StepContext, rule: Action, *, problem: str, offenders: tuple[str, ...] | None
    ) -> list[LaneMessage]:
        """A row breaks a rule: take back what verify has done so far, and walk the data once more, at once or after a `resume`.

        `offenders` are keys of such rows; None when they are not known. A rule that no row breaks any more is tried again.
        """
        if (begun := context.rollback.begun) is not None:
            return self._take_back_on_the_way_back(begun, rule, problem=problem, offenders=offenders)
        done = self._steps.of(Phase.VERIFY)[: self.number - VERIFY_OWN_STEPS]
        for step in reversed(done):
            for back in step.back:
                if isinstance(back, Action) and back.index is None:
                    self.execute(back)
        self.walk_again(context.pass_ + 1, reason=f"{rule.table}: {problem}")
        tired = context.pass_ % MAX_PASSES == 0
        if self.gives_up(context, rule) and (tired or offenders != ()):
            # No lane has anything to walk; what is to be done once more is to look at every row.
            runs.set_phase(self.connection, self.run.run, Phase.VERIFY)
            self.pause(
                "violated",
                f"{rule.table}: {problem}{_named(offenders)}. The rule is not in place meanwhile: fix the rows, "
                f"then: backfilld resume {self.run.name}",
            )
        return self.go_on(0)

    def _take_back_on_the_way_back(
        self, begun: Reached, rule: Action, *, problem: str, offenders: tuple[str, ...] | None
    ) -> list[LaneMessage]:
        """A row breaks a rule of the way back: take back that rule alone, and begin with it again once a person has fixed the row.

        There is no pause on the way back, so the run fails; it has its rollback on record, and `resume` continues with it.
        """
        planned = [back.step for back in self._steps.back_from(begun)]
        first = next(
            (
                number
                for number, step in enumerate(planned[: self.number])
                if rule.rule and isinstance(step, Action) and (step.table, step.rule) == (rule.table, rule.rule)
            ),
            self.number,
        )
        for step in reversed(planned[first : self.number + 1]):
            for back in step.back:
                if isinstance(back, Action) and back.index is None:
                    self.execute(back)
        if offenders != ():
            message = (
                f"{rule.table}: {problem}{_named(offenders)}. The rule is not in place meanwhile: fix the rows, "
                f"then: backfilld resume {self.run.name}"
            )
            self.set_state(State.FAILED, reason=message, error={"class": "violated", "message": message})
        return self.go_on(first)

    def pending(self, context: StepContext) -> Step | None:
        """The step that the coordinator would do next, if there is one."""
        if context.state is State.ROLLING_BACK:
            if context.rollback.begun is None:
                return None
            planned = tuple(back.step for back in self._steps.back_from(context.rollback.begun))
            step = self.number
        else:
            planned = self._steps.of(context.phase)
            step = self.number - context.phase.own_steps
        return planned[step] if 0 <= step < len(planned) else None

    def _must_wait(self, context: StepContext) -> bool:
        phase = context.phase
        if self.number > 0 or phase is Phase.DONE:
            return False
        asked = phase in context.settings.approve or policies.is_asked(self.connection, self.run.run, phase)
        has_work = bool(self._steps.of(phase)) or (
            phase in {Phase.BACKFILL, Phase.VERIFY} and bool(self._backfills or self._loads) and context.pass_ == 1
        )
        # Read without the run's lock first: the step that follows may last for hours, and people must be able to stop it.
        known = runs.get(self.connection, self.run.run)
        return (
            asked
            and has_work
            and (known is None or phase not in known.approved)
            and phase not in self.lock_run().approved
        )

    def _act(self, context: StepContext) -> list[LaneMessage]:
        """Do the next step of the phase's operations, or enter the next phase."""
        planned, step = self._steps.of(context.phase), self.number - context.phase.own_steps
        if step < len(planned):
            return self._do(planned[step], context)
        return self._enter(context.phase.next)

    def _do(self, step: Step, context: StepContext) -> list[LaneMessage]:
        match step:
            case Walk():
                return self._walk(step, context)
            case Action(index=index):
                if step.drains is not None and self._is_behind(step.drains):
                    return self.go_on(self.number - 1)
                if index is not None:
                    self._index_builds.carry_out(self.connection, self.lane, step)
                else:
                    self.execute(step, context)
                return self.go_on(self.number + 1)

    def _is_behind(self, waiting: sql.Composed) -> bool:
        """Whether more keys wait to be brought over than a short transaction should bring."""
        row = self.connection.execute(waiting).fetchone()
        return row is not None and row["keys"] > MOST_KEYS_FIRST

    def drains(self, context: StepContext) -> bool:
        """Whether the next step brings rows over under its lock."""
        step = self.pending(context)
        return isinstance(step, Action) and step.drains is not None

    def drain_again(self) -> list[LaneMessage]:
        """A row cannot be brought over under the lock: the walk before does so, and puts aside what has no place."""
        return self.go_on(self.number - 1)

    def _walk(self, walk: Walk, context: StepContext) -> list[LaneMessage]:
        """Make the lanes of a walk between two steps, wait for them, look at what they did, and continue."""
        run = self.run.run
        if walk.kind == "stage":
            staged.require(self.connection, self.run, walk.operation)
            return self.go_on(self.number + 1)
        done = lanes.of_walk(self.connection, run, kind=walk.kind, operation=walk.operation)
        if done.open:
            return self.sleep()
        if done.lanes and not self._must_look_again(walk, done):
            if LaneKind(walk.kind) not in DRAINS:
                self._tell_walked(walk, done)
                self._judge_policies(walk)
            if LaneKind(walk.kind) in DRAINS or walk.again:
                lanes.forget_walk(self.connection, run, kind=walk.kind, operation=walk.operation)
            return self.go_on(self.number + 1)
        if self._lane_plan.for_walk(walk, context):
            self.checkpoint(self.number, sleeps=True)
            return lanes.startable(self.connection, run)
        self._judge_policies(walk)
        return self.go_on(self.number + 1)

    def _judge_policies(self, walk: Walk) -> None:
        operation = self.operations[walk.operation]
        if walk.kind == "compare" and isinstance(operation, ReplacePolicies):
            policies.judge(self.connection, self.run.run, operation)

    def _tell_walked(self, walk: Walk, done: Walked) -> None:
        """Put on record what a walk did; once, though two steps of the way back may need the same walk."""
        run, what = self.run.run, f"{walk.kind}.done"
        if audit.count(self.connection, run, what=what, operation=walk.operation):
            return
        audit.record(
            self.connection,
            run,
            actor=runs.WORKER,
            what=what,
            operation=walk.operation,
            rows=done.walked,
            changed=done.changed,
            missing=done.residual,
            **(undo.left(self.connection, run, operation=walk.operation) if walk.kind == "undo" else {}),
        )

    def _must_look_again(self, walk: Walk, done: Walked) -> bool:
        """Whether rows were missing in the archive when its lanes looked: they are copied, and all rows are looked at again.

        On a table to which rows are added all the time some are always missing: those that were added behind the lanes. After
        `ARCHIVE_ROUNDS` every row that was there when the last round began is known to have its copy.
        """
        if walk.kind != "archive":
            return False
        run, operation = self.run.run, walk.operation
        before = audit.count(self.connection, run, what="archive.round", operation=operation)
        audit.record(
            self.connection,
            run,
            actor=runs.WORKER,
            what="archive.round",
            operation=operation,
            rows=done.walked,
            missing=done.residual,
        )
        if not done.residual or before + 1 >= ARCHIVE_ROUNDS:
            return False
        lanes.forget_walk(self.connection, run, kind=walk.kind, operation=operation)
        return True

    def _roll_back(self, context: StepContext) -> list[LaneMessage]:
        """Take back the next of what was done; at first, when no batch is in flight any more, write down what that is."""
        run = self.run.run
        if context.rollback.begun is None:
            if lanes.in_flight(self.connection, run):
                return self.sleep()
            lanes.end_forward(self.connection, run)
            done = max(self.number - context.phase.own_steps, 0)
            reached = Reached(phase=context.phase, steps=done, pass_=context.pass_)
            runs.set_rollback(self.connection, run, Rollback(requested=True, begun=reached))
            return self.go_on(0)
        planned = self._steps.back_from(context.rollback.begun)
        if self.number < len(planned):
            back = planned[self.number]
            if back.phase is not context.phase:
                runs.set_phase(self.connection, run, back.phase, back=True)
                self.events.append(PhaseEntered(run=run, name=self.run.name, phase=back.phase))
                return self.go_on(self.number)  # the step may last for hours, and must not hold the run's row
            return self._do(back.step, context)
        if context.phase is not Phase.EXPAND:
            runs.set_phase(self.connection, run, Phase.EXPAND, back=True)
        runs.keep_until(self.connection, run, days=context.settings.retention_days)
        self.set_state(State.ROLLED_BACK, reason="everything the run did is undone")
        self.checkpoint(0, done=True)
        return []

    def _enter(self, phase: Phase) -> list[LaneMessage]:
        if phase is Phase.DONE:
            runs.set_phase(self.connection, self.run.run, phase)
            runs.keep_until(self.connection, self.run.run, days=self.run.settings.retention_days)
            lanes.end_forward(self.connection, self.run.run)
            self.set_state(State.COMPLETED, reason="every phase is done, and the data is verified")
            self.checkpoint(0, done=True)
            return []
        runs.set_phase(self.connection, self.run.run, phase)
        self.events.append(PhaseEntered(run=self.run.run, name=self.run.name, phase=phase))
        return self.go_on(0)

    def _backfill(self, context: StepContext) -> list[LaneMessage]:
        """Step 0 makes the lanes and wakes them; step 1 is asked at each lane's end, and the last one's leads on.

        From step 2 on, in the first pass, come the actions that complete what the lanes have begun.
        """
        pass_ = context.pass_
        if self.number >= BACKFILL_OWN_STEPS:
            return self._act(context)
        if self.number == 0 and pass_ == 1:
            if self._loads and (
                too_many := staged.too_many(self.connection, self.run.run, context.settings.max_quarantined)
            ):
                self.pause("quarantine", too_many)
                return self.go_on(0)
            self._lane_plan.for_backfill(context)
            walked_tables.measure_space(
                self.connection, self.run.run, [*self._backfills, *self._loads], moment="before"
            )
        if lanes.count_open(self.connection, self.run.run, pass_=pass_, kinds=FORWARD[Phase.BACKFILL]):
            return self._wait_for_lanes(context)
        if pass_ == 1:
            result = lanes.pass_result(self.connection, self.run.run, pass_=1, kind=LaneKind.BACKFILL)
            runs.set_totals(self.connection, self.run.run, rows_total=result.walked)
            walked_tables.measure_space(self.connection, self.run.run, [*self._backfills, *self._loads], moment="after")
            if self._steps.of(Phase.BACKFILL):
                return self.go_on(BACKFILL_OWN_STEPS)
        return self._enter(Phase.VERIFY)

    def _verify(self, context: StepContext) -> list[LaneMessage]:
        """Steps 0 and 1 are as in `_backfill`, with a judgement at the end; from step 2 on come the actions."""
        if self.number >= VERIFY_OWN_STEPS:
            return self._act(context)
        if self.number == 0:
            self._lane_plan.for_verify(context)
            self._lane_plan.follow(context)
        if lanes.count_open(self.connection, self.run.run, pass_=context.pass_, kinds={LaneKind.VERIFY}):
            return self._wait_for_lanes(context)
        return self._judge(context.pass_)

    def _judge(self, pass_: int) -> list[LaneMessage]:
        """All verifying lanes of a pass have ended: only a pass that found nothing, or what a person accepts, opens the way."""
        run = self.run.run
        result = lanes.pass_result(self.connection, run, pass_=pass_, kind=LaneKind.VERIFY)
        residual = result.residual
        quarantined = quarantine.count(self.connection, run)
        if rewritten := walked_tables.rewritten(self.connection, run, pass_=pass_):
            self.walk_again(pass_ + 1, reason=f"{rewritten} was rewritten while it was being verified")
            return self.go_on(0)
        may_stay = bool(residual) and self.proof.residual_may_stay(pass_)
        if residual and not (may_stay and self.proof.accepts_residual):
            runs.set_residual(self.connection, run, residual=residual + quarantined, verified=False, own=result.own)
            self.walk_again(pass_ + 1, reason=f"{residual} rows still need work")
            if asked := self.proof.ask_about_names(residual):
                self.pause("residual", asked)
            elif undone := undone_by(self.connection, run, pass_=pass_):
                self.pause("undone", f"{residual} rows still need work: {undone}. {SKIP_BATCHES}, then resume")
            elif pass_ % MAX_PASSES == 0:
                self.pause(
                    "residual",
                    f"{residual} rows still need work after {pass_} passes: the application keeps writing them, "
                    "or an AFTER trigger does. Fix the code that writes them, then resume"
                    + (f"; or accept them: backfilld approve {self.run.name} --residual" if may_stay else ""),
                )
            return self.go_on(0)
        if quarantined:
            runs.set_residual(self.connection, run, residual=quarantined, verified=False, own=result.own)
            self.pause_for_quarantine(quarantined)
            return self.sleep()
        if changes := self.proof.changes():
            self.walk_again(pass_ + 1, reason="; ".join(str(change) for change in changes))
            return self.go_on(0)
        walked_tables.set_real_total(self.connection, run, seen=result.walked, pass_=pass_)
        runs.set_residual(self.connection, run, residual=residual, verified=True, own=result.own)
        self._prover.ask_about_own_values(result.own)
        return self.go_on(VERIFY_OWN_STEPS)

    def _wait_for_lanes(self, context: StepContext) -> list[LaneMessage]:
        """Sleep until a lane ends; at first, wake the lanes."""
        self.checkpoint(1, sleeps=True)
        if self.number > 0:
            return []
        ready = lanes.startable(self.connection, self.run.run)
        wanted = context.settings.lanes - sum(message.lane > 0 for message in ready)
        return [*ready, *lanes.wake_sleepers(self.connection, self.run.run, lanes=max(wanted, 0))]


def _named(offenders: tuple[str, ...] | None) -> str:
    if not offenders:
        return ""
    rows = "one row" if len(offenders) == 1 else f"{len(offenders)} rows"
    return f" ({'at least ' if len(offenders) >= NAMED_ROWS else ''}{rows}, by key: {', '.join(offenders)})"


def breaks_rule(exc: psycopg.Error) -> bool:
    """Whether a scan met a row that breaks the rule it was to prove, or for which the rule itself is an error."""
    return classify(exc) == "data"
