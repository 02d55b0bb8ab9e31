"""The way to Redis, the same for those who send and those who receive.

Redis is the wake-up and PostgreSQL the truth: what is lost here the reconciler sends again, and what arrives twice is
dropped by the lane's `seq`. So a command may be retried, and a worker need never wait long for Redis to come back.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import dramatiq
import redis
from dramatiq import MessageProxy
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import ConnectionClosed
from redis.backoff import ExponentialBackoff
from redis.driver_info import DriverInfo
from redis.retry import Retry

from backfilld.migrations.errors import Finding, InvalidSettings, Refused, Unreachable
from backfilld.migrations.wire import trouble as troubles
from backfilld.migrations.wire.bell import Bell, ring
from backfilld.migrations.wire.envelope import MalformedError, unpacked
from backfilld.migrations.wire.messages import CONTROL_QUEUE, LANES_QUEUE, NAMESPACE
from backfilld.migrations.wire.news import MessageMalformed, nobody
from backfilld.migrations.wire.trouble import Teller

if TYPE_CHECKING:
    from backfilld.migrations.wire.news import Observer

_VARIABLE = "BACKFILLD_REDIS_URL"

#: A command of ours takes a millisecond; a server silent for five seconds is as good as gone.
SOCKET_TIMEOUT_SECONDS = 5
#: Short: a deploy script waits for it, and a worker continues without.
CONNECT_TIMEOUT_SECONDS = 2
#: An idle connection that a firewall has cut is found by a PING rather than by the next message.
HEALTH_CHECK_SECONDS = 30
#: Over in a second and a half: bridges a failover's blip, and leaves longer absences to the reconciler.
RETRIES, RETRY_CAP_SECONDS, RETRY_BASE_SECONDS = 3, 0.5, 0.02

#: A process frozen for longer counts as dead, and its messages are delivered once more.
HEARTBEAT_TIMEOUT_MILLISECONDS = 60_000
#: Out of a million commands, how many look for messages of dead workers. The default of 1000 takes a quarter of an hour in
#: a quiet system. One in twenty: every other second for a queue polled ten times a second, and within a minute for one at
#: rest. Not all: while a dead worker is being cleared, each look is a KEYS.
MAINTENANCE_CHANCE = 50_000

#: Malformed messages are told of this often at most.
TELL_SECONDS = 10.0
#: How often a consumer looks whether something is left among the messages in hand that it does not hold.
SWEEP_SECONDS = 60.0

#: How often an idle consumer asks for messages, while it hears the bell and while it does not.
BELL_SECONDS, DEAF_SECONDS = 2.0, 0.1


class BrokerRedis(redis.Redis):
    """A client whose stalled socket counts as a lost connection.

    Dramatiq takes `redis.TimeoutError` for a bug of its own, and leaves the message unacknowledged until the process ends
    (Bogdanp/dramatiq#894).
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:  # Any: whatever redis takes and answers
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # redis-py leaves it untyped
        except redis.TimeoutError as exc:
            raise redis.ConnectionError(str(exc)) from exc


def connect_redis(url: str, *, patient: bool = True) -> BrokerRedis:
    """A client with explicit timeouts and retries; connects when first used. Raises InvalidSettings for a URL that is none.

    One that is not patient gives up after a second: for a caller that only reads.
    """
    _check_url(url)
    timeouts = (SOCKET_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS, RETRIES) if patient else (1, 1, 0)
    answer_seconds, connect_seconds, retries = timeouts
    try:
        pool = redis.ConnectionPool.from_url(
            url,
            socket_timeout=answer_seconds,
            socket_connect_timeout=connect_seconds,
            health_check_interval=HEALTH_CHECK_SECONDS,
            # Explicit, because the default depends on how the client is made: ten retries, or none. When only the reply was
            # lost, a retry sends the message twice; the lane's `seq` lets one of the two through.
            retry=Retry(ExponentialBackoff(cap=RETRY_CAP_SECONDS, base=RETRY_BASE_SECONDS), retries),
            # Not `client_name`: a user who may not set it would have no connection. This is asked for and not insisted on.
            driver_info=DriverInfo(name="backfilld", lib_version=None),
        )
        # A parameter that redis does not know would otherwise be found at the first command, as a TypeError.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError) as exc:
        raise InvalidSettings(_VARIABLE, str(exc)) from exc
    client = BrokerRedis(connection_pool=pool)
    client.auto_close_connection_pool = True  # the pool is nobody else's
    return client


#: Of Redis, or of this process alone.
AnyBroker = dramatiq.Broker


class _Consumer(_RedisConsumer):
    """Takes messages when the bell rings, and none that is not ours.

    Dramatiq's own asks the server ten times a second, or answers late; decodes whatever it finds, and leaves what it cannot
    decode or acknowledge among the messages in hand until the process ends. Here nothing is raised but ConnectionClosed, at
    which Dramatiq makes a new consumer three seconds later.
    """

    broker: Broker

    def __init__(self, broker: Broker, queue_name: str, prefetch: int, timeout: int) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call] # dramatiq leaves it untyped
        self._bell = Bell(broker.client, queue_name)
        broker.bells.add(self._bell)
        self._held = broker.held[queue_name]
        self._swept_at = 0.0
        #: How many messages the last look found, those that are none of ours included: behind them there may be more.
        self._fetched = 0
        #: Messages that were none of ours, since the last time they were told of.
        self._malformed = 0
        self._told_at = -TELL_SECONDS

    def __next__(self) -> MessageProxy | None:
        try:
            message = self._take()
        except redis.RedisError as exc:
            self.broker.teller.failed(exc)
            raise ConnectionClosed(exc) from None  # type: ignore[no-untyped-call] # dramatiq leaves it untyped
        if message is None and not self._fetched:
            may_rest = self._bell.hears and not self.broker.is_stopping
            self._bell.wait(BELL_SECONDS if may_rest else DEAF_SECONDS)
        return message

    def _take(self) -> MessageProxy | None:
        self._fetched = 0
        if not self.message_cache and (room := self.prefetch - self.outstanding_message_count) > 0:
            found = self.broker.do_fetch(self.queue_name, room)
            self.broker.teller.well()
            self._fetched = len(found)
            self.message_cache = [message for data in found if (message := self._unpacked(data)) is not None]
            if len(self.message_cache) < len(found) or time.monotonic() - self._swept_at > SWEEP_SECONDS:
                self._sweep()
        if not self.message_cache:
            return None
        message = self.message_cache.pop(0)
        self.queued_message_ids.add(message.message_id)
        return MessageProxy(message)

    def _unpacked(self, data: bytes | None) -> dramatiq.Message[None] | None:
        try:
            message = unpacked(data, self.queue_name)
        except MalformedError as exc:
            self._malformed += 1
            # Whoever writes such messages could fill the log with them.
            if time.monotonic() - self._told_at >= TELL_SECONDS:
                self.broker.observe(MessageMalformed(queue=self.queue_name, reason=str(exc), count=self._malformed))
                self._malformed, self._told_at = 0, time.monotonic()
            return None
        self._held.add(message.options["redis_message_id"])
        return message

    def _sweep(self) -> None:
        """Remove what this process has fetched and does not hold: what was none of ours, and what could not be acknowledged.

        A fetch gives bodies and no ids, so they are known by what is left. A wake-up that was lost on the way is among them;
        the reconciler sends it again.
        """
        # Before the look: what is acknowledged meanwhile is no longer there, or is left alone.
        held = {identity.encode() for identity in self._held.copy()}
        key = f"{self.broker.namespace}:__acks__.{self.broker.broker_id}.{self.queue_name}"
        for identity in self.broker.client.smembers(key):
            if identity not in held:
                self.broker.do_ack(self.queue_name, identity)
        self._swept_at = time.monotonic()

    def ack(self, message: MessageProxy) -> None:
        """Remove the message. Where that fails it is left to a sweep: a thread that waited for Redis would do no work."""
        identity = message.options["redis_message_id"]
        try:
            self.broker.do_ack(self.queue_name, identity)
        except redis.RedisError as exc:
            self.broker.teller.failed(exc)
        finally:
            self._held.discard(identity)
            self.queued_message_ids.discard(message.message_id)
        # There is room for one more, and its ring may have come while there was none.
        self._bell.ring()

    def nack(self, message: MessageProxy) -> None:
        """Remove the message, too: dead letters would be read by nobody."""
        self.ack(message)

    def close(self) -> None:
        self.broker.bells.discard(self._bell)
        self._bell.close()
        super().close()


