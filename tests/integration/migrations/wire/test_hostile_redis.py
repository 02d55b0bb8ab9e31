"""Redis as somebody else left it: messages that are none, users with few rights, servers that take no writes."""

from __future__ import annotations

import json
import logging
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
from fix_daemon import until

from backfilld.migrations.errors import Unreachable
from backfilld.migrations.wire import broker as brokers
from backfilld.migrations.wire.broker import check, connect_broker, connect_redis
from backfilld.migrations.wire.envelope import packed
from backfilld.migrations.wire.messages import ControlMessage, LaneMessage
from backfilld.migrations.wire.news import MessageMalformed, News, RedisBack, RedisFailed
from backfilld.migrations.wire.receive import receive_control, receive_lanes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.producers.demo.servers import EmbeddedValkey

GOOD = LaneMessage(target="default", run=1, lane=2, seq=3)
ENVELOPE: dict[str, Any] = {  # Any: JSON
    "queue_name": "lanes",
    "actor_name": "advance_lane",
    "args": ["default", 1, 2, 3],
    "kwargs": {},
    "options": {"redis_message_id": "forged"},
    "message_id": "forged",
    "message_timestamp": 1,
}


def but(**values: object) -> bytes:
    """An envelope with other values."""
    return json.dumps({**ENVELOPE, **values}).encode()


FORGED: dict[str, bytes | None] = {
    "no body": None,
    "thirty megabytes": b"x" * 30_000_000,
    "a pickle": pickle.dumps({"run": 1}),
    "deep": b"[" * 2000,
    "not in UTF-8": b'{"\xff": 1}',
    "a list": b"[]",
    "missing keys": b'{"queue_name": "lanes"}',
    "more keys": but(more=1),
    "NaN": json.dumps({**ENVELOPE, "args": ["default", float("nan"), 2, 3]}).encode(),
    "a float": but(args=["default", 1.5, 2, 3]),
    "a boolean": but(args=["default", True, 2, 3]),
    "beyond bigint": but(args=["default", 2**63, 2, 3]),
    "negative": but(args=["default", -1, 2, 3]),
    "too few": but(args=["default", 1, 2]),
    "an object": but(args={"run": 1}),
    "SQL for a run": but(args=["default", "1; DROP TABLE jobs", 2, 3]),
    "keywords": but(kwargs={"run": 1}),
    "an actor that is none": but(actor_name="os.system"),
    "for another queue": but(queue_name="control"),
    "to be delayed": but(options={"redis_message_id": "forged", "eta": 10**15}),
    "a pipe": but(options={"redis_message_id": "forged", "pipe_target": {}}),
    "no id": but(options={}),
    "the id of another": but(options={"redis_message_id": "another"}),
}


def lay(client: redis.Redis, queue: str, identity: str, body: bytes | None) -> None:
    """What somebody does who can write to Redis."""
    if body is not None:
        client.hset(f"{{backfilld}}:{queue}.msgs", identity, body)
    client.rpush(f"{{backfilld}}:{queue}", identity)


def left(client: redis.Redis) -> list[str]:
    """Everything in Redis but who is alive."""
    return sorted(str(key) for key in client.scan_iter() if b"heartbeats" not in key)


