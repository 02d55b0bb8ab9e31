"""From the position of a standby to its lag in seconds."""

from __future__ import annotations

from typing import Any

import pytest

from backfilld.monitoring.probes import History, replica_lag


def _row(**columns: Any) -> dict[str, Any]:  # Any: a row of the query
    return {
        "at": 100.0,
        "wal": 5000,
        "pid": 1,
        "standby": "s1",
        "state": "streaming",
        "replayed": 5000,
        "replay_lag_seconds": None,
    } | columns


def test_seconds_behind_are_counted_from_when_the_wal_first_passed_the_position() -> None:
    history = History(60)
    for at, wal in [(10.0, 100), (11.0, 200), (12.0, 300)]:
        history.add(at, wal)
    assert history.seconds_behind(300, 20.0) == 0
    assert history.seconds_behind(299, 20.0) == 8
    assert history.seconds_behind(100, 20.0) == 9
    assert history.seconds_behind(99, 20.0) == 10


def test_an_idle_database_does_not_make_its_wal_younger() -> None:
    history = History(60)
    for at in (10.0, 50.0, 5000.0):
        history.add(at, 100)
    assert history.seconds_behind(99, 5000.0) == 4990


def test_the_history_is_bounded_and_still_tells_beyond_from_within() -> None:
    history = History(60)
    for second in range(10_000):
        history.add(float(second), second)
    assert len(history._samples) <= 62
    assert history.seconds_behind(0, 9_999.0) >= 60
    assert history.seconds_behind(9_989, 9_999.0) == 9


def test_a_wal_that_went_backwards_is_another_servers() -> None:
    history = History(60)
    history.add(10.0, 5000)
    history.add(11.0, 100)
    assert history.seconds_behind(50, 12.0) == 1


@pytest.mark.parametrize(
    ("rows", "value", "words"),
    [
        ([_row(pid=None, standby=None, state=None, replayed=None)], 0.0, "no standby"),
        ([_row()], 0.0, "s1 is 0.0 s behind"),
        ([_row(replay_lag_seconds=99.0)], 0.0, "s1"),  # idle: shows what it last was
        ([_row(replayed=4999, replay_lag_seconds=2.5)], 2.5, "s1 is 2.5 s behind"),
        (
            [_row(replayed=4000, replay_lag_seconds=0.001)],
            50.0,
            "s1",
        ),  # has stopped: PostgreSQL shows its last good value
        ([_row(replayed=4000)], 50.0, "s1"),  # has just come back: PostgreSQL does not know
        ([_row(), _row(pid=2, standby="s2", replayed=4999, replay_lag_seconds=7.0)], 7.0, "s2"),
        ([_row(replayed=4999, replay_lag_seconds=7.0), _row(pid=2, standby="s2")], 7.0, "s1"),
        ([_row(replayed=None, standby="pg_receivewal")], 0.0, "no standby"),
        ([_row(state=None, replayed=None)], None, "pg_monitor"),
        ([_row(replayed=4999, replay_lag_seconds=7.0), _row(pid=2, state=None)], None, "pg_monitor"),
    ],
)
def test_the_lag_is_the_slowest_standbys(rows: list[dict[str, Any]], value: float | None, words: str) -> None:
    history = History(600)
    history.add(50.0, 4500)
    reading = replica_lag(rows, history)
    assert reading.signal == "replica_lag_seconds"
    assert reading.value == value
    assert words in reading.detail


def test_a_long_horizon_needs_no_sample_for_every_second() -> None:
    history = History(36_000)
    for second in range(10_000):
        history.add(float(second), second)
    assert len(history._samples) < 300
    assert history.seconds_behind(5_000, 10_000.0) == pytest.approx(5_000, rel=0.01)
