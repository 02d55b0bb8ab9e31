"""Looks now and then at which statements of the application come between a switch and its contract, so that it is known when last; and
at what speaks against a contract that waits for a person, so that `status`, `explain` and notices say what `approve` would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.record import application as record
from backfilld.migrations.record import runs
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run


def run_once(connection: Connection) -> int:
    """Look for every run that asks for it; returns how many runs that were.

    The purger does, at each of its ticks: a statement's last call is known to within those.
    """
    watched = [run for number in record.watched_runs(connection) if (run := runs.get(connection, number)) is not None]
    for run in watched:
        if run.state is State.WAITING:
            _look_again(connection, run)
        else:
            # What no run without `application` needs.
            from backfilld.migrations.application import moments  # noqa: PLC0415 - see above

            moments.look(connection, run)
    return len(watched)


def _look_again(connection: Connection, run: Run) -> None:
    """Put down what speaks against contract, where that is not what the look before found."""
    from backfilld.migrations.application import gate, moments  # noqa: PLC0415 - as above
    from backfilld.migrations.application.checked import Checked, Moment  # noqa: PLC0415 - as above

    found = gate.look(connection, run)
    with connection.transaction():
        locked = runs.lock(connection, run.run)
        if locked is None or locked.state is not State.WAITING:  # approved meanwhile: its own check comes
            return
        before = record.last_check(connection, run.run, moment=Moment.WAITING).detail
        if before is None or not found.is_like(Checked.from_json(before)):
            moments.put(connection, run.run, found, actor=runs.WORKER)
