"""Readings in, verdict out. Pure: no clock, no connection.

The application comes first: any signal past its hard limit holds all work, and so does a signal that could not be read.
Between a signal's limits the pace falls smoothly: fewer lanes, which come back one at a time, shorter batches and longer rests.

How much slower the application got by our work is steered by more than its present value. A lane works a share of its time;
the share shrinks in proportion while others are slowed down, and grows by a little while they are not, as TCP shares a line.
What "slowed down" means is learned: the baseline follows, slowly, what is measured while none of our batches is in flight.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

from backfilld.monitoring.probes.reading import Reading
from backfilld.monitoring.words import counted, signal_name, signal_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.settings import Limit
    from backfilld.monitoring.probes.statements import Span

#: Up slowly: a lane more only when the last one has had time to show in the readings (replay lag lags by seconds).
WIDEN_SECONDS = 3.0
#: A verdict older than this is none: the reader may be dead, and the load with it unseen (as in block/spirit).
STALE_SECONDS = 15.0

#: A lane works at least a tenth of its time: slower than that is a hold, which has a name and a reason.
LEAST_SHARE = 0.1
#: Beside a crowd a run begins with a third of its time. What it costs them shows within seconds, and then it is learned.
POLITE_SHARE = 1 / 3
#: This many sessions of others at once are a load; one alone may be somebody who looks on.
CROWD = 2
#: How long others count as being there after they were last seen: a pause between two requests is not their end.
LEAVE_SECONDS = 10.0
#: The share that is lost in a second at the hard limit of `foreground_latency`; in proportion below it.
BRAKE_PER_SECOND = 0.5
#: The share that comes back in a second, beside others and alone. From least to all in 45 s: slower than a checkpoint passes.
RECOVER_PER_SECOND = 0.02
RECOVER_ALONE_PER_SECOND = 0.1

#: Whoever wants a row of a batch waits for its end: beside others a batch lasts a tenth of a second at most.
SHORT_BATCH_SECONDS = 0.1
#: Shorter batches only cost more: claim, checkpoint and commit take some milliseconds each time.
LEAST_BATCH_SECONDS = 0.05
#: What a run has by default; under pressure the longest batch is a share of it.
USUAL_BATCH_SECONDS = 0.5

#: The baseline comes two thirds closer to what is measured at rest in this time. Long enough to outlast our own after-effects,
#: short enough that a baseline that is not true any more does not hold for minutes.
FOLLOW_SECONDS = 30.0
#: The first baseline wants this much rest.
MOSTLY = 0.9
#: Differences below this are the network's and the scheduler's, whoever works.
FLOOR_SECONDS = 0.005
#: The same for means of others' statements and transactions: of many, and timed inside the server.
MEAN_FLOOR_SECONDS = 0.0005
#: And for the mean of one statement, of which a transaction has several.
STATEMENT_FLOOR_SECONDS = 0.0002
#: Fewer calls tell nothing.
FEWEST_CALLS = 20
#: Statements whose baseline is kept.
STATEMENTS_KEPT = 40


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What something small, done again and again, took lately: all of it, and the part done while we rested."""

    #: A quantile over the last seconds; None when nothing was measured.
    seconds: float | None
    #: The same of what was done while none of our batches was in flight.
    rested_seconds: float | None = None
    #: How much of it was.
    rested_share: float = 0.0
    #: What a transaction of others took on average; None when it is not known.
    response_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What one verdict leaves to the next; kept in the database, so that another worker can go on with it."""

    #: The part of its time a lane may work, before today's signals.
    share: float = 1.0
    #: What a small commit takes while we rest; None until it was measured.
    commit_baseline_seconds: float | None = None
    #: What a transaction of others takes on average while we rest.
    response_baseline_seconds: float | None = None
    #: What each statement of others takes while we rest, by its number in pg_stat_statements.
    statement_baselines: Mapping[str, float] = field(default_factory=dict)
    #: How many times slower than that they were when last asked.
    statements_slowdown: float = 1.0
    #: Sessions of others, and for how long so many were not seen.
    others: int = 0
    others_age_seconds: float = 0.0
    #: The signal that holds.
    hold_signal: str | None = None
    #: The work allowed when it was last told to people, as a share of all.
    told_work: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What an earlier or later release wrote is taken as far as it is understood."""
        return cls(**{field.name: value[field.name] for field in fields(cls) if field.name in value})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How many lanes may work and how hard, and why none may."""

    width: int
    #: The longest a batch may last; None: as long as its run says.
    batch_seconds: float | None
    #: Seconds of rest for each second of work.
    rest: float
    #: The signal that holds, by its name in `Limits` or the operator's; None when work may go on.
    hold_signal: str | None
    #: The same in words, with the value and the limit.
    hold_reason: str | None
    #: What the pace is as it is for, in words, when it is not the full one.
    slow_reason: str | None
    #: Worth an entry in the audit: the work allowed has halved or doubled since that was last told.
    tell: bool
    memory: Memory


def decide(  # noqa: PLR0913 - what a verdict depends on; each is named where it is called
    readings: Sequence[Reading],
    limits: Mapping[str, Limit],
    *,
    memory: Memory,
    others: int,
    working: bool,
    width: int,
    max_width: int,
    elapsed_seconds: float,
    since_widened_seconds: float | None,
) -> Verdict:
    """The pace until the next reading."""
    hold_signal, hold_reason = _hold(readings, limits)
    pressure, pressed_by = _pressure(readings, limits)
    memory = _company(memory, others, elapsed_seconds)
    felt = next((reading for reading in readings if reading.signal == "foreground_latency"), None)
    share = _share(
        memory,
        slowed=_grade(felt, limits) if felt else 0.0,
        well=felt is None or _well(felt, limits),
        hold_signal=hold_signal,
        working=working,
        elapsed_seconds=elapsed_seconds,
    )
    work = max(LEAST_SHARE, share * (1 - pressure))
    narrow = (
        _narrower(width)
        if hold_signal
        else _width(width, max_width, since_widened_seconds, pressure=pressure, share=share)
    )
    allowed = 0.0 if hold_signal else work * narrow / max_width
    tell = hold_signal is None and not (memory.told_work / 2 < allowed < memory.told_work * 2)
    return Verdict(
        width=narrow,
        batch_seconds=_batch_seconds(work, alone=memory.others == 0),
        rest=round(1 / work - 1, 3),
        hold_signal=hold_signal,
        hold_reason=hold_reason,
        slow_reason=_slow_reason(memory, pressed_by, limits, share=share),
        tell=tell,
        memory=replace(memory, share=share, hold_signal=hold_signal, told_work=allowed if tell else memory.told_work),
    )


def feel(
    felt: Latency, memory: Memory, *, span: Span | None = None, others: int, elapsed_seconds: float
) -> tuple[Reading, Memory]:
    """How many times slower others are than without us, and the baselines moved towards what was measured at rest.

    The worst of three: what the canary's commits take, what transactions of others take on average, and what their statements
    do, where that is known (`span`, when it was asked just now). Without a crowd nobody is slowed down.
    """
    memory = replace(
        memory,
        commit_baseline_seconds=_follow(
            memory.commit_baseline_seconds, felt.rested_seconds, rested=felt.rested_share, seconds=elapsed_seconds
        ),
        response_baseline_seconds=_follow(
            memory.response_baseline_seconds, felt.response_seconds, rested=felt.rested_share, seconds=elapsed_seconds
        ),
    )
    if span is not None:
        memory = _listen(memory, span, rested=felt.rested_share)
    if max(others, memory.others) < CROWD:
        return Reading(signal="foreground_latency", value=1.0, detail="nobody else is at work"), memory
    return max(_slowdowns(felt, memory), key=lambda reading: reading.value or 0.0), memory


def _slowdowns(felt: Latency, memory: Memory) -> list[Reading]:
    """What is known of others' latency, each as a reading."""
    name = "foreground_latency"
    found = [Reading(signal=name, value=1.0, detail="not known yet")]
    if felt.seconds is not None and (baseline := memory.commit_baseline_seconds) is not None:
        detail = f"a small commit takes {felt.seconds * 1000:.1f} ms, without us {baseline * 1000:.1f} ms"
        found.insert(0, Reading(signal=name, value=slowdown(felt.seconds, baseline), detail=detail))
    if (seconds := felt.response_seconds) is not None and (baseline := memory.response_baseline_seconds) is not None:
        detail = f"a transaction of others takes {seconds * 1000:.1f} ms, without us {baseline * 1000:.1f} ms"
        times = slowdown(seconds, baseline, floor=MEAN_FLOOR_SECONDS)
        found.append(Reading(signal=name, value=times, detail=detail))
    detail = "statements of others, against what they take without us"
    return [*found, Reading(signal=name, value=memory.statements_slowdown, detail=detail)]


