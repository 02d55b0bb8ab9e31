"""What an error of PostgreSQL means for the work in hand: try again, set a row aside, or stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from backfilld.migrations.postgres.connect import lost

if TYPE_CHECKING:
    import psycopg

#: Classes and codes that go away by themselves (manual, appendix A): no resources, locks, conflicts, operator's orders,
#: a server that takes no writes for the moment (25006: Supabase's answer to a full disk).
_TRANSIENT = ("40", "53", "55", "57", "58", "25006")
#: Classes that one row's values cause: a subselect with two rows, data exceptions, broken constraints, errors a trigger or
#: function raised, views' checks, values too large (for an index) or too deeply nested; and of our own, a Python function.
_DATA = ("21", "22", "23", "44", "54", "P0", "PY")


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


def ran_out_of_time(exc: psycopg.Error) -> bool:
    """Whether a statement was cancelled, by its time limit or by somebody."""
    return exc.sqlstate == "57014"


def in_words(exc: psycopg.Error) -> str:
    """The server's message with its detail, on one line."""
    parts = [exc.diag.message_primary or str(exc).strip(), exc.diag.message_detail]
    return "; ".join(part for part in parts if part)
