"""Windows: the hours of the week in which a run may work, such as `Mon-Fri 22:00-06:00 Europe/Berlin`. Pure: no clock.

A window names the days on which it opens; one that closes before it opens ends on the following day. Its times are what the
clock on the wall shows. Where a change of the clock makes a time appear twice, the first is meant; a time that is left out
stands as many hours after midnight as on other days (both as in RFC 5545).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

from backfilld.migrations.identifiers import Wrong, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_DAY = "(?:" + "|".join(DAYS) + ")"
_RANGE = f"{_DAY}(?:-{_DAY})?"
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
#: For editors as well as for us: everything but whether there is such a time zone, and whether the window is ever open.
PATTERN = rf"^(daily|{_RANGE}(?:,{_RANGE})*) ({_CLOCK})-({_CLOCK}|24:00) ([A-Za-z][A-Za-z0-9_+/-]*)$"
EXAMPLE = "Mon-Fri 22:00-06:00 Europe/Berlin"


@dataclass(frozen=True, kw_only=True)
class Window:
    """Some hours of some days."""

    #: The days on which it opens, Monday is 0.
    days: frozenset[int]
    opens: time
    closes: time
    #: How many midnights lie between the two: 0, or 1.
    midnights: int
    zone: ZoneInfo

    def is_open(self, now: datetime) -> bool:
        return any(opens <= now < closes for opens, closes in self._spans(now, days_ahead=0))

    def next_opening(self, now: datetime) -> datetime:
        """When it opens next, in its own time zone; for a window that is shut."""
        # Two weeks: one opening of a weekly window may be left out with the hour that the clock jumps over.
        return min(opens for opens, _ in self._spans(now, days_ahead=15) if opens > now).astimezone(self.zone)

    def _spans(self, now: datetime, *, days_ahead: int) -> list[tuple[datetime, datetime]]:
        """From opening to closing, for the windows of yesterday, today and some days ahead."""
        today = now.astimezone(self.zone).date()
        days = [today + timedelta(days=ahead) for ahead in range(-1, days_ahead + 1)]
        spans = [
            (self._moment(day, self.opens), self._moment(day + timedelta(days=self.midnights), self.closes))
            for day in days
            if day.weekday() in self.days
        ]
        return [(opens, closes) for opens, closes in spans if opens < closes]

    def _moment(self, day: date, clock: time) -> datetime:
        # In UTC: two times of one zone are compared by what the wall shows, which stands still for an hour in autumn.
        return datetime.combine(day, clock, tzinfo=self.zone).astimezone(UTC)


@cache
def parse(text: str) -> Window:
    """The window of a text. Raises Wrong."""
    found = re.fullmatch(PATTERN.removeprefix("^").removesuffix("$"), text)
    if found is None:
        raise Wrong(
            f"`{shown(text)}` is not a window",
            f"Write days, hours and a time zone, such as {EXAMPLE} or daily 01:00-05:00 UTC "
            "(days are Mon to Sun, as in Mon-Fri or Sat,Sun).",
        )
    days, opens, closes, zone = found.groups()
    begins, ends = _clock(opens), _clock(closes)
    if opens == closes:
        raise Wrong(f"`{shown(text)}` closes in the minute in which it opens", "Write 00:00-24:00 for the whole day.")
    return Window(
        days=_days(days), opens=begins, closes=ends, midnights=1 if ends <= begins else 0, zone=_zone(text, zone)
    )


def shut(windows: Sequence[str], now: datetime) -> tuple[str, float] | None:
    """Why a run with these windows may not work now, and in how many seconds it may; None when one is open, or there is none."""
    parsed = [parse(text) for text in windows]
    if not parsed or any(window.is_open(now) for window in parsed):
        return None
    opens = min(window.next_opening(now) for window in parsed)
    its = "its window" if len(parsed) == 1 else "its windows"
    when = f"{DAYS[opens.weekday()]} {opens:%H:%M} {opens.tzinfo}"
    return f"outside {its}; opens {when}", (opens - now).total_seconds()


def _clock(text: str) -> time:
    return time() if text == "24:00" else time.fromisoformat(text)


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        # `Sat-Mon` goes over the end of the week.
        found.update((begin + ahead) % 7 for ahead in range((end - begin) % 7 + 1))
    return frozenset(found)


def _zone(text: str, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not there; not a name; a folder such as `Europe`
        known = {zone.lower(): zone for zone in available_timezones()}
        near = difflib.get_close_matches(name.lower(), known, n=1)
        remedy = f"Did you mean {known[near[0]]}?" if near else "Write a name such as Europe/Berlin or UTC."
        raise Wrong(f"`{shown(text)}`: there is no time zone {shown(name)}", remedy) from None
