"""The daemon's children: processes that are started one after another, looked at, and replaced when they die.

A child that has not reported yet is starting: it imports, on a busy machine for minutes. It is left alone for as long as it gets
any processor. One that has reported and then falls silent is stuck, and is killed.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from backfilld.monitoring.server import Check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: A child that reported and shows no sign of life for this long is dead, whatever the process table says.
SILENCE_SECONDS = 30.0
#: A child that gets no tick of the processor for this long while it starts waits for something that will not come. Where the
#: system does not tell (it has no /proc), it is how long a start may take.
STUCK_SECONDS = 300.0
#: Time between two looks that counts. The parent may be starved or frozen as well, and then it saw nothing, silence included.
LONGEST_LOOK_SECONDS = 1.0
#: A start that lasts is told after this, and each time that it has lasted twice as long.
SLOW_START_SECONDS = 10.0
#: After a child's death the next one waits, doubling, so that a child that cannot start does not spin.
FIRST_RESTART_SECONDS = 0.2
LONGEST_RESTART_SECONDS = 15.0
#: A child that worked this long was well: its successor starts at once.
WELL_SECONDS = 30.0

log = structlog.get_logger("backfilld")


class Condition(StrEnum):
    """How a child is."""

    #: It has not been started yet: another one is starting.
    WAITING = "waiting for its turn to start"
    STARTING = "starting"
    WORKING = "working"
    SILENT = "silent"
    #: It died, and is started again after a while.
    DEAD = "not running"


@dataclass
class Signs:
    """What a process has shown of itself, and for how long it has shown nothing new. Pure: times are given to it."""

    looked_at: float
    #: It has reported: whatever it imports is imported, and its work has begun.
    reported: bool = False
    silent_seconds: float = 0.0
    _last: float | None = None

    def see(self, *, heartbeat: float | None, processor_seconds: float | None, now: float) -> None:
        """Take in its last report, if there was one, and the processor's time it has had."""
        passed = min(now - self.looked_at, LONGEST_LOOK_SECONDS)
        self.looked_at = now
        sign = processor_seconds if heartbeat is None else heartbeat
        self.silent_seconds = 0.0 if sign != self._last else self.silent_seconds + passed
        self._last, self.reported = sign, heartbeat is not None

    @property
    def stuck(self) -> bool:
        return self.silent_seconds >= (SILENCE_SECONDS if self.reported else STUCK_SECONDS)


@dataclass
class Child:
    """A process that must be there."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    heartbeat: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = field(default=0)
    _signs: Signs = field(default_factory=lambda: Signs(time.monotonic()))
    _started_at: float = 0.0
    _worked_since: float | None = None
    _restart_at: float = 0.0
    _restart_seconds: float = FIRST_RESTART_SECONDS
    _tell_at: float = 0.0

    def look(self, *, may_start: bool) -> None:
        """Start the process when there is none, replace it when it is dead, kill it when it is stuck."""
        now = time.monotonic()
        if self.process is None:
            if may_start and now >= self._restart_at:
                self._start(now)
        elif self.process.poll() is not None:
            self._bury(self.process, now)
        else:
            self._watch(self.process, now)

    @property
    def condition(self) -> Condition:
        """How it was at the last look."""
        process = self.process
        if process is None:
            return Condition.DEAD if self.restarts else Condition.WAITING
        if process.poll() is not None:
            return Condition.DEAD
        if not self._signs.reported:
            return Condition.STARTING
        return Condition.SILENT if self._signs.stuck else Condition.WORKING

    @property
    def alive(self) -> bool:
        """Whether it works, and has shown it lately."""
        return self.condition is Condition.WORKING

    @property
    def words(self) -> str:
        """How it is, for people. Asked by threads of the HTTP server, while the parent may replace the process."""
        process = self.process
        if self.condition is not Condition.STARTING or process is None:
            return f"{self.name} is {self.condition}"
        return f"{self.name} is starting: {self._starting_seconds:.0f} s so far{_of_processor(process.pid)}"

    def live(self) -> Check:
        """Whether nothing need be done about it: one that starts, or waits to, needs time."""
        return Check(self.condition in {Condition.WAITING, Condition.STARTING, Condition.WORKING}, self.words)

    def ready(self) -> Check:
        """Whether it works."""
        return Check(self.alive, self.words)

    @property
    def _starting_seconds(self) -> float:
        return time.monotonic() - self._started_at

    def _start(self, now: float) -> None:
        self.heartbeat.unlink(missing_ok=True)  # its first report is how a start ends
        self.process = subprocess.Popen(self.command, env=dict(self.environment))  # noqa: S603 - our own interpreter and module
        self._signs, self._started_at, self._worked_since = Signs(now), now, None
        self._tell_at = now + SLOW_START_SECONDS
        log.info("child.started", child=self.name, pid=self.process.pid)

    def _watch(self, process: subprocess.Popen[bytes], now: float) -> None:
        self._signs.see(
            heartbeat=_modified_at(self.heartbeat), processor_seconds=_processor_seconds(process.pid), now=now
        )
        if self._signs.stuck:
            log.error(
                "child.silent",
                child=self.name,
                pid=process.pid,
                seconds=round(self._signs.silent_seconds),
                starting=not self._signs.reported,
            )
            process.kill()
        elif self._signs.reported and self._worked_since is None:
            self._worked_since = now
            log.info("child.ready", child=self.name, pid=process.pid, seconds=round(self._starting_seconds, 1))
        elif not self._signs.reported and now >= self._tell_at:
            self._tell_at = now + self._starting_seconds
            log.warning(
                "child.starting",
                child=self.name,
                pid=process.pid,
                seconds=round(self._starting_seconds),
                processor_seconds=_processor_seconds(process.pid),
                remedy="the machine is busy or the container's share of the processor small; it is left alone",
            )

    def _bury(self, process: subprocess.Popen[bytes], now: float) -> None:
        well = self._worked_since is not None and now - self._worked_since >= WELL_SECONDS
        self._restart_seconds = (
            FIRST_RESTART_SECONDS if well else min(self._restart_seconds * 2, LONGEST_RESTART_SECONDS)
        )
        log.error(
            "child.died",
            child=self.name,
            pid=process.pid,
            code=process.returncode,
            restart_seconds=self._restart_seconds,
        )
        self.process, self.restarts = None, self.restarts + 1
        self._restart_at = now + self._restart_seconds


def look_at(children: Sequence[Child]) -> None:
    """Look at all of them. They start one after another: several that import at once only take longer each."""
    for child in children:
        child.look(may_start=all(one.condition is not Condition.STARTING for one in children))


def _modified_at(heartbeat: Path) -> float | None:
    """When a child last reported; None when it has not yet."""
    try:
        return heartbeat.stat().st_mtime
    except FileNotFoundError:
        return None


def _processor_seconds(pid: int) -> float | None:
    """How much processor a process has had; None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    # proc(5): utime and stime are the 14th and 15th field, counted from the process id.
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _of_processor(pid: int) -> str:
    seconds = _processor_seconds(pid)
    return "" if seconds is None else f", {seconds:.1f} s of processor"
