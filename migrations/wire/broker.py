"""The way to Redis, the same for those who send and those who receive.

Redis is the wake-up and PostgreSQL the truth: what is lost here the reconciler sends again, and what arrives twice is
dropped by the lane's `seq`. So a command may be retried, and a worker need never wait long for Redis to come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.brokers.stub import StubBroker
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from backfilld.migrations.errors import Finding, InvalidSettings, Refused, Unreachable
from backfilld.migrations.wire.bell import Bell, ring
from backfilld.migrations.wire.messages import CONTROL_QUEUE, LANES_QUEUE, NAMESPACE

if TYPE_CHECKING:
    from dramatiq import MessageProxy

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
            client_name="backfilld",
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
    """Takes messages when the bell rings. Dramatiq's own asks the server ten times a second, or answers late."""

    def __init__(self, broker: Broker, queue_name: str, prefetch: int, timeout: int) -> None:
        del timeout  # the bell's, below
        # Dramatiq's own sleep between two looks is cut to nothing by this.
        super().__init__(broker, queue_name, prefetch, 1)  # type: ignore[no-untyped-call] # dramatiq leaves it untyped
        self._bell = Bell(broker.client, queue_name)
        self._broker = broker
        broker.bells.add(self._bell)

    def __next__(self) -> MessageProxy | None:
        message: MessageProxy | None = super().__next__()  # type: ignore[no-untyped-call] # as above
        if message is None:
            may_rest = self._bell.hears and not self._broker.is_stopping
            self._bell.wait(BELL_SECONDS if may_rest else DEAF_SECONDS)
        return message

    def ack(self, message: MessageProxy) -> None:
        super().ack(message)  # type: ignore[no-untyped-call] # as above
        # There is room for one more, and its ring may have come while there was none.
        self._bell.ring()

    def nack(self, message: MessageProxy) -> None:
        super().nack(message)  # type: ignore[no-untyped-call] # as above
        self._bell.ring()

    def close(self) -> None:
        self._broker.bells.discard(self._bell)
        self._bell.close()
        super().close()


class Broker(RedisBroker):
    """Rings the bell for what it sends, and takes messages when it rings."""

    def __init__(self, **options: Any) -> None:  # Any: those of RedisBroker
        super().__init__(**options)  # type: ignore[no-untyped-call] # dramatiq leaves it untyped
        self.bells: set[Bell] = set()
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
        sent: dramatiq.Message[Any] = super().enqueue(message, delay=delay)
        ring(self.client, message.queue_name)
        return sent


def connect_broker(url: str) -> Broker:
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
        msg = f"cannot reach Redis at {_address(client)}: {exc}"
        raise Unreachable(msg, server="Redis") from exc
    try:
        config = client.config_get("maxmemory*")
    except redis.ResponseError:
        return
    except redis.RedisError as exc:
        msg = f"the connection to Redis at {_address(client)} was lost: {exc}"
        raise Unreachable(msg, server="Redis") from exc
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
        msg = f"cannot reach Redis at {_address(client)}: {exc}"
        raise Unreachable(msg, server="Redis") from exc


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
