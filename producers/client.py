"""The verbs of the command line as Python functions, for deploy scripts: `from backfilld import Client`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.migrations.errors import Unreachable
from backfilld.migrations.identifiers import TARGET
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.record import lanes, schema
from backfilld.migrations.wire.messages import ControlMessage
from backfilld.monitoring import pace
from backfilld.producers import commands, enqueueing, pacing, staging, transforms, waiting
from backfilld.producers.backing_up import BackingUp
from backfilld.producers.following import Following
from backfilld.producers.looking import progress_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    from backfilld.migrations.backups.report import GateReport
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.file.parameters import Given
    from backfilld.migrations.planning.plan import Plan
    from backfilld.migrations.planning.planned_schema import PlannedSchema
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.pace import Stop
    from backfilld.migrations.record.partitions import PartitionedTable
    from backfilld.migrations.record.states import Phase
    from backfilld.migrations.rollback.retention import Purged
    from backfilld.monitoring.pace import PaceReport
    from backfilld.monitoring.progress import Progress
    from backfilld.producers.backing_up import Rescue
    from backfilld.producers.checks import Checks
    from backfilld.producers.uninstall import Uninstalled


#: A warning about a statement of a migration file.
_ABOUT_SQL = re.compile(r"operations\[\d+\]\.sql\b")


class Client(Following, BackingUp):
    """One target database and the workers on it.

    Every method opens a connection of its own and closes it. Errors are exported from `backfilld`: UsageError, InvalidMigration and
    InvalidSettings (fix the call), Refused (fix the migration or the database), Unreachable (nothing was changed), NotFinished
    (ask again later), and RunStopped (a person is needed).
    """

    # --- before a run --------------------------------------------------------------------------------------------------

    def new(self, table: str, operation: str, *, columns: Sequence[str] = ()) -> str:
        """The text of a first migration file: one operation on a table, with the names that are there, every key explained."""
        from backfilld.producers import draft  # noqa: PLC0415 - the models of all operations, for this verb alone

        with connected(self._settings.require_database()) as connection:
            return draft.draft(connection, table, operation, columns)

    def init(self, *, published: bool = False) -> list[int]:
        """Create the schema `backfilld`, or upgrade it; returns the versions applied, none when it was up to date.

        Raises Refused where a publication would send its tables on, unless `published`.
        """
        from backfilld.migrations.planning.checks import leftovers  # noqa: PLC0415 - for this verb alone

        with connected(self._settings.require_database()) as connection:
            applied = schema.ensure(connection, published=published)
            for left in leftovers.without_a_record(connection) if applied else ():
                self._warn(left)
            return applied

    def plan(self, file: str | Path, parameters: Mapping[str, Given] | None = None) -> Plan:
        """What a migration would do here. Nothing is changed, and a plan with findings is still a plan."""
        migration = _load(file, parameters)
        with connected(self._settings.require_database()) as connection:
            return self._plan(connection, migration)

    def planned_schemas(
        self, file: str | Path, schemas: Sequence[str] = ("public",), parameters: Mapping[str, Given] | None = None
    ) -> dict[str, PlannedSchema]:
        """The tables, views and functions of schemas at the moments today, expand, switch and contract, seen on copies.

        Raises UsageError for a schema that is not there, and Refused where the migration cannot run here.
        """
        from backfilld.migrations.planning import planned_schema  # noqa: PLC0415 - as `_plan` does

        migration = _load(file, parameters)
        refuses = self._settings.refuses_foreign_code
        with connected(self._settings.require_database()) as connection:
            found = planned_schema.planned(
                connection, migration, schemas, refuses_foreign_code=refuses, sources=self._settings.sources
            )
        return {str(at): planned_schema.as_code_sees_it(one, migration) for at, one in found.items()}

    def check_code(
        self,
        file: str | Path,
        parameters: Mapping[str, Given] | None = None,
        *,
        until: str = "contract",
        tell: Callable[[str], None] | None = None,
    ) -> Checks:
        """Run the `application.commands` of a file here, once for each phase, and put the verdict on record. `tell` hears which.

        Raises UsageError where the file has none or one cannot be run, and Refused where the migration cannot run here.
        """
        from backfilld.producers import checks  # noqa: PLC0415 - for this verb alone

        migration = _load(file, parameters)
        refuses = self._settings.refuses_foreign_code
        with connected(self._settings.require_database()) as connection:
            return checks.check(
                connection,
                migration,
                until=until,
                actor=self._actor,
                refuses_foreign_code=refuses,
                sources=self._settings.sources,
                tell=tell,
            )

    def plan_folder(
        self, folder: str | Path, parameters: Mapping[str, Given] | None = None
    ) -> list[tuple[str, Progress | None, Plan | None]]:
        """Each migration of a folder by name: its run if it has one, or else what it would do here as things are now.

        What an earlier one is to make is not there yet, so that a later one may have findings which it will not have when it begins.
        """
        from backfilld.producers import folder as migrations_folder  # noqa: PLC0415 - builds the models of all operations

        found = migrations_folder.read(folder, parameters or {})
        with connected(self._settings.require_database()) as connection:
            has_record = schema.version(connection) == schema.newest()
            present = [enqueueing.existing_run(connection, one) if has_record else None for one in found]
            return [
                (
                    migration.name,
                    progress_of(connection, run) if run is not None else None,
                    self._plan(connection, migration) if run is None else None,
                )
                for migration, run in zip(found, present, strict=True)
            ]

    def _plan(self, connection: Connection, migration: Migration) -> Plan:
        from backfilld.migrations.application import check, query_files  # noqa: PLC0415 - as the next
        from backfilld.migrations.planning import examine, plan, policy_preview  # noqa: PLC0415 - a third of the start, for this verb and `enqueue` alone

        refuses = self._settings.refuses_foreign_code
        files = query_files.read(migration)
        found = examine.examine(connection, migration, refuses_foreign_code=refuses, sources=self._settings.sources)
        if found.findings:
            return plan.make(migration, found)
        application = check.check(connection, migration, found.facts, rows=found.rows, files=files)
        made = plan.make(migration, found, application, policy_preview.look(connection, migration, found))
        return replace(made, backup=self._gate_of(connection, migration))

    def _gate_of(self, connection: Connection, migration: Migration) -> GateReport | None:
        from backfilld.migrations.backups import report  # noqa: PLC0415 - for `plan` alone

        has_record = schema.version(connection) == schema.newest()
        return report.look(connection, self._place(), migration, has_record=has_record)

    def enqueue(
        self, file: str | Path, parameters: Mapping[str, Given] | None = None, *, again: bool = False
    ) -> Progress:
        """Start a migration, or find the run it has: a deploy may call this as often as it likes.

        A completed migration starts once more where its `parameters` have other values, or where it is to run `again`.
        Raises UsageError when the name belongs to another migration, Refused when preflight finds a reason. When Redis is
        away nothing is written, so that a deploy does not continue with workers that cannot be woken.
        """
        return self._enqueue([_load(file, parameters)], again=again)[0]

    def enqueue_folder(
        self, folder: str | Path, parameters: Mapping[str, Given] | None = None, *, again: bool = False
    ) -> list[Progress]:
        """Start the migrations of a folder in the order of the names of its files, each after the one before; those done are left.

        Raises as `enqueue` does, for the first of them.
        """
        from backfilld.producers import folder as migrations_folder  # noqa: PLC0415 - builds the models of all operations

        return self._enqueue(migrations_folder.read(folder, parameters or {}), again=again)

    def _enqueue(self, migrations: Sequence[Migration], *, again: bool) -> list[Progress]:
        self._settings.require_database()
        _sender().check(self._settings.require_redis())
        recorded = [self._record(migration, for_workers=True, again=again) for migration in migrations]
        for run in recorded:
            self._wake(run)
        return [self.status(run) for run in recorded]

    def record(
        self, file: str | Path, parameters: Mapping[str, Given] | None = None, *, again: bool = False
    ) -> Progress:
        """Enqueue into PostgreSQL alone, without Redis: any worker finds the run by itself within seconds."""
        return self.status(self._record(_load(file, parameters), again=again))

    def record_folder(
        self, folder: str | Path, parameters: Mapping[str, Given] | None = None, *, again: bool = False
    ) -> list[Progress]:
        """As `enqueue_folder`, into PostgreSQL alone."""
        from backfilld.producers import folder as migrations_folder  # noqa: PLC0415 - builds the models of all operations

        found = migrations_folder.read(folder, parameters or {})
        return [self.status(run) for run in [self._record(migration, again=again) for migration in found]]

    def restore(
        self,
        run: int | str | None,
        into: str,
        tables: Sequence[str] = (),
        *,
        backup: int | None = None,
        from_url: str | None = None,
    ) -> tuple[Rescue, Progress | None]:
        """As `rescue`, and start the migration that puts back the rows that are wrong or missing; None where none are.

        It is a run like any other: `wait` for it, and `rollback` takes it back.
        """
        from backfilld.migrations.file import migration as definition  # noqa: PLC0415 - see `_load`

        rescued = self.rescue(run, into, tables, backup=backup, from_url=from_url)
        if rescued.migration is None:
            return rescued, None
        found = self._record(definition.parse(json.dumps(rescued.migration)), written_by_us=True)
        self._wake_if_there(found)
        return rescued, self.status(found)

    def _wake_if_there(self, run: int) -> None:
        """Wake the workers where Redis is set; they find the run by themselves otherwise."""
        if self._settings.redis_url:
            self._wake(run)

    def _record(
        self, migration: Migration, *, for_workers: bool = False, again: bool = False, written_by_us: bool = False
    ) -> int:
        with connected(self._settings.require_database()) as connection:
            schema.ensure(connection)
            warnings = transforms.require_allowed(connection, migration) if for_workers else ()
            enqueued = enqueueing.enqueue(
                connection,
                migration,
                actor=self._actor,
                refuses_foreign_code=self._settings.refuses_foreign_code,
                replica_url=self._settings.replica_url,
                sources=self._settings.sources,
                again=again,
            )
            if any(one.kind == "load" for one in migration.operations):
                staging.send_files(connection, enqueued.run)
        for warning in (*warnings, *enqueued.warnings):
            # What the linter has to say of a person's SQL helps nobody who did not write it.
            if not (written_by_us and _ABOUT_SQL.match(warning)):
                self._warn(warning)
        return enqueued.run.run

    def _wake(self, run: int) -> None:
        """Wake the workers. The run is on record, so a failure here is only a warning: they find it by themselves."""
        try:
            with self._record_of_runs() as connection:
                messages = lanes.startable(connection, run)
            _sender().send(self._settings.require_redis(), [self._look(run), *messages])
        except Unreachable as exc:
            self._warn(
                f"the run is enqueued, but its workers could not be woken ({exc}); they will find it by themselves"
            )

    # --- control -------------------------------------------------------------------------------------------------------

    def pause(self, run: int | str) -> Progress:
        """Stop a run until it is resumed. It is `pausing` until a worker finds no batch in flight."""
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.pause(connection, run, actor=self._actor))

    def resume(self, run: int | str) -> Progress:
        """Let a paused or failed run continue from where it stopped."""
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.resume(connection, run, actor=self._actor))

    def cancel(self, run: int | str) -> Progress:
        """Stop a run for good. It is `cancelling` until a worker finds no batch in flight."""
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.cancel(connection, run, actor=self._actor))

    def rollback(self, run: int | str) -> Progress:
        """Roll a run back, wherever it is. It is `rolling_back` until everything it did is undone."""
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.rollback(connection, run, actor=self._actor))

    def purge(self, run: int | str | None = None, *, now: bool = False) -> list[Purged]:
        """Drop the old values of every run whose retention has ended, or of one run; with `now`, of that one before it ends.

        Returns what was dropped. These runs can then no longer be rolled back where they changed or dropped values.
        """
        with self._record_of_runs() as connection:
            return commands.purge(connection, run, now=now, actor=self._actor)

    def partitions(self) -> list[PartitionedTable]:
        """The tables whose next partitions a worker makes, each with how far they reach."""
        from backfilld.migrations.record import partitions  # noqa: PLC0415 - brings a model of the file along, for this verb alone

        with self._record_of_runs() as connection:
            return partitions.listed(connection)

    def end_partitions(self, table: str) -> None:
        """No worker makes the next partitions of a table any more. Raises UsageError where none does."""
        with self._record_of_runs() as connection:
            commands.end_partitions(connection, table, actor=self._actor)

    def approve(self, run: int | str, phase: str | None = None, *, yes: bool = False) -> Progress:
        """Let a phase begin that waits for a person, now or when it is reached; without a phase, the one that waits.

        Raises Refused for contract while the application sends statements that fail after it, unless `yes`.
        """
        return self.approved(run, phase, yes=yes)[0]

    def approved(self, run: int | str, phase: str | None = None, *, yes: bool = False) -> tuple[Progress, Phase]:
        """The same, with the phase that was approved."""
        with self._record_of_runs() as connection:
            done = commands.approve(connection, run, phase, actor=self._actor, yes=yes)
            return self._tell(connection, done.run), done.phase

    def accept_residual(self, run: int | str) -> Progress:
        """Let a run that paused for rows which the application keeps writing end with them; on record with who asked.

        Raises UsageError for a run that has not paused for such rows, and Refused where a rule of its file needs them right.
        """
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.accept_residual(connection, run, actor=self._actor))

    def retry(self, run: int | str) -> Progress:
        """Try all quarantined rows of a run again, and let it continue."""
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.retry(connection, run, actor=self._actor))

    def pause_all(self) -> Stop:
        """Hold all runs of the database, runs enqueued later included, until `resume_all`. Needs no Redis.

        Their states do not change. Asked for again it changes nothing, and returns who asked first.
        """
        with self._record_of_runs() as connection:
            return pacing.stop_all(connection, actor=self._actor)

    def resume_all(self) -> bool:
        """Lift the stop of all runs; False when there was none. A run with a pause of its own stays paused."""
        with self._record_of_runs() as connection:
            return pacing.resume_all(connection, actor=self._actor)

    def uninstall(self, *, dry_run: bool = False, force: bool = False) -> Uninstalled:
        """Take backfilld out of the database: its triggers, then its schema; a dry run only looks.

        Raises Refused while a run is open or has left something, a worker runs, or, unless `force`, old values are kept.
        """
        from backfilld.producers import uninstall  # noqa: PLC0415 - for this verb alone

        with connected(self._settings.require_database()) as connection:
            return uninstall.uninstall(connection, dry_run=dry_run, force=force)

    def pace(  # noqa: PLR0913 - what can be changed, each by its name
        self,
        run: int | str | None = None,
        *,
        lanes: int | None = None,
        batch_seconds: float | None = None,
        nice: float | None = None,
        give_way_ms: int | None = None,
        lock_timeout_ms: int | None = None,
        lock_deadline_seconds: float | None = None,
        cancel_blockers: str | None = None,
        cancel_after_seconds: float | None = None,
        max_quarantined: int | None = None,
        windows: Sequence[str] | None = None,
        width: int | None = None,
    ) -> PaceReport:
        """Change the settings named, from a run's next batch on, and return the pace; with none named, only return it.

        `width` is how many lanes of all runs of the database may work at once; it needs no run. `windows=()` means any time.
        """
        given = {
            "lanes": lanes,
            "batch_seconds": batch_seconds,
            "nice": nice,
            "give_way_ms": give_way_ms,
            "lock_timeout_ms": lock_timeout_ms,
            "lock_deadline_seconds": lock_deadline_seconds,
            "cancel_blockers": cancel_blockers,
            "cancel_after_seconds": cancel_after_seconds,
            "max_quarantined": max_quarantined,
            "windows": None if windows is None else list(windows),
        }
        changes = {name: value for name, value in given.items() if value is not None}
        with self._record_of_runs() as connection:
            changed = pacing.tune(connection, run, changes, width=width, actor=self._actor)
            found = None if run is None else waiting.find(connection, run)
            return pace.read(connection, self._settings.limits, found, changed=changed)

    def _tell(self, connection: Connection, run: int) -> Progress:
        """Wake the workers: the wish is on record, and the messages only make them look at once.

        The verb is always `wake`, never the wish itself: a `pause` that is delivered late, or twice, must not stop a run
        that was resumed meanwhile.
        """
        now = progress_of(connection, waiting.find(connection, run))
        redis_url = self._settings.redis_url
        if redis_url:
            try:
                _sender().send(redis_url, [self._look(run), *lanes.startable(connection, run)])
            except Unreachable as exc:
                self._warn(f"recorded, but the workers could not be woken ({exc}); they will see it by themselves")
        return now

    def _look(self, run: int) -> ControlMessage:
        """Makes the side tasks look at once, that were idle or would look soon."""
        return ControlMessage(target=TARGET, run=run, verb="wake", actor=self._actor)


def _sender() -> ModuleType:
    """The module that sends, imported late: the clients of Redis and Dramatiq are a fifth of the start of `pause`."""
    from backfilld.migrations.wire import send  # noqa: PLC0415 - see above

    return send


def _load(file: str | Path, parameters: Mapping[str, Given] | None) -> Migration:
    # Late: the models of all operations are a quarter of the time that `status` takes.
    from backfilld.migrations.file import migration as definition  # noqa: PLC0415 - see above

    return definition.load(file, parameters)
