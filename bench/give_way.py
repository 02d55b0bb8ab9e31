"""How long somebody waits for a row of a batch that would have taken ten seconds."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.file.run_settings import RunSettings
from bench.control import rows_in
from bench.daemon import COSTLY, Daemon
from bench.effort import tell
from bench.figures import Figure, Section, Target
from bench.stage import BenchBroken, NotHere

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Database, Stage

SCALE = 10
GIVE_WAY_MS = 250
BATCH_SECONDS = 10.0
WAITS, WAITS_QUICK = 20, 3


def measure(stage: Stage, effort: Effort) -> Section:
    if "give_way_ms" not in RunSettings.model_fields:
        raise NotHere("this version of backfilld does not give way")
    waits = _waits(stage, WAITS_QUICK if effort.is_quick else WAITS)
    milliseconds = tuple(1000 * seconds for seconds in waits)
    most = Target(at="most", value=GIVE_WAY_MS + 100)
    return Section(
        name="give_way",
        title=f"Give way: {len(waits)} waits for a row of a batch of {BATCH_SECONDS:.0f} s, give_way_ms {GIVE_WAY_MS}",
        method=(
            "One lane by keys, a tenth of a millisecond a row. Before each wait the lane is given a batch of ten seconds in the "
            "record, and is in the middle of its UPDATE; at a random moment a session of ours updates a row that the batch has "
            "locked, one of its first, in a transaction of its own. Waited: from sending that statement until it has returned."
        ),
        figures=(
            Figure(name="waited for the row", values=milliseconds, unit="ms", target=most),
            Figure(name="waited for the row", values=milliseconds, unit="ms", target=most, taken="max"),
        ),
    )


def _waits(stage: Stage, times: int) -> list[float]:
    chance = random.Random(3)
    waits: list[float] = []
    with stage.database(SCALE) as database, Daemon(stage, database, processes=1) as daemon:
        run = daemon.enqueue(
            expression=COSTLY, walk="keys", lanes=1, batch_seconds=BATCH_SECONDS, give_way_ms=GIVE_WAY_MS
        )
        database.until_busy(run, 1)
        rows = rows_in(database, BATCH_SECONDS)
        daemon.client.pause(run)
        database.until_state(run, "paused")
        with psycopg.connect(database.url, autocommit=True) as application:
            for number in range(times):
                database.all(
                    "UPDATE backfilld.lanes SET batch_rows = %s, recent = '[]', next_run_at = clock_timestamp() "
                    "WHERE run = %s AND lane = 1 RETURNING lane",
                    [rows, run],
                )
                daemon.client.resume(run)
                database.until_busy(run, 1)
                time.sleep(chance.uniform(0.2, 1.5))
                waits.append(_wait(database, application, run, offset=number))
                tell(f"give_way {number + 1}/{times}: {1000 * waits[-1]:.0f} ms")
                daemon.client.pause(run)
                database.until_state(run, "paused")
    return waits


def _wait(database: Database, application: psycopg.Connection[tuple[object, ...]], run: int, *, offset: int) -> float:
    """Want a row close behind the lane's last checkpoint, where its batch began. Each is wanted once: its next version is
    elsewhere in the table.
    """
    wanted = database.one(
        "SELECT aid FROM pgbench_accounts WHERE aid > coalesce("
        "(SELECT (cursor ->> 0)::int FROM backfilld.lanes WHERE run = %s AND lane = 1), 0) ORDER BY aid OFFSET %s LIMIT 1",
        [run, offset],
    )
    try:
        application.execute("SELECT FROM pgbench_accounts WHERE aid = %s FOR NO KEY UPDATE NOWAIT", [wanted])
    except psycopg.errors.LockNotAvailable:
        began = time.monotonic()
        application.execute("UPDATE pgbench_accounts SET filler = filler WHERE aid = %s", [wanted])
        return time.monotonic() - began
    raise BenchBroken(f"row {wanted} is not held by the batch")