class Broker(RedisBroker):
    """Rings the bell for what it sends, and takes messages when it rings."""

    def __init__(self, *, observe: Observer = nobody, **options: Any) -> None:  # Any: those of RedisBroker
        super().__init__(**options)  # type: ignore[no-untyped-call] # dramatiq leaves it untyped
        self.observe = observe
        self.teller = Teller(observe)
        self.bells: set[Bell] = set()
        #: The messages in hand, by queue and their ids in Redis. A consumer that is made anew finds them here.
        self.held: defaultdict[str, set[str]] = defaultdict(set)
        self.is_stopping = False

    def stop_resting(self) -> None:
        """Its consumers are about to be stopped: none of them waits for a ring any more."""
        self.is_stopping = True
        for bell in tuple(self.bells):
            bell.ring()

    @property
    def consumer_class(self) -> type[_Consumer]:
        return _Consumer

    def enqueue(
        self, message: dramatiq.Message[Any], *, delay: int | None = None
    ) -> dramatiq.Message[Any]:  # Any: ours
        try:
            sent: dramatiq.Message[Any] = super().enqueue(message, delay=delay)
        except redis.RedisError as exc:
            self.teller.failed(exc)
            raise
        ring(self.client, message.queue_name)
        return sent


def connect_broker(url: str, *, observe: Observer = nobody) -> Broker:
    """A broker without middleware, which is all a sender needs; a worker adds its own.

    The default list is left out on purpose: TimeLimit and ShutdownNotifications raise into threads that are inside psycopg
    (leaks connections, and reports committed batches as failed), AgeLimit drops messages, Retries copies tracebacks, and
    with them people's rows, into Redis.
    """
    return Broker(
        client=connect_redis(url),
        namespace=NAMESPACE,
        heartbeat_timeout=HEARTBEAT_TIMEOUT_MILLISECONDS,
        maintenance_chance=MAINTENANCE_CHANCE,
        middleware=[],
        observe=observe,
    )


