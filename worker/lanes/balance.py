"""Lanes share their work: as many are at work as the run wants, and none is idle while another has much before it.

At each checkpoint a lane looks how many are at work. Too many: the last of them sleeps until another ends. Too few, and none
asleep: the one with the largest rest gives half of it to a new lane, in the transaction of its checkpoint. No lane takes from
one that another session holds, so none waits, and the coordinator finds all lanes ended exactly once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.migrations.record import audit, lanes, runs
from backfilld.migrations.record.model import Bounds, JournalShare, PageRange, StagePages
from backfilld.migrations.record.states import DRAINS, LaneKind
from backfilld.migrations.rollback import undo
from backfilld.migrations.walks import pages
from backfilld.migrations.walks.keys import middle
from backfilld.migrations.walks.pages import PageCursor

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Lane, LaneBounds
    from backfilld.migrations.record.step_context import StepContext
    from backfilld.migrations.wire.messages import LaneMessage
    from backfilld.worker.lanes.kinds import LaneWork

#: A rest of fewer batches than this is done before a new lane has found its pace.
WORTH_SHARING_BATCHES = 4


def is_divisible(lane: Lane) -> bool:
    """Whether the lane walks a part of a table, which can be divided again; one that retries walks the quarantine."""
    return lane.kind not in {LaneKind.RETRY, LaneKind.FOLLOW, *DRAINS}


def steps_back(lane: Lane, context: StepContext) -> bool:
    """Whether this lane is one too many: the run wants fewer than there are, and this is the last of them."""
    return is_divisible(lane) and context.lanes_awake > context.settings.lanes and lane.lane == context.last_lane


def gives(lane: Lane, context: StepContext) -> bool:
    """Whether this lane should give half of its rest away; never where one lane keeps the order on disk."""
    in_order = context.settings.walk == "ordered" or (isinstance(lane.bounds, PageRange) and lane.bounds.ordered)
    return (
        is_divisible(lane)
        and not (in_order and lane.kind is LaneKind.BACKFILL)
        and context.lanes_awake < context.settings.lanes
        and not context.lanes_asleep
        and lane.rows_left >= max(context.most_left or 0, WORTH_SHARING_BATCHES * lane.batch_rows)
    )


def share(connection: Connection, work: LaneWork, lane: Lane, context: StepContext) -> LaneMessage | None:
    """Give half of what the lane has before it to a new one; returns the message that wakes it, for after the commit.

    None when the rest cannot be cut, or when another session adds lanes at this moment; the next checkpoint tries again.
    The caller holds the lane, whose checkpoint is written.
    """
    if not lanes.try_lock_coordinator(connection, lane.run):
        return None
    match lane.bounds:
        case PageRange():
            return _share_pages(connection, lane, lane.bounds)
        case JournalShare():
            kept, given = undo.split(lane.bounds)
            rows = lane.rows_left // 2
            lanes.shorten(connection, lane, bounds=kept, cursor=lane.cursor, given=rows)
            return _insert(connection, lane, given, cursor=lane.cursor, rows=rows)
        case StagePages():
            return _share_stage(connection, lane, lane.bounds)
        case Bounds():
            return _share_keys(connection, work, lane, lane.bounds, rows_total=context.rows_total or lane.rows_left)


def _share_pages(connection: Connection, lane: Lane, page_range: PageRange) -> LaneMessage | None:
    cursor = PageCursor.from_json(lane.cursor) if lane.cursor is not None else pages.begin(page_range)
    split = pages.split(page_range, cursor)
    if split is None:
        return None
    kept, given = split.kept, split.given
    rows = round(split.pages * page_range.rows_per_page)
    lanes.shorten(connection, lane, bounds=kept.page_range, cursor=kept.cursor.to_json(), given=rows)
    return _insert(connection, lane, given.page_range, cursor=given.cursor.to_json(), rows=rows)


def _share_stage(connection: Connection, lane: Lane, bounds: StagePages) -> LaneMessage | None:
    page = lane.cursor["page"] if lane.cursor is not None else bounds.first_page
    middle = (page + bounds.last_page + 1) // 2
    if not page < middle < bounds.last_page:
        return None
    rows = round((bounds.last_page - middle) * bounds.lines_per_page)
    lanes.shorten(connection, lane, bounds=replace(bounds, last_page=middle), cursor=lane.cursor, given=rows)
    return _insert(connection, lane, replace(bounds, first_page=middle), cursor=None, rows=rows)


def _share_keys(
    connection: Connection, work: LaneWork, lane: Lane, bounds: Bounds, *, rows_total: int
) -> LaneMessage | None:
    done = tuple(lane.cursor) if lane.cursor is not None else bounds.after
    key = middle(connection, work.walk, Bounds(after=done, upto=bounds.upto), rows_estimate=rows_total)
    if key is None:
        return None
    rows = lane.rows_left // 2
    lanes.shorten(connection, lane, bounds=Bounds(after=bounds.after, upto=key), cursor=lane.cursor, given=rows)
    return _insert(connection, lane, Bounds(after=key, upto=bounds.upto), cursor=None, rows=rows)


def _insert(
    connection: Connection,
    lane: Lane,
    bounds: LaneBounds,
    *,
    cursor: object,
    rows: int,
) -> LaneMessage:
    message = lanes.insert(
        connection,
        lane.run,
        kind=lane.kind,
        operation=lane.operation or 0,
        pass_=lane.pass_,
        relation=lane.relation or "",
        bounds=bounds,
        cursor=cursor,
        batch_rows=lane.batch_rows,
        rows_expected=rows,
    )
    audit.record(
        connection, lane.run, actor=runs.WORKER, what="lane.split", lane=lane.lane, gives_to=message.lane, rows=rows
    )
    return message
