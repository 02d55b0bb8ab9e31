"""Windows in turn: with and without, again and again within one run, so that what else the machine does falls out of the ratio."""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.figures import number
from bench.load import percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.load import Transaction

#: Of the windows, drawn again with replacement.
DRAWS = 400
#: The interval holds this much of what the draws gave.
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of time in which one thing was so, by the clock of the machine."""

    since: float
    till: float
    #: Rows that a run changed in it.
    rows: int = 0

    @property
    def seconds(self) -> float:
        return self.till - self.since


@dataclass(frozen=True)
class Pair:
    """Two neighbours: milliseconds of the transactions due in the one without, and in the one with."""

    without: Sequence[float]
    with_: Sequence[float]


@dataclass(frozen=True)
class Ratio:
    """A percentile with, divided by the same without, and between what the pairs let it be."""

    value: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{number(self.value)} ({number(self.least)} to {number(self.most)})"


def ratios(pairs: Sequence[Pair], shares: Sequence[float]) -> list[Ratio]:
    """For each share of the transactions; the interval is the bootstrap's.

    A pair is drawn as a whole: transactions of one window are not independent, and neighbours share what else the machine did.
    """
    rng = random.Random(1)
    values = _quotients(pairs, shares)
    draws = [_quotients([rng.choice(pairs) for _ in pairs], shares) for _ in range(DRAWS)]
    left_out = (1 - CONFIDENCE) / 2
    return [
        Ratio(value, percentile(drawn, left_out), percentile(drawn, 1 - left_out))
        for value, drawn in zip(values, (sorted(one) for one in zip(*draws, strict=True)), strict=True)
    ]


def pooled(windows: Iterable[Sequence[float]]) -> list[float]:
    """All of them, in order of size."""
    return sorted(one for window in windows for one in window)


def due_in(ordered: Sequence[Transaction], window: Window) -> list[float]:
    """Milliseconds of those due in it, whenever they ended, in order of size; `ordered` by when they were due."""
    first, last = (bisect_left(ordered, at, key=lambda one: one.due) for at in (window.since, window.till))
    return sorted(one.milliseconds for one in ordered[first:last])


def _quotients(pairs: Sequence[Pair], shares: Sequence[float]) -> list[float]:
    without, with_ = pooled(pair.without for pair in pairs), pooled(pair.with_ for pair in pairs)
    return [percentile(with_, share) / percentile(without, share) for share in shares]
