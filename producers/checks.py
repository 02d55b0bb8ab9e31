"""The verdict on an application's code beside a migration: asked here, and put on record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backfilld.migrations.errors import UsageError
from backfilld.migrations.planning import planned_schema
from backfilld.migrations.record import code_verdicts, runs, schema
from backfilld.migrations.record.states import ENDED
from backfilld.producers.code import checking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.planning.planned_schema import At, PlannedSchema
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.source_settings import SourceSettings
    from backfilld.producers.code.checking import Verdict


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What the commands of a file said."""

    verdicts: tuple[Verdict, ...]
    #: The run that it is about; None where there is none yet.
    run: int | None
    #: It is on record. Without the schema `backfilld` there is nowhere to put it.
    is_on_record: bool

    @property
    def passes(self) -> bool:
        """No command fails in a later phase in a way in which it does not fail today."""
        return all(one.fails_from is None for one in self.verdicts)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "passes": self.passes,
            "run": self.run,
            "on_record": self.is_on_record,
            "commands": [one.to_json() for one in self.verdicts],
        }


def check(  # noqa: PLR0913 - what to check, and for whom
    connection: Connection,
    migration: Migration,
    *,
    until: str,
    actor: str,
    refuses_foreign_code: bool,
    sources: Sequence[SourceSettings] = (),
    tell: Callable[[str], None] | None,
) -> Checks:
    """Run the commands of a migration against each phase up to `until`. Raises UsageError and Refused."""
    if migration.application is None or not migration.application.commands:
        msg = f"the migration {migration.name} has no application.commands to run"
        raise UsageError(msg)
    has_record = schema.version(connection) == schema.newest()
    run = _open_run(connection, migration) if has_record else None

    def schemas_of(names: Sequence[str]) -> Mapping[At, PlannedSchema]:
        if run is not None and run.facts:
            found = planned_schema.still_planned(connection, run, names)
        else:
            found = planned_schema.planned(
                connection, migration, names, refuses_foreign_code=refuses_foreign_code, sources=sources
            )
        return {at: planned_schema.as_code_sees_it(one, migration) for at, one in found.items()}

    verdicts = checking.check(
        migration.application.commands,
        schemas_of,
        tables={one.table for one in migration.operations if one.table is not None},
        until=planned_schema.At(until),
        tell=tell,
    )
    if has_record:
        code_verdicts.put(
            connection,
            run=run.run if run is not None else None,
            checksum=migration.checksum,
            until=until,
            commands=[one.to_json() for one in verdicts],
            actor=actor,
        )
    return Checks(verdicts=verdicts, run=run.run if run is not None else None, is_on_record=has_record)


def _open_run(connection: Connection, migration: Migration) -> Run | None:
    """The run of the migration that has not ended."""
    run = runs.find(connection, migration.name)
    return run if run is not None and run.checksum == migration.checksum and run.state not in ENDED else None
