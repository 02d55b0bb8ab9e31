"""What it gives that batches do not wait for the disk: rows per second by the time a commit takes, and how often WAL is flushed."""

from __future__ import annotations

import statistics
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from bench.daemon import CHEAP, Daemon
from bench.delay import Delay
from bench.effort import tell
from bench.figures import Figure, Section, Table, number
from bench.stage import ROWS_PER_SCALE, Stage, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.effort import Effort
    from bench.stage import Database

SCALE = 3
LANES = 2
#: 0: there is no standby to wait for, and the disk takes what it takes.
LATENCIES_MILLISECONDS = (0, 2, 10)
#: The default, and what a batch may last beside an application that feels it.
TARGETS_SECONDS = (0.5, 0.05)
#: From this version on WAL is counted where all other input and output is.
_COUNTED_AS_IO = 180_000


@dataclass(frozen=True, kw_only=True)
class Walked:
    """One run over all rows."""

    seconds: float
    batches: int
    #: What the last round trips of batches took together, with the checkpoint and the COMMIT.
    commit_seconds: float
    flushes: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared."""

    milliseconds: int
    target_seconds: float
    durable: bool


def measure(stage: Stage, effort: Effort) -> Section:
    stage.embedded_here()  # a server of the user's has standbys of its own, or none
    scale = effort.scale(SCALE)
    walked: dict[Case, list[Walked]] = {}
    folder = stage.folder / "commit"
    folder.mkdir()
    with Stage(folder) as own, _standby(own) as standby:
        for milliseconds in LATENCIES_MILLISECONDS:
            with _waited_for(own, standby, milliseconds):
                for target in TARGETS_SECONDS:
                    for repetition in range(effort.repetitions):
                        for durable in (True, False) if repetition % 2 else (False, True):
                            case = Case(milliseconds=milliseconds, target_seconds=target, durable=durable)
                            one = _walk(own, scale, case)
                            walked.setdefault(case, []).append(one)
                            tell(f"commit, {case}: {scale * ROWS_PER_SCALE / one.seconds:,.0f} rows/s")
    return _section(walked, scale * ROWS_PER_SCALE, effort.repetitions)


def _section(walked: dict[Case, list[Walked]], rows: int, repetitions: int) -> Section:
    return Section(
        name="commit",
        title=f"Commit: x = {CHEAP} in {rows:,} rows, by how long a commit takes (medians of {repetitions})",
        method=(
            f"add_column with {LANES} lanes on 2 processes, with durable_batches off and on in turns. A commit takes 2 or 10 ms "
            "longer where a synchronous standby is behind a proxy that delays what it is sent and what it answers; at 0 ms no "
            "standby is waited for. The rate is that of the backfill phase, from the event phase.backfill to the event "
            "phase.verify; flushes are all of the server in that run (fsyncs of WAL in pg_stat_io or pg_stat_wal), those of the "
            "canary, the governor and the coordinator included."
        ),
        tables=(
            Table(
                columns=(
                    "commit, batch_seconds",
                    "durable_batches",
                    "rows/s",
                    "batches",
                    "checkpoint and commit ms",
                    "WAL flushes per 1,000 batches",
                ),
                rows=tuple(
                    (
                        f"+{case.milliseconds} ms, {case.target_seconds:g} s",
                        "on" if case.durable else "off",
                        number(statistics.median(rows / one.seconds for one in ones)),
                        number(statistics.median(one.batches for one in ones)),
                        number(statistics.median(1000 * one.commit_seconds / one.batches for one in ones)),
                        number(statistics.median(1000 * one.flushes / one.batches for one in ones)),
                    )
                    for case, ones in walked.items()
                ),
            ),
        ),
        figures=tuple(
            Figure(
                name=f"+{case.milliseconds} ms, batch_seconds {case.target_seconds:g}: rows/s off, on = 1",
                values=tuple(on.seconds / off.seconds for off, on in zip(ones, walked[_durable(case)], strict=True)),
                unit="times",
            )
            for case, ones in walked.items()
            if not case.durable
        ),
    )


def _durable(case: Case) -> Case:
    return Case(milliseconds=case.milliseconds, target_seconds=case.target_seconds, durable=True)


def _walk(stage: Stage, scale: int, case: Case) -> Walked:
    with stage.database(scale) as database, Daemon(stage, database, processes=LANES) as daemon:
        before = _flushes(database)
        run = daemon.enqueue(lanes=LANES, batch_seconds=case.target_seconds, durable_batches=case.durable)
        database.until_state(run, "completed")
        batches = "SELECT sum(batches_committed)::integer FROM backfilld.lanes WHERE run = %s AND lane > 0"
        return Walked(
            seconds=database.lasted(run, "phase.backfill", "phase.verify"),
            batches=int(database.one(batches, [run])),
            commit_seconds=daemon.batch_seconds()["commit"],
            flushes=_flushes(database) - before,
        )


def _flushes(database: Database) -> int:
    if database.connection.info.server_version >= _COUNTED_AS_IO:
        return int(database.one("SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'"))
    return int(database.one("SELECT wal_sync FROM pg_stat_wal"))


@contextmanager
def _standby(stage: Stage) -> Iterator[str]:
    """The URL of a standby that nobody waits for yet."""
    standby = stage.embedded_here().standby(settings={"shared_buffers": "128MB"})
    try:
        standby.start()
        yield standby.url()
    finally:
        standby.close()


@contextmanager
def _waited_for(stage: Stage, standby: str, milliseconds: int) -> Iterator[None]:
    """Let commits wait for the standby, which is so far away; 0: let them not."""
    if not milliseconds:
        yield
        return
    with Delay(stage.url(), round_trip_seconds=milliseconds / 1000) as delay:
        _set(standby, "primary_conninfo", delay.url)
        _set(stage.url(), "synchronous_standby_names", "*")
        with psycopg.connect(stage.url(), autocommit=True) as primary:
            port = "SELECT client_port FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
            until("the standby to be waited for", lambda: primary.execute(port).fetchone())
        try:
            yield
        finally:
            _set(stage.url(), "synchronous_standby_names", "")


def _set(url: str, name: str, value: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")
