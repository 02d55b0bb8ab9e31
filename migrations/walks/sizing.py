"""How many rows the next batch takes: a pure function of how long the past ones took.

Sized by service time alone; time spent waiting for a permit or a lock would collapse the size without cause.
"""

from __future__ import annotations

import math
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
FIRST_ROWS = 1000
LEAST_ROWS = 1
#: More rows than this in one transaction gain nothing and lose more when it must be repeated.
MOST_ROWS = 200_000


def next_rows(rows: int, recent: Sequence[Timing], *, target_seconds: float) -> int:
    """The size of the next batch, after one of `rows` rows whose timing is the last of `recent`.

    Aims at the slowest of ten recent seconds-per-row (their 90th percentile), as in block/spirit's dynamic chunker.
    """
    timed = [timing for timing in recent[-REMEMBERED:] if timing.rows > 0]
    if not timed:
        return rows
    if timed[-1].seconds > PANIC * target_seconds:
        return _clamp(rows // 10)
    seconds_per_row = sorted(timing.seconds / timing.rows for timing in timed)
    p90 = seconds_per_row[math.ceil(0.9 * len(seconds_per_row)) - 1]
    wanted = target_seconds / p90 if p90 > 0 else math.inf
    return _clamp(int(min(wanted, max(rows * GROWTH, rows + 1))))


def smaller(rows: int, *, timed_out: bool) -> int:
    """The size after a batch that was rolled back: a tenth when it ran out of time, half when it met another session's lock."""
    return _clamp(rows // 10 if timed_out else rows // 2)


def _clamp(rows: int) -> int:
    return max(LEAST_ROWS, min(MOST_ROWS, rows))
