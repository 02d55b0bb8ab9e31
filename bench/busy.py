"""How much of a busy lane's time is PostgreSQL's, and what distance does to its speed."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from bench.daemon import Daemon
from bench.delay import Delay
from bench.figures import Figure, Section, Table, Target, number
from bench.stage import BenchBroken, until

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Database, Stage

SCALE = 10
ROUND_TRIP_SECONDS = 0.020
#: Between two looks at what the lane's backend is doing: a thousand looks in a walk, and less than a hundredth of a processor.
LOOK_SECONDS = 0.01

PARTS = ("wait", "statement", "commit")


@dataclass(frozen=True)
class Walk:
    """One lane from its first batch to its last."""

    rows: int
    batches: int
    #: Of the batches, by part.
    seconds: dict[str, float]
    #: From when the first batch could begin until the last had committed.
    wall_seconds: float
    #: The same, counted from the event phase.backfill on: the lane had still to be made.
    since_phase_seconds: float
    #: Of the looks taken at the lane's backend, the share that found a statement running.
    seen_active: float

    @property
    def share(self) -> float:
        return sum(self.seconds.values()) / self.wall_seconds

    @property
    def share_since_phase(self) -> float:
        return sum(self.seconds.values()) / self.since_phase_seconds

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.wall_seconds


def measure(stage: Stage, effort: Effort) -> Section:
    near: list[Walk] = []
    far: list[Walk] = []
    round_trips: list[float] = []
    for repetition in range(effort.repetitions):
        for is_far in (False, True) if repetition % 2 == 0 else (True, False):
            with (
                stage.database(effort.scale(SCALE)) as database,
                Delay(database.url, round_trip_seconds=ROUND_TRIP_SECONDS) as delay,
            ):
                if is_far:
                    round_trips.append(_round_trip_seconds(delay.url))
                    far.append(_walk(stage, database, delay.url))
                else:
                    near.append(_walk(stage, database, database.url))
    milliseconds = ROUND_TRIP_SECONDS * 1000
    return Section(
        name="busy",
        title=f"A busy lane: one lane, one process of one thread, batch_seconds 0.5 (medians of {effort.repetitions})",
        method=(
            "Time inside PostgreSQL is the sum over the lane's batches of backfilld_batch_seconds, parts wait + statement + "
            "commit, from /metrics while the run waits for the approval of verify. These are times of round trips as the "
            "worker sees them: wait is the one that claims the lane, takes the permit and finds the batch's end, statement "
            "the UPDATE, commit the checkpoint with COMMIT. It is divided by the wall time from the moment the lane could be "
            "seen in the record (looked for every 5 ms) to its last commit (progressed_at); and, more strictly, from the event "
            "phase.backfill on, when the lane had still to be made. Beside it, seen from the other side: of looks at "
            "pg_stat_activity every 10 ms in the same time, the share that found the lane's backend running a statement. "
            f"With distance: the same through a proxy that makes a round trip {milliseconds:.0f} ms longer; rows/s are rows "
            "divided by the wall time."
        ),
        tables=(
            Table(
                columns=("lane", "rows/s", "batches", "wall s", *(f"{part} s" for part in PARTS), "other s"),
                rows=(_row("near", near), _row(f"{milliseconds:.0f} ms away", far)),
            ),
        ),
        figures=(
            Figure(
                name="time inside PostgreSQL to wall time",
                values=tuple(100 * walk.share for walk in near),
                unit="%",
                target=Target(at="least", value=95),
            ),
            Figure(
                name="the same since phase.backfill",
                values=tuple(100 * walk.share_since_phase for walk in near),
                unit="%",
                target=Target(at="least", value=95),
            ),
            Figure(
                name="looks that found a statement running",
                values=tuple(100 * walk.seen_active for walk in near),
                unit="%",
            ),
            Figure(
                name=f"rows/s {milliseconds:.0f} ms away to rows/s near",
                values=tuple(one.rows_per_second / other.rows_per_second for one, other in zip(far, near, strict=True)),
                unit="times",
                target=Target(at="least", value=0.5),
            ),
            Figure(
                name="a round trip through the proxy",
                values=tuple(1000 * seconds for seconds in round_trips),
                unit="ms",
            ),
        ),
    )


def _walk(stage: Stage, database: Database, url: str) -> Walk:
    with Daemon(stage, database, processes=1, url=url) as daemon:
        before = daemon.batch_seconds()
        run = daemon.enqueue(lanes=1, approve=["verify"])
        began = until("the lane", lambda: _seen_at(database, run), every_seconds=0.005)
        active = _look_until_done(database, run)
        database.until_state(run, "waiting")
        after = daemon.batch_seconds()
    lane = database.all(
        "SELECT rows_changed, batches_committed, extract(epoch FROM progressed_at)::float8 AS ended "
        "FROM backfilld.lanes WHERE run = %s AND lane = 1",
        [run],
    )[0]
    phase = database.event_at(run, "phase.backfill")
    if lane["rows_changed"] != database.rows or phase is None:
        raise BenchBroken(f"the lane changed {lane['rows_changed']} of {database.rows} rows")
    return Walk(
        rows=lane["rows_changed"],
        batches=lane["batches_committed"],
        seconds={part: after[part] - before[part] for part in PARTS},
        wall_seconds=lane["ended"] - began,
        since_phase_seconds=lane["ended"] - phase,
        seen_active=active,
    )


def _seen_at(database: Database, run: int) -> float | None:
    at: float | None = database.one(
        "SELECT extract(epoch FROM clock_timestamp())::float8 FROM backfilld.lanes WHERE run = %s AND lane = 1", [run]
    )
    return at


def _look_until_done(database: Database, run: int) -> float:
    """Watch the lane's backend until the lane ends; returns the share of looks that found it at work."""
    looks = active = 0
    while True:
        now = database.all(
            "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
            "AND application_name LIKE 'backfilld run=' || %(run)s || ' lane=1 %%') AS active, "
            "(SELECT done_at FROM backfilld.lanes WHERE run = %(run)s::bigint AND lane = 1) AS done",
            {"run": str(run)},
        )[0]
        if now["done"] is not None:
            return active / max(looks, 1)
        looks, active = looks + 1, active + bool(now["active"])
        time.sleep(LOOK_SECONDS)


def _round_trip_seconds(url: str) -> float:
    with psycopg.connect(url, autocommit=True) as connection:
        times = []
        for _ in range(20):
            began = time.monotonic()
            connection.execute("SELECT 1")
            times.append(time.monotonic() - began)
    return statistics.median(times)


def _row(name: str, walks: list[Walk]) -> tuple[str, ...]:
    def median(values: list[float]) -> str:
        return number(statistics.median(values))

    return (
        name,
        median([walk.rows_per_second for walk in walks]),
        median([walk.batches for walk in walks]),
        median([walk.wall_seconds for walk in walks]),
        *(median([walk.seconds[part] for walk in walks]) for part in PARTS),
        median([walk.wall_seconds - sum(walk.seconds.values()) for walk in walks]),
    )
