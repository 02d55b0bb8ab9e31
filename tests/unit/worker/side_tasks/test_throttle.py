"""Readings in, verdict out: what stops the work, what slows it, and how it comes back."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfilld.migrations.holds import STALE_SECONDS, blind_because
from backfilld.migrations.record.pace import MIN_OTHERS
from backfilld.migrations.settings import Limit, Limits, limits_by_name
from backfilld.monitoring.probes import Reading, Span, Spent
from backfilld.worker.side_tasks.baseline import (
    FLOOR_SECONDS,
    MEAN_FLOOR_SECONDS,
    STATEMENTS_KEPT,
    Latency,
    compare_latency,
    slowdown,
)
from backfilld.worker.side_tasks.throttle import (
    BURST_SECONDS,
    DUTY_CYCLE_BESIDE_OTHERS,
    LEAST_DUTY_CYCLE,
    LEAVE_SECONDS,
    SHORT_BATCH_SECONDS,
    WIDEN_SECONDS,
    Memory,
    Verdict,
    decide,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMITS = limits_by_name(Limits(wal_bytes_per_second=Limit(soft=1e6, hard=1e8)))
SIGNALS = sorted(LIMITS)
VALUES = st.one_of(st.none(), st.floats(0, 1e12), st.just(float("nan")), st.just(float("inf")))
READINGS = st.lists(st.builds(Reading, signal=st.sampled_from(SIGNALS), value=VALUES), max_size=6)
WIDTHS = st.integers(1, 64)
SINCE = st.one_of(st.none(), st.floats(0, 1e4))
MEMORIES = st.builds(
    Memory,
    duty_cycle=st.floats(LEAST_DUTY_CYCLE, 1),
    commit_baseline_seconds=st.one_of(st.none(), st.floats(0, 10)),
    response_baseline_seconds=st.one_of(st.none(), st.floats(0, 10)),
    others=st.integers(0, 100),
    others_age_seconds=st.floats(0, 10),
    hold_signal=st.one_of(st.none(), st.sampled_from(SIGNALS)),
    statement_baselines=st.dictionaries(st.text("0123456789", min_size=1), st.floats(0, 10), max_size=5),
    statements_slowdown=st.floats(1, 10),
    last_reported_work=st.floats(0, 1),
)


def calm() -> list[Reading]:
    return [Reading(signal=signal, value=0.0) for signal in SIGNALS]


def with_value(signal: str, value: float | None, detail: str = "") -> list[Reading]:
    """All is calm but for one signal."""
    return [
        *(reading for reading in calm() if reading.signal != signal),
        Reading(signal=signal, value=value, detail=detail),
    ]


def verdict(readings: Sequence[Reading], **changed: Any) -> Verdict:  # Any: arguments of `decide`
    arguments: dict[str, Any] = {
        "memory": Memory(),
        "others": 0,
        "working": True,
        "width": 4,
        "max_width": 8,
        "elapsed_seconds": 1.0,
        "since_widened_seconds": 100.0,
    }
    return decide(readings, LIMITS, **(arguments | changed))


def between(signal: str, share: float) -> float:
    limit = LIMITS[signal]
    return limit.soft + share * (limit.hard - limit.soft)


# --- limits and holds --------------------------------------------------------------------------------------------------


@given(READINGS, WIDTHS, WIDTHS, SINCE, MEMORIES, st.integers(0, 100), st.booleans(), st.floats(0, STALE_SECONDS))
def test_the_pace_stays_within_its_limits(
    readings: list[Reading],
    width: int,
    max_width: int,
    since: float | None,
    memory: Memory,
    others: int,
    working: bool,  # noqa: FBT001 - hypothesis gives it
    elapsed: float,
) -> None:
    given_ = verdict(
        readings, width=width, max_width=max_width, since_widened_seconds=since, memory=memory, others=others,
        working=working, elapsed_seconds=elapsed,
    )  # fmt: skip
    assert 1 <= given_.width <= min(width + 1, max(max_width, width // 2))
    assert 0 <= given_.rest <= 1 / LEAST_DUTY_CYCLE
    assert given_.batch_seconds is None or given_.batch_seconds >= BURST_SECONDS
    assert LEAST_DUTY_CYCLE <= given_.memory.duty_cycle <= 1
    assert (given_.hold_signal is None) == (given_.hold_reason is None)
    if others:
        assert given_.batch_seconds is not None
        assert given_.batch_seconds <= SHORT_BATCH_SECONDS
    assert Memory.from_json(given_.memory.to_json()) == given_.memory


@given(READINGS, WIDTHS)
def test_work_goes_on_only_when_every_signal_is_known_and_below_its_hard_limit(
    readings: list[Reading], width: int
) -> None:
    well = all(reading.value is not None and reading.value < LIMITS[reading.signal].hard for reading in readings)
    assert (verdict(readings, width=width).hold_reason is None) == well


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_signal_that_cannot_be_read_holds_and_says_nothing_of_the_share(signal: str) -> None:
    held = verdict(with_value(signal, None, "grant pg_monitor"), width=8, memory=Memory(duty_cycle=0.7))
    assert (held.width, held.hold_signal, held.memory.hold_signal) == (4, signal, signal)
    assert held.hold_reason is not None
    assert "cannot be read: grant pg_monitor" in held.hold_reason
    if signal != "foreground_latency":
        assert held.memory.duty_cycle == 0.7


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("factor", [1.0, 1.5, 100.0])
def test_a_signal_at_or_past_its_hard_limit_holds_and_is_named(signal: str, factor: float) -> None:
    held = verdict(with_value(signal, LIMITS[signal].hard * factor, "the detail"), width=1)
    assert (held.width, held.hold_signal) == (1, signal)
    assert held.hold_reason is not None
    assert "(the detail), limit" in held.hold_reason


@pytest.mark.parametrize(
    ("signal", "value", "words"),
    [
        ("replica_lag_seconds", 42.0, ("42 s", "30 s")),
        ("slot_retained_bytes", 9 * 2.0**30, ("9.0 GB", "8.0 GB")),
        ("wal_bytes_per_second", 2e8, ("191 MB/s", "95 MB/s")),
        ("dead_tuples", 0.8, ("0.8", "0.75")),
    ],
)
def test_the_reason_names_the_value_and_the_limit_in_the_units_of_every_other_text(
    signal: str, value: float, words: tuple[str, str]
) -> None:
    reason = verdict(with_value(signal, value, "d")).hold_reason
    assert reason is not None
    assert all(word in reason for word in (*words, "(d)"))


def test_a_signal_without_a_limit_is_not_judged() -> None:
    assert decide(
        [Reading(signal="replica_lag_seconds", value=None)], {}, memory=Memory(), others=0, working=False, width=2,
        max_width=8, elapsed_seconds=1, since_widened_seconds=0,
    ).hold_reason is None  # fmt: skip


# --- between the limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", SIGNALS)
def test_between_the_limits_the_pace_falls_smoothly(signal: str) -> None:
    grades = (0.0, 0.24, 0.49, 0.74, 0.99)
    given_ = [verdict(with_value(signal, between(signal, grade)), width=8) for grade in grades]
    assert [one.width for one in given_] == [8, 6, 4, 2, 1]
    rests, batches = [one.rest for one in given_], [one.batch_seconds or 0.5 for one in given_]
    assert rests[0] == 0
    assert given_[0].batch_seconds is None
    assert rests == sorted(rests)
    assert batches == sorted(batches, reverse=True)
    assert all(one.slow_reason and "soft limit" in one.slow_reason for one in given_[1:])


@given(st.sampled_from(SIGNALS), st.floats(0, 0.999), st.floats(0, 0.999))
def test_more_pressure_never_means_more_work(signal: str, one: float, other: float) -> None:
    low, high = (verdict(with_value(signal, between(signal, grade)), width=8) for grade in sorted((one, other)))
    assert high.width <= low.width
    assert high.rest >= low.rest
    assert (high.batch_seconds or 0.5) <= (low.batch_seconds or 0.5)


def test_it_comes_back_one_lane_at_a_time() -> None:
    width, seen = 1, []
    for _ in range(10):
        width = verdict(calm(), width=width, since_widened_seconds=WIDEN_SECONDS).width
        seen.append(width)
    assert seen == [2, 3, 4, 5, 6, 7, 8, 8, 8, 8]
    assert verdict(calm(), width=3, since_widened_seconds=WIDEN_SECONDS - 0.1).width == 3, "the last has not shown yet"
    assert verdict(calm(), width=3, since_widened_seconds=None).width == 4


def test_a_width_of_nothing_is_widened_again() -> None:
    assert verdict(calm(), width=0).width == 1
    assert verdict(calm(), width=0, since_widened_seconds=0.0).width == 1


def test_it_goes_down_fast() -> None:
    high = with_value("replica_lag_seconds", LIMITS["replica_lag_seconds"].hard)
    assert [verdict(high, width=width).width for width in (64, 8, 2, 1)] == [32, 4, 1, 1]


def test_a_narrower_maximum_takes_effect_at_once() -> None:
    assert verdict(calm(), width=8, max_width=2).width == 2


@given(MEMORIES, st.integers(0, 100), WIDTHS)
def test_it_always_recovers_when_the_readings_are_good(memory: Memory, others: int, width: int) -> None:
    """Wherever it stood: within a minute all of the pace is back."""
    memory = replace(memory, others=min(memory.others, others))
    for second in range(90):
        given_ = verdict(
            calm(), memory=memory, others=others, width=width, max_width=20, since_widened_seconds=3.0 * (second % 3)
        )
        memory, width = given_.memory, given_.width
    assert given_.hold_reason is None
    assert (given_.width, given_.rest) == (20, 0)
    assert given_.batch_seconds == (BURST_SECONDS if others >= MIN_OTHERS else SHORT_BATCH_SECONDS if others else None)


# --- beside others -----------------------------------------------------------------------------------------------------


def test_beside_others_a_batch_is_short_from_the_start() -> None:
    """Whoever wants one of its rows waits for its end."""
    assert verdict(calm(), others=0).batch_seconds is None
    beside = verdict(calm(), others=1)
    assert (beside.batch_seconds, beside.rest) == (SHORT_BATCH_SECONDS, 0)


def test_an_application_that_comes_while_a_run_is_at_work_finds_it_as_one_that_was_there() -> None:
    """What a run took while it was alone was not learned beside anybody."""
    alone = verdict(calm(), others=0, memory=Memory(duty_cycle=1.0)).memory
    comes = verdict(calm(), others=MIN_OTHERS, width=8, memory=alone)
    assert (comes.memory.duty_cycle, comes.width) == (DUTY_CYCLE_BESIDE_OTHERS, 1)
    stays = verdict(calm(), others=MIN_OTHERS, memory=comes.memory)
    assert stays.memory.duty_cycle > DUTY_CYCLE_BESIDE_OTHERS


@pytest.mark.parametrize("duty_cycle", [LEAST_DUTY_CYCLE, 0.5, 1.0])
def test_beside_an_application_a_batch_is_a_burst_however_long_it_rests(duty_cycle: float) -> None:
    """Its rests make the pace; longer ones after longer batches would make some of its transactions wait for long."""
    beside = verdict(calm(), others=MIN_OTHERS, memory=Memory(duty_cycle=duty_cycle, others=MIN_OTHERS))
    assert beside.batch_seconds == BURST_SECONDS


def test_beside_a_crowd_a_run_begins_with_one_lane_and_a_fifth_of_its_time() -> None:
    idle = verdict(calm(), others=MIN_OTHERS, working=False)
    assert idle.memory.duty_cycle == DUTY_CYCLE_BESIDE_OTHERS
    assert idle.rest == pytest.approx(4)
    assert idle.width == 1
    assert idle.slow_reason is not None
    assert ("20%" in idle.slow_reason, "2 other sessions are" in idle.slow_reason) == (True, True)
    alone = verdict(calm(), others=1, memory=Memory(duty_cycle=0.5, others=1)).slow_reason
    assert alone is not None
    assert "1 other session is" in alone
    begun = verdict(calm(), others=MIN_OTHERS, working=True, memory=idle.memory)
    assert begun.memory.duty_cycle > DUTY_CYCLE_BESIDE_OTHERS


@pytest.mark.parametrize(
    ("duty_cycle", "lanes"), [(0.1, 1), (0.34, 1), (0.5, 1), (0.51, 2), (0.66, 3), (0.9, 6), (1.0, 8)]
)
def test_beside_others_a_second_lane_comes_only_when_one_has_half_of_its_time(duty_cycle: float, lanes: int) -> None:
    """Two batches at once hold both processors of a small server."""
    reading = with_value("foreground_latency", 1.2)  # neither slowed down nor well: the duty cycle stays
    beside = verdict(reading, others=4, width=8, memory=Memory(duty_cycle=duty_cycle, others=4))
    assert (beside.memory.duty_cycle, beside.width) == (duty_cycle, lanes)


def test_others_are_there_until_they_have_not_been_seen_for_a_while() -> None:
    memory = verdict(calm(), others=3).memory
    for _ in range(int(LEAVE_SECONDS) - 1):
        memory = verdict(calm(), others=0, memory=memory).memory
        assert memory.others == 3
    assert verdict(calm(), others=0, memory=memory).memory.others == 0


def test_a_slowed_foreground_takes_time_from_the_lanes_and_gives_it_back_slowly() -> None:
    slowed = with_value("foreground_latency", between("foreground_latency", 0.5))
    shares = [1.0]
    memory = Memory(others=4)
    for readings in (*[slowed] * 4, *[calm()] * 4):
        memory = verdict(readings, memory=memory, others=4).memory
        shares.append(memory.duty_cycle)
    down, up = shares[:5], shares[4:]
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)
    assert down[0] - down[1] > 5 * (up[1] - up[0])


def test_near_the_soft_limit_the_share_rests_where_it_is() -> None:
    """The slowest requests compare_latency more than the average does."""
    memory = Memory(duty_cycle=0.5, others=4)
    assert verdict(with_value("foreground_latency", 1.2), memory=memory, others=4).memory.duty_cycle == 0.5
    assert verdict(with_value("foreground_latency", 1.1), memory=memory, others=4).memory.duty_cycle > 0.5


def test_other_signals_leave_nothing_behind() -> None:
    """A dump that runs for an hour slows the work as long as it runs; it does not grind it down."""
    memory = Memory()
    for _ in range(3600):
        memory = verdict(with_value("snapshot_age_seconds", between("snapshot_age_seconds", 0.1)), memory=memory).memory
    assert memory.duty_cycle == 1


def test_a_hold_for_the_foreground_halves_the_share_once() -> None:
    held = with_value("foreground_latency", 100.0)
    memory = Memory(duty_cycle=0.8, others=4)
    for _ in range(30):
        memory = verdict(held, memory=memory, others=4).memory
    assert memory.duty_cycle == 0.4


def test_only_a_change_that_matters_is_told() -> None:
    memory, told = Memory(), 0
    for tick in range(200):
        given_ = verdict(with_value("replica_lag_seconds", 5 + tick % 3), width=8, memory=memory)
        told, memory = told + given_.tell, given_.memory
    assert told == 0
    assert verdict(with_value("replica_lag_seconds", 20.0), width=8, memory=memory).tell


# --- the baseline ------------------------------------------------------------------------------------------------------


def latency(seconds: float, rested: float | None = None, share: float = 1.0) -> Latency:
    return Latency(seconds=seconds, rested_seconds=rested, rested_share=share if rested is not None else 0.0)


def test_what_is_within_the_floor_is_no_slowdown() -> None:
    assert slowdown(0.0009 + FLOOR_SECONDS, 0.001) == 1
    assert slowdown(4 * (0.002 + FLOOR_SECONDS), 0.002) == pytest.approx(4)
    assert slowdown(0.03, 0.01, floor=0.0) == pytest.approx(3)


def test_a_baseline_is_learned_at_rest_and_kept_while_we_work() -> None:
    reading, memory = compare_latency(latency(0.05), Memory(), others=MIN_OTHERS, elapsed_seconds=1)
    assert (reading.value, memory.commit_baseline_seconds) == (1, None)
    reading, memory = compare_latency(latency(0.01, 0.01), memory, others=MIN_OTHERS, elapsed_seconds=1)
    assert (reading.value, memory.commit_baseline_seconds) == (1, 0.01)
    reading, memory = compare_latency(latency(0.045), memory, others=MIN_OTHERS, elapsed_seconds=10)
    assert reading.value == pytest.approx(3)
    assert memory.commit_baseline_seconds == 0.01
    assert reading.detail == "a small commit takes 45.0 ms, 10.0 ms without backfilld"


def test_nobody_is_slowed_down_where_nobody_is() -> None:
    memory = Memory(commit_baseline_seconds=0.01)
    for few in range(MIN_OTHERS):
        assert compare_latency(latency(1.0), memory, others=few, elapsed_seconds=1)[0].value == 1
    assert compare_latency(latency(1.0), memory, others=MIN_OTHERS, elapsed_seconds=1)[0].value != 1
    assert compare_latency(latency(1.0), replace(memory, others=2), others=0, elapsed_seconds=1)[0].value != 1


def test_a_stale_baseline_does_not_hold_for_ever() -> None:
    """The disk has become ten times slower, and not for us: while we are held the baseline learns it."""
    memory, value, seconds = Memory(commit_baseline_seconds=0.01, others=4), 100.0, 0
    while value >= LIMITS["foreground_latency"].hard:
        reading, memory = compare_latency(latency(0.1, 0.1), memory, others=4, elapsed_seconds=1)
        value, seconds = reading.value or 0.0, seconds + 1
    assert 5 <= seconds <= 30


def test_short_gaps_between_batches_raise_the_baseline_hardly_and_lower_it_soon() -> None:
    def after(rested: float, share: float) -> float:
        memory = Memory(commit_baseline_seconds=0.02)
        for _ in range(30):
            _, memory = compare_latency(latency(0.1, rested, share), memory, others=1, elapsed_seconds=1)
        assert memory.commit_baseline_seconds is not None
        return memory.commit_baseline_seconds

    assert after(0.1, 0.25) < 0.022
    assert after(0.1, 1.0) > 0.06
    assert after(0.01, 0.25) < 0.018


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=50))
def test_the_baseline_stays_within_what_was_measured(samples: list[tuple[float, float, float]]) -> None:
    memory, samples = Memory(), [(0.5, 0.5, 1.0), *samples]
    for seconds, rested, share in samples:
        reading, memory = compare_latency(latency(seconds, rested, share), memory, others=1, elapsed_seconds=1)
        assert reading.value is not None
        assert reading.value >= 1
    assert memory.commit_baseline_seconds is not None
    measured = [rested for _, rested, _ in samples]
    assert min(measured) - 1e-9 <= memory.commit_baseline_seconds <= max(measured) + 1e-9


def test_transactions_of_others_are_compared_with_what_they_took_at_rest() -> None:
    """Which tells of row locks and of the processor, as a small commit cannot."""
    rest = Latency(seconds=0.001, rested_seconds=0.001, rested_share=1.0, response_seconds=0.004)
    reading, memory = compare_latency(rest, Memory(), others=4, elapsed_seconds=1)
    assert (reading.value, memory.response_baseline_seconds) == (1, 0.004)
    work = replace(rest, rested_share=0.1, response_seconds=0.010)
    reading, after = compare_latency(work, memory, others=4, elapsed_seconds=1)
    assert reading.value == pytest.approx(0.010 / (0.004 + MEAN_FLOOR_SECONDS), rel=0.01)
    assert reading.detail == "a transaction of others takes 10.0 ms, 4.0 ms without backfilld"
    assert after.response_baseline_seconds == pytest.approx(0.004, rel=0.001)
    assert compare_latency(work, Memory(), others=4, elapsed_seconds=1)[1].response_baseline_seconds is None


def test_a_run_that_is_down_to_a_tenth_for_no_fault_of_its_own_gets_out_of_it() -> None:
    """The application has become slower by itself: a lane that works a tenth of its time lets the baseline learn it."""
    slow = Latency(seconds=0.001, rested_seconds=0.001, rested_share=0.9, response_seconds=0.010)
    memory = Memory(response_baseline_seconds=0.004, duty_cycle=LEAST_DUTY_CYCLE, others=4)
    seconds = 0
    while memory.duty_cycle < 1 and seconds < 300:
        seconds += 1
        reading, memory = compare_latency(slow, memory, others=4, elapsed_seconds=1)
        memory = verdict([reading], memory=memory, others=4).memory
    assert 30 <= seconds <= 200


def span(*statements: tuple[str, int, float], seconds: float = 3.0) -> Span:
    return Span(
        seconds=seconds,
        statements=tuple(Spent(statement=name, calls=calls, seconds=calls * mean) for name, calls, mean in statements),
    )


REST = Latency(seconds=0.001, rested_seconds=0.001, rested_share=1.0)
WORK = Latency(seconds=0.001)


def test_statements_of_others_are_compared_with_what_they_took_at_rest() -> None:
    app = span(("1", 300, 0.002), ("2", 300, 0.010))
    reading, memory = compare_latency(REST, Memory(), span=app, others=4, elapsed_seconds=1)
    assert reading.value == 1
    assert memory.statement_baselines == {"1": 0.002, "2": 0.010}
    slow = span(("1", 300, 0.0064), ("2", 300, 0.0184))
    reading, memory = compare_latency(WORK, memory, span=slow, others=4, elapsed_seconds=1)
    assert reading.value == pytest.approx(2)
    assert "statements of others" in reading.detail
    assert memory.statement_baselines == {"1": 0.002, "2": 0.010}, "we did not rest"
    again, memory = compare_latency(WORK, memory, others=4, elapsed_seconds=1)
    assert again.value == reading.value, "until they are asked again"
    assert compare_latency(WORK, memory, span=app, others=4, elapsed_seconds=1)[0].value == 1


def test_a_statement_never_seen_at_rest_counts_for_nothing() -> None:
    """As our own batches: long, and run only while we work."""
    _, memory = compare_latency(REST, Memory(), span=span(("1", 300, 0.002)), others=4, elapsed_seconds=1)
    reading, _ = compare_latency(
        WORK, memory, span=span(("1", 300, 0.002), ("ours", 300, 0.1)), others=4, elapsed_seconds=1
    )
    assert reading.value == 1


def test_few_calls_tell_nothing() -> None:
    _, memory = compare_latency(REST, Memory(), span=span(("1", 300, 0.002)), others=4, elapsed_seconds=1)
    assert compare_latency(WORK, memory, span=span(("1", 3, 9.0)), others=4, elapsed_seconds=1)[0].value == 1


def test_the_baselines_of_statements_are_bounded_and_follow_at_rest() -> None:
    memory = Memory()
    for number in range(200):
        _, memory = compare_latency(
            REST, memory, span=span((str(number), 10, 0.1), ("1", 9, 1.0)), others=1, elapsed_seconds=1
        )
    assert len(memory.statement_baselines) == STATEMENTS_KEPT
    assert "199" in memory.statement_baselines
    assert memory.statement_baselines["1"] == pytest.approx(1.0, abs=0.01)


# --- the loop ----------------------------------------------------------------------------------------------------------


class Simulated:
    """A database whose commits slow down with our work, and whose standby falls behind it.

    `room` is the work it bears beside the application's: at that much, commits take twice as long. The standby replays
    `replay` lanes' work; what is more piles up, and the lag is latency late.
    """

    def __init__(self, *, room: float, replay: float, delay: int = 3) -> None:
        self.room, self.replay = room, replay
        self.backlog = 0.0
        self.past = [0.0] * (delay + 1)
        self.works: list[float] = []
        self.holds: list[str | None] = []
        self.slowdowns: list[float] = []
        self.memory = Memory(commit_baseline_seconds=0.01, others=4)
        self.width, self.since_widened = 2, 0.0

    def tick(self) -> None:
        working = self.past[-1]
        self.backlog = max(0.0, self.backlog + working - self.replay)
        lag = self.backlog / self.replay
        commit = 0.01 * (1 + (working / self.room) ** 2)
        reading, self.memory = compare_latency(
            Latency(seconds=commit, rested_seconds=0.01, rested_share=0.1), self.memory, others=4, elapsed_seconds=1
        )
        readings = [reading, Reading(signal="replica_lag_seconds", value=lag)]
        given_ = decide(
            readings, LIMITS, memory=self.memory, others=4, working=True, width=self.width, max_width=8,
            elapsed_seconds=1, since_widened_seconds=self.since_widened,
        )  # fmt: skip
        self.since_widened = 0.0 if given_.width > self.width else self.since_widened + 1
        self.memory, self.width = given_.memory, given_.width
        self.works.append(0.0 if given_.hold_signal else given_.width / (1 + given_.rest))
        self.past = [*self.past[1:], self.works[-1]]
        self.holds.append(given_.hold_signal)
        self.slowdowns.append(reading.value or 0.0)


@pytest.mark.parametrize("room", [0.5, 1.0, 2.0, 4.0, 100.0])
@pytest.mark.parametrize("replay", [1.0, 3.0, 100.0])
def test_the_loop_settles(room: float, replay: float) -> None:
    """After two minutes it holds no more, works as much as can be borne, and goes up and down by little."""
    database = Simulated(room=room, replay=replay)
    for _ in range(600):
        database.tick()
    late = database.works[300:]
    assert not any(database.holds[120:])
    mean = sum(late) / len(late)
    assert max(late) <= 2 * mean + 0.2
    assert min(late) >= mean / 3
    # What is borne: the work at which the slowdown reaches its soft limit, what the standby replays, or all there is.
    bearable = min(0.75 * room, replay, 8.0)
    assert mean >= 0.4 * bearable
    assert sum(database.slowdowns[300:]) / 300 <= 1.4


@given(st.lists(st.floats(0.2, 10), min_size=10, max_size=60))
def test_it_never_oscillates_without_bound(rooms: list[float]) -> None:
    """Whatever the load does: from one verdict to the next work no more than doubles, but for the first few lanes."""
    database = Simulated(room=1, replay=100)
    for room in rooms:
        database.room = room
        database.tick()
    for before, after in itertools.pairwise(database.works):
        assert after <= 2 * before + 3


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        (None, "no load reading yet"),
        (0.0, None),
        (STALE_SECONDS, None),
        (STALE_SECONDS + 5, f"no load reading for {STALE_SECONDS + 5:.0f} s"),
    ],
)
def test_a_verdict_grows_old(age: float | None, reason: str | None) -> None:
    assert blind_because(age) == reason
