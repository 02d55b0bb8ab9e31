"""The coordinator: lane 0 of a run, which does the phases while the other lanes walk the data.

Each step is one transaction: an action of DDL, or the way from one phase to the next, together with the coordinator's own
checkpoint. A step is therefore done once or not at all, whichever process is killed; and all lanes having ended is noticed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TARGET
from backfilld.migrations.operations import Action, Walk
from backfilld.migrations.operations.ddl.constraints import NAMED_ROWS
from backfilld.migrations.postgres.sqlstates import classify
from backfilld.migrations.record import audit, lanes, quarantine, runs
from backfilld.migrations.record.model import Checkpoint, Reached, Rollback
from backfilld.migrations.record.states import FORWARD, VERIFY_OWN_STEPS, LaneKind, Phase, State, allowed
from backfilld.migrations.rollback import journal
from backfilld.migrations.telemetry import PhaseEntered, StateChanged
from backfilld.migrations.wire.messages import LaneMessage
from backfilld.worker.lanes.write import undone_by
from backfilld.worker.phases import ddl, walked_tables
from backfilld.worker.phases.lane_plan import LanePlan
from backfilld.worker.phases.proof import Proof, is_switched

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from backfilld.migrations.operations import Step
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.lanes import Walked
    from backfilld.migrations.record.runs import LockedRun, StepContext, StructureChange
    from backfilld.migrations.telemetry import Event
    from backfilld.worker.lanes.known_runs import KnownRun
    from backfilld.worker.phases.index_build import IndexBuilds
    from backfilld.worker.phases.lock_watch import LockWatch

#: Passes over the data before a person is asked: an application that keeps writing rows that need work has a bug.
MAX_PASSES = 10
#: What lets a row be changed that a trigger keeps as it is.
SKIP_BATCHES = "Have it skip our batches: WHEN (coalesce(current_setting('backfilld.batch', true), '') = '')"
#: Rounds of an archive: one copies, and one more looks at every row again; more where rows come in behind the lanes meanwhile.
ARCHIVE_ROUNDS = 4


class Coordinator:
    """One step of lane 0, in the transaction that holds it. `events` are published once it has committed."""

    def __init__(
        self,
        connection: Connection,
        known: KnownRun,
        lock_watch: LockWatch,
        *,
        index_builds: IndexBuilds,
    ) -> None:
        self._connection = connection
        self._run = known.run
        self._steps = known.steps
        self._backfills = known.backfills
        self._lane = lock_watch.lane
        self._lock_watch = lock_watch
        self._index_builds = index_builds
        self._lane_plan = LanePlan(connection, known)
        self._proof = Proof(connection, known.run, known.operations)
        #: How far the present phase is, in steps of its own.
        self._step: int = self._lane.cursor or 0
        self.events: list[Event] = []

    def step(self, context: StepContext) -> list[LaneMessage]:
        """Do the next thing of the run's phase; returns the messages to send once it has committed.

        Raises Refused when a guard finds what must not be, Blocked when other sessions hold the lock, and psycopg.Error.
        """
        if context.state is State.QUEUED:
            self._set_state(State.RUNNING, reason="the first step")
        if context.state is State.ROLLING_BACK:
            return self._roll_back(context)
        phase = context.phase
        first = self._prove_again(context)
        if first is None and self._must_wait(context):
            self._set_state(State.WAITING, reason=f"{phase} waits for approval")
            first = self._sleep()
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
                return self._sleep()

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
        done = self._steps.of(Phase.VERIFY)[: self._step - VERIFY_OWN_STEPS]
        for step in reversed(done):
            for back in step.back:
                if isinstance(back, Action) and back.index is None:
                    self._execute(back)
        self._walk_again(context.pass_ + 1, reason=f"{rule.table}: {problem}")
        tired = context.pass_ % MAX_PASSES == 0
        if self.gives_up(context, rule) and (tired or offenders != ()):
            # No lane has anything to walk; what is to be done once more is to look at every row.
            runs.set_phase(self._connection, self._run.run, Phase.VERIFY)
            self._pause(
                "violated",
                f"{rule.table}: {problem}{_named(offenders)}. The rule is not in place meanwhile: fix the rows, "
                f"then: backfilld resume {self._run.name}",
            )
        return self._go_on(0)

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
                for number, step in enumerate(planned[: self._step])
                if rule.rule and isinstance(step, Action) and (step.table, step.rule) == (rule.table, rule.rule)
            ),
            self._step,
        )
        for step in reversed(planned[first : self._step + 1]):
            for back in step.back:
                if isinstance(back, Action) and back.index is None:
                    self._execute(back)
        if offenders != ():
            message = (
                f"{rule.table}: {problem}{_named(offenders)}. The rule is not in place meanwhile: fix the rows, "
                f"then: backfilld resume {self._run.name}"
            )
            self._set_state(State.FAILED, reason=message, error={"class": "violated", "message": message})
        return self._go_on(first)

    def pending(self, context: StepContext) -> Step | None:
        """The step that the coordinator would do next, if there is one."""
        if context.state is State.ROLLING_BACK:
            if context.rollback.begun is None:
                return None
            planned = tuple(back.step for back in self._steps.back_from(context.rollback.begun))
            step = self._step
        else:
            planned = self._steps.of(context.phase)
            step = self._step - context.phase.own_steps
        return planned[step] if 0 <= step < len(planned) else None

    def _must_wait(self, context: StepContext) -> bool:
        phase = context.phase
        if self._step > 0 or phase not in context.settings.approve or phase is Phase.DONE:
            return False
        has_work = bool(self._steps.of(phase)) or (
            phase in {Phase.BACKFILL, Phase.VERIFY} and bool(self._backfills) and context.pass_ == 1
        )
        # Read without the run's lock first: the step that follows may last for hours, and people must be able to stop it.
        known = runs.get(self._connection, self._run.run)
        return has_work and (known is None or phase not in known.approved) and phase not in self._lock_run().approved

    def _act(self, context: StepContext) -> list[LaneMessage]:
        """Do the next step of the phase's operations, or enter the next phase."""
        planned, step = self._steps.of(context.phase), self._step - context.phase.own_steps
        if step < len(planned):
            return self._do(planned[step], context)
        return self._enter(context.phase.next)

    def _do(self, step: Step, context: StepContext) -> list[LaneMessage]:
        match step:
            case Walk():
                return self._walk(step, context)
            case Action(index=index):
                if index is not None:
                    self._index_builds.carry_out(self._connection, self._lane, step)
                else:
                    self._execute(step, context)
                return self._go_on(self._step + 1)

    def _walk(self, walk: Walk, context: StepContext) -> list[LaneMessage]:
        """Make the lanes of a walk between two steps, wait for them, look at what they did, and continue."""
        run = self._run.run
        done = lanes.of_walk(self._connection, run, kind=walk.kind, operation=walk.operation)
        if done.open:
            return self._sleep()
        if done.lanes and not self._must_look_again(walk, done):
            self._tell_walked(walk, done)
            return self._go_on(self._step + 1)
        if self._lane_plan.for_walk(walk, context):
            self._checkpoint(self._step, sleeps=True)
            return lanes.startable(self._connection, run)
        return self._go_on(self._step + 1)

    def _tell_walked(self, walk: Walk, done: Walked) -> None:
        """Put on record what a walk did; once, though two steps of the way back may need the same walk."""
        run, what = self._run.run, f"{walk.kind}.done"
        if audit.count(self._connection, run, what=what, operation=walk.operation):
            return
        audit.record(
            self._connection,
            run,
            actor=runs.WORKER,
            what=what,
            operation=walk.operation,
            rows=done.walked,
            changed=done.changed,
            missing=done.residual,
            **(journal.left(self._connection, run, operation=walk.operation) if walk.kind == "undo" else {}),
        )

    def _must_look_again(self, walk: Walk, done: Walked) -> bool:
        """Whether rows were missing in the archive when its lanes looked: they are copied, and all rows are looked at again.

        On a table to which rows are added all the time some are always missing: those that were added behind the lanes. After
        `ARCHIVE_ROUNDS` every row that was there when the last round began is known to have its copy.
        """
        if walk.kind != "archive":
            return False
        run, operation = self._run.run, walk.operation
        before = audit.count(self._connection, run, what="archive.round", operation=operation)
        audit.record(
            self._connection,
            run,
            actor=runs.WORKER,
            what="archive.round",
            operation=operation,
            rows=done.walked,
            missing=done.residual,
        )
        if not done.residual or before + 1 >= ARCHIVE_ROUNDS:
            return False
        lanes.forget_walk(self._connection, run, kind=walk.kind, operation=operation)
        return True

    def _roll_back(self, context: StepContext) -> list[LaneMessage]:
        """Take back the next of what was done; at first, when no batch is in flight any more, write down what that is."""
        run = self._run.run
        if context.rollback.begun is None:
            if lanes.in_flight(self._connection, run):
                return self._sleep()
            lanes.end_forward(self._connection, run)
            done = max(self._step - context.phase.own_steps, 0)
            reached = Reached(phase=context.phase, steps=done, pass_=context.pass_)
            runs.set_rollback(self._connection, run, Rollback(requested=True, begun=reached))
            return self._go_on(0)
        planned = self._steps.back_from(context.rollback.begun)
        if self._step < len(planned):
            back = planned[self._step]
            if back.phase is not context.phase:
                runs.set_phase(self._connection, run, back.phase, back=True)
                self.events.append(PhaseEntered(run=run, name=self._run.name, phase=back.phase))
                return self._go_on(self._step)  # the step may last for hours, and must not hold the run's row
            return self._do(back.step, context)
        if context.phase is not Phase.EXPAND:
            runs.set_phase(self._connection, run, Phase.EXPAND, back=True)
        runs.keep_until(self._connection, run, days=context.settings.retention_days)
        self._set_state(State.ROLLED_BACK, reason="everything the run did is undone")
        self._checkpoint(0, done=True)
        return []

    def _execute(self, action: Action, context: StepContext | None = None) -> None:
        """Carry out an action; on the way forward (with a context), only while what was proved holds under its lock."""
        self._lock_watch.before(self._connection, action)
        forward = context is not None and context.state is not State.ROLLING_BACK
        relies = forward and context is not None and context.phase in {Phase.SWITCH, Phase.CONTRACT}
        ddl.execute(self._connection, action, under_lock=self._proof.require if relies else None)
        if forward and context is not None:
            self._proof.remember(switched=is_switched(context.phase) or context.phase is Phase.SWITCH)

    def _enter(self, phase: Phase) -> list[LaneMessage]:
        if phase is Phase.DONE:
            runs.set_phase(self._connection, self._run.run, phase)
            runs.keep_until(self._connection, self._run.run, days=self._run.settings.retention_days)
            self._set_state(State.COMPLETED, reason="every phase is done, and the data is verified")
            self._checkpoint(0, done=True)
            return []
        runs.set_phase(self._connection, self._run.run, phase)
        self.events.append(PhaseEntered(run=self._run.run, name=self._run.name, phase=phase))
        return self._go_on(0)

    def _backfill(self, context: StepContext) -> list[LaneMessage]:
        """Step 0 makes the lanes and wakes them; step 1 is asked at each lane's end, and the last one's leads on."""
        pass_ = context.pass_
        if self._step == 0 and pass_ == 1:
            self._lane_plan.for_backfill(context)
            walked_tables.measure_space(self._connection, self._run.run, self._backfills, moment="before")
        if lanes.count_open(self._connection, self._run.run, pass_=pass_, kinds=FORWARD[Phase.BACKFILL]):
            return self._wait_for_lanes(context)
        if pass_ == 1:
            result = lanes.pass_result(self._connection, self._run.run, pass_=1, kind=LaneKind.BACKFILL)
            runs.set_totals(self._connection, self._run.run, rows_total=result.walked)
            walked_tables.measure_space(self._connection, self._run.run, self._backfills, moment="after")
        return self._enter(Phase.VERIFY)

    def _verify(self, context: StepContext) -> list[LaneMessage]:
        """Steps 0 and 1 are as in `_backfill`, with a judgement at the end; from step 2 on come the actions."""
        if self._step >= VERIFY_OWN_STEPS:
            return self._act(context)
        if self._step == 0:
            self._lane_plan.for_verify(context)
        if lanes.count_open(self._connection, self._run.run, pass_=context.pass_, kinds=FORWARD[Phase.VERIFY]):
            return self._wait_for_lanes(context)
        return self._judge(context.pass_)

    def _judge(self, pass_: int) -> list[LaneMessage]:
        """All verifying lanes of a pass have ended: only a pass that found nothing opens the way."""
        run = self._run.run
        result = lanes.pass_result(self._connection, run, pass_=pass_, kind=LaneKind.VERIFY)
        residual = result.residual
        quarantined = quarantine.count(self._connection, run)
        if rewritten := walked_tables.rewritten(self._connection, run, pass_=pass_):
            self._walk_again(pass_ + 1, reason=f"{rewritten} was rewritten while it was being verified")
            return self._go_on(0)
        if residual:
            runs.set_residual(self._connection, run, residual=residual + quarantined, verified=False, own=result.own)
            self._walk_again(pass_ + 1, reason=f"{residual} rows still need work")
            if asked := self._proof.ask_about_names(residual):
                self._pause("residual", asked)
            elif undone := undone_by(self._connection, run, pass_=pass_):
                self._pause("undone", f"{residual} rows still need work: {undone}. {SKIP_BATCHES}, then resume")
            elif pass_ % MAX_PASSES == 0:
                self._pause(
                    "residual",
                    f"{residual} rows still need work after {pass_} passes: the application keeps writing them, "
                    "or an AFTER trigger does. Fix the code that writes them, then resume",
                )
            return self._go_on(0)
        if quarantined:
            runs.set_residual(self._connection, run, residual=quarantined, verified=False, own=result.own)
            self._pause_for_quarantine(quarantined)
            return self._sleep()
        if changes := self._proof.changes():
            self._walk_again(pass_ + 1, reason="; ".join(str(change) for change in changes))
            return self._go_on(0)
        walked_tables.set_real_total(self._connection, run, seen=result.walked, pass_=pass_)
        runs.set_residual(self._connection, run, residual=0, verified=True, own=result.own)
        self._ask_about_own_values(result.own)
        return self._go_on(VERIFY_OWN_STEPS)

    def _prove_again(self, context: StepContext) -> list[LaneMessage] | None:
        """Where what was proved does not hold any longer, prove it again or say what is in the way. None: it holds."""
        phase, proof = context.phase, self._proof
        asked = phase in {Phase.SWITCH, Phase.CONTRACT} or (phase is Phase.VERIFY and self._step == 0)
        if not asked:
            return None
        if changes := proof.changes():
            return self._after_changes(context, changes)
        if phase is not Phase.VERIFY and proof.retries_open(context.pass_):
            return self._sleep()
        if phase is Phase.VERIFY or self._step > 0 or proof.holds:
            return None
        runs.unverify(self._connection, self._run.run)
        if quarantined := proof.quarantined():
            self._pause_for_quarantine(quarantined)
            return self._sleep()
        return self._recheck(context) if phase is Phase.CONTRACT else self._verify_again(context, "rows were put down")

    def _after_changes(self, context: StepContext, changes: Sequence[StructureChange]) -> list[LaneMessage]:
        """Another session has changed what the proof relies on."""
        proof, phase = self._proof, context.phase
        runs.unverify(self._connection, self._run.run)
        if gone := proof.gone(changes):
            self._pause("structure", gone)
            return self._sleep()
        proof.record_void(changes)
        for repair in proof.repairs(changes, switched=is_switched(phase)):
            self._execute(repair)
        proof.remember(switched=is_switched(phase))
        if phase is Phase.SWITCH:
            return self._verify_again(context, "; ".join(str(change) for change in changes))
        proof.forget_recheck()
        return self._go_on(self._step)

    def _verify_again(self, context: StepContext, reason: str) -> list[LaneMessage]:
        """Before the switch has begun: take back what verify has added, and walk the data once more."""
        if self._step > 0:
            self._pause("structure", f"{reason}, in the middle of the switch: take the run back")
            return self._sleep()
        for step in reversed(self._steps.of(Phase.VERIFY)):
            for back in step.back:
                if isinstance(back, Action) and back.index is None:
                    self._execute(back)
        self._walk_again(context.pass_ + 1, reason=reason)
        return self._go_on(0)

    def _recheck(self, context: StepContext) -> list[LaneMessage]:
        """After the switch lanes look at all rows once more, while the run stays where it is."""
        proof, run = self._proof, self._run.run
        found = proof.rechecked()
        if found.open:
            return self._sleep()
        planned = 0 if found.lanes else sum([self._lane_plan.for_walk(walk, context) for walk in proof.walks])
        if planned:
            self._checkpoint(self._step, sleeps=True)
            return lanes.startable(self._connection, run)
        proof.forget_recheck()
        if found.residual:
            self._pause("residual", proof.differing(found.residual))
            return self._sleep()
        runs.set_residual(self._connection, run, residual=0, verified=True, own=found.own)
        self._ask_about_own_values(found.own)
        return self._go_on(self._step)

    def _ask_about_own_values(self, rows: int) -> None:
        """Pause once where rows may have missed an update while the trigger was off: they cannot be told from the application's."""
        if asked := self._proof.ask_about_own_values(rows):
            self._pause("own_values", asked)

    def _pause_for_quarantine(self, rows: int) -> None:
        self._pause(
            "quarantine",
            f"{rows} {'row' if rows == 1 else 'rows'} cannot be converted; fix them, then: backfilld quarantine retry {self._run.name}",
        )

    def _walk_again(self, pass_: int, *, reason: str) -> None:
        runs.set_pass(self._connection, self._run.run, pass_, reason=reason)
        self.events.append(PhaseEntered(run=self._run.run, name=self._run.name, phase=Phase.BACKFILL))

    def _pause(self, error_class: str, message: str) -> None:
        self._set_state(State.PAUSED, reason=message, error={"class": error_class, "message": message})

    def _set_state(self, state: State, *, reason: str, error: dict[str, str] | None = None) -> None:
        runs.set_state(
            self._connection, self._lock_run_for(state), state, actor=runs.WORKER, reason=reason, error=error
        )
        self.events.append(StateChanged(run=self._run.run, name=self._run.name, state=state, reason=reason))

    def _lock_run(self) -> LockedRun:
        locked = runs.lock(self._connection, self._run.run)
        if locked is None:
            msg = f"run {self._run.run} is gone"
            raise LookupError(msg)
        return locked

    def _lock_run_for(self, state: State) -> LockedRun:
        """The run, locked, and free to become this. Raises ChangedMeanwhile when a person has said something else meanwhile."""
        locked = self._lock_run()
        if not allowed(locked.state, state):
            raise runs.ChangedMeanwhile
        return locked

    def _go_on(self, step: int) -> list[LaneMessage]:
        """The coordinator's next step is due at once."""
        self._checkpoint(step)
        return [LaneMessage(target=TARGET, run=self._run.run, lane=0, seq=self._lane.seq + 1)]

    def _wait_for_lanes(self, context: StepContext) -> list[LaneMessage]:
        """Sleep until a lane ends; at first, wake the lanes."""
        self._checkpoint(1, sleeps=True)
        if self._step > 0:
            return []
        ready = lanes.startable(self._connection, self._run.run)
        wanted = context.settings.lanes - sum(message.lane > 0 for message in ready)
        return [*ready, *lanes.wake_sleepers(self._connection, self._run.run, lanes=max(wanted, 0))]

    def _checkpoint(self, step: int, *, sleeps: bool = False, done: bool = False) -> None:
        checkpoint = Checkpoint(cursor=step, sleeps=sleeps, done=done)
        self._connection.execute(*lanes.advance_query(self._lane, checkpoint))

    def _sleep(self) -> list[LaneMessage]:
        self._checkpoint(self._step, sleeps=True)
        return []


def _named(offenders: tuple[str, ...] | None) -> str:
    if not offenders:
        return ""
    rows = "one row" if len(offenders) == 1 else f"{len(offenders)} rows"
    return f" ({'at least ' if len(offenders) >= NAMED_ROWS else ''}{rows}, by key: {', '.join(offenders)})"


def breaks_rule(exc: psycopg.Error) -> bool:
    """Whether a scan met a row that breaks the rule it was to prove, or for which the rule itself is an error."""
    return classify(exc) == "data"
