"""The lock policy: whether to ask for a lock now, when to look again, and which blockers to cancel. Pure: has no connection.

A session that waits for a strong lock makes every later session of the table queue behind it. So each try waits for
`lock_timeout_ms` at most, and before a try the holders of the table are looked up, which blocks nothing:

    no blocker                                try
    only short transactions                   try, each time after a longer pause: the queue drains them
    a transaction that is old already         a try would make others wait for nothing: look every second, try every quarter minute
    an autovacuum that prevents wraparound    never try: it yields to no session, and ends by itself
    a session that `cancel_blockers` allows   try: it is cancelled while the step waits
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from backfilld.migrations.postgres import locks
from backfilld.worker.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.postgres.locks import Blocker

#: A transaction that has lasted so long will not end within the next `lock_timeout`.
OLD_SECONDS = 3.0
#: The pause after a try that short transactions made fail. Jitter, so that two runs do not ask in step.
BACKOFF = Backoff(first_seconds=0.25, longest_seconds=15.0, jitter=0.25)
#: The pause between tries while an old transaction holds the table: at 100 ms each, others lose less than a hundredth of their time.
RARELY_SECONDS = 15.0
#: How often the holders are looked up, so that the step is tried soon after the last blocker ended.
LOOK_SECONDS = 1.0
#: Without an attempt for this long the run was on hold or no worker ran: that is not time spent waiting for the lock.
FORGOTTEN_SECONDS = 60.0
#: Who is in the way is put on record when others are than before, but not more often than this.
TOLD_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Wait:
    """How long a coordinator has waited for a lock, and what it has tried; kept in its lane. Times are the database's (Unix time)."""

    since: float
    looked_at: float
    tries: int = 0
    tried_at: float | None = None
    told_at: float | None = None
    #: The blockers reported last.
    pids: tuple[int, ...] = ()

    @classmethod
    def of(cls, known: Mapping[str, Any] | None, now: float) -> Self:
        """The wait that a lane has on record, or one that begins now."""
        if known is None or now - known["looked_at"] > FORGOTTEN_SECONDS:
            return cls(since=now, looked_at=now)
        return replace(cls(**{**known, "pids": tuple(known["pids"])}), looked_at=now)

    @property
    def seconds(self) -> float:
        return self.looked_at - self.since

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "pids": list(self.pids)}

    def tried(self) -> Wait:
        return replace(self, tries=self.tries + 1, tried_at=self.looked_at)

    def is_news(self, blockers: Iterable[Blocker]) -> bool:
        """Whether the present blockers should be reported."""
        pids = {blocker.pid or 0 for blocker in blockers}
        if not pids or pids <= set(self.pids):
            return False
        return self.told_at is None or self.looked_at - self.told_at >= TOLD_SECONDS

    def told(self, blockers: Iterable[Blocker]) -> Wait:
        return replace(self, told_at=self.looked_at, pids=tuple(sorted({blocker.pid or 0 for blocker in blockers})))


def pause_seconds(wait: Wait, blockers: Sequence[Blocker], settings: RunSettings) -> float | None:
    """How long to wait before the next try, without jitter; 0: try now, None: do not try while these blockers are there."""
    if any(blocker.prevents_wraparound for blocker in blockers):
        return None
    if not blockers or any(way_out(blocker, settings) for blocker in blockers):
        return 0.0
    if any(_is_old(blocker) for blocker in blockers):
        since = wait.tried_at if wait.tried_at is not None else wait.since
        return max(since + RARELY_SECONDS - wait.looked_at, 0.0)
    if wait.tried_at is None:
        return 0.0
    pause = BACKOFF.seconds(wait.tries - 1, chance=0.5)  # without jitter, which the next look gets
    return max(wait.tried_at + pause - wait.looked_at, 0.0)


def next_look_seconds(pause: float | None, *, scans: bool = False, chance: float) -> float:
    """When to look again: for the next try, or earlier to see whether the blockers have ended. `chance` is between 0 and 1.

    A step that `scans` before it asks for its lock is tried rarely.
    """
    seconds = LOOK_SECONDS if pause is None else min(max(pause, 0.1), LOOK_SECONDS)
    return BACKOFF.spread(RARELY_SECONDS if scans else seconds, chance=chance)


def way_out(blocker: Blocker, settings: RunSettings) -> Literal["cancel", "end"] | None:
    """What may be done to a blocker: cancel its statement, or end its session; None: nothing.

    Only client sessions at the head of the queue: no walsender, no autovacuum, no prepared transaction, no other process of the
    server, no session of backfilld, none in another database, and none that this role may not signal.
    """
    if (
        blocker.backend_type != "client backend"
        or blocker.is_ours
        or not (blocker.is_here and blocker.may_be_signalled)
        or blocker.waits
        or (blocker.state_seconds or 0.0) < settings.cancel_after_seconds
    ):
        return None
    if blocker.is_idle:
        return "end" if settings.cancel_blockers in {"idle", "all"} else None
    return "cancel" if blocker.state == "active" and settings.cancel_blockers in {"queries", "all"} else None


def in_words(awaited: str, blockers: Sequence[Blocker], settings: RunSettings) -> str:
    """Which lock is waited for, which sessions hold it, and why one that the policy would cancel is not cancelled."""
    if not blockers:
        return f"waiting for the lock on {awaited}, which was busy a moment ago"
    message = f"waiting for the lock on {awaited}; held by {locks.in_words(blockers)}"
    if any(blocker.prevents_wraparound for blocker in blockers):
        return message + ". backfilld never cancels an autovacuum that prevents wraparound"
    if settings.cancel_blockers != "never" and any(_is_beyond_us(blocker) for blocker in blockers):
        message += (
            ". Not cancelled: this role lacks the right to signal all of them (grant it pg_signal_backend; "
            "sessions of a superuser cannot be signalled)"
        )
    return message


def _is_old(blocker: Blocker) -> bool:
    # An ordinary autovacuum is cancelled for a session that waits (`deadlock_timeout`, see `locks.prepare`); a try is what makes it go.
    return blocker.backend_type != "autovacuum worker" and (blocker.transaction_seconds or 0.0) >= OLD_SECONDS


def _is_beyond_us(blocker: Blocker) -> bool:
    return blocker.backend_type == "client backend" and blocker.is_here and not blocker.may_be_signalled
