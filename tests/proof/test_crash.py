"""PostgreSQL is killed, all of it and with `fsync` on, while batches commit without waiting for the disk."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_postgres import new_database
from psycopg.rows import dict_row
from psycopg_pool.base import AttemptWithBackoff

from backfilld.migrations.file import migration as definition
from backfilld.migrations.postgres.connect import begin_settings, connect
from backfilld.migrations.record import schema
from backfilld.producers import commands
from backfilld.producers.demo.servers import EmbeddedPostgres
from backfilld.worker.lanes import claim
from proof.crash import SETTINGS, Crashes, Workers, kill
from proof.trial import Wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 3_000
#: An operation that cannot be told from its values whether it was done, and one that has a trigger and a contract.
MIGRATION = """
name: crashes
operations:
  - backfill: {table: items, set: {n: n + 1}}
  - add_column: {table: items, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}
settings: {lanes: 3, batch_seconds: 0.02, walk: %s}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(settings=SETTINGS) as one:
        yield one


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool looks for a server that is gone ten times a second, where it would do so after one second, two, four."""
    monkeypatch.setattr(AttemptWithBackoff, "INITIAL_DELAY", 0.1)
    monkeypatch.setattr(AttemptWithBackoff, "DELAY_BACKOFF", 1.0)


@contextmanager
def crashes(server: EmbeddedPostgres, seed: int) -> Iterator[Crashes]:
    """A run, and workers that begin with it."""
    chance = random.Random(seed)

    def revive() -> None:
        kill(server)
        server.start()

    with new_database(server.url(), copy_of="template0") as url:
        enqueue(url, walk=chance.choice(["auto", "keys"]))
        one = Crashes(url=url, chance=chance, workers=Workers(url=url), revive=revive)
        one.die()
        with one.workers.working():
            yield one


def enqueue(url: str, *, walk: str = "auto") -> None:
    with connect(url) as connection:
        schema.ensure(connection)
        connection.execute(
            "CREATE TABLE public.items (id bigint PRIMARY KEY, n integer NOT NULL, status text NOT NULL)"
        )
        connection.execute(
            "INSERT INTO public.items SELECT g, g, 'open ' || g FROM generate_series(1, %s::integer) g", [ROWS]
        )
        commands.enqueue(connection, definition.parse(MIGRATION % walk), actor="the proof")


def play(one: Crashes, *, deaths: int) -> None:
    """There, through the contract, and back; the server dies at work, and right behind each thing that it acknowledged."""
    one.die_often(deaths)
    one.ask(commands.pause)
    one.die()
    one.until_rest("paused")
    one.die()
    one.ask(commands.resume)
    one.until_rest("waiting")
    one.die()
    _look(one.url, "n = id + 1 AND shout = upper(status)")
    one.ask(commands.approve, "contract")
    one.die()
    one.until_rest("completed")
    one.ask(commands.rollback)
    one.die_often(deaths)
    one.until_rest("rolled_back")
    _look(one.url, "n = id AND status = 'open ' || id")


def test_what_was_told_outlives_a_crash_and_no_row_is_done_twice(server: EmbeddedPostgres) -> None:
    with crashes(server, 1) as one:
        play(one, deaths=4)
    assert sum(one.lost) > 0, "no batch was lost, so nothing is proved"


def test_a_coordinator_that_does_not_wait_for_the_disk_is_found(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "begin_settings", lambda **step: begin_settings(**{**step, "durable": False}))
    with crashes(server, 1) as one, pytest.raises(Wrong, match="it was on record"):
        one.die_often(10)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 22))
def test_crashes_for_long(server: EmbeddedPostgres, seed: int) -> None:
    with crashes(server, seed) as one:
        play(one, deaths=15)


def _look(url: str, right: str) -> None:
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        found = connection.execute(
            f"SELECT count(*) AS rows, count(*) FILTER (WHERE {right}) AS right FROM items".encode()
        ).fetchone()
        changed = connection.execute(
            "SELECT sum(rows_changed)::integer AS rows FROM backfilld.lanes WHERE kind = 'backfill' AND operation = 0"
        ).fetchone()
    assert found == {"rows": ROWS, "right": ROWS}
    assert changed == {"rows": ROWS}
