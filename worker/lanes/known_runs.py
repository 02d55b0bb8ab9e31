"""What never changes in the life of a run, put together once and kept by this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.operations import bind, walks
from backfilld.migrations.operations.load.steps import Load
from backfilld.migrations.record import runs
from backfilld.migrations.record.states import LaneKind, Phase
from backfilld.migrations.walks.together import grouped
from backfilld.worker.lanes import copying
from backfilld.worker.lanes.kinds import Backfill, Retry, Verify
from backfilld.worker.lanes.load import Upsert, works_of
from backfilld.worker.lanes.together import BackfillTogether, VerifyTogether
from backfilld.worker.lanes.walk_kinds import of_walk
from backfilld.worker.phases.planned_steps import PlannedSteps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from backfilld.migrations.operations import Operation
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Lane, Run
    from backfilld.worker.lanes.kinds import LaneWork


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A run, what its coordinator has to do, and what each of its other lanes does."""

    run: Run
    operations: tuple[Operation, ...]
    steps: PlannedSteps
    #: What the lanes of the backfill phase do, in the order of the operations; several of one table may be walked together.
    backfills: tuple[Backfill, ...]
    #: What the lanes do that load files.
    loads: tuple[Upsert, ...]
    #: What every lane does, by its kind and its operation's number.
    works: Mapping[tuple[LaneKind, int], LaneWork]
    #: The same of lanes in other tables than the operation's own, and by that table.
    in_parts: Mapping[tuple[LaneKind, int, str], LaneWork]

    @classmethod
    def of(cls, run: Run, *, transforms: Sequence[str]) -> KnownRun:
        """Raises Refused for a Python function that this worker does not have or was not told to allow."""
        operations = bind(run.migration, run.facts)
        works: dict[tuple[LaneKind, int], LaneWork] = {}
        own: dict[int, Backfill] = {}
        for number, operation in enumerate(operations):
            backfill = Backfill.of(operation, number, run=run.run, journals=run.settings.journal, transforms=transforms)
            if backfill is None:
                continue
            own[number] = backfill
            works[LaneKind.BACKFILL, number] = backfill
            works |= _beside(backfill, number)
        backfills = []
        for first, *others in grouped({number: one.rewrite for number, one in own.items()}, run.settings):
            backfills.append(own[first])
            if others:
                together = BackfillTogether.of_members([own[number] for number in (first, *others)])
                backfills[-1] = works[LaneKind.BACKFILL, first] = together
                works[LaneKind.VERIFY, first] = VerifyTogether.of_members(together)
        parts = _in_other_tables(operations, run=run.run)
        of_walks, looked_up = _between_steps(operations, run=run.run)
        works |= of_walks
        works |= copying.followers(works)
        loads = []
        for number, operation in enumerate(operations):
            if isinstance(operation, Load):
                looks = Phase.BACKFILL in run.settings.approve
                found = works_of(operation, number, run=run.run, journals=run.settings.journal, looks=looks)
                works |= {(kind, number): work for kind, work in found.items()}
                loads += [work for work in found.values() if isinstance(work, Upsert)]
        return cls(
            run=run,
            operations=operations,
            steps=PlannedSteps(operations),
            # Parts last: what they look up is there then, but for what lanes that work at the same time have not met yet.
            backfills=(*backfills, *parts.values()),
            loads=tuple(loads),
            works=works,
            in_parts={
                **looked_up,
                **{(LaneKind.BACKFILL, *place): one for place, one in parts.items()},
                **{(LaneKind.VERIFY, *place): Verify.of(one) for place, one in parts.items()},
            },
        )

    def work_of(self, lane: Lane) -> LaneWork | None:
        """What the lane's batches do; None for the coordinator."""
        if lane.operation is None:
            return None
        return (
            self.in_parts.get((lane.kind, lane.operation, lane.relation or "")) or self.works[lane.kind, lane.operation]
        )


def _between_steps(
    operations: Sequence[Operation], *, run: int
) -> tuple[dict[tuple[LaneKind, int], LaneWork], dict[tuple[LaneKind, int, str], LaneWork]]:
    """What lanes do in walks between two steps; and of those that look values up, which may be several of an operation, by their table."""
    works: dict[tuple[LaneKind, int], LaneWork] = {}
    looked_up: dict[tuple[LaneKind, int, str], LaneWork] = {}
    for (kind, number, table), walk in walks(operations).items():
        if walk.looks_up:
            looked_up[LaneKind(kind), number, str(table)] = of_walk(operations[number], walk, run=run)
        elif walk.copying is not None:
            works[LaneKind(kind), number] = copying.of_walk(operations[number], walk, walk.copying)
        elif not isinstance(operations[number], Load):
            works[LaneKind(kind), number] = of_walk(operations[number], walk, run=run)
    return works, looked_up


def _in_other_tables(operations: Sequence[Operation], *, run: int) -> dict[tuple[int, str], Backfill]:
    """What lanes do in other tables than an operation's own, by its number and by that table."""
    return {
        (number, str(part.table)): backfill
        for number, operation in enumerate(operations)
        for part in operation.parts()
        if (backfill := Backfill.of(part, number, run=run)) is not None
    }


def _beside(backfill: Backfill, number: int) -> dict[tuple[LaneKind, int], LaneWork]:
    """What the lanes do that look at what a backfill did, and try again what it could not."""
    if (copies := backfill.rewrite.remakes) is not None:
        verify: LaneWork = copying.Match.of(backfill, copies)
        retry: LaneWork = copying.RetryCopy.of_copy(backfill, copies)
    else:
        verify, retry = Verify.of(backfill), Retry.of(backfill)
    return {(LaneKind.VERIFY, number): verify, (LaneKind.RETRY, number): retry}


class KnownRuns:
    """The runs that this process has met; each of its threads may ask."""

    def __init__(self, *, transforms: Sequence[str]) -> None:
        """`transforms` are the modules that a Python function may come from."""
        self._transforms = transforms
        self._known: dict[int, KnownRun] = {}

    def get(self, connection: Connection, run: int, *, created_at: datetime) -> KnownRun:
        """Raises LookupError when there is no such run, and Refused; two threads that ask at once both look.

        Not by its number alone: that of a run in a schema which was dropped and made again has been another's.
        """
        known = self._known.get(run)
        # Of one that begins after others little is known until it is examined.
        if known is None or known.run.created_at != created_at or not known.run.facts:
            found = runs.get(connection, run)
            if found is None:
                msg = f"there is no run {run}"
                raise LookupError(msg)
            known = self._known[run] = KnownRun.of(found, transforms=self._transforms)
        return known
