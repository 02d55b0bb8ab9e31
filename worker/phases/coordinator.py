"""The coordinator: lane 0 of a run, which does the phases while the other lanes walk the data.

Each step is one transaction: an action of DDL, or the way from one phase to the next, together with the coordinator's own
checkpoint. A step is therefore done once or not at all, whoever is killed; and all lanes having ended is noticed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TARGET, TableName
from backfilld.migrations.operations import Action, Walk, steps
from backfilld.migrations.operations.ddl.constraints import NAMED_ROWS
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.sqlstates import classify
from backfilld.migrations.record import audit, lanes, quarantine, runs
from backfilld.migrations.record.model import PageRange, Reached, Rollback
from backfilld.migrations.record.states import Phase, State, allowed
from backfilld.migrations.rollback import retention
from backfilld.migrations.rollback.steps import way_back
from backfilld.migrations.telemetry import PhaseEntered, StateChanged
from backfilld.migrations.wire.messages import LaneMessage
from backfilld.worker.phases import ddl
from backfilld.worker.phases.lane_plan import Slices

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from backfilld.migrations.operations import Operation, Step
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.lanes import Walked
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.record.runs import LockedRun, StepContext
    from backfilld.migrations.rollback.steps import BackStep
    from backfilld.migrations.telemetry import Event
    from backfilld.worker.lanes.batch import Work
    from backfilld.worker.phases.index_build import IndexBuilds
    from backfilld.worker.phases.lock_watch import LockWatch

#: Walks over the data before a person is asked: an application that keeps writing rows that need work is a bug to be mended.
MAX_PASSES = 10
#: Rounds of an archive: one copies, and one more looks at every row again; more where rows come in behind the lanes meanwhile.
ARCHIVE_ROUNDS = 4
#: The step of the verify phase in which the data is known to be right.
_JUDGED = 2


class Coordinator:
    """One step of lane 0, in the transaction that holds it. `events` are to be told once it has committed."""

    def __init__(  # noqa: PLR0913 - each is named where it is called
        self,
        connection: Connection,
        run: Run,
        operations: Sequence[Operation],
        works: Sequence[Work],
        lock_watch: LockWatch,
        *,
        index_builds: IndexBuilds,
    ) -> None:
        self._connection = connection
        self._run = run
        self._operations = operations
        self._works = works
        self._lane = lock_watch.lane
        self._lookout = lock_watch
        self._index_builds = index_builds
        self._slices = Slices(connection, run.run, works)
        #: How far the present phase is, in steps of its own.
        self._step: int = self._lane.cursor or 0
        self.events: list[Event] = []

    def step(self, standing: StepContext) -> list[LaneMessage]:
        """Do the next thing of the run's phase; returns the messages to send once it has committed.

        Raises Refused when a guard finds what must not be, Blocked when somebody is in the way of a lock, and psycopg.Error.
        """
        if standing.state is State.QUEUED:
            self._set_state(State.RUNNING, reason="the first step")
        if standing.state is State.ROLLING_BACK:
            return self._roll_back(standing)
        phase = standing.phase
        if self._must_wait(standing):
            self._set_state(State.WAITING, reason=f"{phase} waits for approval")
            return self._sleep()
        match phase:
            case Phase.BACKFILL:
                return self._backfill(standing)
            case Phase.VERIFY:
                return self._verify(standing)
            case Phase.EXPAND | Phase.SWITCH | Phase.CONTRACT:
                return self._act(standing, done=0)
            case Phase.DONE:
                return self._sleep()

    def rule(self, standing: StepContext) -> Action | None:
        """The rule about the data that the next step is to prove; None when it is another kind of step."""
        step = self.pending(standing)
        if standing.state is State.ROLLING_BACK:
            return step if isinstance(step, Action) and (step.rule or step.offenders is not None) else None
        if standing.phase is not Phase.VERIFY:
            return None
        return step if isinstance(step, Action) and (step.scans or step.offenders is not None) else None

    def gives_up(self, standing: StepContext, rule: Action) -> bool:
        """Whether a row that breaks a rule is a person's to mend: no lane of the run would, or they have tried often enough.

        Where a scan found it that comes after a look, the look of the next pass tells: by then the rule does not stand any more.
        """
        if standing.state is State.ROLLING_BACK:
            return True
        mends = any(
            work.table == rule.table
            and (not rule.proves or {target.column for target in work.rewrite.facts.targets} & set(rule.proves))
            for work in self._works
        )
        looked = not rule.looks_for and any(
            isinstance(step, Action) and step.looks_for and step.offenders == rule.offenders
            for step in steps(self._operations, Phase.VERIFY)
        )
        # Lanes that walk again write the same values again, and none that are not unique become so.
        return standing.pass_ % MAX_PASSES == 0 or rule.index is not None or not (mends or looked)

    def take_back(
        self, standing: StepContext, rule: Action, *, problem: str, offenders: tuple[str, ...] | None
    ) -> list[LaneMessage]:
        """A row breaks a rule: take back what verify has done so far, and walk the data once more, now or when a person says so.

        `offenders` are keys of such rows; None when they are not known. A rule that no row breaks any more is tried again.
        """
        if (begun := standing.rollback.begun) is not None:
            return self._take_back_on_the_way_back(begun, rule, problem=problem, offenders=offenders)
        done = steps(self._operations, Phase.VERIFY)[: self._step - _JUDGED]
        for step in reversed(done):
            for back in step.back:
                if isinstance(back, Action) and back.index is None:
                    self._execute(back)
        self._walk_again(standing.pass_ + 1, reason=f"{rule.table}: {problem}")
        tired = standing.pass_ % MAX_PASSES == 0
        if self.gives_up(standing, rule) and (tired or offenders != ()):
            # No lane has anything to walk; what is to be done once more is to look at every row.
            runs.set_phase(self._connection, self._run.run, Phase.VERIFY)
            self._pause(
                "violated",
                f"{rule.table}: {problem}{_named(offenders)}. The rule does not stand meanwhile: mend the rows, then: "
                f"backfilld resume {self._run.name}",
            )
        return self._go_on(0)

    def _take_back_on_the_way_back(
        self, begun: Reached, rule: Action, *, problem: str, offenders: tuple[str, ...] | None
    ) -> list[LaneMessage]:
        """A row breaks a rule of the way back: take back that rule alone, and begin with it again once a person has fixed the row.

        There is no pause on the way back, so the run fails; it has its rollback on record, and `resume` goes on with it.
        """
        planned = [back.step for back in self._way_back(begun)]
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
                f"{rule.table}: {problem}{_named(offenders)}. The rule does not stand meanwhile: fix the rows, then: "
                f"backfilld resume {self._run.name}"
            )
            self._set_state(State.FAILED, reason=message, error={"class": "violated", "message": message})
        return self._go_on(first)

    def pending(self, standing: StepContext) -> Step | None:
        """The step that the coordinator would do next, if there is one."""
        if standing.state is State.ROLLING_BACK:
            if standing.rollback.begun is None:
                return None
            planned = tuple(back.step for back in self._way_back(standing.rollback.begun))
            step = self._step
        else:
            planned = steps(self._operations, standing.phase)
            step = self._step - (_JUDGED if standing.phase is Phase.VERIFY else 0)
        return planned[step] if 0 <= step < len(planned) else None

    def _must_wait(self, standing: StepContext) -> bool:
        phase = standing.phase
        if self._step > 0 or phase not in standing.settings.approve or phase is Phase.DONE:
            return False
        has_work = bool(steps(self._operations, phase)) or (
            phase in {Phase.BACKFILL, Phase.VERIFY} and bool(self._works) and standing.pass_ == 1
        )
        # Read without the run's lock first: the step that follows may last for hours, and people must be able to stop it.
        known = runs.get(self._connection, self._run.run)
        return has_work and (known is None or phase not in known.approved) and phase not in self._hold().approved

    def _act(self, standing: StepContext, *, done: int) -> list[LaneMessage]:
        """Do the phase's next step, or go on to the next phase. The first `done` steps of the phase are the coordinator's own."""
        planned = steps(self._operations, standing.phase)
        if self._step - done < len(planned):
            return self._do(planned[self._step - done], standing)
        return self._enter(standing.phase.next)

    def _do(self, step: Step, standing: StepContext) -> list[LaneMessage]:
        match step:
            case Walk():
                return self._walk(step, standing)
            case Action(index=index):
                if index is not None:
                    self._index_builds.carry_out(self._connection, self._lane, step)
                else:
                    self._execute(step)
                return self._go_on(self._step + 1)

    def _walk(self, walk: Walk, standing: StepContext) -> list[LaneMessage]:
        """Make the lanes of a walk between two steps, wait for them, look at what they did, and go on."""
        run = self._run.run
        done = lanes.of_walk(self._connection, run, kind=walk.kind, operation=walk.operation)
        if done.open:
            return self._sleep()
        if done.lanes and not self._must_look_again(walk, done):
            self._tell_walked(walk, done)
            return self._go_on(self._step + 1)
        if self._slices.for_walk(walk, standing):
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
            **(retention.left(self._connection, run, operation=walk.operation) if walk.kind == "undo" else {}),
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

    def _roll_back(self, standing: StepContext) -> list[LaneMessage]:
        """Take back the next of what was done; at first, when no batch is in flight any more, write down what that is."""
        run = self._run.run
        if standing.rollback.begun is None:
            if lanes.in_flight(self._connection, run):
                return self._sleep()
            lanes.end_forward(self._connection, run)
            done = max(self._step - (_JUDGED if standing.phase is Phase.VERIFY else 0), 0)
            reached = Reached(phase=standing.phase, steps=done, pass_=standing.pass_)
            runs.set_rollback(self._connection, run, Rollback(requested=True, begun=reached))
            return self._go_on(0)
        planned = self._way_back(standing.rollback.begun)
        if self._step < len(planned):
            back = planned[self._step]
            if back.phase is not standing.phase:
                runs.set_phase(self._connection, run, back.phase, back=True)
                self.events.append(PhaseEntered(run=run, name=self._run.name, phase=back.phase))
                return self._go_on(self._step)  # the step may last for hours, and must not hold the run's row
            return self._do(back.step, standing)
        if standing.phase is not Phase.EXPAND:
            runs.set_phase(self._connection, run, Phase.EXPAND, back=True)
        runs.keep_until(self._connection, run, days=standing.settings.retention_days)
        self._set_state(State.ROLLED_BACK, reason="everything that was done is taken back")
        self._checkpoint(0, done=True)
        return []

    def _way_back(self, begun: Reached) -> tuple[BackStep, ...]:
        return way_back(self._operations, phase=begun.phase, done=begun.steps, pass_=begun.pass_)

    def _execute(self, action: Action) -> None:
        self._lookout.before(self._connection, action)
        ddl.execute(self._connection, action)

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

    def _backfill(self, standing: StepContext) -> list[LaneMessage]:
        """Step 0 makes the lanes and wakes them; step 1 is asked at each lane's end, and the last one's leads on."""
        pass_ = standing.pass_
        if self._step == 0 and pass_ == 1:
            self._slices.for_backfill(standing)
            self._measure_space("before")
        if lanes.count_open(self._connection, self._run.run, pass_=pass_, kinds=("backfill", "retry")):
            return self._wait_for_lanes(standing)
        if pass_ == 1:
            _, walked = lanes.pass_result(self._connection, self._run.run, pass_=1, kind="backfill")
            runs.set_totals(self._connection, self._run.run, rows_total=walked)
            self._measure_space("after")
        return self._enter(Phase.VERIFY)

    def _verify(self, standing: StepContext) -> list[LaneMessage]:
        """Steps 0 and 1 are as in `_backfill`, with a judgement at the end; from step 2 on come the actions."""
        if self._step >= _JUDGED:
            return self._act(standing, done=_JUDGED)
        if self._step == 0:
            self._slices.for_verify(standing)
        if lanes.count_open(self._connection, self._run.run, pass_=standing.pass_, kinds=("verify",)):
            return self._wait_for_lanes(standing)
        return self._judge(standing.pass_)

    def _judge(self, pass_: int) -> list[LaneMessage]:
        """All verifying lanes of a pass have ended: only a pass that found nothing opens the way."""
        run = self._run.run
        residual, seen = lanes.pass_result(self._connection, run, pass_=pass_, kind="verify")
        quarantined = quarantine.count(self._connection, run)
        if rewritten := self._rewritten_under(pass_):
            self._walk_again(pass_ + 1, reason=f"{rewritten} was rewritten while it was being verified")
            return self._go_on(0)
        if residual:
            runs.set_residual(self._connection, run, residual=residual + quarantined, verified=False)
            self._walk_again(pass_ + 1, reason=f"{residual} rows still need work")
            if pass_ % MAX_PASSES == 0:
                self._pause(
                    "residual",
                    f"{residual} rows still need work after {pass_} passes: the application keeps writing them. "
                    "Mend what writes them, then resume",
                )
            return self._go_on(0)
        if quarantined:
            runs.set_residual(self._connection, run, residual=quarantined, verified=False)
            self._pause(
                "quarantine",
                f"{quarantined} rows cannot be converted; mend them, then: backfilld quarantine retry {self._run.name}",
            )
            return self._sleep()
        self._set_real_total(seen, pass_)
        runs.set_residual(self._connection, run, residual=0, verified=True)
        return self._go_on(_JUDGED)

    def _set_real_total(self, seen: int, pass_: int) -> None:
        """A walk by pages estimates how many rows it passes; verify has counted them."""
        walked = lanes.of_run(self._connection, self._run.run)
        if not any(isinstance(lane.bounds, PageRange) for lane in walked):
            return
        verified = {lane.operation for lane in walked if lane.kind == "verify" and lane.pass_ == pass_}
        taken_on_trust = sum(
            lane.rows_walked
            for lane in walked
            if lane.kind == "backfill" and lane.pass_ == 1 and lane.operation not in verified
        )
        runs.set_totals(self._connection, self._run.run, rows_total=seen + taken_on_trust)

    def _walk_again(self, pass_: int, *, reason: str) -> None:
        runs.set_pass(self._connection, self._run.run, pass_, reason=reason)
        self.events.append(PhaseEntered(run=self._run.run, name=self._run.name, phase=Phase.BACKFILL))

    def _measure_space(self, moment: str) -> None:
        """Write down how large the tables are, and, before the walk, how large each that a lane walks is."""
        tables = {work.table for work in self._works}
        measured = [catalog.sizes(self._connection, table) for table in tables]
        sizes = {part: sum(one[part] for one in measured) for part in ("heap_bytes", "index_bytes")}
        walked = {lane.relation for lane in lanes.of_run(self._connection, self._run.run) if lane.relation is not None}
        each = {name: catalog.sizes(self._connection, TableName.parse(name))["heap_bytes"] for name in walked}
        runs.set_space(self._connection, self._run.run, moment=moment, sizes=sizes, tables=each)

    def _rewritten_under(self, pass_: int) -> str | None:
        """A table that got another file while its pages were being verified: rows may have moved past the lanes."""
        for lane in lanes.of_run(self._connection, self._run.run):
            if lane.kind == "verify" and lane.pass_ == pass_ and isinstance(lane.bounds, PageRange) and lane.relation:
                table = TableName.parse(lane.relation)
                if catalog.filenode(self._connection, table) != lane.bounds.filenode:
                    return str(table)
        return None

    def _pause(self, error_class: str, message: str) -> None:
        self._set_state(State.PAUSED, reason=message, error={"class": error_class, "message": message})

    def _set_state(self, state: State, *, reason: str, error: dict[str, str] | None = None) -> None:
        runs.set_state(self._connection, self._hold_for(state), state, actor=runs.WORKER, reason=reason, error=error)
        self.events.append(StateChanged(run=self._run.run, name=self._run.name, state=state, reason=reason))

    def _hold(self) -> LockedRun:
        held = runs.lock(self._connection, self._run.run)
        if held is None:
            msg = f"run {self._run.run} is gone"
            raise LookupError(msg)
        return held

    def _hold_for(self, state: State) -> LockedRun:
        """The run, held, and free to become this. Raises ChangedMeanwhile when a person has said something else meanwhile."""
        held = self._hold()
        if not allowed(held.state, state):
            raise runs.ChangedMeanwhile
        return held

    def _go_on(self, step: int) -> list[LaneMessage]:
        """The coordinator's next step is due at once."""
        self._checkpoint(step)
        return [LaneMessage(target=TARGET, run=self._run.run, lane=0, seq=self._lane.seq + 1)]

    def _wait_for_lanes(self, standing: StepContext) -> list[LaneMessage]:
        """Sleep until a lane ends; at first, wake the lanes."""
        self._checkpoint(1, sleeps=True)
        if self._step > 0:
            return []
        ready = lanes.startable(self._connection, self._run.run)
        wanted = standing.settings.lanes - sum(message.lane > 0 for message in ready)
        return [*ready, *lanes.wake_sleepers(self._connection, self._run.run, lanes=max(wanted, 0))]

    def _checkpoint(self, step: int, *, sleeps: bool = False, done: bool = False) -> None:
        self._connection.execute(*lanes.advance_query(self._lane, cursor=step, sleeps=sleeps, done=done))

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
