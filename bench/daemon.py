"""The daemon under measurement, as a user starts it, and the migrations it is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
import zlib
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import yaml

from backfilld.producers.client import Client
from bench.stage import BenchBroken, until

if TYPE_CHECKING:
    from types import TracebackType

    from bench.stage import Database, Stage

_numbers = count(1)

#: The new column's value where speed is measured: next to no work for the processor, as in most backfills.
CHEAP = "abalance * 100"
#: A tenth of a millisecond a row, so that a million rows last until all has been tried on them. The column makes sure that
#: it is not computed once for all rows.
COSTLY = "abalance + length(md5(repeat(aid::text, 4000)))"


class Daemon:
    """`backfilld worker`, from its first reading of the load until the end of the context."""

    def __init__(
        self,
        stage: Stage,
        database: Database,
        *,
        processes: int,
        url: str | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:
        """One thread for lanes in each process. `url` is where the daemon, and only it, finds the database."""
        self._stage = stage
        self._database = database
        self._processes = processes
        self._variables = variables or {}
        self._url = url or database.url
        self._log = stage.folder / f"daemon-{next(_numbers)}.log"
        # Its warnings are about what is meant here: the trigger computes the column.
        self.client = Client(database.url, stage.valkey.url, actor="bench", warn=lambda _: None)

    def __enter__(self) -> Self:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILLD_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "backfilld.worker.supervisor",
                    f"--processes={self._processes}",
                    "--threads=1",
                ],
                env=kept
                | {
                    "BACKFILLD_DATABASE_URL": self._url,
                    "BACKFILLD_REDIS_URL": self._stage.valkey.url,
                    "BACKFILLD_HTTP_PORT": "0",
                }
                | self._variables,
                cwd=self._stage.folder,  # not where a backfilld.toml of the user's may lie
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until("the daemon to be ready", self._is_ready)
            until("the first reading of the load", self._has_pace)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def enqueue(self, *, expression: str = CHEAP, **settings: Any) -> int:
        """Add a column `x` to pgbench_accounts with this value; returns the run. Any: what a migration file takes."""
        column = {"table": "pgbench_accounts", "column": {"name": "x", "type": "bigint"}, "backfill": expression}
        return self.start({"add_column": column}, settings=settings)

    def rewrite(self, table: str, column: str, expression: str, **settings: Any) -> int:
        """Give a column that is there this value in every row; returns the run. Any: as above."""
        return self.start({"backfill": {"table": table, "set": {column: expression}}}, settings=settings)

    def start(self, *operations: dict[str, Any], settings: dict[str, Any]) -> int:
        """Enqueue a migration of these operations; returns the run. Any: as above."""
        migration = {
            # Another operation in the same database is another migration.
            "name": f"bench-{zlib.crc32(repr(operations).encode()):08x}",
            "operations": [*operations],
            "settings": {"approve": []} | settings,
        }
        file = self._stage.folder / "bench.yaml"
        file.write_text(yaml.safe_dump(migration), encoding="utf-8")
        return self.client.enqueue(file).run

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of one kind. Any: JSON."""
        found = []
        for line in self._log.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if entry.get("event") == event:
                    found.append(entry)
        return found

    @property
    def pid(self) -> int:
        """Of the parent."""
        return self._process.pid

    def children(self) -> dict[str, int]:
        """The processes that work on lanes, by their names: those started last."""
        return {
            line["child"]: line["pid"]
            for line in self.lines("child.started")
            if str(line["child"]).startswith("lanes-")
        }

    def batch_seconds(self) -> dict[str, float]:
        """Seconds that batches took so far, by part: `backfilld_batch_seconds_sum` of /metrics."""
        prefix = "backfilld_batch_seconds_sum{"
        return {
            line.split('part="')[1].split('"')[0]: float(line.rpartition(" ")[2])
            for line in self._get("/metrics").splitlines()
            if line.startswith(prefix)
        }

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise BenchBroken(f"the daemon ended: {self._log.read_text(encoding='utf-8')}")
        try:
            self._get("/ready")
        except (OSError, IndexError):
            return False
        return len(self.children()) == self._processes

    def _has_pace(self) -> bool:
        return bool(self._database.one("SELECT sampled_at IS NOT NULL AND hold_reason IS NULL FROM backfilld.pace"))

    def _get(self, path: str) -> str:
        address = self.lines("daemon.started")[-1]["http"]
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # Backends of a process that was killed notice it when their statement ends.
        time.sleep(0.1)
