"""How long to wait before something that failed is tried again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """A wait that doubles with each attempt, up to a longest one."""

    first_seconds: float
    longest_seconds: float
    #: By which share a wait is shorter or longer, so that those that failed together do not come back together.
    jitter: float

    def seconds(self, attempt: int, *, chance: float) -> float:
        """The wait after attempt number `attempt`, the first being 0. `chance` is between 0 and 1."""
        # 32: beyond any longest wait, and no overflow.
        return self.spread(min(self.first_seconds * 2.0 ** min(attempt, 32), self.longest_seconds), chance=chance)

    def spread(self, seconds: float, *, chance: float) -> float:
        """A wait with its jitter."""
        return seconds * (1 - self.jitter + 2 * self.jitter * chance)
