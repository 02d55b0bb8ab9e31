"""An application at work: pgbench at a fixed rate, and how long each of its transactions took."""

from __future__ import annotations

import math
import subprocess
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Self

from bench.stage import PGBENCH_ENVIRONMENT, BenchBroken, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    from bench.stage import Database, Stage

TRANSACTIONS_PER_SECOND = 300
CLIENTS = 8
#: Longer than any way takes; it is ended before.
LONGEST_SECONDS = 3600

_numbers = count(1)


@dataclass(frozen=True)
class Transaction:
    """One of pgbench's."""

    #: When it should have begun, by the clock of the machine: a transaction late because those before it waited counts.
    due: float
    #: From then until its end: what a user waits.
    milliseconds: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that is not exceeded by this share of all (nearest rank: a value that was measured)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def read_log(lines: Iterable[str]) -> list[Transaction]:
    """pgbench's own log: client, number, microseconds, script, seconds and microseconds of the end, and the lag.

    At a fixed rate the microseconds are counted from when the transaction was due, so that the lag is part of them.
    """
    read = []
    for line in lines:
        _, _, took, _, seconds, microseconds, *_ = line.split()
        ended = int(seconds) + int(microseconds) / 1e6
        read.append(Transaction(due=ended - int(took) / 1e6, milliseconds=int(took) / 1000))
    return read


class Load:
    """TPC-B transactions for as long as the context lasts; they can be read when it has ended."""

    def __init__(self, stage: Stage, database: Database) -> None:
        self._database = database
        self._prefix: Path = stage.folder / f"load-{next(_numbers)}"
        self._command = stage.pgbench_command(
            "--no-vacuum",
            f"--rate={TRANSACTIONS_PER_SECOND}",
            f"--client={CLIENTS}",
            "--jobs=1",
            f"--time={LONGEST_SECONDS}",
            "--log",
            f"--log-prefix={self._prefix}",
            database=database.name,
        )

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            env=PGBENCH_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until("pgbench to be connected", lambda: self._sessions() == CLIENTS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        broken = self._process.poll() is not None
        # Not a signal: what it has logged and not written yet would be lost. Without its connections it ends by itself.
        while self._process.poll() is None:
            self._database.all(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'pgbench'"
            )
            time.sleep(0.05)
        if broken and error is None:
            raise BenchBroken("pgbench ended by itself")

    def transactions(self) -> list[Transaction]:
        files = sorted(self._prefix.parent.glob(f"{self._prefix.name}.*"))
        return [one for file in files for one in read_log(file.read_text(encoding="utf-8").splitlines())]

    def _sessions(self) -> int:
        if self._process.poll() is not None:
            raise BenchBroken("pgbench has not started")
        return int(
            self._database.one(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'pgbench'"
            )
        )
