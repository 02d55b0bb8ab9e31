"""The load signals: what PostgreSQL tells about the application's day. Measures; what follows is the governor's to decide.

A signal that cannot be read has the value None, which stops the work as surely as a bad one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from migrations.postgres.connect import apply_settings, lost
from migrations.sql import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrations.model import Row
    from migrations.postgres.connect import Connection
    from migrations.settings import Limits

_SQL = queries("probes")

#: Statement text that a scrape sends together with others.
STANDBYS = _SQL["standbys"]

#: The views answer in milliseconds; one that takes this long is itself a sign of trouble.
STATEMENT_TIMEOUT = "2s"

#: What is read here, named as in `Limits`. `commit_seconds` is the governor's own: it writes.
SIGNALS = ("replica_lag_seconds", "blocked_sessions", "active_connections")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One load signal at one moment."""

    #: Named as the field of `Limits` that judges it.
    signal: str
    #: None: could not be read.
    value: float | None
    #: Whose value it is, or why there is none; for people.
    detail: str = ""


@dataclass
class WalHistory:
    """Where the WAL was, and when: what turns a standby's position into seconds.

    PostgreSQL's `replay_lag` is not enough. It is measured when a standby confirms, so one that has stopped replaying keeps
    its last good value for ever, and one that has just come back has none.
    """

    #: A lag beyond this is told as about this much; `read` sets it from the limits.
    horizon_seconds: float = 60.0
    #: (Unix time of the server, position in bytes); both grow.
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, at: float, wal: int) -> None:
        if self._samples and wal < self._samples[-1][1]:
            self._samples.clear()  # another server: the database was restored
        if not self._samples or wal > self._samples[-1][1]:
            self._samples.append((at, wal))
        # The newest sample beyond the horizon stays: in an idle database it may be the only one.
        while len(self._samples) > 1 and self._samples[1][0] < at - self.horizon_seconds:
            self._samples.popleft()

    def seconds_behind(self, replayed: int, at: float) -> float:
        """For how long the WAL has been past `replayed`; 0 when it is not."""
        return next((max(0.0, at - when) for when, wal in self._samples if wal > replayed), 0.0)


def read(connection: Connection, limits: Limits, *, history: WalHistory) -> list[Reading]:
    """Read every signal in two round trips, in a transaction or in none.

    `history` is what earlier calls for this server left; the caller keeps it, or a standby that has stopped goes unseen.
    A query that fails makes every reading None, with the error as its detail; a lost connection raises psycopg's error.
    Inside a transaction of the caller's, our `statement_timeout` stays until it ends.
    """
    # Twice the limit: enough to tell "beyond the limit" from "far beyond", and the history stays small.
    history.horizon_seconds = 2 * limits.replica_lag_seconds.hard
    try:
        with connection.transaction(), connection.pipeline():
            apply_settings(connection, {"statement_timeout": STATEMENT_TIMEOUT})
            standbys = connection.execute(_SQL["standbys"])
            blocked = connection.execute(_SQL["blocked_sessions"])
            active = connection.execute(_SQL["active_sessions"])
            return [
                replica_lag(standbys.fetchall(), history),
                _blocked_sessions(blocked.fetchall()),
                _active_connections(active.fetchall()),
            ]
    except psycopg.Error as exc:
        if lost(exc):
            raise
        return [Reading(signal=signal, value=None, detail=str(exc).strip()) for signal in SIGNALS]


def replica_lag(rows: Sequence[Row], history: WalHistory) -> Reading:
    """The lag of the slowest standby, from the rows of `standbys`: 0 without one, None when one may not be looked at."""
    name = "replica_lag_seconds"
    if rows and rows[0]["wal"] is not None:
        history.add(rows[0]["at"], rows[0]["wal"])
    slowest = Reading(signal=name, value=0.0, detail="no standby")
    for row in rows:
        if row["pid"] is None:
            continue
        if row["state"] is None:
            return Reading(
                signal=name, value=None, detail=f"the lag of {row['standby']} is hidden: grant pg_monitor to this role"
            )
        if row["replayed"] is None:
            continue  # receives WAL and keeps it, as pg_receivewal does; nobody reads from it
        lag = _lag_seconds(row, history)
        if slowest.value is None or lag > slowest.value or slowest.detail == "no standby":
            slowest = Reading(signal=name, value=lag, detail=f"{row['standby']} is {lag:.1f} s behind")
    return slowest


def _lag_seconds(row: Row, history: WalHistory) -> float:
    # Idle-safe: with nothing left to replay, `replay_lag` shows what it last was.
    if row["wal"] is None or row["replayed"] >= row["wal"]:
        return 0.0
    return max(row["replay_lag_seconds"] or 0.0, history.seconds_behind(row["replayed"], row["at"]))


def _blocked_sessions(rows: Sequence[Row]) -> Reading:
    (row,) = rows
    detail = f"session {row['longest_pid']} has waited {row['longest_seconds']:.1f} s" if row["sessions"] else ""
    return Reading(signal="blocked_sessions", value=float(row["sessions"]), detail=detail)


def _active_connections(rows: Sequence[Row]) -> Reading:
    (row,) = rows
    detail = f"{row['active']} of {row['max_connections']}"
    if row["hidden"]:
        detail += f", {row['hidden']} of them hidden and counted as active: grant pg_monitor to this role"
    return Reading(signal="active_connections", value=row["active"] / row["max_connections"], detail=detail)