def in_memory() -> dramatiq.Broker:
    """A broker of this process alone: for `backfilld run` where no Redis is configured."""
    return StubBroker(middleware=[])


def check(client: redis.Redis) -> None:
    """Look whether Redis answers, and whether it may throw our keys away.

    Raises Unreachable, or Refused for an eviction policy that would drop messages when memory runs out. Where CONFIG is
    forbidden, as it is at most providers, the policy stays unknown: a dropped message costs time, not work.
    """
    try:
        client.ping()
    except redis.RedisError as exc:
        raise unreachable(client, exc) from exc
    try:
        config = client.config_get("maxmemory*")
    except redis.ResponseError:
        return
    except redis.RedisError as exc:
        raise unreachable(client, exc) from exc
    values = {_text(name): _text(value) for name, value in dict(config).items()}
    policy = values.get("maxmemory-policy", "noeviction")
    # `volatile-…` drops keys with a time to live, which ours do not have; without `maxmemory` nothing is dropped at all.
    if policy.startswith("allkeys-") and values.get("maxmemory") != "0":
        raise Refused(
            [
                Finding(
                    "redis_eviction",
                    f"Redis at {_address(client)} evicts keys when its memory is full (maxmemory-policy {policy})",
                    "Set maxmemory-policy to noeviction, or give backfilld a Redis of its own",
                )
            ]
        )


def queue_lengths(client: redis.Redis) -> dict[str, int]:
    """Messages that wait in Redis, by queue; those that a worker has taken are not among them. Raises Unreachable."""
    try:
        return {queue: int(client.llen(f"{NAMESPACE}:{queue}")) for queue in (LANES_QUEUE, CONTROL_QUEUE)}
    except redis.RedisError as exc:
        raise unreachable(client, exc) from exc


def unreachable(client: redis.Redis, exc: BaseException) -> Unreachable:
    """What a command that failed means, for people."""
    trouble = troubles.of(exc)
    return Unreachable(trouble.told_of(f"Redis at {_address(client)}"), server="Redis", remedy=trouble.remedy)


def _check_url(url: str) -> None:
    """What redis-py takes for database 0 without a word: a path that is no number."""
    try:
        parsed = urlparse(url)
        parsed.port  # noqa: B018 - reading it is what checks it
    except ValueError as exc:
        raise InvalidSettings(_VARIABLE, str(exc)) from exc
    database = parsed.path.strip("/")
    if parsed.scheme in ("redis", "rediss") and database and not database.isdecimal():
        raise InvalidSettings(_VARIABLE, f"{database!r} is not a database number, such as 0")


def _address(client: redis.Redis) -> str:
    """Where the server is, without its password."""
    told = client.connection_pool.connection_kwargs
    return str(told["path"]) if "path" in told else f"{told.get('host', 'localhost')}:{told.get('port', 6379)}"


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
