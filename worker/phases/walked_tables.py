"""What the coordinator asks of the tables that lanes walk: how large they are, how many rows they have, whether one was rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import catalog
from backfilld.migrations.record import lanes, runs
from backfilld.migrations.record.model import PageRange
from backfilld.migrations.record.states import LaneKind
from backfilld.worker.lanes.load import Upsert

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.worker.lanes.kinds import Backfill


def measure_space(connection: Connection, run: int, backfills: Iterable[Backfill | Upsert], *, moment: str) -> None:
    """Write down how large the tables of a run are, `before` the walk or `after` it, and how large each that a lane walks is.

    What waits in the stages of a table's loads counts as part of it: growth is judged against that (`table_growth`), and rows that are
    inserted are no room that vacuum has failed to free.
    """
    backfills = [*backfills]
    measured = [catalog.sizes(connection, table) for table in {backfill.table for backfill in backfills}]
    sizes = {part: sum(one[part] for one in measured) for part in ("heap_bytes", "index_bytes")}
    walked = {lane.relation for lane in lanes.of_run(connection, run) if lane.relation is not None}
    each = {name: catalog.sizes(connection, TableName.parse(name))["heap_bytes"] for name in walked}
    for load in backfills:
        if isinstance(load, Upsert) and (name := str(load.table)) in each:
            each[name] += catalog.sizes(connection, load.loading.stage)["heap_bytes"]
    runs.set_space(connection, run, moment=moment, sizes=sizes, tables=each)


def set_real_total(connection: Connection, run: int, *, seen: int, pass_: int) -> None:
    """A walk by pages estimates how many rows it passes; verify has counted them: `seen`."""
    walked = lanes.of_run(connection, run)
    if not any(isinstance(lane.bounds, PageRange) for lane in walked):
        return
    verified = {lane.operation for lane in walked if lane.kind is LaneKind.VERIFY and lane.pass_ == pass_}
    taken_on_trust = sum(
        lane.rows_walked
        for lane in walked
        if lane.kind is LaneKind.BACKFILL and lane.pass_ == 1 and lane.operation not in verified
    )
    runs.set_totals(connection, run, rows_total=seen + taken_on_trust)


def rewritten(connection: Connection, run: int, *, pass_: int) -> str | None:
    """A table that got another file while its pages were being verified: rows may have moved past the lanes."""
    for lane in lanes.of_run(connection, run):
        if lane.kind is not LaneKind.VERIFY or lane.pass_ != pass_ or lane.relation is None:
            continue
        table = TableName.parse(lane.relation)
        if isinstance(lane.bounds, PageRange) and catalog.filenode(connection, table) != lane.bounds.filenode:
            return str(table)
    return None
