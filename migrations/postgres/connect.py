"""Connections: how they are opened, and the settings every transaction of ours begins with.

All settings are local to a transaction, so that a pooler in transaction mode cannot leak them to others. The first of them are
the empty `search_path` and the wait for the disk, which `SafeConnection` sets by itself.
"""

from __future__ import annotations

import math
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg import errors
from psycopg.rows import dict_row

from backfilld.migrations.errors import InvalidSettings, Unreachable
from backfilld.migrations.postgres.safe_path import SafeConnection, SafeCursor
from backfilld.migrations.postgres.sessions import OURS, SessionName
from backfilld.migrations.postgres.sqlstates import lost, remedy_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg_pool import ConnectionPool

#: Any: what a row holds depends on the query; `from_row` of a value gives it types.
Row = dict[str, Any]
Connection = psycopg.Connection[Row]
Pool: TypeAlias = "ConnectionPool[SafeConnection]"

#: How a server that has no room for another session says so, where it speaks English.
_NO_ROOM = ("too many clients", "too many connections", "remaining connection slots")

#: Seconds to wait for a server that does not answer. Longer than a restart's refusal, shorter than a person's patience.
CONNECT_TIMEOUT_SECONDS = 10

#: A transaction that hears nothing for so long is ended by the server, and with it the lease and the locks of a worker that froze.
#: A process that gets a tenth of a processor is back within this.
FROZEN_SECONDS = 10.0

_OPTIONS: dict[str, Any] = {
    "row_factory": dict_row,
    # Poolers in transaction mode do not know of prepared statements, and a plan made for one key range misleads the next.
    "prepare_threshold": None,
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    # A peer that vanished without a word is noticed within about half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


def connect(
    url: str, *, application_name: str = OURS, patience_seconds: float = CONNECT_TIMEOUT_SECONDS
) -> SafeConnection:
    """Open one connection, in autocommit mode. Raises Unreachable, and InvalidSettings for a URL that is none.

    A caller whose `patience_seconds` are fewer gives up sooner, on a server that does not answer and on a peer that vanished.
    """
    patience: dict[str, Any] = {}
    if patience_seconds < CONNECT_TIMEOUT_SECONDS:
        patience = {"connect_timeout": math.floor(patience_seconds), "tcp_user_timeout": round(patience_seconds * 1000)}
    try:
        connection = SafeConnection.connect(
            url,
            autocommit=True,
            application_name=application_name,
            cursor_factory=SafeCursor,
            **{**_OPTIONS, **patience},
        )
    except psycopg.OperationalError as exc:
        problem = str(exc).strip()
        # libpq gives no SQLSTATE where the server refuses a session.
        remedy = remedy_of("53300") if any(words in problem for words in _NO_ROOM) else ""
        msg = f"cannot reach PostgreSQL: {problem}"
        raise Unreachable(msg, remedy=remedy) from exc
    except psycopg.ProgrammingError:
        # libpq's message quotes what it could not read, and a password may be in it.
        raise InvalidSettings(
            "BACKFILLD_DATABASE_URL",
            "is not a URL or connection string that libpq understands: postgresql://user@host/name",
        ) from None
    with reachable():
        lift_time_limits(connection)
    return connection


#: Limits of time that a role, a database or the server may have for the application's sessions. Ours have limits of their own
#: where they belong, in each step's transaction; under these the longest of our waits would be cut off.
TIME_LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)


