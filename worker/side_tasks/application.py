"""Looks now and then at which statements of the application come between a switch and its contract, so that it is known when last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.record import application as record
from backfilld.migrations.record import runs

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection


def run_once(connection: Connection) -> int:
    """Look for every run that asks for it; returns how many statements there are.

    The purger does, at each of its ticks: a statement's last call is known to within those.
    """
    seen = 0
    for number in record.watched_runs(connection):
        run = runs.get(connection, number)
        if run is not None:
            # What no run without `application` needs.
            from backfilld.migrations.application import moments  # noqa: PLC0415 - see above

            seen += moments.look(connection, run)
    return seen
