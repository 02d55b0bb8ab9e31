"""How soon work is held when a standby falls behind, and how soon it continues when the standby is back."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from bench.daemon import COSTLY, Daemon
from bench.effort import tell
from bench.figures import Figure, Section, Target
from bench.stage import Stage, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.producers.demo.servers import EmbeddedPostgres
    from bench.effort import Effort
    from bench.stage import Database

SCALE = 10
LANES = 2
#: Small, so that an outage does not have to last half a minute.
SOFT_SECONDS, HARD_SECONDS = 1.0, 3.0
#: Behind by so much more when replay continues.
HELD_SECONDS = 3.0
OUTAGES, OUTAGES_QUICK = 5, 1


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A standby's replay, stopped and started again."""

    #: From when the lag passed the hard limit until the hold was on record.
    held_after_seconds: float
    #: The same until the last checkpoint before the work stood still.
    last_checkpoint_seconds: float
    #: From when the standby had replayed all until a lane made its next checkpoint.
    back_after_seconds: float


def measure(stage: Stage, effort: Effort) -> Section:
    stage.embedded_here()  # a server of the user's has standbys of its own, or none
    outages = OUTAGES_QUICK if effort.is_quick else OUTAGES
    # A server of its own: a copy of the stage's would hold every template.
    folder = stage.folder / "replica"
    folder.mkdir()
    with Stage(folder) as own, own.database(effort.scale(SCALE)) as database, _standby(own) as replica:
        measured = _outages(own, database, replica, outages)
    return Section(
        name="replica",
        title=f"Replica: {outages} times replay is paused, soft limit {SOFT_SECONDS:g} s, hard limit {HARD_SECONDS:g} s",
        method=(
            f"A streaming standby whose replay is paused (pg_wal_replay_pause) while {LANES} lanes work, a tenth of a millisecond "
            "a row. The hard limit is passed so many seconds after replay has stopped: the lanes never stop writing. Held: until "
            "the hold is on record, looked for every 20 ms. Last checkpoint: the batches in hand may end. Replay continues "
            f"{HELD_SECONDS:g} s later; back: from when the standby has replayed what there was until a lane makes its next "
            "checkpoint."
        ),
        figures=(
            _figure("held", [one.held_after_seconds for one in measured], 2),
            _figure("last checkpoint", [one.last_checkpoint_seconds for one in measured], None),
            _figure("back", [one.back_after_seconds for one in measured], 5),
        ),
    )


def _figure(name: str, seconds: list[float], most: float | None) -> Figure:
    target = Target(at="most", value=most) if most is not None else None
    return Figure(name=name, values=tuple(seconds), unit="s", target=target, taken="max")


@contextmanager
def _standby(stage: Stage) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """To a standby that has caught up."""
    standby: EmbeddedPostgres = stage.embedded_here().standby(settings={"shared_buffers": "128MB"})
    try:
        standby.start()
        with psycopg.connect(standby.url(), autocommit=True) as connection:
            yield connection
    finally:
        standby.close()


def _outages(
    stage: Stage, database: Database, replica: psycopg.Connection[tuple[object, ...]], times: int
) -> list[Outage]:
    limits = {"BACKFILLD_LIMITS__REPLICA_LAG_SECONDS": json.dumps({"soft": SOFT_SECONDS, "hard": HARD_SECONDS})}
    measured: list[Outage] = []
    with Daemon(stage, database, processes=LANES, variables=limits) as daemon:
        run = daemon.enqueue(expression=COSTLY, lanes=LANES)
        for number in range(times):
            database.until_busy(run, LANES)
            measured.append(_outage(database, replica, run))
            one = measured[-1]
            tell(
                f"replica {number + 1}/{times}: held {one.held_after_seconds:.2f} s, back {one.back_after_seconds:.2f} s"
            )
        daemon.client.cancel(run)
    return measured


def _outage(database: Database, replica: psycopg.Connection[tuple[object, ...]], run: int) -> Outage:
    replica.execute("SELECT pg_wal_replay_pause()")
    until("replay to be paused", lambda: _value(replica, "SELECT pg_get_wal_replay_pause_state()") == "paused")
    limit_passed = time.time() + HARD_SECONDS
    until("the hold", lambda: database.one("SELECT hold_reason IS NOT NULL FROM backfilld.pace"))
    held = time.time()
    time.sleep(HELD_SECONDS)
    last = _progressed_at(database, run)
    written = str(database.one("SELECT pg_current_wal_insert_lsn()::text"))
    replica.execute("SELECT pg_wal_replay_resume()")
    until(
        "the standby to catch up",
        lambda: bool(_value(replica, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [written])),
    )
    recovered = time.time()

    def next_checkpoint() -> float | None:
        at = _progressed_at(database, run)
        return at if at > last else None

    back = until("a checkpoint", next_checkpoint)
    return Outage(
        held_after_seconds=held - limit_passed,
        last_checkpoint_seconds=last - limit_passed,
        back_after_seconds=back - recovered,
    )


def _progressed_at(database: Database, run: int) -> float:
    return float(
        database.one(
            "SELECT extract(epoch FROM max(progressed_at))::float8 FROM backfilld.lanes WHERE run = %s AND lane > 0",
            [run],
        )
    )


def _value(
    connection: psycopg.Connection[tuple[object, ...]], query: str, parameters: list[str] | None = None
) -> object:
    row = connection.execute(query.encode(), parameters).fetchone()
    return row[0] if row else None