def lift_time_limits(connection: Connection) -> None:
    """Lift the time limits that this session came with.

    Not behind a pooler in transaction mode, where the number of the process is another than at the connect: a setting of the
    session would be somebody else's there. Its transactions have `begin_settings` alone.
    """
    connection.execute(
        "SELECT pg_catalog.set_config(limits.name, '0', false) FROM pg_catalog.unnest(%s::text[]) AS limits (name) "
        "WHERE pg_catalog.pg_backend_pid() = %s::integer AND pg_catalog.current_setting(limits.name, true) <> '0'::text",
        [list(TIME_LIMITS), connection.info.backend_pid],
    )
    if connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
        connection.commit()


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection in autocommit mode that is closed at the end. A connection lost meanwhile raises Unreachable."""
    with connect(url) as connection, reachable():
        yield connection


@contextmanager
def reachable() -> Iterator[None]:
    """Translate the loss of the connection into Unreachable."""
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as exc:
        if not lost(exc):
            raise
        msg = f"the connection to PostgreSQL was lost: {str(exc).strip()}"
        raise Unreachable(msg) from exc


def open_pool(url: str, *, size: int) -> Pool:
    """A pool for the threads of one process; connections are opened as they are needed and checked before use."""
    from psycopg_pool import ConnectionPool  # noqa: PLC0415 - a command has one connection and no pool

    return ConnectionPool(
        url,
        min_size=0,
        max_size=size,
        # A connection left idle is one the application could have.
        max_idle=60,
        timeout=CONNECT_TIMEOUT_SECONDS,
        reconnect_timeout=CONNECT_TIMEOUT_SECONDS,
        kwargs={**_OPTIONS, "application_name": OURS, "autocommit": True, "cursor_factory": SafeCursor},
        connection_class=SafeConnection,
        check=ConnectionPool.check_connection,
        configure=lift_time_limits,
        name=OURS,
        open=True,
    )


def open_session(pool: Pool, *, application_name: str, settings: dict[str, str]) -> Connection:
    """One more connection to where a pool's go, for statements outside of a transaction; `settings` hold for all of them.

    Not one of the pool: it is needed for hours, and what is set here must not come back to a batch. Nor a SafeConnection: what
    it is for cannot run in a transaction, so its `search_path` is the session's. DDL is refused behind a pooler that would give
    that to others. Raises psycopg.Error.
    """
    if not isinstance(pool.conninfo, str):
        msg = "the pool was not opened by `open_pool`"
        raise TypeError(msg)
    return open_session_at(pool.conninfo, application_name=application_name, settings=settings)


def open_session_at(url: str, *, application_name: str, settings: dict[str, str]) -> Connection:
    """The same, where no pool is."""
    connection: Connection = psycopg.connect(url, autocommit=True, **{**_OPTIONS, "application_name": application_name})
    connection.execute("SET search_path = ''")
    lift_time_limits(connection)
    # Those that this server has: some came with later versions.
    connection.execute(
        "SELECT set_config(s.name, v.value, false) FROM unnest(%s::text[], %s::text[]) AS v (name, value) "
        "JOIN pg_settings s ON s.name = v.name",
        [list(settings), list(settings.values())],
    )
    # A peer that is gone ends its statement within a second; not every platform can tell.
    with suppress(errors.InvalidParameterValue):
        connection.execute("SET client_connection_check_interval = '1s'")
    return connection


def begin_settings(  # noqa: PLR0913 - each is named where it is called
    *,
    run: int,
    lane: int,
    seq: int,
    lock_timeout_seconds: float,
    statement_timeout_seconds: float,
    transaction_timeout_seconds: float = 0.0,
    writes: str = "",
    durable: bool = True,
) -> dict[str, str]:
    """The settings of one step's transaction, for `apply_settings`.

    `backfilld.batch` is how users' triggers can tell our batches from the application; `backfilld.writes` names the
    sync triggers whose work the batch itself does. A `statement_timeout_seconds` or `transaction_timeout_seconds` of 0 is no limit.
    The COMMIT of a step that is not `durable` waits for neither disk nor standby; that of another as `SafeConnection` has it.
    """
    return {
        "application_name": str(SessionName(run=run, lane=lane, seq=seq)),
        "lock_timeout": f"{round(lock_timeout_seconds * 1000)}ms",
        "statement_timeout": f"{round(statement_timeout_seconds * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{FROZEN_SECONDS * 1000:.0f}ms",
        "transaction_timeout": f"{round(transaction_timeout_seconds * 1000)}ms",
        "backfilld.batch": "on",
        "backfilld.writes": writes,
        **({} if durable else {"synchronous_commit": "off"}),
        **SEMANTICS,
    }


#: What an expression means must not depend on who evaluates it: batch, sync trigger and verify agree on these.
#: `row_security = off` turns rows that a policy would hide into an error.
SEMANTICS = {
    "row_security": "off",
    "search_path": "",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
}


#: PostgreSQL 17 came with `transaction_timeout`.
_TRANSACTION_TIMEOUT = 170_000


def apply_settings(connection: Connection, settings: dict[str, str]) -> None:
    """Set all of `settings` that the server knows until the transaction ends, in one statement."""
    if connection.info.server_version < _TRANSACTION_TIMEOUT:
        settings = {name: value for name, value in settings.items() if name != "transaction_timeout"}
    # Its whole name, for a connection that is not a SafeConnection.
    calls = ", ".join(["pg_catalog.set_config(%s, %s, true)"] * len(settings))
    pairs = [part for item in settings.items() for part in item]
    # The text is one fixed call repeated; the values travel as parameters.
    connection.execute(f"SELECT {calls}".encode(), pairs)
