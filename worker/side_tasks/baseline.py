"""What the application takes without us, and how many times slower it is now. Pure: no clock, no connection.

The baseline follows, slowly, what is measured while none of our batches is in flight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backfilld.migrations.record.pace import MIN_OTHERS
from backfilld.monitoring.probes.reading import Reading

if TYPE_CHECKING:
    from backfilld.monitoring.probes.statements import Span
    from backfilld.worker.side_tasks.throttle import Memory

#: The baseline comes two thirds closer to what is measured at rest in this time. Long enough to outlast our own after-effects,
#: short enough that a baseline that is not true any more does not hold for minutes.
FOLLOW_SECONDS = 30.0
#: The first baseline wants this much rest.
MOSTLY = 0.9
#: Differences below this are noise of the network and the scheduler.
FLOOR_SECONDS = 0.005
#: The same for means of others' transactions: of many, and counted inside the server. More would hide from an application whose
#: transactions take a millisecond that they take one and a half.
MEAN_FLOOR_SECONDS = 0.0002
#: And for the mean of one statement, of which a transaction has several.
STATEMENT_FLOOR_SECONDS = 0.0002
#: Fewer calls tell nothing.
FEWEST_CALLS = 20
#: Statements whose baseline is kept.
STATEMENTS_KEPT = 40


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Recent latency of the canary commit, overall and while none of our batches ran."""

    #: A quantile over the last seconds; None when nothing was measured.
    seconds: float | None
    #: The same of what was done while none of our batches was in flight.
    rested_seconds: float | None = None
    #: How much of it was.
    rested_share: float = 0.0
    #: What a transaction of others took on average; None when it is not known.
    response_seconds: float | None = None


def compare_latency(
    latency: Latency, memory: Memory, *, span: Span | None = None, others: int, elapsed_seconds: float
) -> tuple[Reading, Memory]:
    """How many times slower others are than without us, and the baselines moved towards what was measured at rest.

    The worst of three: what the canary's commits take, what transactions of others take on average, and what their statements
    do, where that is known (`span`, when it was asked just now). Without at least `MIN_OTHERS` sessions of others no application is slowed down.
    """
    memory = replace(
        memory,
        commit_baseline_seconds=_follow(
            memory.commit_baseline_seconds, latency.rested_seconds, rested=latency.rested_share, seconds=elapsed_seconds
        ),
        response_baseline_seconds=_follow(
            memory.response_baseline_seconds,
            latency.response_seconds,
            rested=latency.rested_share,
            seconds=elapsed_seconds,
        ),
    )
    if span is not None:
        memory = _listen(memory, span, rested=latency.rested_share)
    if max(others, memory.others) < MIN_OTHERS:
        return Reading(signal="foreground_latency", value=1.0, detail="no other session is active"), memory
    return max(_slowdowns(latency, memory), key=lambda reading: reading.value or 0.0), memory


def _slowdowns(latency: Latency, memory: Memory) -> list[Reading]:
    """What is known of others' latency, each as a reading."""
    name = "foreground_latency"
    found = [Reading(signal=name, value=1.0, detail="not known yet")]
    if latency.seconds is not None and (baseline := memory.commit_baseline_seconds) is not None:
        detail = f"a small commit takes {latency.seconds * 1000:.1f} ms, {baseline * 1000:.1f} ms without backfilld"
        found.insert(0, Reading(signal=name, value=slowdown(latency.seconds, baseline), detail=detail))
    if (seconds := latency.response_seconds) is not None and (baseline := memory.response_baseline_seconds) is not None:
        detail = f"a transaction of others takes {seconds * 1000:.1f} ms, {baseline * 1000:.1f} ms without backfilld"
        times = slowdown(seconds, baseline, floor=MEAN_FLOOR_SECONDS)
        found.append(Reading(signal=name, value=times, detail=detail))
    detail = "statements of others, compared with their time without backfilld"
    return [*found, Reading(signal=name, value=memory.statements_slowdown, detail=detail)]


def slowdown(seconds: float, baseline: float, *, floor: float = FLOOR_SECONDS) -> float:
    """Times slower than the baseline; what is within the floor is no slowdown, and 1 is the least."""
    return max(1.0, seconds / (baseline + floor))


def _follow(baseline: float | None, measured: float | None, *, rested: float, seconds: float) -> float | None:
    """The baseline after `seconds` of which we rested this part."""
    if measured is None:
        return baseline
    if baseline is None:
        return measured if rested >= MOSTLY else None
    # Beside batches what they cost is latency as well: upwards that counts for little, and downwards for all. It counts for
    # something, or a run that is down to a tenth of its time for a slowness that is not its own would never get out of it.
    weight = rested if measured < baseline else rested**3
    return baseline + (measured - baseline) * (1 - math.exp(-weight * seconds / FOLLOW_SECONDS))


def _listen(memory: Memory, span: Span, *, rested: float) -> Memory:
    """What statements took against their baselines, and the baselines.

    Only a statement that was seen while we rested has one: so a batch of ours is never among them.
    """
    before = memory.statement_baselines
    known = [spent for spent in span.statements if spent.statement in before]
    calls = sum(spent.calls for spent in known)
    expected = sum(spent.calls * (before[spent.statement] + STATEMENT_FLOOR_SECONDS) for spent in known)
    times = sum(spent.seconds for spent in known) / expected if calls >= FEWEST_CALLS else 1.0
    heard = {
        spent.statement: round(
            _follow(before.get(spent.statement), spent.seconds / spent.calls, rested=rested, seconds=span.seconds)
            or 0.0,
            6,
        )
        for spent in (span.statements if rested == 1 else known)
    }
    # Those heard of now come first, where not all can be kept.
    baselines = [*heard.items(), *((name, mean) for name, mean in before.items() if name not in heard)]
    return replace(memory, statements_slowdown=max(1.0, times), statement_baselines=dict(baselines[:STATEMENTS_KEPT]))
