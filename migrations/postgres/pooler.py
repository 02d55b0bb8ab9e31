"""Telling a pooler in transaction mode from a server: it gives each transaction whatever server process is free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.errors import Unreachable
from backfilld.migrations.postgres import connect

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection

#: Transactions tried. A pooler with one idle server hands it back each time, so a second client takes it meanwhile.
TRIES = 3


def in_transaction_mode(connection: Connection) -> bool:
    """Whether two transactions of this connection can land in different server processes.

    A second connection begins a transaction between ours, so that a pooler has to give ours another server.
    A server that lets no second connection in is taken for what it says it is.
    """
    # The password is not in `dsn`.
    parameters = {**connection.info.get_parameters(), "password": connection.info.password or None}
    try:
        other = connect.connect(psycopg.conninfo.make_conninfo("", **parameters))
    except Unreachable:
        return False
    try:
        with other:
            first = _process(connection)
            for _ in range(TRIES):
                other.execute("BEGIN")
                # Behind a pool of a single server ours would wait for this transaction for ever; the server ends it.
                other.execute("SET LOCAL idle_in_transaction_session_timeout = '3s'")
                if _process(connection) != first:
                    return True
                other.rollback()
                if _process(connection) != first:
                    return True
    except psycopg.OperationalError:
        return True
    return False


def _process(connection: Connection) -> int:
    row = connection.execute("SELECT pg_backend_pid() AS pid").fetchone()
    return int(row["pid"]) if row else 0
