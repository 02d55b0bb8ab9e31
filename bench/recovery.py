"""How soon the work continues after a process that was doing it is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING

from bench.daemon import COSTLY, Daemon
from bench.figures import Figure, Section, Target
from bench.stage import until

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Database, Stage

SCALE = 10
LANES = 2
KILLS, KILLS_QUICK = 5, 2


def measure(stage: Stage, effort: Effort) -> Section:
    kills = KILLS_QUICK if effort.is_quick else KILLS
    seconds = tuple(_recoveries(stage, kills))
    most = Target(at="most", value=5)
    return Section(
        name="recovery",
        title=f"Recovery: SIGKILL of one of two processes, {kills} times",
        method=(
            f"{LANES} lanes, 2 processes of 1 thread, batch_seconds 0.5, a tenth of a millisecond a row; a process is killed "
            "while both lanes are in the middle of their UPDATE. Counted until every open lane has made a checkpoint after the "
            "kill (progressed_at). The same run each time, a fresh daemon for each kill: what waits longer after each "
            "death, as the daemon does, is not what is measured."
        ),
        figures=(
            Figure(name="until every lane made a checkpoint", values=seconds, unit="s", target=most),
            Figure(name="until every lane made a checkpoint", values=seconds, unit="s", target=most, taken="max"),
        ),
    )


def _recoveries(stage: Stage, kills: int) -> list[float]:
    chance = random.Random(2)
    seconds: list[float] = []
    run: int | None = None
    with stage.database(SCALE) as database:
        for number in range(kills):
            with Daemon(stage, database, processes=2) as daemon:
                run = run or daemon.enqueue(expression=COSTLY, lanes=LANES)
                database.until_busy(run, LANES)
                time.sleep(1 + chance.random())
                victim = list(daemon.children().values())[number % 2]
                database.until_busy(run, LANES)
                seconds.append(_kill(database, run, victim))
    return seconds


def _kill(database: Database, run: int, victim: int) -> float:
    killed_at = time.time()  # the clock of the record, too: all on one machine
    os.kill(victim, signal.SIGKILL)

    def latest_first_checkpoint() -> float | None:
        """When the last of the lanes came back, once all have."""
        row = database.all(
            "SELECT bool_and(extract(epoch FROM progressed_at)::float8 > %(killed)s::float8) AS back, "
            "extract(epoch FROM min(progressed_at))::float8 AS at "
            "FROM backfilld.lanes WHERE run = %(run)s::bigint AND lane > 0 AND done_at IS NULL",
            {"run": run, "killed": killed_at},
        )[0]
        return row["at"] if row["back"] else None

    return until("every lane to continue", latest_first_checkpoint, every_seconds=0.01) - killed_at
