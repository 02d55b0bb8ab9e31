"""Whether a run is at work. Side tasks look often while one is, and seldom while none is.

One of them asks the record once a second, or when a message arrives, and tells the others: see `control.py`.
"""

from __future__ import annotations

import threading


class Activity:
    """Known to all side tasks of a process. Until the record was asked, a run is taken to be at work."""

    def __init__(self) -> None:
        #: Set while a run is at work, and for good once the process stops: who waits for work continues at once.
        self._wakes = threading.Event()
        self._wakes.set()
        self._stopping = False

    @property
    def at_work(self) -> bool:
        """Whether a run was at work when the record was last asked."""
        return self._wakes.is_set()

    def tell(self, *, at_work: bool) -> None:
        """What the record says now."""
        if at_work or self._stopping:
            self._wakes.set()
        else:
            self._wakes.clear()

    def wait(self, stopping: threading.Event, *, seconds: float, idle_seconds: float) -> None:
        """Wait until it is time to look again: sooner when a run begins to work, and not at all when the process stops."""
        if self.at_work:
            stopping.wait(seconds)
        else:
            self._wakes.wait(idle_seconds)

    def end(self) -> None:
        """The process stops."""
        self._stopping = True
        self._wakes.set()
