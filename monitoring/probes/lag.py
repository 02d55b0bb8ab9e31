"""How far standbys are behind, in seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backfilld.monitoring.probes.reading import Reading, unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.connect import Row

#: Samples in a horizon: a horizon of hours needs none for every second.
RESOLUTION = 1000


@dataclass
class History:
    """Where a counter of the server that only grows was, and when: what turns a position of the past into seconds.

    For the WAL, and for transaction numbers. PostgreSQL's `replay_lag` is not enough: it is measured when a standby confirms,
    so one that has stopped replaying keeps its last good value for ever, and one that has just come back has none.
    """

    #: The longest age that is measured; a longer one reads as about this.
    horizon_seconds: float = 60.0
    #: (Unix time of the server, position); both grow.
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, at: float, position: int) -> None:
        if self._samples and position < self._samples[-1][1]:
            self._samples.clear()  # another server: the database was restored
        if not self._samples or (
            position > self._samples[-1][1] and at - self._samples[-1][0] >= self.horizon_seconds / RESOLUTION
        ):
            self._samples.append((at, position))
        # The newest sample beyond the horizon stays: in an idle database it may be the only one.
        while len(self._samples) > 1 and self._samples[1][0] < at - self.horizon_seconds:
            self._samples.popleft()

    def seconds_behind(self, position: int, at: float) -> float:
        """For how long the counter has been past `position`; 0 when it is not."""
        return next((max(0.0, at - when) for when, there in self._samples if there > position), 0.0)


def replica_lag(rows: Sequence[Row], history: History) -> Reading:
    """The lag of the slowest standby, from the rows of `standbys`: 0 without one, None when one may not be looked at."""
    name = "replica_lag_seconds"
    if rows and rows[0]["wal"] is not None:
        history.add(rows[0]["at"], rows[0]["wal"])
    slowest = Reading(signal=name, value=0.0, detail="no standby")
    for row in rows:
        if row["pid"] is None:
            continue
        if row["state"] is None:
            return unreadable(name, f"the lag of {row['standby']} is hidden: grant pg_monitor to this role")
        if row["replayed"] is None:
            continue  # receives WAL and keeps it, as pg_receivewal does; no session reads from it
        lag = _lag_seconds(row, history)
        if slowest.value is None or lag > slowest.value or slowest.detail == "no standby":
            slowest = Reading(signal=name, value=lag, detail=f"{row['standby']} is {lag:.1f} s behind")
    return slowest


def _lag_seconds(row: Row, history: History) -> float:
    # Idle-safe: with nothing left to replay, `replay_lag` shows what it last was.
    if row["wal"] is None or row["replayed"] >= row["wal"]:
        return 0.0
    return max(row["replay_lag_seconds"] or 0.0, history.seconds_behind(row["replayed"], row["at"]))
