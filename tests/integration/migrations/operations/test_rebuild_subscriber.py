"""A logical subscriber to a table that `rebuild` makes anew goes on under the same name, there, back and there again.

That the publication names the table at each stop is looked at in test_rebuild_mistakes.py, without a second server.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_daemon import until
from fix_postgres import SETTINGS, embedded, missing_service, new_database
from fix_rules import engine_at
from fix_runs import expect
from psycopg.rows import dict_row

from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands
from backfilld.producers.demo.servers import EmbeddedFailed, EmbeddedUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_runs import Engine

#: A subscriber that has not caught up after so long never will.
ORDERS = "CREATE TABLE orders (legacy text DEFAULT 'l', id {type} PRIMARY KEY, name text UNIQUE, total integer)"
FILLED = "INSERT INTO orders SELECT 'l' || n, n, 'o' || n, n FROM generate_series(1, 500) n"
ROWS = "SELECT legacy, id::bigint, name, total FROM orders ORDER BY id"
KEYS: dict[str, Any] = {"columns": {"id": {"type": "bigint"}}, "order": ["id", "total"]}


class Subscriber:
    """Another database that gets what the publication `sent` sends, and never asks for more than it began with."""

    def __init__(self, engine: Engine, url: str) -> None:
        self._engine = engine
        self._connection = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        self._connection.execute(ORDERS.format(type="bigint").encode())
        self._connection.execute(f"CREATE SUBSCRIPTION all_of_it CONNECTION '{engine.url}' PUBLICATION sent".encode())

    def follows(self) -> None:
        """It has the publisher's rows, by the relation that it began with."""
        wanted = (self._engine.execute(ROWS), [{"state": "r"}])
        until("the subscriber to have the publisher's rows", lambda: self._look() == wanted)

    def _look(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        states = self._connection.execute("SELECT srsubstate::text AS state FROM pg_subscription_rel").fetchall()
        return self._connection.execute(ROWS.encode()).fetchall(), states

    def close(self) -> None:
        self._connection.execute("DROP SUBSCRIPTION all_of_it")
        self._connection.close()


@pytest.fixture
def publisher() -> Iterator[Engine]:
    """A server of its own: those of other tests write no WAL that can be decoded."""
    try:
        server = embedded(settings={**SETTINGS, "wal_level": "logical"})
        server.start()
    except (EmbeddedUnavailable, EmbeddedFailed) as error:
        missing_service(str(error))
    with closing(server), engine_at(server.url()) as engine:
        engine.execute(ORDERS.format(type="integer"))
        engine.execute(FILLED)
        engine.execute("CREATE PUBLICATION sent FOR TABLE orders")
        yield engine


@pytest.fixture
def subscriber(publisher: Engine, admin_url: str) -> Iterator[Subscriber]:
    with (
        new_database(admin_url, copy_of="template0") as url,
        closing(Subscriber(publisher, url)) as subscriber,
    ):
        yield subscriber


def writer(engine: Engine) -> Callable[[], None]:
    """Each call writes rows of every kind; a key is never used again."""
    calls = iter(range(1, 100))

    def write() -> None:
        call = next(calls)
        engine.execute(
            f"""
            INSERT INTO orders (legacy, id, name, total) VALUES ('new', {1000 + call}, 'n{call}', 1);
            UPDATE orders SET total = total + {call} WHERE id % 7 = {call % 7}; DELETE FROM orders WHERE id = {call * 11};
            UPDATE orders SET id = id + 10000 WHERE id = {call * 13}; UPDATE orders SET name = 'x' WHERE id = {call * 17};
            UPDATE orders SET name = 'o{call * 17}' WHERE id = {call * 19}; UPDATE orders SET name = 'o{call * 19}' WHERE id = {call * 17}
            """
        )

    return write


@pytest.mark.soak
def test_it_goes_on_there_and_back_and_there_and_back(publisher: Engine, subscriber: Subscriber) -> None:
    engine = publisher
    write = writer(engine)
    subscriber.follows()
    for name, ends in (("anew", State.ROLLED_BACK), ("again", State.COMPLETED)):
        text = {"name": name, "operations": [{"rebuild": {"table": "orders", **KEYS}}]}
        run = engine.enqueue(json.dumps({**text, "settings": {"lanes": 2, "approve": ["switch", "contract"]}}))
        write()
        engine.drive(run, until=lambda now: now.phase is Phase.VERIFY)
        write()
        expect(engine.drive(run), State.WAITING)
        write()
        commands.approve(engine.connection, run, "switch", actor="ann")
        expect(engine.drive(run), State.WAITING)
        write()
        subscriber.follows()
        if ends is State.ROLLED_BACK:
            commands.rollback(engine.connection, run, actor="ann")
        else:
            commands.approve(engine.connection, run, "contract", actor="ann")
        expect(engine.drive(run), ends)
        write()
        subscriber.follows()
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    write()
    subscriber.follows()
