"""The API probes of a run: recorded before anything is changed, and asked again after the switch, before contract and after it.

Outside of the transaction that holds the lane, as other checks of the application. An answer that cannot be recorded stops the run
before its first step; after contract a difference can only be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.identifiers import TARGET
from backfilld.migrations.record import answers, audit, lanes, runs
from backfilld.migrations.record import application as record
from backfilld.migrations.record.model import Checkpoint
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.wire.messages import LaneMessage
from backfilld.worker.lanes import claim
from backfilld.worker.lanes.batch import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.application.checked import Checked, Moment, Told
    from backfilld.migrations.file.application_checks import Probe
    from backfilld.migrations.file.personas import Persona
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.monitoring.checks.targets import Targets
    from backfilld.worker.lanes.claim import Claimed
    from backfilld.worker.lanes.known_runs import KnownRun


class ApiProbes:
    """Asks the probes of runs, as this worker's settings allow."""

    def __init__(self, targets: Targets | None) -> None:
        self._given = targets

    def take(self, connection: Connection, known: KnownRun, claimed: Claimed) -> list[LaneMessage] | None:
        """Record the answers before the first step, or compare them after the last; None where neither is due.

        Raises Refused where an answer cannot be recorded: nothing has been changed by then.
        """
        probes, context = probes_of(known.run), claimed.context
        if not probes or context.state not in {State.QUEUED, State.RUNNING}:
            return None
        if context.phase is Phase.EXPAND and not claimed.lane.cursor:
            if {one.name for one in probes} <= set(answers.at(connection, known.run.run, moment="before")):
                return None
            connection.rollback()
            self._record(connection, known.run)
            return _lead_on(connection, claimed, None, recorded=[one.name for one in probes])
        if not _has_done_contract(known, claimed):
            return None
        # What no run without `application` needs.
        from backfilld.migrations.application.checked import Checked, Moment  # noqa: PLC0415 - see above

        if record.last_check(connection, known.run.run, moment=Moment.AFTER_CONTRACT).detail is not None:
            return None
        connection.rollback()
        told = self.told(connection, known.run, Moment.AFTER_CONTRACT)
        return _lead_on(connection, claimed, Checked.of(Moment.AFTER_CONTRACT, told, statements=0))

    def told(self, connection: Connection, run: Run, moment: Moment) -> tuple[Told, ...]:
        """What the answers of this moment are not that they were before the run, in the order of the file."""
        return tuple(self._compare(connection, run, moment))

    def _record(self, connection: Connection, run: Run) -> None:
        from backfilld.monitoring.checks.answers import Unanswered  # noqa: PLC0415 - for runs with probes
        from backfilld.monitoring.checks.answers import record as record_answer  # noqa: PLC0415 - as above
        from backfilld.monitoring.checks.targets import Forbidden  # noqa: PLC0415 - as above

        found, refused = [], []
        for probe in probes_of(run):
            try:
                found.append((probe, record_answer(probe, self._targets, persona=_persona(run, probe))))
            except Forbidden as exc:
                refused.append(exc.finding)
            except Unanswered as exc:
                refused.append(
                    Finding(
                        "application_http",
                        f"the probe {probe.name} cannot be recorded: {exc}",
                        f"Fix what it asks, or the probe in the file; then: backfilld resume {run.name}",
                    )
                )
        if refused:
            raise Refused(refused)
        with connection.transaction():
            for probe, answer in found:
                answers.put(connection, run.run, probe.name, moment="before", answer=answer.to_json())

    def _compare(self, connection: Connection, run: Run, moment: Moment) -> Iterator[Told]:
        from backfilld.migrations.application.checked import Kind, Moment, Told  # noqa: PLC0415 - for runs with probes
        from backfilld.monitoring.checks.answers import Answer, Unanswered, ask, differences  # noqa: PLC0415 - as above
        from backfilld.monitoring.checks.targets import Forbidden  # noqa: PLC0415 - as above

        before = answers.at(connection, run.run, moment="before")
        back = "" if moment is Moment.AFTER_CONTRACT else "Switch back, which loses nothing: "
        for probe in probes_of(run):
            asked = probe.asked
            if probe.name not in before:
                yield Told(
                    kind=Kind.UNKNOWN, problem=f"no answer of the probe {probe.name} is on record", statement=asked
                )
                continue
            try:
                now = ask(probe, self._targets, persona=_persona(run, probe))
            except Forbidden as exc:
                yield Told(kind=Kind.UNKNOWN, problem=exc.finding.problem, remedy=exc.finding.remedy, statement=asked)
                continue
            except Unanswered as exc:
                yield Told(kind=Kind.UNKNOWN, problem=f"the probe {probe.name}: {exc}", statement=asked)
                continue
            answers.put(connection, run.run, probe.name, moment=moment, answer=now.to_json())
            if found := differences(probe, Answer.from_json(before[probe.name]), now):
                yield Told(
                    kind=Kind.API,
                    problem=f"the probe {probe.name} is not answered as before the run: {'; '.join(found)}",
                    remedy=f"{back}backfilld rollback {run.name}",
                    statement=asked,
                )

    @property
    def _targets(self) -> Targets:
        from backfilld.monitoring.checks.targets import Targets  # noqa: PLC0415 - for runs with probes

        return self._given or Targets()


def probes_of(run: Run) -> tuple[Probe, ...]:
    """The probes of a run's file."""
    application = run.migration.application
    return application.http if application is not None else ()


def _persona(run: Run, probe: Probe) -> Persona | None:
    """As whom a probe asks."""
    application = run.migration.application
    return application.personas[probe.as_] if application is not None and probe.as_ is not None else None


def _has_done_contract(known: KnownRun, claimed: Claimed) -> bool:
    """Every step of contract is done, and the run has not ended yet."""
    planned = len(known.steps.of(Phase.CONTRACT))
    return claimed.context.phase is Phase.CONTRACT and bool(planned) and (claimed.lane.cursor or 0) >= planned


def _lead_on(
    connection: Connection, claimed: Claimed, found: Checked | None, *, recorded: Sequence[str] = ()
) -> list[LaneMessage]:
    """Put on record what was done, and let the lane go on where it was."""
    with transaction(connection):
        taken = claim.take(connection, claimed.lane, claimed.context, look=None, writes="")
        if not isinstance(taken, claim.Claimed):
            return []
        lane = taken.lane
        if recorded:
            audit.record(connection, lane.run, actor=runs.WORKER, what="application.recorded", probes=list(recorded))
        if found is not None:
            from backfilld.migrations.application import moments  # noqa: PLC0415 - as above

            moments.put(connection, lane.run, found, actor=runs.WORKER)
        connection.execute(*lanes.advance_query(lane, Checkpoint(cursor=lane.cursor)))
        connection.execute("COMMIT")
    return [LaneMessage(target=TARGET, run=lane.run, lane=lane.lane, seq=lane.seq + 1)]
