"""Readings in, verdict out: what stops the work, what slows it, and how it comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrations.settings import Limit, Limits
from monitoring.probes import Reading
from worker.throttle import STALE_SECONDS, WIDEN_SECONDS, Verdict, decide, stale

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMITS = Limits()
SIGNALS = sorted(Limits.model_fields)
VALUES = st.one_of(st.none(), st.floats(0, 1e6))
READINGS = st.lists(st.builds(Reading, signal=st.sampled_from(SIGNALS), value=VALUES), max_size=6)
WIDTHS = st.integers(1, 64)
SINCE = st.one_of(st.none(), st.floats(0, 1e4))


def limit(signal: str) -> Limit:
    found: Limit = getattr(LIMITS, signal)
    return found


def calm() -> list[Reading]:
    return [Reading(signal=signal, value=0.0) for signal in SIGNALS]


def verdict(readings: Sequence[Reading], *, width: int = 4, max_width: int = 8, since: float | None = 100.0) -> Verdict:
    return decide(readings, LIMITS, width=width, max_width=max_width, since_widened_seconds=since)


@given(READINGS, WIDTHS, WIDTHS, SINCE)
def test_the_width_stays_within_its_limits(
    readings: list[Reading], width: int, max_width: int, since: float | None
) -> None:
    given_ = verdict(readings, width=width, max_width=max_width, since=since)
    assert given_.width >= 1
    assert given_.width <= max(max_width, width // 2)
    assert given_.width <= width + 1
    assert (given_.hold_signal is None) == (given_.hold_reason is None)


@given(READINGS, WIDTHS)
def test_work_goes_on_only_when_every_signal_is_known_and_below_its_hard_limit(
    readings: list[Reading], width: int
) -> None:
    well = all(reading.value is not None and reading.value < limit(reading.signal).hard for reading in readings)
    assert (verdict(readings, width=width).hold_reason is None) == well


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_signal_that_cannot_be_read_holds(signal: str) -> None:
    held = verdict([*calm(), Reading(signal=signal, value=None, detail="grant pg_monitor")], width=8)
    assert (held.width, held.hold_signal) == (4, signal)
    assert held.hold_reason is not None
    assert "cannot be read: grant pg_monitor" in held.hold_reason


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("factor", [1.0, 1.5, 100.0])
def test_a_signal_at_or_past_its_hard_limit_holds_and_is_named(signal: str, factor: float) -> None:
    held = verdict([*calm(), Reading(signal=signal, value=limit(signal).hard * factor)], width=1)
    assert (held.width, held.hold_signal) == (1, signal)
    assert held.hold_reason is not None
    assert f"limit {limit(signal).hard:g}" in held.hold_reason


@pytest.mark.parametrize("signal", SIGNALS)
def test_between_the_limits_the_width_falls_smoothly(signal: str) -> None:
    soft, hard = limit(signal).soft, limit(signal).hard
    widths = []
    for share in (0.0, 0.24, 0.49, 0.74, 0.99):
        reading = Reading(signal=signal, value=soft + share * (hard - soft))
        widths.append(verdict([*calm(), reading], width=8).width)
    assert widths == [8, 6, 4, 2, 1]


def test_it_comes_back_one_lane_at_a_time() -> None:
    width, since, seen = 1, WIDEN_SECONDS, []
    for _ in range(10):
        given_ = verdict(calm(), width=width, since=since)
        seen.append(given_.width)
        width, since = given_.width, WIDEN_SECONDS
    assert seen == [2, 3, 4, 5, 6, 7, 8, 8, 8, 8]
    assert verdict(calm(), width=3, since=WIDEN_SECONDS - 0.1).width == 3, "the last one has not shown yet"
    assert verdict(calm(), width=3, since=None).width == 4


def test_a_width_of_nothing_is_widened_again() -> None:
    assert verdict(calm(), width=0).width == 1
    assert verdict(calm(), width=0, since=0.0).width == 1


def test_it_goes_down_fast() -> None:
    high = [*calm(), Reading(signal=SIGNALS[0], value=limit(SIGNALS[0]).hard)]
    assert [verdict(high, width=width).width for width in (64, 8, 2, 1)] == [32, 4, 1, 1]


def test_a_narrower_maximum_takes_effect_at_once() -> None:
    assert verdict(calm(), width=8, max_width=2).width == 2


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
    assert stale(age) == reason
