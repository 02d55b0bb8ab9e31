"""Readings in, verdict out. Pure: no clock, no connection.

The application comes first: any signal past its hard limit holds all work, and so does a signal that could not be read.
Between a signal's limits the pace falls smoothly: fewer lanes, which come back one at a time, shorter batches and longer rests.

A lane works for a part of its time, its duty cycle, which is steered by how much slower the application got by our work. It
shrinks in proportion while others are slowed down, and grows by a little while they are not, as TCP shares a line.
What "slowed down" means is learned: the baseline follows, slowly, what is measured while none of our batches is in flight.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

from backfilld.migrations.record.pace import MIN_OTHERS
from backfilld.monitoring.words import counted, signal_name, signal_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.settings import Limit
    from backfilld.monitoring.probes.reading import Reading

#: Up slowly: a lane more only when the last one has had time to show in the readings (replay lag lags by seconds).
WIDEN_SECONDS = 3.0
#: A lane works at least a tenth of its time: slower than that is a hold, which has a name and a reason.
LEAST_DUTY_CYCLE = 0.1
#: While other sessions are active a run begins with a fifth of its time. What it costs them shows within seconds, and then it is
#: learned. A third made an application's p99 1.6 times as long on two processors (docs/benchmarks).
DUTY_CYCLE_BESIDE_OTHERS = 0.2
#: How long others count as being there after they were last seen: a pause between two requests is not their end.
LEAVE_SECONDS = 10.0
#: The part of the duty cycle that is lost in a second at the hard limit of `foreground_latency`; in proportion below it.
BRAKE_PER_SECOND = 0.5
#: What comes back of it in a second, while other sessions are active and while none is. From least to all in 90 s: slower than a
#: checkpoint passes, and slowly enough that it settles where an application's p99 hardly feels it, not only its mean.
RECOVER_PER_SECOND = 0.01
RECOVER_ALONE_PER_SECOND = 0.1

#: Whoever wants a row of a batch waits for its end: beside others a batch lasts a tenth of a second at most.
SHORT_BATCH_SECONDS = 0.1
#: Beside an application it lasts less still: what it takes from everybody, a processor and the disk's attention, is gone before a
#: transaction is late by it. Not shorter: a batch costs 4 to 10 ms before its first row, and one of 10 ms changes an eighth of
#: the rows in the same time.
BURST_SECONDS = 0.025
#: With nobody beside them shorter batches only cost more: claim, checkpoint and commit take some milliseconds each time.
LEAST_BATCH_SECONDS = 0.05
#: What a run has by default; under pressure the longest batch is a part of it.
USUAL_BATCH_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What one verdict leaves to the next; kept in the database, so that another worker can continue with it."""

    #: The part of its time a lane may work, before today's signals.
    duty_cycle: float = 1.0
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
    #: The work allowed when it was last reported, as a part of all.
    last_reported_work: float = 1.0

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
    #: The signal that holds, by its name in `Limits` or the operator's; None when work may continue.
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
    had_others = memory.others >= MIN_OTHERS
    memory = _others_present(memory, others, elapsed_seconds)
    latency = next((reading for reading in readings if reading.signal == "foreground_latency"), None)
    duty_cycle = _duty_cycle(
        memory,
        slowed=_grade(latency, limits) if latency else 0.0,
        well=latency is None or _well(latency, limits),
        hold_signal=hold_signal,
        has_learned=working and had_others,
        elapsed_seconds=elapsed_seconds,
    )
    work = max(LEAST_DUTY_CYCLE, duty_cycle * (1 - pressure))
    narrow = (
        _narrower(width)
        if hold_signal
        else _width(width, max_width, since_widened_seconds, pressure=pressure, duty_cycle=duty_cycle)
    )
    allowed = 0.0 if hold_signal else work * narrow / max_width
    tell = hold_signal is None and not (memory.last_reported_work / 2 < allowed < memory.last_reported_work * 2)
    return Verdict(
        width=narrow,
        batch_seconds=_batch_seconds(work, others=memory.others),
        rest=round(1 / work - 1, 3),
        hold_signal=hold_signal,
        hold_reason=hold_reason,
        slow_reason=_slow_reason(memory, pressed_by, limits, duty_cycle=duty_cycle),
        tell=tell,
        memory=replace(
            memory,
            duty_cycle=duty_cycle,
            hold_signal=hold_signal,
            last_reported_work=allowed if tell else memory.last_reported_work,
        ),
    )


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