def slowdown(seconds: float, baseline: float, *, floor: float = FLOOR_SECONDS) -> float:
    """Times slower than the baseline; what is within the floor is no slowdown, and 1 is the least."""
    return max(1.0, seconds / (baseline + floor))


def stale(age_seconds: float | None) -> str | None:
    """Why a verdict of this age cannot be trusted, or None."""
    if age_seconds is None:
        return "no load reading yet"
    if age_seconds > STALE_SECONDS:
        return f"no load reading for {age_seconds:.0f} s"
    return None


def _follow(baseline: float | None, measured: float | None, *, rested: float, seconds: float) -> float | None:
    """The baseline after `seconds` of which we rested this share."""
    if measured is None:
        return baseline
    if baseline is None:
        return measured if rested >= MOSTLY else None
    # Beside batches what they cost is felt as well: upwards that counts for little, and downwards for all. It counts for
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


def _hold(readings: Sequence[Reading], limits: Mapping[str, Limit]) -> tuple[str | None, str | None]:
    """The first signal that holds, and why."""
    for reading in readings:
        limit = limits.get(reading.signal)
        if limit is None:
            continue
        if reading.value is None or not math.isfinite(reading.value):
            why = f": {reading.detail}" if reading.detail else ""
            return reading.signal, f"{signal_name(reading.signal)} cannot be read{why}"
        if reading.value >= limit.hard:
            return reading.signal, f"{_told(reading)}, limit {signal_value(reading.signal, limit.hard)}"
    return None, None


