"""What the size of a table does to the memory of workers and Redis: nothing, if all is well."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from bench.daemon import Daemon
from bench.figures import MEGABYTE, Figure, Section, Table, Target, number
from bench.stage import ROWS_PER_SCALE, BenchBroken, until

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Stage

SMALL, LARGE = 1, 30
LANES = 2
QUEUE = "{backfilld}:lanes"


@dataclass
class Used:
    """The most that one run took."""

    #: Bytes of each process that works on lanes, at its worst and at the end.
    peaks: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    #: Messages in Redis, those that a worker has taken included, and those that wait.
    messages: int = 0
    waiting: int = 0
    #: Bytes of all keys together.
    keys: int = 0


def measure(stage: Stage, effort: Effort) -> Section:
    large = effort.scale(LARGE)
    used = {scale: [_run(stage, scale) for _ in range(effort.repetitions)] for scale in (SMALL, large)}
    rows = {scale: f"{scale * ROWS_PER_SCALE:,} rows" for scale in used}
    return Section(
        name="memory",
        title=f"Memory: {rows[SMALL]} and {rows[large]} (medians of {effort.repetitions})",
        method=(
            f"VmHWM (the peak) and VmRSS (at the end of the run) from /proc of the two processes that work on {LANES} lanes, "
            "batch_seconds 0.5, a fresh daemon for each run. Change: how far the process that is farther off after the large run "
            "is from the mean of the two after the small one. Redis is looked at every 20 ms during the run: HLEN of the messages (waiting or taken), LLEN "
            "of those that wait, and the MEMORY USAGE of all keys together."
        ),
        tables=(
            Table(
                columns=("run", "peak MB", "end MB", "messages", "waiting", "Redis keys kB"),
                rows=tuple(_row(rows[scale], runs) for scale, runs in used.items()),
            ),
        ),
        figures=(
            _change("change of VmHWM", used, "peaks"),
            _change("change of VmRSS", used, "ends"),
            Figure(
                name="messages in Redis at once",
                values=tuple(float(one.messages) for runs in used.values() for one in runs),
                target=Target(at="most", value=LANES + 1),
                taken="max",
            ),
            Figure(
                name="memory of all keys in Redis",
                values=tuple(one.keys / 1000 for runs in used.values() for one in runs),
                unit="kB",
                taken="max",
            ),
        ),
    )


def _run(stage: Stage, scale: int) -> Used:
    used = Used()
    with (
        stage.database(scale) as database,
        Daemon(stage, database, processes=LANES) as daemon,
        redis.Redis.from_url(stage.valkey.url) as client,
    ):
        run = daemon.enqueue(lanes=LANES)

        def is_done() -> bool:
            for _ in range(10):
                used.messages = max(used.messages, int(client.hlen(f"{QUEUE}.msgs")))
                used.waiting = max(used.waiting, int(client.llen(QUEUE)))
                time.sleep(0.02)
            used.keys = max(used.keys, sum(int(client.memory_usage(key) or 0) for key in client.scan_iter()))
            row = database.all("SELECT state, error::text FROM backfilld.runs WHERE run = %s", [run])[0]
            if row["error"] is not None:
                raise BenchBroken(f"run {run} is {row['state']}: {row['error']}")
            return bool(row["state"] == "completed")

        until("the run to be completed", is_done)
        for pid in daemon.children().values():
            peak, end = _resident_bytes(pid)
            used.peaks.append(peak)
            used.ends.append(end)
    return used


def _resident_bytes(pid: int) -> tuple[int, int]:
    """The greatest and the present resident memory of a process."""
    status = dict(
        line.split(":", maxsplit=1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    )
    peak, now = (int(status[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
    return peak, now


def _mean(runs: list[Used], what: str) -> list[float]:
    return [statistics.mean(getattr(one, what)) for one in runs]


def _change(name: str, used: dict[int, list[Used]], what: str) -> Figure:
    """The process that changed most, of those of a repetition."""
    pairs = zip(_mean(used[SMALL], what), (getattr(one, what) for one in used[max(used)]), strict=True)
    return Figure(
        name=name,
        values=tuple(max(100 * abs(process / small - 1) for process in large) for small, large in pairs),
        unit="%",
        target=Target(at="most", value=10),
    )


def _row(name: str, runs: list[Used]) -> tuple[str, ...]:
    return (
        name,
        number(statistics.median(_mean(runs, "peaks")) / MEGABYTE),
        number(statistics.median(_mean(runs, "ends")) / MEGABYTE),
        str(max(one.messages for one in runs)),
        str(max(one.waiting for one in runs)),
        number(max(one.keys for one in runs) / 1000),
    )
