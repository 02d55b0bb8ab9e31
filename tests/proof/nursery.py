"""A process without threads that forks workers: a fork takes milliseconds where a fresh interpreter takes a second.

It is told of jobs, one list to a line of JSON, forks a child for each, and answers with a line once all of them have ended.
`python -m proof.nursery` is the process; `Nursery` is how a test speaks to it.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from proof import child
from proof.child import Job

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended, and what it told before."""

    #: The signal that ended it; 0 for one that came to an end by itself.
    signal: int
    #: What it said about the run when it ended by itself: the run's state, phase and error.
    said: dict[str, Any] = field(default_factory=dict)  # Any: JSON
    #: How many statements it sent.
    count: int = 0
    #: The last of them, and whether it has an effect of its own, because it ends a transaction or is outside of one.
    last: str = ""
    effective: bool = False
    #: All of them, where the job asked for that.
    statements: tuple[str, ...] = ()
    #: Messages that it sent on, as (run, lane, seq).
    sent: tuple[tuple[int, int, int], ...] = ()

    @property
    def killed(self) -> bool:
        return self.signal == signal.SIGKILL


class Nursery:
    """The process, from outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "proof.nursery"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *jobs: Job) -> tuple[Outcome, ...]:
        """Do jobs side by side, each in a child of its own; returns when all have ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([asdict(job) for job in jobs]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the nursery is gone: {self._process.poll()}"
        return tuple(
            Outcome(**{**one, "sent": tuple(map(tuple, one["sent"])), "statements": tuple(one["statements"])})
            for one in json.loads(answer)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _serve() -> None:
    # Everything that is imported is imported by now: a child has nothing to load.
    for line in sys.stdin:
        outcomes = _do([Job.from_json(one) for one in json.loads(line)])
        sys.stdout.write(json.dumps(outcomes) + "\n")
        sys.stdout.flush()


def _do(jobs: Sequence[Job]) -> list[dict[str, Any]]:  # Any: JSON
    assert threading.active_count() == 1, "a fork would copy the locks of threads, and not the threads"
    pids, told = [], [b"" for _ in jobs]
    with selectors.DefaultSelector() as reading:
        for number, job in enumerate(jobs):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(read)
                child.live(job, write)  # never returns
            os.close(write)
            pids.append(pid)
            reading.register(read, selectors.EVENT_READ, number)
        while reading.get_map():
            for key, _ in reading.select():
                data = os.read(key.fd, 65536)
                if data:
                    told[key.data] += data
                else:
                    reading.unregister(key.fd)
                    os.close(key.fd)
    return [_outcome(pid, text) for pid, text in zip(pids, told, strict=True)]


def _outcome(pid: int, told: bytes) -> dict[str, Any]:  # Any: JSON
    _, status = os.waitpid(pid, 0)
    outcome: dict[str, Any] = {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, "said": {}, "sent": []}
    outcome |= {"count": 0, "last": "", "statements": []}
    for line in told.splitlines():
        kind, *what = json.loads(line)
        match kind:
            case "statement":
                outcome["count"], outcome["last"], outcome["effective"] = what
            case "all":
                outcome["statements"].append(what[0])
            case "sent":
                outcome["sent"].append(what)
            case "ended":
                outcome["said"] = what[0]
    return outcome


if __name__ == "__main__":
    _serve()
