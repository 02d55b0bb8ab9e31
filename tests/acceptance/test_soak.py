"""Chaos for as long as you like: `make soak`. Everything that can be killed is, at random moments told by a seed."""

from __future__ import annotations

import os
import random
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from fix_daemon import Daemon, Record, backfilld, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backfilld.producers.demo.servers import EmbeddedPostgres

NAME = "soak"
ROWS = 150_000
MIGRATION = f"""
name: {NAME}
operations:
  - add_column: {{table: items, column: {{name: doubled, type: bigint}}, backfill: "n * 2", not_null: true}}
  - backfill: {{table: counted, set: {{n: n + 1}}}}
settings: {{lanes: 4, batch_seconds: 0.1, nice: 1}}
"""


class Application(threading.Thread):
    """Writes to `items` until told to stop, and keeps a ledger; lost connections are its own to mend."""

    def __init__(self, url: str, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._chance = chance
        self.done = threading.Event()
        self.errors: list[str] = []

    def run(self) -> None:
        while not self.done.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True) as connection:
                    while not self.done.is_set():
                        self._write(connection)
            except psycopg.OperationalError:
                self.done.wait(0.1)
            except psycopg.Error as exc:
                self.errors.append(str(exc))

    def _write(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        row = self._chance.randrange(1, ROWS)
        if self._chance.random() < 0.3:
            connection.execute("INSERT INTO items (n) VALUES (%s)", [row])
        else:
            connection.execute("UPDATE items SET n = n + 1 WHERE id = %s", [row])


@pytest.fixture
def application(database_url: str, record: Record, request: pytest.FixtureRequest) -> Iterator[Application]:
    for table in ("items", "counted"):
        record.connection.execute(
            f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n bigint NOT NULL)".encode()
        )
        record.connection.execute(f"INSERT INTO {table} (n) SELECT 0 FROM generate_series(1, {ROWS})".encode())
    running = Application(database_url, random.Random(request.node.callspec.params["seed"]))
    running.start()
    yield running
    running.done.set()
    running.join()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_killed_every_row_is_right(
    seed: int,
    application: Application,
    embedded_postgres: EmbeddedPostgres,
    daemon: Daemon,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    """Each row of `counted` is counted up once, each row of `items` is doubled, and the application saw no error of ours."""
    chance = random.Random(seed)
    urls = {"database_url": database_url, "redis_url": redis_url}
    file = tmp_path / "soak.yaml"
    file.write_text(MIGRATION, encoding="utf-8")
    assert backfilld("enqueue", str(file), **urls).returncode == 0
    broker = redis.Redis.from_url(redis_url)

    def verified() -> bool:
        try:
            with psycopg.connect(database_url) as connection:
                row = connection.execute("SELECT state FROM backfilld.runs WHERE name = %s", [NAME]).fetchone()
                return row == ("waiting",)
        except psycopg.OperationalError:
            return False

    blows: dict[str, Callable[[], object]] = {
        "worker": daemon.kill_lanes,
        "redis": broker.flushall,
        "postgresql": lambda: embedded_postgres.restart("immediate"),
        "pause": lambda: (backfilld("pause", NAME, **urls), backfilld("resume", NAME, **urls)),
    }
    for _ in range(chance.randrange(3, 8)):
        if verified():
            break
        blows[chance.choice(sorted(blows))]()
        threading.Event().wait(chance.uniform(0.1, 2.0))  # the moment of the next blow is part of the chance
    until("the data to be verified", verified, patience_seconds=180)
    application.done.set()
    application.join()

    after = Record(database_url)
    try:
        assert after.one("SELECT count(*) FROM counted WHERE n <> 1") == 0
        assert after.one("SELECT count(*) FROM items WHERE doubled IS DISTINCT FROM n * 2") == 0
        assert after.one("SELECT count(*) FROM backfilld.quarantine") == 0
    finally:
        after.connection.close()
    assert application.errors == []


class Starved(threading.Thread):
    """Gives all processes of a group a tenth of the time: they are stopped for the rest, as a container's limit does it."""

    def __init__(self, group: int) -> None:
        super().__init__(daemon=True)
        self._group = group
        self.done = threading.Event()

    def run(self) -> None:
        with suppress(ProcessLookupError):
            while not self.done.is_set():
                os.killpg(self._group, signal.SIGSTOP)
                self.done.wait(0.09)
                os.killpg(self._group, signal.SIGCONT)
                self.done.wait(0.01)


@pytest.mark.soak
def test_a_daemon_under_a_tenth_of_a_processor_starts_and_finishes_a_run(
    database_url: str, redis_url: str, record: Record, tmp_path: Path
) -> None:
    """By the figures of issue 12 its children were killed while they imported, and started again for ever."""
    record.connection.execute(
        "CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n bigint NOT NULL)"
    )
    record.connection.execute("INSERT INTO items (n) SELECT 0 FROM generate_series(1, 20000)")
    file = tmp_path / "starved.yaml"
    file.write_text(
        "name: starved\noperations:\n"
        '  - add_column: {table: items, column: {name: doubled, type: bigint}, backfill: "n * 2"}\n'
        "settings: {approve: []}\n"
    )
    daemon = Daemon(database_url, redis_url, tmp_path / "daemon.log", group=True)
    starved = Starved(daemon.process.pid)
    starved.start()
    try:
        asked = backfilld("enqueue", str(file), database_url=database_url, redis_url=redis_url)
        assert asked.returncode == 0, asked.stderr
        until("the run to end", lambda: record.state("starved") == "completed", patience_seconds=900)
    finally:
        starved.done.set()
        starved.join()
        daemon.stop()
    assert not daemon.lines("child.silent")
    assert not daemon.lines("child.died")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("application")
def test_a_daemon_that_is_frozen_as_a_whole_holds_no_transaction(
    seed: int, database_url: str, redis_url: str, record: Record, tmp_path: Path
) -> None:
    """At any moment: nobody of ours is left to end it, so the server does, within its limit for idle transactions."""
    chance = random.Random(seed)
    file = tmp_path / "soak.yaml"
    file.write_text(MIGRATION, encoding="utf-8")
    daemon = Daemon(database_url, redis_url, tmp_path / "daemon.log", group=True)
    open_ = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL "
        "AND application_name LIKE 'backfilld%%' AND pid <> pg_backend_pid()"
    )
    try:
        asked = backfilld("enqueue", str(file), database_url=database_url, redis_url=redis_url)
        assert asked.returncode == 0, asked.stderr
        for _ in range(5):
            threading.Event().wait(chance.uniform(0.1, 3))  # not for luck: at a moment that the seed chose
            os.killpg(daemon.process.pid, signal.SIGSTOP)
            until("the server to end what is open", lambda: record.one(open_) == 0, patience_seconds=30)
            os.killpg(daemon.process.pid, signal.SIGCONT)
    finally:
        os.killpg(daemon.process.pid, signal.SIGCONT)
        daemon.stop()
