"""The bell, between real consumers and a real Redis or Valkey."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from fix_daemon import until

from backfilld.migrations.wire import broker as brokers
from backfilld.migrations.wire.bell import Bell, ring
from backfilld.migrations.wire.broker import connect_broker, connect_redis
from backfilld.migrations.wire.messages import LANES_QUEUE, LaneMessage
from backfilld.migrations.wire.receive import receive_lanes
from backfilld.migrations.wire.send import sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_proxy import Proxy

    from backfilld.migrations.wire.broker import AnyBroker, BrokerRedis

MESSAGE = LaneMessage(target="default", run=1, lane=2, seq=3)


@pytest.fixture
def client(redis_url: str) -> Iterator[BrokerRedis]:
    with connect_redis(redis_url) as client:
        yield client


@pytest.fixture
def taken(redis_url: str) -> Iterator[tuple[list[LaneMessage], threading.Event, AnyBroker]]:
    """What a receiver of one thread takes, an event that lets its handler return, and the broker to send by."""
    broker, found, may_return = connect_broker(redis_url), list[LaneMessage](), threading.Event()
    may_return.set()

    def take(message: LaneMessage) -> None:
        found.append(message)
        may_return.wait()

    receiver = receive_lanes(broker, take, threads=1)
    yield found, may_return, broker
    may_return.set()
    receiver.stop()
    broker.close()


def listening(client: BrokerRedis) -> bool:
    """Whether a consumer of the lanes' queue listens."""
    return bool(dict(client.pubsub_numsub("{backfilld}:bell:lanes")).get(b"{backfilld}:bell:lanes"))


def test_a_message_is_taken_when_it_is_sent_though_nobody_asks_for_one(
    client: BrokerRedis,
    taken: tuple[list[LaneMessage], threading.Event, AnyBroker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(brokers, "BELL_SECONDS", 3600.0)
    found, _, broker = taken
    until("the consumer to listen", lambda: listening(client))

    sender(broker)(MESSAGE)

    until("it to be taken", lambda: found == [MESSAGE])


def test_what_came_while_all_threads_were_busy_is_taken_when_one_is_free(
    client: BrokerRedis,
    taken: tuple[list[LaneMessage], threading.Event, AnyBroker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its ring was heard, and there was no room for it."""
    monkeypatch.setattr(brokers, "BELL_SECONDS", 3600.0)
    found, may_return, broker = taken
    until("the consumer to listen", lambda: listening(client))
    may_return.clear()
    for _ in range(3):
        sender(broker)(MESSAGE)
    until("the first to be taken", lambda: len(found) == 1)

    may_return.set()

    until("the others to be taken", lambda: len(found) == 3)


def test_a_consumer_that_cannot_hear_asks(
    redis_url: str, taken: tuple[list[LaneMessage], threading.Event, AnyBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that was put into the queue without a ring, by an older sender or one that may not publish."""
    monkeypatch.setattr(Bell, "hears", False)
    monkeypatch.setattr(brokers, "ring", lambda *_: None)
    found, _, _ = taken
    silent = connect_broker(redis_url)

    sender(silent)(MESSAGE)

    until("it to be taken", lambda: found == [MESSAGE])
    silent.close()


def test_a_bell_whose_connection_was_cut_is_heard_again(redis_url: str, proxy: Callable[[str], Proxy]) -> None:
    between = proxy(redis_url)
    with connect_redis(redis_url) as direct, connect_redis(between.url(redis_url)) as cut:
        bell = Bell(cut, LANES_QUEUE)
        until("it to listen", lambda: bell.hears)
        bell.wait(0)

        between.cut()
        until("it to listen again", lambda: listening(direct) and bell.hears)
        bell.wait(0)
        ring(direct, LANES_QUEUE)

        began = time.monotonic()
        bell.wait(3600)
        assert time.monotonic() - began < 3000
        bell.close()
