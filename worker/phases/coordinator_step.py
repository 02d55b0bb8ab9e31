"""A step of the coordinator's lane from claim to commit: who is in the way of its lock is watched, and a rule that a row breaks is
taken back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.postgres.sqlstates import in_words
from backfilld.migrations.record.states import State
from backfilld.worker.lanes import claim
from backfilld.worker.lanes.batch import transaction
from backfilld.worker.phases import application_check, ddl, late_examination
from backfilld.worker.phases.api_probes import ApiProbes
from backfilld.worker.phases.coordinator import Coordinator, breaks_rule
from backfilld.worker.phases.index_build import IndexBuilds
from backfilld.worker.phases.lock_watch import LockWatch

if TYPE_CHECKING:
    import threading

    from backfilld.migrations.operations import Action
    from backfilld.migrations.postgres.connect import Connection, Pool
    from backfilld.migrations.telemetry import Observer
    from backfilld.migrations.wire.messages import LaneMessage
    from backfilld.monitoring.checks.targets import Targets
    from backfilld.worker.lanes.claim import Claimed
    from backfilld.worker.lanes.known_runs import KnownRun
    from backfilld.worker.phases.backup_gate import BackupGates


class CoordinatorSteps:
    """Takes steps of coordinators; one for each runner."""

    def __init__(  # noqa: PLR0913 - what a worker is told, each by its name
        self,
        pool: Pool,
        *,
        observe: Observer,
        stopping: threading.Event,
        refuses_foreign_code: bool = False,
        gates: BackupGates | None = None,
        targets: Targets | None = None,
        replica_url: str | None = None,
    ) -> None:
        self._pool = pool
        self._refuses_foreign_code = refuses_foreign_code
        self._api_probes = ApiProbes(targets)
        self._replica_url = replica_url
        self._observe = observe
        self._index_builds = IndexBuilds(pool=pool, stopping=stopping)
        self._gates = gates

    def take(self, connection: Connection, known: KnownRun, claimed: Claimed) -> list[LaneMessage]:
        """Take the step and commit it; returns the messages that follow.

        Raises Blocked when a lock could not be had, InTheWay, GateShut, Held,
        Refused, ChangedMeanwhile and psycopg.Error; the caller rolls back.
        """
        context = claimed.context
        if not known.run.facts and context.state is not State.ROLLING_BACK:
            return late_examination.examine(connection, known, claimed, refuses_foreign_code=self._refuses_foreign_code)
        if (asked := self._api_probes.take(connection, known, claimed)) is not None:
            return asked
        if (moment := application_check.due(connection, known, claimed)) is not None:
            return application_check.carry_out(
                connection, known, claimed, moment, probes=self._api_probes, replica_url=self._replica_url
            )
        if self._gates is not None:
            self._gates.require_open(connection, known.run, claimed)
        lock_watch = LockWatch(self._pool, claimed.lane, context, observe=self._observe)
        coordinator = self._coordinator(connection, known, lock_watch)
        try:
            with lock_watch.watching(), ddl.together(connection, coordinator.pending(context)):
                messages = coordinator.step(context)
                connection.execute("COMMIT")
        except psycopg.Error as exc:
            rule = coordinator.rule(context)
            if breaks_rule(exc) and coordinator.drains(context):
                connection.rollback()
                return self._drain_again(connection, known, claimed)
            if rule is None or not breaks_rule(exc):
                raise
            connection.rollback()
            return self._take_back(connection, known, claimed, rule, problem=in_words(exc))
        self._committed(connection, coordinator, lock_watch)
        return messages

    def _take_back(
        self, connection: Connection, known: KnownRun, claimed: Claimed, rule: Action, *, problem: str
    ) -> list[LaneMessage]:
        """A row breaks a rule that was to be proved, so the rule does not stand any longer.

        Which rows do is asked before that and in a transaction of its own: the question may take as long as the scan did, and
        taking the rule back needs a lock that stops the application.
        """
        lane, context = claimed.lane, claimed.context
        offenders = None
        lock_watch = LockWatch(self._pool, lane, context, observe=self._observe)
        if self._coordinator(connection, known, lock_watch).gives_up(context, rule):
            with transaction(connection):
                if not isinstance(claim.take(connection, lane, context, look=None, writes=""), claim.Claimed):
                    return []
                offenders = ddl.offenders(connection, rule)
        with transaction(connection):
            taken = claim.take(connection, lane, context, look=None, writes="")
            if not isinstance(taken, claim.Claimed):
                return []
            lock_watch = LockWatch(self._pool, taken.lane, taken.context, observe=self._observe, again_scans=True)
            coordinator = self._coordinator(connection, known, lock_watch)
            with lock_watch.watching():
                messages = coordinator.take_back(taken.context, rule, problem=problem, offenders=offenders)
                connection.execute("COMMIT")
        self._committed(connection, coordinator, lock_watch)
        return messages

    def _drain_again(self, connection: Connection, known: KnownRun, claimed: Claimed) -> list[LaneMessage]:
        """A row that was written at the last moment has no place in the other table: it is put aside by a lane."""
        with transaction(connection):
            taken = claim.take(connection, claimed.lane, claimed.context, look=None, writes="")
            if not isinstance(taken, claim.Claimed):
                return []
            lock_watch = LockWatch(self._pool, taken.lane, taken.context, observe=self._observe)
            messages = self._coordinator(connection, known, lock_watch).drain_again()
            connection.execute("COMMIT")
        return messages

    def _coordinator(self, connection: Connection, known: KnownRun, lock_watch: LockWatch) -> Coordinator:
        return Coordinator(connection, known, lock_watch, index_builds=self._index_builds)

    def _committed(self, connection: Connection, coordinator: Coordinator, lock_watch: LockWatch) -> None:
        """Tell what happened in the step."""
        lock_watch.put_on_record(connection, committed=True)
        for event in coordinator.events:
            self._observe(event)
