"""Side tasks look often while a run is at work, and seldom while none is."""

from __future__ import annotations

import threading

import pytest

from backfilld.worker.side_tasks.activity import Activity

FOR_EVER = 3600.0


def waiting(activity: Activity, stopping: threading.Event, *, seconds: float, idle_seconds: float) -> threading.Thread:
    thread = threading.Thread(
        target=activity.wait, args=(stopping,), kwargs={"seconds": seconds, "idle_seconds": idle_seconds}, daemon=True
    )
    thread.start()
    return thread


def test_until_the_record_was_asked_a_run_is_taken_to_be_at_work() -> None:
    assert Activity().at_work


def test_who_waits_while_no_run_is_at_work_looks_when_one_begins() -> None:
    activity, stopping = Activity(), threading.Event()
    activity.tell(at_work=False)
    waits = waiting(activity, stopping, seconds=0.0, idle_seconds=FOR_EVER)

    activity.tell(at_work=True)

    waits.join(timeout=60)
    assert not waits.is_alive()


def test_while_a_run_is_at_work_the_short_time_counts() -> None:
    Activity().wait(threading.Event(), seconds=0.0, idle_seconds=FOR_EVER)


@pytest.mark.parametrize("at_work", [True, False])
def test_nobody_waits_once_the_process_stops(*, at_work: bool) -> None:
    activity, stopping = Activity(), threading.Event()
    activity.tell(at_work=at_work)
    waits = waiting(activity, stopping, seconds=FOR_EVER, idle_seconds=FOR_EVER)

    stopping.set()
    activity.end()

    waits.join(timeout=60)
    assert not waits.is_alive()


def test_a_look_that_comes_after_the_stop_lets_nobody_wait() -> None:
    """One that was under way while the process stopped."""
    activity, stopping = Activity(), threading.Event()
    stopping.set()
    activity.end()
    activity.tell(at_work=False)
    activity.wait(stopping, seconds=FOR_EVER, idle_seconds=FOR_EVER)
