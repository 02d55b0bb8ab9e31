"""PostgreSQL is killed, all of it and with `fsync` on, while batches commit without waiting for the disk."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_daemon import until
from fix_postgres import embedded, new_database
from fix_proxy import Proxy
from psycopg.rows import dict_row
from psycopg_pool.base import AttemptWithBackoff

from backfilld.migrations.file import migration as definition
from backfilld.migrations.postgres.connect import begin_settings, connect
from backfilld.migrations.record import pulse, schema
from backfilld.producers import commands, enqueueing
from backfilld.worker.lanes import claim
from proof.crash import SETTINGS, Crashes, Workers, kill
from proof.trial import Wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.producers.demo.servers import EmbeddedPostgres

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
    with embedded(settings=SETTINGS) as one:
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
    with new_database(server.url(), copy_of="template0") as url:
        enqueue(url, walk=chance.choice(["auto", "keys"]))
        one = Crashes(url=url, chance=chance, workers=Workers(url=url), revive=partial(restart, server))
        one.die()
        with one.workers.working():
            yield one


def restart(server: EmbeddedPostgres) -> None:
    kill(server)
    server.start()


@contextmanager
def pair() -> Iterator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    """A server and its synchronous standby."""
    with embedded(settings=SETTINGS) as primary, closing(primary.standby()) as standby:
        standby.start()
        with psycopg.connect(primary.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            until(
                "the standby to be waited for",
                lambda: (
                    connection.execute("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone()
                    is not None
                ),
            )
        yield primary, standby


def fail_over(seed: int, *, deaths: int) -> Crashes:
    """The server dies at work and its standby is promoted, which is what the workers find from then on at the same place."""
    with pair() as (primary, standby), Proxy("127.0.0.1", primary.port) as proxy:
        place = proxy.url(primary.url())  # nothing is shared with another test, and nothing has to be tidied up
        enqueue(place)

        def promote() -> None:
            kill(primary)
            with psycopg.connect(standby.url(), autocommit=True) as connection:
                connection.execute("SELECT pg_promote()")
            proxy.redirect("127.0.0.1", standby.port)

        one = Crashes(url=place, chance=random.Random(seed), workers=Workers(url=place), revive=promote)
        with one.workers.working():
            one.die_at_batch(one.chance.randrange(3, 6))
            one.revive = partial(restart, standby)
            play(one, deaths=deaths)
    return one


def enqueue(url: str, *, walk: str = "auto") -> None:
    with connect(url) as connection:
        schema.ensure(connection)
        connection.execute(
            "CREATE TABLE public.items (id bigint PRIMARY KEY, n integer NOT NULL, status text NOT NULL)"
        )
        connection.execute(
            "INSERT INTO public.items SELECT g, g, 'open ' || g FROM generate_series(1, %s::integer) g", [ROWS]
        )
        enqueueing.enqueue(connection, definition.parse(MIGRATION % walk), actor="the proof")


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
        play(one, deaths=2)
    assert sum(one.lost) > 0, "no batch was lost, so nothing is proved"


def test_a_coordinator_that_does_not_wait_for_the_disk_is_found(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "begin_settings", lambda **step: begin_settings(**{**step, "durable": False}))
    with crashes(server, 1) as one, pytest.raises(Wrong, match="it was on record"):
        one.die_often(10)


def test_a_standby_that_is_promoted_has_all_that_was_told() -> None:
    crashed = fail_over(1, deaths=1)
    assert crashed.lost[0] > 0, "the standby had every batch, so nothing is proved"


def test_a_coordinator_that_waits_for_the_standby_is_not_cancelled() -> None:
    """Its commit would be seen, and then be gone with the server."""
    with pair() as (primary, standby), new_database(primary.url(), copy_of="template0") as url, connect(url) as person:
        enqueue(url)
        with psycopg.connect(standby.url(), autocommit=True) as connection:
            connection.execute("SELECT pg_wal_replay_pause()")
            with ThreadPoolExecutor() as threads:
                committing = {lane: threads.submit(_commit, url, lane) for lane in (0, 1)}
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                until("both to wait", lambda: person.execute(waiting).fetchone() == {"count": 2})
                cancelled = pulse.cancel_statements(person, 1)
                until("the batch's wait to end", committing[1].done)
                resting = person.execute(waiting).fetchone()
                connection.execute("SELECT pg_wal_replay_resume()")
                assert (cancelled, resting) == (1, {"count": 1})
                assert "canceling wait for synchronous replication" in "".join(committing[1].result())
                assert committing[0].result(timeout=30) == []


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 12))
def test_promotions_for_long(seed: int) -> None:
    fail_over(seed, deaths=10)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 22))
def test_crashes_for_long(server: EmbeddedPostgres, seed: int) -> None:
    with crashes(server, seed) as one:
        play(one, deaths=15)


def _commit(url: str, lane: int) -> list[str]:
    """Commit as a step of a lane does, to be seen on the standby, too; gives what the server says to it."""
    told: list[str] = []
    with psycopg.connect(url, autocommit=True, application_name=f"backfilld run=1 lane={lane} seq=1") as connection:
        connection.add_notice_handler(lambda said: told.append(said.message_primary or ""))
        connection.execute("SET synchronous_commit = remote_apply")
        connection.execute("INSERT INTO items VALUES (%s, 0, '')", [-lane])
    return told


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
