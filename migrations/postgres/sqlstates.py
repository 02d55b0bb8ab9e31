"""What an error of PostgreSQL means for the work in hand: try again, set a row aside, or stop (manual, appendix A)."""

from __future__ import annotations

from typing import Literal

import psycopg
from psycopg import errors

_CONNECTION = "08"
#: The statement was cancelled, by a session or a time limit, or the server was ended.
_INTERVENTION = "57"
#: The server ends the session: it shuts down, has crashed, or is not ready yet. Of this class only 57014 spares the session.
_SHUTDOWN = "57P"
_NO_RESOURCES = "53"
#: Classes and codes that go away by themselves: no resources, locks, conflicts, operator's orders,
#: a server that takes no writes for the moment (25006: Supabase's answer to a full disk).
_TRANSIENT = ("40", _NO_RESOURCES, "55", _INTERVENTION, "58", "25006")
#: Classes that one row's values cause: a subselect with two rows, data exceptions, broken constraints, errors a trigger or
#: function raised, views' checks, values too large (for an index) or too deeply nested; and of our own, a Python function.
_DATA = ("21", "22", "23", "44", "54", "P0", "PY")


#: The server has ended the session for a limit of time: idle in a transaction, in a transaction, idle.
_ENDED_FOR_TIME = frozenset({"25P03", "25P04", "57P05"})


def classify(exc: psycopg.Error) -> Literal["connection", "transient", "data", "fatal"]:
    """What happens next after an error."""
    if lost(exc):
        return "connection"
    code = exc.sqlstate or ""
    if code.startswith(_DATA):
        return "data"
    if code.startswith(_TRANSIENT):
        return "transient"
    return "fatal"


def lost(exc: psycopg.Error) -> bool:
    """Whether an error means that the connection is gone, so that the outcome of a COMMIT would be unknown."""
    if exc.sqlstate is None:
        return isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
    return (
        exc.sqlstate.startswith(_CONNECTION)
        or exc.sqlstate in _ENDED_FOR_TIME
        or isinstance(exc, errors.AdminShutdown | errors.CrashShutdown | errors.CannotConnectNow)
    )


def server_is_gone(exc: psycopg.Error) -> bool:
    """Whether an error says nothing of the statement that met it: the connection is lost, or the server goes down."""
    return exc.sqlstate is None or exc.sqlstate.startswith((_CONNECTION, _SHUTDOWN))


def was_interrupted(exc: psycopg.Error) -> bool:
    """As `server_is_gone`, or the statement was cancelled before it could answer."""
    return server_is_gone(exc) or (exc.sqlstate or "").startswith(_INTERVENTION)


def cannot_serve(exc: psycopg.Error) -> bool:
    """Whether the same would be answered later: interrupted, or no connections, memory or disk are left."""
    return was_interrupted(exc) or (exc.sqlstate or "").startswith(_NO_RESOURCES)


def ran_out_of_time(exc: psycopg.Error) -> bool:
    """Whether a statement was cancelled, by its time limit or by another session."""
    return exc.sqlstate == "57014"


def in_words(exc: psycopg.Error) -> str:
    """The server's message with its detail, on one line."""
    parts = [exc.diag.message_primary or str(exc).strip(), exc.diag.message_detail]
    return "; ".join(part for part in parts if part)


def remedy_of(sqlstate: str | None) -> str:
    """What a person can do about an error of the server's that no statement is to blame for; empty where nothing is known."""
    return _REMEDIES.get(sqlstate or "", "")


_REMEDIES = {
    "25006": "the server takes no writes: give the URL of the primary, or switch default_transaction_read_only off",
    "42501": "grant the role what is missing, or use the role that ran `backfilld init`",
    "53100": "make room on the disk of the server",
    "53200": "look for what uses the memory of the server",
    "53300": "end idle sessions (pg_stat_activity), raise max_connections or the role's CONNECTION LIMIT, or use fewer --processes and --threads",
    "57P03": "the server starts or shuts down; try again",
}