def _well(latency: Reading, limits: Mapping[str, Limit]) -> bool:
    # Half-way to the soft limit the duty cycle stays: the slowest requests suffer more than the average does.
    limit = limits.get(latency.signal)
    return limit is None or (latency.value or 0.0) <= (1 + limit.soft) / 2


def _others_present(memory: Memory, others: int, elapsed_seconds: float) -> Memory:
    """Others are there until they have not been seen for a while."""
    age = memory.others_age_seconds + elapsed_seconds
    if others >= memory.others or age >= LEAVE_SECONDS:
        return replace(memory, others=others, others_age_seconds=0.0)
    return replace(memory, others_age_seconds=age)


def _duty_cycle(  # noqa: PLR0913 - what the duty cycle depends on; each is named where it is called
    memory: Memory, *, slowed: float, well: bool, hold_signal: str | None, has_learned: bool, elapsed_seconds: float
) -> float:
    duty_cycle = memory.duty_cycle
    if hold_signal is not None:
        # Once, as it begins: while nothing works there is nothing to learn. Another signal's hold says nothing of it.
        if hold_signal == "foreground_latency" and memory.hold_signal is None:
            duty_cycle /= 2
    elif slowed > 0:
        duty_cycle *= 1 - min(0.5, BRAKE_PER_SECOND * slowed * elapsed_seconds)
    elif well:
        duty_cycle += elapsed_seconds * (RECOVER_PER_SECOND if memory.others else RECOVER_ALONE_PER_SECOND)
    if memory.others >= MIN_OTHERS and not has_learned:
        duty_cycle = min(
            duty_cycle, DUTY_CYCLE_BESIDE_OTHERS
        )  # what was learned without other sessions, or by another run, does not hold for the next
    return min(1.0, max(LEAST_DUTY_CYCLE, duty_cycle))


def _width(
    width: int, max_width: int, since_widened_seconds: float | None, *, pressure: float, duty_cycle: float
) -> int:
    # The duty cycle counts for lanes as well, and more: two that work at once take both processors of a small server at once, and
    # one that works twice as long does not. Up to half of the time is for one lane of eight, two thirds for three.
    ceiling = max(1, min(math.floor(max_width * (1 - pressure)), math.ceil(max_width * duty_cycle**3)))
    if width > ceiling:
        return ceiling
    may_widen = since_widened_seconds is None or since_widened_seconds >= WIDEN_SECONDS
    return min(width + 1, ceiling) if may_widen else max(1, width)


def _narrower(width: int) -> int:
    # Down fast, but never to nothing: after the hold one lane must be free to find out whether all is well.
    return max(1, width // 2)


def _batch_seconds(work: float, *, others: int) -> float | None:
    if others >= MIN_OTHERS:
        return BURST_SECONDS
    if others:
        return round(max(LEAST_BATCH_SECONDS, SHORT_BATCH_SECONDS * work), 3)
    return None if work >= 1 else round(max(LEAST_BATCH_SECONDS, USUAL_BATCH_SECONDS * work), 3)


def _slow_reason(
    memory: Memory, pressed_by: Reading | None, limits: Mapping[str, Limit], *, duty_cycle: float
) -> str | None:
    if pressed_by is not None:
        return f"{_told(pressed_by)}, soft limit {signal_value(pressed_by.signal, limits[pressed_by.signal].soft)}"
    if duty_cycle < 1:
        return f"{duty_cycle:.0%} duty cycle, because {counted(memory.others, 'other session is', 'other sessions are')} active"
    return None


def _told(reading: Reading) -> str:
    where = f" ({reading.detail})" if reading.detail else ""
    return f"{signal_name(reading.signal)} {signal_value(reading.signal, reading.value or 0.0)}{where}"
