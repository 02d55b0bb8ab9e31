"""How the application's statements are planned on the real tables, at this moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.application.binding import find_way
from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.postgres.sqlstates import server_is_gone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.application.corpus import Statement
    from backfilld.migrations.application.paths import Paths
    from backfilld.migrations.application.usable import Plan
    from backfilld.migrations.postgres.connect import Connection

#: One statement at a time holds what it reads, for as long as planning takes.
_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "max_parallel_workers_per_gather": "0",
    "row_security": "on",
    "lock_timeout": "50ms",
    "statement_timeout": "5s",
}


def plans_of(connection: Connection, statements: Sequence[Statement], paths: Paths) -> dict[str, Plan]:
    """The plan of each statement by its text; none for a statement that cannot be planned. Raises only for the loss of the connection."""
    found: dict[str, Plan] = {}
    for path, several in paths.grouped(statements).items():
        with connection.transaction(force_rollback=True):
            apply_settings(connection, {**_SETTINGS, "search_path": path})
            for one in several:
                try:
                    plan = find_way(connection, one.text)[1].plan
                except psycopg.Error as exc:
                    if server_is_gone(exc):
                        raise
                    continue
                if plan is not None:
                    found[one.text] = plan
    return found
