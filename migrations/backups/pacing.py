"""How fast a backup goes: when it may go on by whoever watches it, and by the pace that is set."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backfilld.migrations.backups.place import LOOK_SECONDS, MOST_HELD_SECONDS, BackupFailed

if TYPE_CHECKING:
    from backfilld.migrations.backups.place import Watch

#: What is done at once, where a pace is set, is no more than of so long: a burst of a moment takes a processor from nobody.
BURST_SECONDS = 0.01


class Asked:
    """A watch, asked every `LOOK_SECONDS`."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._next = 0.0
        self._held_since: float | None = None

    def may_go_on(self) -> bool:
        """Raises what the watch raises, and BackupFailed when the load has held for too long."""
        now = time.monotonic()
        if now < self._next:
            return True
        self._next = now + LOOK_SECONDS
        reason = self._watch()
        if reason is None:
            self._held_since = None
            return True
        self._held_since = self._held_since or now
        if now - self._held_since > MOST_HELD_SECONDS:
            msg = f"the load has held it for {MOST_HELD_SECONDS / 60:.0f} minutes ({reason})"
            raise BackupFailed(msg)
        time.sleep(LOOK_SECONDS)
        return False


class Pace:
    """No more than so many bytes a second, at any moment: time that was not used is not made up for. 0: as fast as it goes."""

    def __init__(self, bytes_per_second: float = 0.0) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0

    def times(self, factor: float) -> Pace:
        """The pace of something of which so many bytes are as much work as one of this."""
        return Pace(self._rate * factor)

    @property
    def burst(self) -> int | None:
        """How many bytes are done at once; None: any number."""
        return int(self._rate * BURST_SECONDS) if self._rate else None

    def spent(self, size: int) -> None:
        """So many bytes were done."""
        if self._rate:
            self._free_at = max(self._free_at, time.monotonic()) + size / self._rate

    def may_go_on(self) -> bool:
        """Waits for a moment where it is not time yet."""
        left = self._free_at - time.monotonic()
        if left > 0:
            time.sleep(min(left, LOOK_SECONDS))
        return left <= LOOK_SECONDS
