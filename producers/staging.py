"""The files that a migration loads: each gets a stage with its run, and is sent into it from where that was left off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.errors import UsageError
from backfilld.migrations.file.operations import Load
from backfilld.migrations.loading import stage
from backfilld.migrations.record.states import ENDED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run


def make_stages(connection: Connection, migration: Migration, run: int, facts: Sequence[Facts]) -> None:
    """Make the stages of a new run, in the transaction that makes it. Raises UsageError where nobody knows their columns yet."""
    for number, operation in enumerate(migration.operations):
        if not isinstance(operation, Load):
            continue
        known = facts[number].load if facts else None
        if known is None:
            msg = (
                f"operations[{number}].load of {migration.name} cannot be examined before other migrations are done; enqueue it once they "
                "are, so that its file can be sent"
            )
            raise UsageError(msg)
        from backfilld.migrations.operations.load.steps import stage_of  # noqa: PLC0415 - knows every operation, which no other command must

        table = stage_of(migration.name, number)
        stage.make(connection, run, number, operation.source, table=table, fields=known.fields)


def send_files(connection: Connection, run: Run) -> None:
    """Send what is not staged yet of the files of a run. Raises Refused where one cannot be read, or is another than before."""
    if run.state in ENDED:
        return
    loads = {number: one for number, one in enumerate(run.migration.operations) if isinstance(one, Load)}
    for number, operation in loads.items():
        found = stage.read(connection, run.run, number)
        if found is None or found.is_done or operation.source.is_read_by_a_worker:
            continue
        stage.stream(connection, found, operation.source, most_refused=run.settings.max_quarantined)
