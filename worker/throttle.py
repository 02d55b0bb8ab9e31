"""Readings in, verdict out. Pure: no clock, no connection.

The application comes first: any signal past its hard limit holds all work, and so does a signal that could not be read.
Between a signal's limits the width falls in proportion; it comes back one lane at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrations.settings import Limit, Limits
    from monitoring.probes import Reading

#: Up slowly: a lane more only when the last one has had time to show in the readings (replay lag lags by seconds).
WIDEN_SECONDS = 3.0
#: A verdict older than this is none: the reader may be dead, and the load with it unseen (as in block/spirit).
STALE_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How many lanes may work, and why none may."""

    width: int
    #: The signal that holds, by its name in `Limits`; None when work may go on.
    hold_signal: str | None = None
    #: The same in words, with the value and the limit.
    hold_reason: str | None = None


def decide(
    readings: Sequence[Reading], limits: Limits, *, width: int, max_width: int, since_widened_seconds: float | None
) -> Verdict:
    """The pace until the next reading."""
    pressure = 0.0
    for reading in readings:
        limit: Limit = getattr(limits, reading.signal)
        if reading.value is None:
            reason = f"{_words(reading.signal)} cannot be read" + (f": {reading.detail}" if reading.detail else "")
            return Verdict(width=_narrower(width), hold_signal=reading.signal, hold_reason=reason)
        if reading.value >= limit.hard:
            where = f" ({reading.detail})" if reading.detail else ""
            reason = f"{_words(reading.signal)} {reading.value:.3g}{where}, limit {limit.hard:g}"
            return Verdict(width=_narrower(width), hold_signal=reading.signal, hold_reason=reason)
        pressure = max(pressure, (reading.value - limit.soft) / (limit.hard - limit.soft))
    ceiling = max(1, min(max_width, math.floor(max_width * (1 - max(pressure, 0.0)))))
    if width > ceiling:
        return Verdict(width=ceiling)
    may_widen = since_widened_seconds is None or since_widened_seconds >= WIDEN_SECONDS
    return Verdict(width=min(width + 1, ceiling) if may_widen else max(1, width))


def stale(age_seconds: float | None) -> str | None:
    """Why a verdict of this age cannot be trusted, or None."""
    if age_seconds is None:
        return "no load reading yet"
    if age_seconds > STALE_SECONDS:
        return f"no load reading for {age_seconds:.0f} s"
    return None


def _narrower(width: int) -> int:
    # Down fast, but never to nothing: after the hold one lane must be free to find out whether all is well.
    return max(1, width // 2)


def _words(signal: str) -> str:
    return signal.replace("_seconds", "").replace("_", " ")
