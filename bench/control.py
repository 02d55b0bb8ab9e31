"""How soon a run stops when it is told to, while every thread is busy."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from bench.daemon import COSTLY, Daemon
from bench.figures import Figure, Section, Target
from bench.stage import BenchBroken, until

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Database, Stage

SCALE = 10
LANES = 2
PAUSES, PAUSES_QUICK = 10, 3
#: The default, and one so long that the statement in flight has to be cancelled.
BATCH_SECONDS = (0.5, 5.0)


@dataclass
class Told:
    """Seconds from the call of `Client.pause`, for each pause."""

    returned: list[float] = field(default_factory=list)
    taken_up: list[float] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)
    statements_cancelled: int = 0


def measure(stage: Stage, effort: Effort) -> Section:
    pauses = PAUSES_QUICK if effort.is_quick else PAUSES
    told = {seconds: _pause_again_and_again(stage, seconds, pauses) for seconds in BATCH_SECONDS}
    return Section(
        name="control",
        title=f"Control: {pauses} pauses, {LANES} lanes on 2 processes of 1 thread, all busy",
        method=(
            "Client.pause is called at a random moment of a batch. Returned: until it returns, which is when the wish is on "
            "record and the state is pausing. Taken up: until the control consumer logs control.applied. Paused: until the "
            "event run.paused is recorded. Between pauses the run is resumed, its lanes are given batches of "
            "about batch_seconds (in the record, as a run would have grown them), and both are in their UPDATE. Each row costs "
            "about a tenth of a millisecond of processor time, so both cores are busy. With batch_seconds 5 the statement in "
            "flight has seconds to go, and is cancelled."
        ),
        figures=tuple(figure for seconds, one in told.items() for figure in _figures(seconds, one)),
    )


def _pause_again_and_again(stage: Stage, batch_seconds: float, pauses: int) -> Told:
    told = Told()
    chance = random.Random(1)
    with stage.database(SCALE) as database, Daemon(stage, database, processes=2) as daemon:
        run = daemon.enqueue(expression=COSTLY, lanes=LANES, batch_seconds=batch_seconds)
        database.until_busy(run, LANES)
        rows = rows_in(database, batch_seconds)
        daemon.client.pause(run)
        database.until_state(run, "paused")
        cancelled_before = _statements_cancelled(daemon)
        for _ in range(pauses):
            database.all(
                "UPDATE backfilld.lanes SET batch_rows = %s, recent = '[]' WHERE run = %s AND lane > 0 RETURNING lane",
                [rows, run],
            )
            daemon.client.resume(run)
            database.until_busy(run, LANES)
            time.sleep(chance.uniform(0, min(batch_seconds, 1.0)))
            _pause(database, daemon, run, told)
        told.statements_cancelled = _statements_cancelled(daemon) - cancelled_before
    return told


def _statements_cancelled(daemon: Daemon) -> int:
    return sum(line["statements_cancelled"] for line in daemon.lines("control.applied"))


def _pause(database: Database, daemon: Daemon, run: int, told: Told) -> None:
    began = time.time()  # the clock of the log and of the record: all on one machine
    progress = daemon.client.pause(run)
    told.returned.append(time.time() - began)
    if progress.state not in {"pausing", "paused"}:
        raise BenchBroken(f"run {run} is {progress.state} after a pause")
    database.until_state(run, "paused")
    at = database.one(
        "SELECT extract(epoch FROM max(at))::float8 FROM backfilld.events WHERE run = %s AND what = 'run.paused'", [run]
    )
    told.paused.append(at - began)
    told.taken_up.append(until("the control consumer", lambda: _taken_up(daemon, began)) - began)


def _taken_up(daemon: Daemon, since: float) -> float | None:
    times = [
        datetime.fromisoformat(line["timestamp"]).timestamp()
        for line in daemon.lines("control.applied")
        if line["verb"] == "wake"
    ]
    return min((at for at in times if at >= since), default=None)


def rows_in(database: Database, seconds: float) -> int:
    """How many rows a lane gets done in this time; the UPDATE computes each value twice."""
    began = time.monotonic()
    sample = 500
    database.all(f"SELECT sum(v) FROM (SELECT {COSTLY} AS v FROM pgbench_accounts LIMIT {sample}) s")
    return max(1, round(seconds / 2 / ((time.monotonic() - began) / sample)))


def _figures(batch_seconds: float, told: Told) -> tuple[Figure, ...]:
    where = f"batch_seconds {batch_seconds:g}"
    acknowledged, stopped = Target(at="most", value=0.2), Target(at="most", value=1.0)
    return (
        Figure(name=f"{where}: returned", values=tuple(told.returned), unit="s", target=acknowledged),
        Figure(name=f"{where}: returned", values=tuple(told.returned), unit="s", target=acknowledged, taken="max"),
        Figure(name=f"{where}: taken up", values=tuple(told.taken_up), unit="s"),
        Figure(name=f"{where}: taken up", values=tuple(told.taken_up), unit="s", taken="max"),
        Figure(name=f"{where}: paused", values=tuple(told.paused), unit="s", target=stopped),
        Figure(name=f"{where}: paused", values=tuple(told.paused), unit="s", target=stopped, taken="max"),
        Figure(name=f"{where}: statements cancelled", values=(float(told.statements_cancelled),)),
    )
