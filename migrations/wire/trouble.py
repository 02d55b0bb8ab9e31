"""What is wrong with Redis, by what it says: a sentence and a remedy for each cause, told once and not at each try."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

from backfilld.migrations.wire.news import RedisBack, RedisFailed, nobody

if TYPE_CHECKING:
    from backfilld.migrations.wire.news import Observer

#: The same is not told again for so long, also where it comes and goes: a slow server answers now and then.
AGAIN_SECONDS = 60.0
#: What a server says is shown to people; it may say anything.
LONGEST_TEXT = 200


@dataclass(frozen=True)
class Trouble:
    """A cause, in words."""

    problem: str
    #: Empty where nothing answers, for which a command has a hint of its own.
    remedy: str = ""

    def told_of(self, place: str) -> str:
        """The problem, in a sentence about a server."""
        return f"{place} {self.problem}" if self.remedy else f"cannot reach {place}: {self.problem}"


#: By the code that Redis begins its errors with, which redis-py leaves out where it has a class for it, or by words in them.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        "WRONGPASS|NOAUTH|authentication required|AUTH called|invalid username-password",
        "refuses the user or the password",
        "Check both in BACKFILLD_REDIS_URL",
    ),
    (
        "NOPERM|no permissions",
        "does not let its user do what backfilld needs",
        "ACL SETUSER name ~{backfilld}* &{backfilld}* +@all -@admin",
    ),
    ("READONLY|read only replica", "is a read-only replica", "Give the URL of the primary"),
    (
        r"\bOOM\b|used memory > 'maxmemory'",
        "is out of memory and takes no messages",
        "Raise maxmemory, or give backfilld a Redis of its own",
    ),
    ("LOADING|is loading", "is loading its data", "Wait until it has started"),
    ("MISCONF", "takes no writes, because it cannot save to disk", "See its log and the space on its disk"),
    ("max number of clients", "has no connection left", "Raise maxclients, or close what is idle"),
    (
        "DENIED|protected mode",
        "takes connections of its own machine only (protected mode)",
        "Set a password, and give it in the URL",
    ),
    (r"\bBUSY\b|busy running", "is busy with a script", "See what it runs: SLOWLOG GET"),
    ("time(d )?out", "does not answer in time", "See what keeps it busy: INFO, SLOWLOG GET"),
)

#: What to do where nothing answers.
_AWAY = "Is it up, and is BACKFILLD_REDIS_URL right?"


def of(exc: BaseException) -> Trouble:
    """What an error of Redis means."""
    text = str(exc).strip()
    for pattern, problem, remedy in _CAUSES:
        if re.search(pattern, text, re.IGNORECASE):
            return Trouble(problem, remedy)
    if isinstance(exc, redis.ConnectionError | redis.TimeoutError | OSError):
        return Trouble(shown(text))
    return Trouble(f"answers with an error: {shown(text)}", "See its log")


def shown(text: str, most: int = LONGEST_TEXT) -> str:
    """Text from outside on one line: cut, and without what a terminal would obey."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


class Teller:
    """Tells an observer of a trouble when it begins, and when it is over."""

    def __init__(self, observe: Observer = nobody) -> None:
        self._observe = observe
        self._trouble: Trouble | None = None
        #: When each was told last (`time.monotonic`).
        self._told: dict[Trouble, float] = {}

    def failed(self, exc: BaseException) -> None:
        trouble = of(exc)
        if trouble == self._trouble:
            return
        self._trouble, now = trouble, time.monotonic()
        if now - self._told.get(trouble, -AGAIN_SECONDS) >= AGAIN_SECONDS:
            self._told = {trouble: now}
            self._observe(RedisFailed(problem=trouble.told_of("Redis"), remedy=trouble.remedy or _AWAY))

    def well(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            self._observe(RedisBack())
