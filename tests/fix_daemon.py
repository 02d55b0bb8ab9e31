"""The daemon as a user starts it: `backfilld worker` in a process of its own, with its children, log and HTTP server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Generous: the machine that runs the tests may be slow and shared. Reaching it is a failure, not a measurement.
PATIENCE_SECONDS = 180.0


def until(what: str, condition: Callable[[], Any], *, patience_seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait for a condition to be true, and return what it gave. Any: whatever the condition gives."""
    deadline = time.monotonic() + patience_seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience_seconds:.0f} s in vain: {what}")
        # The grain of looking at another process; nothing is assumed to have happened after it.
        time.sleep(0.02)
    return value


def backfilld(
    *arguments: str, database_url: str, redis_url: str | None, **run: Any
) -> subprocess.CompletedProcess[str]:
    """The command, as a user calls it. Any: options of subprocess.run."""
    return subprocess.run(
        [sys.executable, "-c", "from backfilld.producers.cli import main; main()", *arguments],
        env=environment(database_url, redis_url),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=PATIENCE_SECONDS,
        **run,
    )


def environment(database_url: str, redis_url: str | None) -> dict[str, str]:
    """The environment of a process of ours, with nothing of the caller's own backfilld in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILLD_")}
    kept |= {"BACKFILLD_DATABASE_URL": database_url, "BACKFILLD_HTTP_PORT": "0"}
    return kept | ({"BACKFILLD_REDIS_URL": redis_url} if redis_url else {})


class Daemon:
    """`backfilld worker`, running."""

    def __init__(
        self,
        database_url: str,
        redis_url: str,
        log: Path,
        *,
        processes: int = 2,
        threads: int = 2,
        variables: Mapping[str, str] | None = None,
        group: bool = False,
    ) -> None:
        self.database_url = database_url
        self.redis_url = redis_url
        self.log = log
        self._written = log.open("ab")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "backfilld.worker.supervisor",
                "--processes",
                str(processes),
                "--threads",
                str(threads),
            ],
            # One that is killed leaves its folder of metrics behind; here it goes with the test's own.
            env=environment(database_url, redis_url) | {"TMPDIR": str(log.parent), **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._written,
            stderr=self._written,
            start_new_session=group,
        )

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Log lines of one kind. Any: JSON."""
        found = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if entry.get("event") == event:
                    found.append(entry)
        return found

    def ready(self) -> Daemon:
        """Wait until it serves."""
        until("the daemon to be ready", lambda: self.process.poll() is not None or self._answers("/ready"))
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        return self

    @property
    def port(self) -> int:
        return int(self.lines("daemon.started")[-1]["http"].rpartition(":")[2])

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """One sample of /metrics, by name and labels as Prometheus writes them."""
        for line in self.get("/metrics").splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        pytest.fail(f"/metrics has no {name}")

    def children(self, name: str) -> list[int]:
        """Processes of a child that live, by the name it has in the log."""
        pids = [line["pid"] for line in self.lines("child.started") if line["child"].startswith(name)]
        return [pid for pid in pids if _lives(pid)]

    def kill_lanes(self) -> int:
        """SIGKILL one process that works on lanes."""
        pid = until("a process for lanes", lambda: self.children("lanes"))[0]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return int(pid)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=PATIENCE_SECONDS)
        finally:
            self._written.close()

    def _answers(self, path: str) -> bool:
        try:
            self.get(path)
        except (OSError, IndexError, urllib.error.HTTPError):
            return False
        return True


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def daemon(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with two processes of two threads, ready."""
    running = Daemon(database_url, redis_url, tmp_path / "daemon.log")
    try:
        yield running.ready()
    finally:
        running.stop()


class Record:
    """The record, read as an operator would with psql: shares no code with the product."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True, row_factory=dict_row)

    def one(self, query: str, *parameters: object) -> Any:
        """The first column of the first row. Any: depends on the query."""
        row = self.connection.execute(query.encode(), parameters).fetchone()
        return next(iter(row.values())) if row else None

    def run(self, name: str) -> dict[str, Any]:
        """The newest run of a name. Any: a row."""
        row = self.connection.execute(
            "SELECT * FROM backfilld.runs WHERE name = %s ORDER BY run DESC LIMIT 1", [name]
        ).fetchone()
        assert row is not None
        return row

    def state(self, name: str) -> str:
        return str(self.run(name)["state"])

    def walked(self) -> int:
        return int(self.one("SELECT coalesce(sum(rows_walked), 0) FROM backfilld.lanes WHERE kind = 'backfill'"))


@pytest.fixture
def record(database_url: str) -> Iterator[Record]:
    found = Record(database_url)
    try:
        yield found
    finally:
        found.connection.close()
