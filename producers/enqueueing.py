"""The run of a migration: the one there is, or a new one, once nothing in the database speaks against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.errors import InvalidMigration, Refused, UsageError
from backfilld.migrations.identifiers import shown
from backfilld.migrations.record import runs
from backfilld.migrations.record.states import ENDED, State
from backfilld.producers import staging
from backfilld.producers.waiting import find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Awaited, Run
    from backfilld.migrations.source_settings import SourceSettings


@dataclass(frozen=True, kw_only=True)
class Enqueued:
    """The run of a migration: a new one, or the one there was."""

    run: Run
    is_new: bool
    warnings: tuple[str, ...] = ()


def enqueue(  # noqa: PLR0913 - each is named where it is called
    connection: Connection,
    migration: Migration,
    *,
    actor: str,
    refuses_foreign_code: bool = False,
    replica_url: str | None = None,
    sources: Sequence[SourceSettings] = (),
    again: bool = False,
) -> Enqueued:
    """The run of this migration: the existing one, or a new one when preflight finds no reason against it.

    A completed run is followed by a new one where the file has other values for its parameters, or where it is to run `again`.
    One that begins after others which are not verified is refused nothing yet: a worker examines it when it begins.
    Raises UsageError when the name belongs to another migration, and Refused by preflight; nothing is written then.
    """
    from backfilld.migrations.application import moments, query_files  # noqa: PLC0415 - as the next
    from backfilld.migrations.planning import examine  # noqa: PLC0415 - knows every operation, which no other command must

    newest = runs.find(connection, migration.name)
    existing = _same(newest, migration, again=again)
    if existing is not None:
        return Enqueued(run=existing, is_new=False, warnings=_differences(existing, migration))
    awaited = _awaited(connection, migration)
    examination = examine.examine(connection, migration, refuses_foreign_code=refuses_foreign_code, sources=sources)
    in_the_way = {one.check for one in examination.findings} == {"live_run"}
    is_early = bool(awaited) or (bool(migration.after) and in_the_way)
    warnings = examination.warnings
    if is_early:
        warnings = [
            f"{migration.name} is examined again when it begins; as of now: {one}" for one in examination.findings
        ]
    try:
        if not is_early:
            examination.require()
        facts = () if migration.after else examination.facts
        files = query_files.read(migration)
        known = moments.before(
            connection, migration, facts, rows=examination.rows, files=files, replica_url=replica_url
        )
        with connection.transaction():
            run = runs.insert(connection, migration, facts, actor=actor, known=newest.run if newest is not None else 0)
            staging.make_stages(connection, migration, run, examination.facts)
    except (Refused, UsageError):
        # Two deploys enqueue the same file at once: the second gets the run of the first. What preflight found may be what that
        # run has done by now.
        existing = _same(runs.find(connection, migration.name), migration, again=False)
        if existing is None or (newest is not None and existing.run == newest.run):
            raise
        return Enqueued(run=existing, is_new=False, warnings=_differences(existing, migration))
    if known is not None:
        known.put(connection, run, actor=actor)
    return Enqueued(run=find(connection, run), is_new=True, warnings=tuple(warnings))


def existing_run(connection: Connection, migration: Migration) -> Run | None:
    """The run that `enqueue` would answer with; None where it would make a new one. Raises UsageError as it does."""
    return _same(runs.find(connection, migration.name), migration, again=False)


def _awaited(connection: Connection, migration: Migration) -> tuple[Awaited, ...]:
    """The migrations that are not verified yet and after which this one begins. Raises UsageError for one that nobody enqueued."""
    awaited = runs.awaited(connection, migration.after) if migration.after else ()
    for one in awaited:
        if one.state is None:
            msg = f"{migration.name} begins after {one.name}, and no run has that name: enqueue it first, or both as a folder"
            raise UsageError(msg)
    return awaited


def _same(existing: Run | None, migration: Migration, *, again: bool) -> Run | None:
    """The run that has this migration's name; None for a new one. Raises UsageError when it is of another migration."""
    if existing is None or existing.state in {State.CANCELLED, State.ROLLED_BACK}:
        return None
    if existing.checksum == migration.checksum:
        return None if again and existing.state is State.COMPLETED else existing
    if _is_of_same_file(existing, migration):
        if existing.state is State.COMPLETED:
            return None
        values = ", ".join(f"{name}={one['default']}" for name, one in existing.definition["parameters"].items())
        msg = (
            f"run {existing.run} of {migration.name} has other values ({shown(values)}) and is {existing.state.words}: a name has "
            f"one run at a time. Wait until it has ended, or end it: backfilld cancel {existing.name}"
        )
        raise UsageError(msg)
    msg = (
        f"run {existing.run} has the name {migration.name} and another checksum: {_short(existing.checksum)}, and the "
        f"file has {_short(migration.checksum)}. Give the changed migration a new name"
        + ("" if existing.state in ENDED else f", or end the run first: backfilld cancel {existing.name}")
    )
    raise UsageError(msg)


def _is_of_same_file(existing: Run, migration: Migration) -> bool:
    """Whether a run is of the same file with other values: with its values, the file is what the run is of."""
    if not migration.parameters:
        return False
    values = {name: one["default"] for name, one in existing.definition.get("parameters", {}).items()}
    try:
        return migration.with_parameters(values).checksum == existing.checksum
    except (UsageError, InvalidMigration):
        return False


def _differences(run: Run, migration: Migration) -> tuple[str, ...]:
    """Settings are not part of the checksum: warn that those of the file were not taken over."""
    if run.state in ENDED:
        return ()
    there, wanted = run.settings.model_dump(mode="json"), migration.settings.model_dump(mode="json")
    different = ", ".join(name for name in wanted if wanted[name] != there[name])
    if not different:
        return ()
    return (
        f"run {run.name} keeps its own settings; the file differs in {different}. To change them: backfilld pace {run.name}",
    )


def _short(checksum: str) -> str:
    return checksum.removeprefix("sha256:")[:12]
