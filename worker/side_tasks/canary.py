"""The canary: a commit of the smallest kind, made again and again, that feels what the application's commits compare_latency.

Beside each it counts the sessions of others that are inside a transaction. So many, divided by how many transactions end in a
second, is how long one takes (Little's law), waiting for locks and for a processor included, which a small commit never does.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.postgres.pipelines import pipeline
from backfilld.migrations.postgres.sqlstates import lost
from backfilld.migrations.record import pace
from backfilld.monitoring.probes import Reading, unreadable
from backfilld.worker.side_tasks.baseline import Latency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.connect import Connection, Row

#: What is judged. Longer would answer late, shorter would follow every hiccup.
WINDOW_SECONDS = 5.0
#: One slow commit of five is chance, two are not.
QUANTILE = 0.8
#: Before the first verdict, so that it is not given on one commit alone.
FIRST_SAMPLES = 8
#: Fewer looks at who is busy, or fewer transactions, are no average. Our own side tasks make about ten transactions a second.
FEWEST_LOOKS = 15
FEWEST_PER_SECOND = 40.0
#: A standby that confirms nothing would keep a commit for ever, and the governor with it.
STATEMENT_TIMEOUT = "5s"


@dataclass(frozen=True)
class _Sample:
    at: float
    #: None: nothing was committed, only looked.
    seconds: float | None
    #: A batch of ours was under way.
    working: bool
    #: Sessions of others inside a transaction.
    busy: int


@dataclass
class Canary:
    """Commits, and remembers how long each took."""

    _samples: deque[_Sample] = field(default_factory=deque)
    #: How many transactions of others had ended, and when.
    _ended: deque[tuple[float, int]] = field(default_factory=deque)
    #: Why the last commit failed.
    _error: str | None = None

    def commit(self, connection: Connection) -> None:
        """One commit. An error is remembered for the reading; a lost connection raises psycopg's."""
        began = time.monotonic()
        try:
            with pipeline(connection):
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
        self._error = None
        self._remember(time.monotonic() - began, row)

    def count_sessions(self, connection: Connection) -> None:
        """Only count who is there: for the time when no run is at work, and no commit of ours should be either."""
        self._remember(None, connection.execute(pace.OTHERS).fetchone())

    def count(self, transactions: int | None) -> None:
        """How many transactions of others have ended by now."""
        if transactions is None or (self._ended and transactions < self._ended[-1][1]):
            self._ended.clear()  # unknown, or the counters were reset
        if transactions is not None:
            self._ended.append((time.monotonic(), transactions))
        while self._ended and self._ended[0][0] < time.monotonic() - WINDOW_SECONDS - 1:
            self._ended.popleft()

    def _remember(self, seconds: float | None, row: Row | None) -> None:
        now = time.monotonic()
        if row is not None:
            self._samples.append(_Sample(now, seconds, working=row["working"], busy=row["busy"]))
        while self._samples and self._samples[0].at < now - WINDOW_SECONDS:
            self._samples.popleft()

    def warm_up(self, connection: Connection) -> None:
        """The first commits, when none was made lately."""
        if all(sample.seconds is None for sample in self._recent()):
            for _ in range(FIRST_SAMPLES):
                self.commit(connection)

    @property
    def readings(self) -> list[Reading]:
        """The signal `commit_seconds`; none while nothing was committed lately, as no run is at work."""
        if self._error is not None:
            return [unreadable("commit_seconds", self._error)]
        seconds = self.latency.seconds
        return [] if seconds is None else [Reading(signal="commit_seconds", value=seconds)]

    @property
    def latency(self) -> Latency:
        recent = self._recent()
        rested = [sample for sample in recent if not sample.working]
        return Latency(
            seconds=_quantile(recent),
            rested_seconds=_quantile(rested),
            rested_share=len(rested) / len(recent) if recent else 0.0,
            response_seconds=self._response_seconds(recent),
        )

    @property
    def silent_seconds(self) -> float:
        """Since the last commit."""
        last = next((sample.at for sample in reversed(self._samples) if sample.seconds is not None), -math.inf)
        return time.monotonic() - last

    @property
    def working(self) -> bool:
        """Whether a batch of ours was seen lately."""
        return any(sample.working for sample in self._recent())

    def _response_seconds(self, recent: Sequence[_Sample]) -> float | None:
        """What a transaction of others takes on average; None when there are too few of them, or too few looks."""
        if len(self._ended) < 2 or len(recent) < FEWEST_LOOKS:
            return None
        (began, before), (ended, after) = self._ended[0], self._ended[-1]
        per_second = (after - before) / (ended - began)
        busy = sum(sample.busy for sample in recent) / len(recent)
        return busy / per_second if per_second >= FEWEST_PER_SECOND else None

    def _recent(self) -> list[_Sample]:
        since = time.monotonic() - WINDOW_SECONDS
        return [sample for sample in self._samples if sample.at >= since]


def _quantile(samples: Sequence[_Sample]) -> float | None:
    ordered = sorted(sample.seconds for sample in samples if sample.seconds is not None)
    return ordered[math.ceil(QUANTILE * len(ordered)) - 1] if ordered else None
