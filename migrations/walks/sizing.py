"""How many rows the next batch takes: a pure function of how long the past ones took.

What a batch costs is taken apart: a part before its first row (round trips to a database far away, a processor that is waited
for), which no size makes smaller, and a part that grows with its rows, which is sized. Sized by service time alone; time spent
waiting for a permit or a lock would collapse the size without cause.
"""

from __future__ import annotations

import math
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.record.model import Timing

#: Batches that are remembered. Fewer forget a slow spell too soon, more answer it too late (block/spirit uses ten).
REMEMBERED = 10
#: 1.5: one lucky batch must not lead to a batch twice too long (block/spirit).
GROWTH = 1.5
#: A batch this many times over its target was a surprise: start again from a tenth.
PANIC = 5.0
#: The least a batch takes, as the part of the target that it would last at the pace of the quickest of the recent ones. Slow ones
#: beside it were slow for another reason than their rows: without it a busy machine brings batches down to a row.
FLOOR = 0.4
#: Sizes that differ by less tell nothing of what a row costs.
APART = 1.1
#: A batch of one row that lasts too long is tried with two, to learn whether the row is to blame, unless that would take seconds:
#: twice this is below the shortest time limit of a statement.
LONGEST_TRY_SECONDS = 2.0
FIRST_ROWS = 1000
#: What a Python function takes for a row may be a microsecond or a second: its first batch is one that it survives in both cases.
FIRST_ROWS_OF_FUNCTION = 20
LEAST_ROWS = 1
#: More rows than this in one transaction gain nothing and lose more when it must be repeated.
MOST_ROWS = 200_000


def next_rows(rows: int, recent: Sequence[Timing], *, target_seconds: float, growth: float = GROWTH) -> int:
    """The size of the next batch, after one of `rows` rows whose timing is the last of `recent`.

    The rows may take what is left of the target, aiming at the slow end of what a row took lately (the 90th percentile, as in
    block/spirit's dynamic chunker). Where a batch costs much of its target before its first row they may take as long as that
    again, but never more than the target: smaller batches would spend most of their time on nothing.
    """
    timed = _timed(recent)
    if not timed:
        return rows
    last, fixed = timed[-1], fixed_seconds(timed)
    floor = FLOOR * target_seconds / max(min(timing.seconds / timing.rows for timing in timed), 1e-9)
    # By what was known before it: a surprise does not explain itself.
    if last.seconds > fixed_seconds(timed[:-1]) + PANIC * target_seconds:
        return _clamp(min(max(rows // 10, floor), rows))
    seconds_per_row = _slow_row(timed, fixed)
    for_rows = max(target_seconds - fixed, min(fixed, target_seconds))
    wanted = max(for_rows / seconds_per_row if seconds_per_row > 0 else math.inf, floor)
    stuck = wanted < LEAST_ROWS + 1 and all(timing.rows == LEAST_ROWS for timing in timed)
    if stuck and last.seconds <= LONGEST_TRY_SECONDS:
        wanted = LEAST_ROWS + 1
    return _clamp(min(wanted, max(rows * growth, rows + 1)))


def fixed_seconds(recent: Sequence[Timing]) -> float:
    """What a batch costs before its first row; 0 while batches of one size alone do not tell.

    The line through the recent batches, by the median of the slopes between any two of them (Theil and Sen), so that a few slow
    ones do not bend it. Never more than the quickest batch took: a database that becomes slower while batches shrink would
    look like one.
    """
    timed = _timed(recent)
    slopes = [
        (one.seconds - other.seconds) / (one.rows - other.rows)
        for one, other in combinations(timed, 2)
        if max(one.rows, other.rows) >= APART * min(one.rows, other.rows)
    ]
    if not slopes:
        return 0.0
    slope = max(median(slopes), 0.0)
    at_no_row = median(timing.seconds - slope * timing.rows for timing in timed)
    return max(0.0, min(at_no_row, *(timing.seconds for timing in timed)))


def smaller(rows: int, *, timed_out: bool) -> int:
    """The size after a batch that was rolled back: a tenth when it ran out of time, half when it met another session's lock."""
    return _clamp(rows // 10 if timed_out else rows // 2)


def rest_seconds(
    work_seconds: float, *, rest_ratio: float, wal_bytes: int = 0, wal_bytes_per_second: float | None = None
) -> float:
    """How long a lane rests after a batch: for its duty cycle, or until its WAL is spread over as much time as it may take.

    A commit of the application waits until all WAL before it is on disk, ours too: what counts for it is how much of it comes at
    once. The first round over pages writes each of them whole after a checkpoint, ten times as much as the others.
    """
    spread = wal_bytes / wal_bytes_per_second - work_seconds if wal_bytes_per_second else 0.0
    return max(rest_ratio * work_seconds, spread)


def _timed(recent: Sequence[Timing]) -> list[Timing]:
    return [timing for timing in recent[-REMEMBERED:] if timing.rows > 0]


def _slow_row(timed: Sequence[Timing], fixed: float) -> float:
    """What a row took in the slow ones of the larger half: of a small batch, its rows explain the least."""
    larger = sorted(timing.rows for timing in timed)[len(timed) // 2]
    found = sorted(max(timing.seconds - fixed, 0.0) / timing.rows for timing in timed if timing.rows >= larger)
    return found[math.ceil(0.9 * len(found)) - 1]


def _clamp(rows: float) -> int:
    return max(LEAST_ROWS, min(MOST_ROWS, int(rows)))