def test_forged_messages_leave_nothing_and_one_line(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(brokers, "SWEEP_SECONDS", 0.0)
    events, taken, client = list[News](), list[LaneMessage](), connect_redis(redis_url)
    for name, body in FORGED.items():
        for queue in ("lanes", "lanes.DQ"):
            lay(client, queue, name, body)
    broker = connect_broker(redis_url, observe=events.append)
    with caplog.at_level(logging.INFO):
        receiver = receive_lanes(broker, taken.append, threads=2)
        try:
            broker.enqueue(packed(GOOD))
            until("nothing to be left", lambda: GOOD in taken and left(client) == [], patience_seconds=20)
        finally:
            receiver.stop()
    # The forged one that claims another's id is a message like any other: its lane has another `seq`.
    assert {(one.run, one.lane, one.seq) for one in taken} == {(1, 2, 3)}
    told = [event for event in events if isinstance(event, MessageMalformed)]
    assert len(told) == 2, "one line for each queue"
    assert all(len(event.reason) < 80 for event in told)
    assert [record.name for record in caplog.records if record.levelno > logging.INFO] == []
    broker.close()
    client.close()


def test_control_messages_are_cleaned_before_anybody_sees_them(redis_url: str) -> None:
    taken, client, took = list[ControlMessage](), connect_redis(redis_url), threading.Event()
    envelope = {**ENVELOPE, "queue_name": "control", "actor_name": "apply_control"}

    def body(*args: object) -> bytes:
        return json.dumps({**envelope, "args": list(args)}).encode()

    for number, verb in enumerate(("rollback", "approve", "DROP TABLE jobs", "", None)):
        lay(client, "control", f"verb {number}", body("default", 1, verb, "eve"))
    lay(client, "control", "long", body("default", 1, "wake", "e" * 10_000))
    lay(client, "control", "forged", body("default", 1, "wake", "\x1b]0;pwned\x07 eve\x00\n"))

    def take(message: ControlMessage) -> None:
        taken.append(message)
        took.set()

    broker = connect_broker(redis_url)
    receiver = receive_control(broker, take)
    try:
        assert took.wait(20)
    finally:
        receiver.stop()
    (message,) = taken
    assert message.actor.isprintable()
    assert "eve" in message.actor
    broker.close()
    client.close()


@pytest.fixture
def admin(embedded_valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(embedded_valkey.url) as client:
        yield client
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("maxmemory", "0")
        client.execute_command("ACL", "DELUSER", "few")


def run(client: redis.Redis, command: str) -> None:
    client.execute_command(*command.split())  # type: ignore[no-untyped-call] # redis-py leaves it untyped


TROUBLES: dict[str, tuple[str, str, str]] = {
    "a replica": ("REPLICAOF 127.0.0.1 1", "read-only replica", "primary"),
    "no memory": ("CONFIG SET maxmemory 1", "out of memory", "maxmemory"),
}


@pytest.mark.parametrize("what", TROUBLES)
def test_a_server_that_takes_no_writes_is_told_once_with_the_remedy(
    embedded_valkey: EmbeddedValkey, admin: redis.Redis, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    command, problem, remedy = TROUBLES[what]
    seen, sent = list[News](), list[News]()
    broker = connect_broker(embedded_valkey.url, observe=seen.append)
    sending = connect_broker(embedded_valkey.url, observe=sent.append)
    with caplog.at_level(logging.INFO):
        receiver = receive_lanes(broker, lambda _: None, threads=1)
        try:
            run(admin, command)
            for _ in range(5):
                with pytest.raises(redis.RedisError):
                    sending.enqueue(packed(GOOD))
            until("a consumer to fail", lambda: told(seen), patience_seconds=20)
            run(admin, "REPLICAOF NO ONE")
            run(admin, "CONFIG SET maxmemory 0")
            until("it to be back", lambda: RedisBack() in seen, patience_seconds=20)
        finally:
            receiver.stop()
    for events in (seen, sent):
        (failed,) = told(events)
        assert problem in failed.problem
        assert remedy in failed.remedy
    assert [record.name for record in caplog.records if record.levelno > logging.INFO] == []
    broker.close()
    sending.close()


def told(events: list[News]) -> list[RedisFailed]:
    return [event for event in events if isinstance(event, RedisFailed)]


def test_a_user_that_may_not_set_a_name_works(embedded_valkey: EmbeddedValkey, admin: redis.Redis) -> None:
    run(admin, "ACL SETUSER few on >pw ~{backfilld}* &{backfilld}* +@all -@admin -client")
    taken, broker = list[LaneMessage](), connect_broker(_as(embedded_valkey, "few"))
    receiver = receive_lanes(broker, taken.append, threads=1)
    try:
        broker.enqueue(packed(GOOD))
        until("the message", lambda: taken == [GOOD], patience_seconds=20)
    finally:
        receiver.stop()
        broker.close()


ASKED: dict[str, tuple[str, str, str]] = {
    "no right": ("ACL SETUSER few on >pw ~{backfilld}* +@all -ping", "does not let its user", "ACL SETUSER"),
    "a wrong password": ("ACL SETUSER few on >other", "refuses the user or the password", "BACKFILLD_REDIS_URL"),
}


@pytest.mark.parametrize("what", ASKED)
def test_what_a_command_line_says_of_it(embedded_valkey: EmbeddedValkey, admin: redis.Redis, what: str) -> None:
    command, problem, remedy = ASKED[what]
    run(admin, command)
    with pytest.raises(Unreachable, match=problem) as raised:
        check(connect_redis(_as(embedded_valkey, "few")))
    assert remedy in raised.value.remedy
    assert "pw" not in str(raised.value)


def test_a_server_that_does_not_answer_is_not_said_to_be_away(
    embedded_valkey: EmbeddedValkey, admin: redis.Redis
) -> None:
    run(admin, "CLIENT PAUSE 3000 ALL")
    with pytest.raises(Unreachable, match="does not answer in time"):
        check(connect_redis(embedded_valkey.url, patient=False))


def _as(server: EmbeddedValkey, user: str) -> str:
    return server.url.replace("redis://", f"redis://{user}:pw@")
