"""Waits that double, with a longest one and a share of chance."""

from __future__ import annotations

import pytest

from backfilld.worker.backoff import Backoff

BACKOFF = Backoff(first_seconds=1.0, longest_seconds=10.0, jitter=0.25)


@pytest.mark.parametrize(("attempt", "seconds"), [(0, 1.0), (1, 2.0), (3, 8.0), (4, 10.0), (10_000, 10.0)])
def test_a_wait_doubles_up_to_the_longest(attempt: int, seconds: float) -> None:
    assert BACKOFF.seconds(attempt, chance=0.5) == seconds


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 1.5), (0.5, 2.0), (1.0, 2.5)])
def test_a_wait_is_shorter_or_longer_by_its_share(chance: float, seconds: float) -> None:
    assert BACKOFF.seconds(1, chance=chance) == seconds
