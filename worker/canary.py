"""The canary: a commit of the smallest kind, made again and again, that feels what the application's commits feel."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from migrations.postgres.connect import apply_settings, lost
from migrations.store import pace
from monitoring.probes import Reading, unreadable
from worker.throttle import Felt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrations.postgres.connect import Connection

#: What is judged. Longer would answer late, shorter would follow every hiccup.
WINDOW_SECONDS = 5.0
#: One slow commit of five is chance, two are not.
QUANTILE = 0.8
#: Before the first verdict, so that it is not given on one commit alone.
FIRST_SAMPLES = 8
#: A standby that confirms nothing would keep a commit for ever, and the governor with it.
STATEMENT_TIMEOUT = "5s"


@dataclass(frozen=True)
class _Sample:
    at: float
    seconds: float
    #: A batch of ours was under way.
    working: bool


@dataclass
class Canary:
    """Commits, and remembers how long each took."""

    _samples: deque[_Sample] = field(default_factory=deque)
    #: Why the last commit failed.
    _error: str | None = None

    def sing(self, connection: Connection) -> None:
        """One commit. An error is remembered for the reading; a lost connection raises psycopg's."""
        began = time.monotonic()
        try:
            with connection.pipeline():
                connection.execute("BEGIN")
                apply_settings(connection, {"statement_timeout": STATEMENT_TIMEOUT})
                seen = connection.execute(pace.CANARY)
                connection.execute("COMMIT")
            row = seen.fetchone()
        except psycopg.Error as exc:
            if lost(exc):
                raise
            connection.rollback()
            self._error = exc.diag.message_primary or str(exc)
            return
        now = time.monotonic()
        self._error = None
        self._samples.append(_Sample(now, now - began, working=row is None or bool(row["working"])))
        while self._samples and self._samples[0].at < now - WINDOW_SECONDS:
            self._samples.popleft()

    def begin(self, connection: Connection) -> None:
        """The first commits, when none was made lately."""
        if not self._recent():
            for _ in range(FIRST_SAMPLES):
                self.sing(connection)

    @property
    def reading(self) -> Reading:
        """The signal `commit_seconds`."""
        if self._error is not None:
            return unreadable("commit_seconds", self._error)
        return Reading(signal="commit_seconds", value=self.felt.seconds or 0.0)

    @property
    def felt(self) -> Felt:
        recent = self._recent()
        rested = [sample for sample in recent if not sample.working]
        return Felt(
            seconds=_quantile(recent),
            rested_seconds=_quantile(rested),
            rested_share=len(rested) / len(recent) if recent else 0.0,
        )

    @property
    def silent_seconds(self) -> float:
        """Since the last commit."""
        return time.monotonic() - self._samples[-1].at if self._samples else math.inf

    @property
    def working(self) -> bool:
        """Whether a batch of ours was seen lately."""
        return any(sample.working for sample in self._recent())

    def _recent(self) -> list[_Sample]:
        since = time.monotonic() - WINDOW_SECONDS
        return [sample for sample in self._samples if sample.at >= since]


def _quantile(samples: Sequence[_Sample]) -> float | None:
    if not samples:
        return None
    ordered = sorted(sample.seconds for sample in samples)
    return ordered[math.ceil(QUANTILE * len(ordered)) - 1]
