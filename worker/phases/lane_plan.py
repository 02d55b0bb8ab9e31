"""Cutting what is to be walked into lanes: for the backfill, for the look at every row, and for walks between two steps."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.loading import stage
from backfilld.migrations.postgres import catalog
from backfilld.migrations.record import lanes, runs
from backfilld.migrations.record.model import Bounds, JournalShare, PageRange, StagePages
from backfilld.migrations.record.states import DRAINS, LaneKind
from backfilld.migrations.rollback import journal, undo
from backfilld.migrations.rollback.archive import Archive
from backfilld.migrations.walks.keys import KeyWalk, split
from backfilld.migrations.walks.order import choose_for
from backfilld.migrations.walks.sizing import FIRST_ROWS, FIRST_ROWS_OF_FUNCTION
from backfilld.migrations.walks.table_statistics import page_ranges, to_open_end
from backfilld.worker.lanes.kinds import Backfill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Walk
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Key, Lane, LaneBounds
    from backfilld.migrations.record.step_context import StepContext
    from backfilld.worker.lanes.known_runs import KnownRun
    from backfilld.worker.lanes.load import Upsert


class LanePlan:
    """Makes the lanes of a run, in the transaction of its coordinator. Raises Refused when a table is gone."""

    def __init__(self, connection: Connection, known: KnownRun) -> None:
        self._connection = connection
        self._known = known
        self._run = known.run.run

    def for_backfill(self, context: StepContext) -> None:
        """As many lanes as the run wants begin at once; more, as for the leaves of a partitioned table, wait for their turn."""
        of_rows = [one for work in self._known.backfills for one in work.journals]
        if journals := [*of_rows, *(one for load in self._known.loads for one in load.journals)]:
            journal.make(self._connection, self._run, journals)
        planned: list[tuple[Backfill | Upsert, TableName, LaneBounds, int]] = []
        total = 0
        for work in self._known.backfills:
            table = self._describe(work.table)
            rows = catalog.estimate_rows(self._connection, table)
            total += rows
            choice = choose_for(self._connection, table, work.rewrite, context.settings)
            if choice.by_pages:
                planned += [
                    (work, leaf, page_range, expected)
                    for leaf, page_range, expected in page_ranges(
                        self._connection, table, work.rewrite, context.settings, choice
                    )
                ]
            else:
                wanted = 1 if context.settings.walk == "ordered" else context.settings.lanes
                ranges = split(self._connection, work.walk, lanes=wanted, rows_estimate=rows)
                planned += [(work, table.name, bounds, rows // len(ranges)) for bounds in ranges]
        stage.begin_lanes(self._connection, self._run)
        for load in self._known.loads:
            self._describe(load.table)
            ranges_of_stage = self._stage_ranges(load, context)
            planned += [(load, load.table, bounds, expected) for bounds, expected in ranges_of_stage]
            total += sum(expected for _, expected in ranges_of_stage)
            if stage.next_retry(self._connection, self._run, operation=load.number) is not None:
                self._insert(LaneKind.RETRY, load, Bounds(), pass_=1, relation=load.table, rows_expected=None)
        for number, (walked, relation, bounds, expected) in enumerate(planned):
            awake = number < context.settings.lanes
            self._insert(
                LaneKind.BACKFILL, walked, bounds, pass_=1, relation=relation, rows_expected=expected, awake=awake
            )
        runs.set_totals(self._connection, self._run, rows_total=total)

    def _stage_ranges(self, load: Upsert, context: StepContext) -> list[tuple[StagePages, int]]:
        """The pages of a stage in equal parts, each with about how many lines it has; none of an empty one."""
        pages = stage.pages_of(self._connection, load.loading.stage)
        found = stage.read(self._connection, self._run, load.number)
        lines = found.lines if found is not None else 0
        wanted = min(context.settings.lanes, pages)
        ends = [pages * number // wanted for number in range(wanted + 1)] if wanted else [0]
        each = lines / pages if pages else 1.0
        return [
            (StagePages(first_page=first, last_page=last, lines_per_page=each), round((last - first) * each))
            for first, last in pairwise(ends)
        ]

    def for_walk(self, walk: Walk, context: StepContext) -> int:
        """Cut the table of a walk between two steps into lanes; returns how many. None for an empty table."""
        if LaneKind(walk.kind) is LaneKind.UNDO:
            shares, rows = undo.shares(
                self._connection, self._run, operation=walk.operation, lanes=context.settings.lanes, key=walk.key
            )
            return self._insert_walk(walk, shares, rows=rows, context=context)
        if LaneKind(walk.kind) in DRAINS:
            return self._insert_walk(walk, [Bounds()], rows=0, context=context)
        if LaneKind(walk.kind) is LaneKind.CHECK:
            load = next(one for one in self._known.loads if one.number == walk.operation)
            found = self._stage_ranges(load, context)
            return self._insert_walk(
                walk, [bounds for bounds, _ in found], rows=sum(rows for _, rows in found), context=context
            )
        by_key = KeyWalk(table=walk.table, key=walk.key)
        if LaneKind(walk.kind) in {LaneKind.ARCHIVE, LaneKind.RESTORE} and not walk.looks_up:
            # For a restore too, which may find that nothing was archived.
            Archive(run=self._run, operation=walk.operation, walk=by_key).make(self._connection)
        table = self._describe(walk.table)
        if walk.archived is not None and any(table.column(name) is None for name in walk.archived.old):
            return 0  # another session has dropped or renamed it
        rows = catalog.estimate_rows(self._connection, table)
        ranges = split(self._connection, by_key, lanes=context.settings.lanes, rows_estimate=rows)
        if not ranges and walk.copying is not None:
            ranges = [Bounds()]  # the other table may have rows that this one has not any more
        if ranges and walk.to_open_end:
            ranges[-1] = replace(ranges[-1], upto=None)
        return self._insert_walk(walk, ranges, rows=rows, context=context)

    def _insert_walk(
        self, walk: Walk, ranges: Sequence[Bounds | JournalShare | StagePages], *, rows: int, context: StepContext
    ) -> int:
        for bounds in ranges:
            lanes.insert(
                self._connection,
                self._run,
                kind=LaneKind(walk.kind),
                operation=walk.operation,
                pass_=context.pass_,
                relation=str(walk.table),
                bounds=bounds,
                batch_rows=FIRST_ROWS,
                rows_expected=rows // len(ranges),
            )
        return len(ranges)

    def follow(self, context: StepContext) -> None:
        """A lane for each table that is made anew, which brings over what is written until contract."""
        for work in self._known.backfills:
            if (copies := work.rewrite.remakes) is None or lanes.has_follower(
                self._connection, self._run, operation=work.number
            ):
                continue
            lanes.insert(
                self._connection,
                self._run,
                kind=LaneKind.FOLLOW,
                operation=work.number,
                pass_=context.pass_,
                relation=str(copies.target),
                bounds=Bounds(),
                batch_rows=FIRST_ROWS,
            )

    def for_verify(self, context: StepContext) -> None:
        """The whole table once more, to the open end: rows added since are looked at too."""
        walked = [lane for lane in lanes.of_run(self._connection, self._run) if lane.kind is LaneKind.BACKFILL]
        number = 0
        for load in self._known.loads:
            for of_stage, lines in self._stage_ranges(load, context):
                awake, number = number < context.settings.lanes, number + 1
                self._insert(
                    LaneKind.VERIFY,
                    load,
                    of_stage,
                    pass_=context.pass_,
                    relation=load.table,
                    rows_expected=lines,
                    awake=awake,
                )
        for work in self._known.backfills:
            own = [lane for lane in walked if self._known.work_of(lane) is work]
            condition_ended = work.rewrite.condition_tells is not None and not any(lane.rows_residual for lane in own)
            if not (work.rewrite.verifiable or condition_ended):
                continue
            first = [lane for lane in own if lane.pass_ == 1]
            for bounds, expected in self._verify_ranges(work, first, context):
                awake, number = number < context.settings.lanes, number + 1
                table = work.table
                self._insert(
                    LaneKind.VERIFY,
                    work,
                    bounds,
                    pass_=context.pass_,
                    relation=table,
                    rows_expected=expected,
                    awake=awake,
                )

    def _verify_ranges(
        self, work: Backfill, first: Sequence[Lane], context: StepContext
    ) -> list[tuple[Bounds | PageRange, int | None]]:
        """Pages where no row that moves meanwhile can be wrong; keys where one could.

        A row that is wrong and moves to where the walk has been would be missed by pages; by keys none is. The sync trigger
        gives a row that is written its value, or NULL where that cannot be computed; and the scan that proves NOT NULL, one
        statement with one snapshot, misses no NULL.
        """
        ranges: list[tuple[Bounds, int]] = _in_key_order(first)
        if any(isinstance(lane.bounds, PageRange) for lane in first):
            table = self._describe(work.table)
            rows = catalog.estimate_rows(self._connection, table)
            if table.kind == "r" and work.rewrite.synced and work.rewrite.not_null:
                return [*to_open_end(self._connection, table, context.settings, rows=rows)]
            keys = split(self._connection, work.walk, lanes=context.settings.lanes, rows_estimate=rows)
            ranges = [(bounds, rows // len(keys)) for bounds in keys]
        if not ranges:
            return [(Bounds(), 0)]
        last, expected = ranges[-1]
        return [*ranges[:-1], (replace(last, upto=None), expected)]

    def _insert(  # noqa: PLR0913 - one row; each column is named where it is called
        self,
        kind: LaneKind,
        work: Backfill | Upsert,
        bounds: LaneBounds,
        *,
        pass_: int,
        relation: TableName,
        rows_expected: int | None,
        awake: bool = True,
    ) -> None:
        lanes.insert(
            self._connection,
            self._run,
            kind=kind,
            operation=work.number,
            pass_=pass_,
            relation=str(relation),
            bounds=bounds,
            batch_rows=FIRST_ROWS_OF_FUNCTION
            if kind is LaneKind.BACKFILL and isinstance(work, Backfill) and work.rewrite.transform is not None
            else self._known.works[kind, work.number].first_rows,
            rows_expected=rows_expected,
            awake=awake,
        )

    def _describe(self, name: TableName) -> Table:
        table = catalog.describe(self._connection, name)
        if table is None:
            gone = f"the table {name} no longer exists"
            raise Refused([Finding("table", gone, "Restore it, then resume; or cancel the run")])
        return table


def _in_key_order(walked: Sequence[Lane]) -> list[tuple[Bounds, int]]:
    """The ranges of a walk by key, each with the rows it had, in order: a lane that was split is not before its other half."""
    after = {lane.bounds.after: lane for lane in walked if isinstance(lane.bounds, Bounds)}
    found: list[tuple[Bounds, int]] = []
    key: Key | None = None
    while (lane := after.pop(key, None)) is not None and isinstance(lane.bounds, Bounds):
        found.append((lane.bounds, lane.rows_walked))
        key = lane.bounds.upto
    return found
