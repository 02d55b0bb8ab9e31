"""Runs and lanes as values, for tests of what is shown of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from backfilld.migrations.record.model import Bounds, Lane
from backfilld.migrations.record.states import LaneKind, Phase, State
from backfilld.monitoring.progress import Progress

AT = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)

RUNNING = Progress(
    run=12,
    name="jobs-new-field",
    target="default",
    phase=Phase.BACKFILL,
    state=State.RUNNING,
    wish=None,
    rows_done=452_000,
    rows_total=1_000_000,
    percent=45.2,
    rows_per_second=12_345.6,
    eta_seconds=44,
    lanes=4,
    width=3,
    hold_reason=None,
    residual_rows=None,
    own_values=None,
    verified=False,
    quarantined=0,
    errors=(),
    hot_update_ratio=0.981,
    rows_moved=19_000,
    created_at=AT,
    updated_at=AT,
    rows_walked=452_000,
)
HELD = replace(
    RUNNING, run=13, name="orders-" + "long-" * 10 + "name", hold_reason="replica lag 4.2 s, limit 2 s", quarantined=3
)
FAILED = replace(
    RUNNING,
    run=11,
    state=State.FAILED,
    eta_seconds=None,
    errors=(
        {"lane": 2, "class": "fatal", "sqlstate": "42883", "message": "no function [bold]foo[/bold]\n\x1b[31mHINT\x07"},
    ),
)
WAITING = replace(
    RUNNING,
    phase=Phase.CONTRACT,
    state=State.WAITING,
    percent=100.0,
    eta_seconds=None,
    verified=True,
    hold_reason="waiting for approval of contract: backfilld approve jobs-new-field --phase contract",
)

LANE = Lane(
    run=12,
    lane=1,
    kind=LaneKind.BACKFILL,
    operation=0,
    pass_=1,
    relation="jobs",
    bounds=Bounds(),
    cursor=["5"],
    seq=3,
    batch_rows=1000,
    recent=(),
    rows_walked=123_456,
    rows_changed=120_000,
    rows_residual=0,
    rows_expected=None,
    batches_committed=120,
    batches_retried=1,
    attempts=0,
    last_error=None,
    lock_wait=None,
    next_run_at=AT,
    enqueued_at=AT,
    progressed_at=AT,
    done_at=None,
)
CONDUCTOR = replace(LANE, lane=0, kind=LaneKind.COORDINATOR, operation=None, relation=None)
