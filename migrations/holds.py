"""Why a run makes no progress: the one cause that comes first, and for how long. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from backfilld.migrations.file import windows as its_windows
from backfilld.migrations.record.model import Awaited
from backfilld.migrations.record.states import ACTIVE, State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from backfilld.migrations.postgres.connect import Row
    from backfilld.migrations.postgres.indexes import Work
    from backfilld.migrations.record.model import Pace, Run
    from backfilld.migrations.record.pace import Stop

#: A reading older than this is none: the reader may be dead, and the load with it unseen (as in block/spirit). Every lane holds.
STALE_SECONDS = 15.0


#: A step that is due is taken within a second or two.
UNTAKEN_SECONDS = 4.0


class Cause(StrEnum):
    """What holds a run. A closed set: it is a metric's label."""

    APPROVAL = "approval"
    STOP = "stop"
    #: The run begins after others.
    AFTER = "after"
    WINDOW = "window"
    LOAD = "load"
    BLIND = "blind"
    #: No worker can take work.
    WORKERS = "workers"
    LOCK = "lock"
    INDEX = "index"
    #: What a check of the application found.
    APPLICATION = "application"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Hold:
    """What holds a run, in words for people, and for how many seconds it has."""

    cause: Cause
    reason: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class InForce:
    """What holds every lane of a run at this moment, its coordinator included."""

    cause: Cause
    reason: str
    #: In how many seconds a window opens; None for a hold without a known end.
    ends_in_seconds: float | None = None


def in_force(  # noqa: PLR0913 - each is named where it is called
    *,
    stop: Stop | None,
    windows: Sequence[str],
    age_seconds: float | None,
    hold_reason: str | None,
    now: datetime,
    awaited: Sequence[Awaited] = (),
) -> InForce | None:
    """What holds, by what comes first: a person, other runs, the run's windows, the load. A load that is not known holds too.

    Workers ask this before each step, and all who show a run ask it as well. `age_seconds` is that of the governor's reading,
    None when there never was one.
    """
    if stop is not None:
        return InForce(cause=Cause.STOP, reason=stop.reason)
    if awaited:
        return InForce(
            cause=Cause.AFTER, reason=f"it begins after {'; and after '.join(one.in_words for one in awaited)}"
        )
    if shut := its_windows.shut(windows, now):
        reason, opens_in_seconds = shut
        return InForce(cause=Cause.WINDOW, reason=reason, ends_in_seconds=opens_in_seconds)
    if blind := blind_because(age_seconds):
        return InForce(cause=Cause.BLIND, reason=blind)
    return InForce(cause=Cause.LOAD, reason=hold_reason) if hold_reason else None


def blind_because(age_seconds: float | None) -> str | None:
    """Why a reading of this age cannot be trusted, or None."""
    if age_seconds is None:
        return "no load reading yet"
    if age_seconds > STALE_SECONDS:
        return f"no load reading for {age_seconds:.0f} s"
    return None


def of_run(  # noqa: PLR0913 - each is named where it is called
    run: Run,
    walk: Row,
    pace: Pace,
    stop: Stop | None,
    *,
    work: Work | None,
    now: datetime,
    nobody: str | None = None,
) -> Hold | None:
    """Why nothing of a run moves, by what a person would have to know first; `walk` is the row of the query `progress`.

    `nobody` is why no worker can take work. Paused and failed say so themselves, and are no holds.
    """
    if run.state is State.WAITING:
        reason = f"waiting for approval of {run.phase}: backfilld approve {run.name} --phase {run.phase}"
        return Hold(cause=Cause.APPROVAL, reason=reason, seconds=_since(run.state_since, now))
    if run.state not in ACTIVE:
        return None
    still = _since(walk["progressed_at"] or run.created_at, now)
    awaited = Awaited.listed(walk.get("awaited"))
    held = of_all(
        pace, stop, now=now, windows=run.settings_json["windows"], still=still, nobody=nobody, awaited=awaited
    )
    return held or _of_workers(nobody, still) or _of_lanes(walk, still) or _of_index(work, still)


def of_all(  # noqa: PLR0913 - as above
    pace: Pace,
    stop: Stop | None,
    *,
    now: datetime,
    windows: Sequence[str] = (),
    still: float = 0.0,
    nobody: str | None = None,
    awaited: Sequence[Awaited] = (),
) -> Hold | None:
    """Why no run of the database may work, or None; with its windows and for how long it has stood, why one run may not."""
    found = in_force(
        stop=stop,
        windows=windows,
        age_seconds=pace.age_seconds,
        hold_reason=pace.hold_reason,
        now=now,
        awaited=awaited,
    )
    if found is None:
        return None
    seconds = {
        Cause.STOP: _since(stop.at, now) if stop else 0.0,
        Cause.AFTER: still,
        Cause.WINDOW: still,
        Cause.BLIND: pace.age_seconds or 0.0,
        Cause.LOAD: pace.held_seconds or 0.0,
    }
    asks = f": {nobody or 'is a worker running?'}" if found.cause is Cause.BLIND else ""
    return Hold(cause=found.cause, reason=found.reason + asks, seconds=seconds[found.cause])


def _of_workers(nobody: str | None, still: float) -> Hold | None:
    # A run that moved a moment ago is worked on, whatever is on record of the workers.
    if nobody is None or still < UNTAKEN_SECONDS:
        return None
    return Hold(cause=Cause.WORKERS, reason=nobody, seconds=still)


def _of_lanes(walk: Row, still: float) -> Hold | None:
    """What lanes wait for before they try again; the coordinator, lane 0, holds up all others."""
    waiting = sorted(walk["errors"], key=lambda error: int(error.get("lane", 0)))
    for error in waiting[:1]:
        reason = str(error.get("message") or error.get("reason") or "")
        if reason:
            wait = error.get("wait")
            seconds = wait["looked_at"] - wait["since"] if wait else still
            cause = _CAUSES.get(error.get("class", ""), Cause.ERROR)
            return Hold(cause=cause, reason=reason, seconds=seconds)
    return None


#: What holds a run by the class of what its coordinator has on record.
_CAUSES = {"blocked": Cause.LOCK, "live_run": Cause.AFTER, "application": Cause.APPLICATION}


def _of_index(work: Work | None, still: float) -> Hold | None:
    if work is None or not work.waits_for:
        return None
    return Hold(cause=Cause.INDEX, reason=f"the index waits for {work.waits_for}", seconds=still)


def _since(moment: datetime, now: datetime) -> float:
    return max((now - moment).total_seconds(), 0.0)