def _pressure(readings: Sequence[Reading], limits: Mapping[str, Limit]) -> tuple[float, Reading | None]:
    """From 0, all is below its soft limit, to 1, something is at its hard one; and what that is."""
    worst = max(readings, key=lambda reading: _grade(reading, limits), default=None)
    grade = _grade(worst, limits) if worst else 0.0
    return grade, worst if grade > 0 else None


def _grade(reading: Reading, limits: Mapping[str, Limit]) -> float:
    limit = limits.get(reading.signal)
    if limit is None:
        return 0.0
    if reading.value is None or math.isnan(reading.value):
        return 1.0
    return min(1.0, max(0.0, (reading.value - limit.soft) / (limit.hard - limit.soft)))


def _well(felt: Reading, limits: Mapping[str, Limit]) -> bool:
    # Half-way to the soft limit the share rests where it is: the slowest requests feel more than the average does.
    limit = limits.get(felt.signal)
    return limit is None or (felt.value or 0.0) <= (1 + limit.soft) / 2


def _company(memory: Memory, others: int, elapsed_seconds: float) -> Memory:
    """Others are there until they have not been seen for a while."""
    age = memory.others_age_seconds + elapsed_seconds
    if others >= memory.others or age >= LEAVE_SECONDS:
        return replace(memory, others=others, others_age_seconds=0.0)
    return replace(memory, others_age_seconds=age)


def _share(  # noqa: PLR0913 - what the share depends on; each is named where it is called
    memory: Memory, *, slowed: float, well: bool, hold_signal: str | None, working: bool, elapsed_seconds: float
) -> float:
    share = memory.share
    if hold_signal is not None:
        # Once, as it begins: while nothing works there is nothing to learn. Another signal's hold says nothing of the share.
        if hold_signal == "foreground_latency" and memory.hold_signal is None:
            share /= 2
    elif slowed > 0:
        share *= 1 - min(0.5, BRAKE_PER_SECOND * slowed * elapsed_seconds)
    elif well:
        share += elapsed_seconds * (RECOVER_PER_SECOND if memory.others else RECOVER_ALONE_PER_SECOND)
    if memory.others >= CROWD and not working:
        share = min(
            share, POLITE_SHARE
        )  # what was learned beside nobody, or by another run, does not hold for the next
    return min(1.0, max(LEAST_SHARE, share))


def _width(width: int, max_width: int, since_widened_seconds: float | None, *, pressure: float, share: float) -> int:
    # The share counts for lanes as well, and more: two that work at once are in people's way at once, and one that works twice
    # as long is not. A third of the time is for one lane of eight, half for two.
    ceiling = max(1, min(math.floor(max_width * (1 - pressure)), math.ceil(max_width * share**2)))
    if width > ceiling:
        return ceiling
    may_widen = since_widened_seconds is None or since_widened_seconds >= WIDEN_SECONDS
    return min(width + 1, ceiling) if may_widen else max(1, width)


def _narrower(width: int) -> int:
    # Down fast, but never to nothing: after the hold one lane must be free to find out whether all is well.
    return max(1, width // 2)


def _batch_seconds(work: float, *, alone: bool) -> float | None:
    if not alone:
        return round(max(LEAST_BATCH_SECONDS, SHORT_BATCH_SECONDS * work), 3)
    return None if work >= 1 else round(max(LEAST_BATCH_SECONDS, USUAL_BATCH_SECONDS * work), 3)


def _slow_reason(
    memory: Memory, pressed_by: Reading | None, limits: Mapping[str, Limit], *, share: float
) -> str | None:
    if pressed_by is not None:
        return f"{_told(pressed_by)}, soft limit {signal_value(pressed_by.signal, limits[pressed_by.signal].soft)}"
    if share < 1:
        return (
            f"{share:.0%} duty cycle, because {counted(memory.others, 'other session is', 'other sessions are')} active"
        )
    return None


def _told(reading: Reading) -> str:
    where = f" ({reading.detail})" if reading.detail else ""
    return f"{signal_name(reading.signal)} {signal_value(reading.signal, reading.value or 0.0)}{where}"
