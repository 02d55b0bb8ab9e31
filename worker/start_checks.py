"""Whether a daemon can work at all, asked before its processes start: what is wrong, why, and what to do, in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import structlog

from backfilld.migrations.errors import BackfilldError, Finding, Refused, Unreachable
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.postgres.sqlstates import cannot_serve, in_words, remedy_of
from backfilld.migrations.record import schema
from backfilld.migrations.wire import broker

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.settings import Settings

log = structlog.get_logger("backfilld")

#: What a worker does to the tables of its own.
_LACKING = """
SELECT c.relname AS name, string_agg(needed.privilege, ', ' ORDER BY needed.privilege) AS privileges
FROM pg_class c CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) needed (privilege)
WHERE c.relnamespace = 'backfilld'::regnamespace AND c.relkind = 'r'
  AND NOT has_table_privilege(c.oid, needed.privilege)
GROUP BY c.relname ORDER BY c.relname
"""


def check_services(settings: Settings) -> None:
    """Both services answer, take writes, and have the control schema that this program knows. Raises BackfilldError."""
    try:
        with connected(settings.require_database()) as connection:
            _check_writable(connection)
            for version in schema.ensure(connection):
                log.info("schema.applied", version=version)
            _check_privileges(connection)
    except psycopg.Error as exc:
        raise _refusal(exc) from exc
    broker.check(broker.connect_redis(settings.require_redis()))


def _refusal(exc: psycopg.Error) -> BackfilldError:
    remedy = remedy_of(exc.sqlstate)
    if isinstance(exc, psycopg.errors.InsufficientPrivilege):
        return Refused([Finding("privilege", in_words(exc), remedy)])
    if cannot_serve(exc):
        return Unreachable(in_words(exc), remedy=remedy)
    return BackfilldError(f"{in_words(exc)} (SQLSTATE {exc.sqlstate})")


def _check_writable(connection: Connection) -> None:
    row = connection.execute(
        "SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only')::boolean AS read_only"
    ).fetchone()
    if row is not None and row["standby"]:
        raise Unreachable(
            "the database is a standby, which takes no writes",
            remedy="give BACKFILLD_DATABASE_URL of the primary, or add target_session_attrs=read-write to one that names both",
        )
    if row is not None and row["read_only"]:
        raise Unreachable(
            "the database takes no writes: default_transaction_read_only is on",
            remedy="switch it off (ALTER DATABASE … RESET default_transaction_read_only); a host may have switched it on as the disk is full",
        )


def _check_privileges(connection: Connection) -> None:
    lacking = connection.execute(_LACKING).fetchall()
    if not lacking:
        return
    row = connection.execute("SELECT quote_ident(current_user) AS role").fetchone()
    role = row["role"] if row else "this role"
    tables = "; ".join(f"{one['privileges']} on backfilld.{one['name']}" for one in lacking[:3])
    more = f" and on {len(lacking) - 3} tables more" if len(lacking) > 3 else ""
    raise Refused(
        [
            Finding(
                "privilege",
                f"the role {role} lacks {tables}{more}",
                f"Let the worker log in as the role that ran `backfilld init`, or make {role} a member of it",
            )
        ]
    )
