"""Why a run does not move although it is to: the one cause that comes first, and for how long. Decides, and asks nobody."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from backfilld.migrations.file import windows
from backfilld.migrations.record.states import ACTIVE, State

if TYPE_CHECKING:
    from datetime import datetime

    from backfilld.migrations.postgres.connect import Row
    from backfilld.migrations.postgres.indexes import Work
    from backfilld.migrations.record.model import Pace, Run
    from backfilld.migrations.record.pace import Stop

#: A reading older than this holds every lane (they fail closed), so it is the reason to show.
STALE_SECONDS = 15.0


class Cause(StrEnum):
    """What holds a run. A closed set: it is a metric's label."""

    APPROVAL = "approval"
    STOP = "stop"
    WINDOW = "window"
    LOAD = "load"
    BLIND = "blind"
    LOCK = "lock"
    INDEX = "index"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Hold:
    """What holds a run, in words for people, and for how many seconds it has."""

    cause: Cause
    reason: str
    seconds: float


def of_run(  # noqa: PLR0913 - each is named where it is called
    run: Run, walk: Row, pace: Pace, stop: Stop | None, *, work: Work | None, now: datetime
) -> Hold | None:
    """Why nothing of a run moves, by what a person would have to know first; `walk` is the row of the query `progress`.

    A state in which nobody expects it to move (paused, failed) says so itself, and is no hold.
    """
    if run.state is State.WAITING:
        reason = f"waiting for approval of {run.phase}: backfilld approve {run.name} --phase {run.phase}"
        return Hold(cause=Cause.APPROVAL, reason=reason, seconds=_since(run.state_since, now))
    if run.state not in ACTIVE:
        return None
    still = _since(walk["progressed_at"] or run.created_at, now)
    if stop is None and (shut := windows.shut(run.settings_json["windows"], now)):
        return Hold(cause=Cause.WINDOW, reason=shut[0], seconds=still)
    return of_all(pace, stop, now=now) or _of_lanes(walk, still) or _of_index(work, still)


def of_all(pace: Pace, stop: Stop | None, *, now: datetime) -> Hold | None:
    """Why no run of the database may work, or None."""
    if stop is not None:
        return Hold(cause=Cause.STOP, reason=stop.reason, seconds=_since(stop.at, now))
    if pace.hold_reason and pace.age_seconds is not None and pace.age_seconds <= STALE_SECONDS:
        return Hold(cause=Cause.LOAD, reason=pace.hold_reason, seconds=pace.held_seconds or 0.0)
    if pace.age_seconds is None:
        return Hold(cause=Cause.BLIND, reason="no load reading yet: is a worker running?", seconds=0.0)
    if pace.age_seconds > STALE_SECONDS:
        reason = f"no load reading for {pace.age_seconds:.0f} s: is a worker running?"
        return Hold(cause=Cause.BLIND, reason=reason, seconds=pace.age_seconds)
    return None


def _of_lanes(walk: Row, still: float) -> Hold | None:
    """What lanes wait for before they try again; the coordinator, lane 0, holds up all others."""
    waiting = sorted(walk["errors"], key=lambda error: int(error.get("lane", 0)))
    for error in waiting[:1]:
        reason = str(error.get("message") or error.get("reason") or "")
        if reason:
            wait = error.get("wait")
            seconds = wait["looked_at"] - wait["since"] if wait else still
            cause = Cause.LOCK if error.get("class") == "blocked" else Cause.ERROR
            return Hold(cause=cause, reason=reason, seconds=seconds)
    return None


def _of_index(work: Work | None, still: float) -> Hold | None:
    if work is None or not work.waits_for:
        return None
    return Hold(cause=Cause.INDEX, reason=f"the index waits for {work.waits_for}", seconds=still)


def _since(moment: datetime, now: datetime) -> float:
    return max((now - moment).total_seconds(), 0.0)
