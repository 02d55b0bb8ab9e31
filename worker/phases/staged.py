"""Whether the source of a load is staged, and whether so few of its lines are set aside that the others may be loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.file.operations import Load
from backfilld.migrations.loading import stage

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run

#: As many are named to people.
_NAMED = 5


class NotStaged(Exception):
    """The whole source of a load is not in its stage yet; its message says how much is."""


def require(connection: Connection, run: Run, operation: int) -> None:
    """Have the source of a load in its stage: what a query gives is put there now. Raises NotStaged for a file that is not sent."""
    found = stage.read(connection, run.run, operation)
    if found is not None and found.is_done:
        return
    load = run.migration.operations[operation]
    if found is not None and isinstance(load, Load) and load.source.query is not None and load.source.database is None:
        stage.fill(connection, found, load.source)
        return
    if found is None:
        msg = f"nothing of its source is staged. Send it: backfilld enqueue, with the file of {run.name}"
        raise NotStaged(msg)
    if isinstance(load, Load) and load.source.place is not None:
        raise NotStaged(_by_a_worker(found, load.source.place))
    share = f"{found.bytes_read} of {found.bytes_total} bytes" if found.bytes_total is not None else "nothing"
    msg = (
        f"{share} of {found.source} are staged. Where nobody sends the rest: backfilld enqueue, with the file of {run.name}, goes on from "
        "there"
    )
    raise NotStaged(msg)


def _by_a_worker(found: stage.Staging, place: str) -> str:
    share = f"{found.bytes_read} of {found.bytes_total} bytes" if found.bytes_total is not None else "nothing"
    told = f"staged so far of {found.source}: {share}. A worker that knows the source {place} reads it"
    return f"{told}. It cannot be read now: {found.problem}" if found.problem else told


def too_many(connection: Connection, run: int, cap: int) -> str:
    """What to tell where more lines are set aside than the run allows; empty where not."""
    found = stage.set_aside(connection, run)
    if found.lines <= cap:
        return ""
    named = "; ".join(f"line {one.line}: {one.error}" for one in stage.some_set_aside(connection, run, limit=_NAMED))
    return (
        f"{found.lines} lines are set aside, and the run allows {cap}; no row is written yet ({named}). Cancel the run and load a better "
        "file; or allow as many: backfilld pace RUN --max-quarantined N, then resume"
    )
