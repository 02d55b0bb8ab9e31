"""Backups from Python: taken, looked at, proved and given up, beside those that runs ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backfilld.migrations.errors import UsageError
from backfilld.migrations.identifiers import TableName, Wrong
from backfilld.producers.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.backups.rescue import Rescued
    from backfilld.migrations.record.backups import Backup


def _unwatched() -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Rescue:
    """Rows of a backup beside the tables, and the migration that puts back those that are wrong. Any: as a file has it."""

    backup: int
    tables: tuple[Rescued, ...]
    migration: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "backup": self.backup,
            "tables": [one.to_json() for one in self.tables],
            "migration": self.migration,
        }


class BackingUp(Target):
    """The methods about backups. Those that take long are done in this process, which needs the stores in its settings."""

    def backup_now(
        self,
        tables: Sequence[str] = (),
        *,
        copies: Sequence[str] = (),
        prove: bool = False,
        on_progress: Callable[[], str | None] | None = None,
    ) -> Backup:
        """Take a backup of these tables, or of all, read every copy back, and with `prove` restore it and compare the rows.

        Raises BackupFailed and StoreFailed (both BackfilldError) with what went wrong; nothing of it stays then.
        """
        from backfilld.migrations.backups import prove as looking  # noqa: PLC0415 - for these verbs alone
        from backfilld.migrations.backups import take  # noqa: PLC0415 - as above

        with self._record_of_runs():
            pass  # a database without the record, or one that is away, is told as every verb tells it
        wanted = take.Wanted(
            requested_by=self._actor, tables=tuple(_table(one) for one in tables), copies=tuple(copies)
        )
        taken = take.take(self._place(), wanted, on_progress or _unwatched)
        look = looking.prove if prove else looking.verify
        return look(self._place(), taken.backup, on_progress or _unwatched)

    def backups(self, run: int | str | None = None, *, most: int | None = None) -> list[Backup]:
        """Backups on record, the newest first: of one run, or all."""
        from backfilld.migrations.record import backups  # noqa: PLC0415 - for these verbs alone
        from backfilld.producers import waiting  # noqa: PLC0415 - as above

        with self._record_of_runs() as connection:
            found = None if run is None else waiting.find(connection, run).run
            return backups.listed(connection, run=found, most=most)

    def backup(self, number: int) -> Backup:
        """One backup. Raises UsageError when there is none of this number."""
        from backfilld.migrations.record import backups  # noqa: PLC0415 - for these verbs alone

        with self._record_of_runs() as connection:
            found = backups.get(connection, number)
        if found is None:
            msg = f"there is no backup {number}: backfilld backup list"
            raise UsageError(msg)
        return found

    def verify_backup(self, number: int, on_progress: Callable[[], str | None] | None = None) -> Backup:
        """Read every copy of a backup back. Raises BackfilldError where one is not what was written; it is failed on record then."""
        from backfilld.migrations.backups import prove as looking  # noqa: PLC0415 - for these verbs alone

        return looking.verify(self._place(), self.backup(number).backup, on_progress or _unwatched)

    def prove_backup(self, number: int | None = None, on_progress: Callable[[], str | None] | None = None) -> Backup:
        """Restore a backup, or the newest, into a scratch server on this host, and compare its rows with those that were there.

        Raises BackfilldError where they differ; it is failed on record then.
        """
        from backfilld.migrations.backups import prove as looking  # noqa: PLC0415 - for these verbs alone

        return looking.prove(
            self._place(), self.backup(number).backup if number else self._newest(), on_progress or _unwatched
        )

    def rescue(
        self,
        run: int | str,
        into: str,
        tables: Sequence[str] = (),
        *,
        on_progress: Callable[[], str | None] | None = None,
    ) -> Rescue:
        """Restore rows from the backup that was taken for a run into a schema beside the tables, and compare them by key.

        `tables` default to those that the run touches. Nothing of the tables themselves is changed: `.migration` is what would
        put back the rows that are wrong or missing, None where none are. Raises UsageError where no backup was taken.
        """
        from backfilld.migrations.backups import gate, rescue  # noqa: PLC0415 - for this verb alone
        from backfilld.producers import waiting  # noqa: PLC0415 - as above

        with self._record_of_runs() as connection:
            found = waiting.find(connection, run)
        backup = self.backup_of(found.run)
        if backup is None:
            msg = f"no backup was taken for run {found.name}: backfilld backup list"
            raise UsageError(msg)
        named = tuple(_table(one) for one in tables) or gate.operated(found.migration)
        if not named:
            msg = f"run {found.name} names no table; name those whose rows you want"
            raise UsageError(msg)
        rescued = rescue.rescue(self._place(), backup, named, schema=into, watch=on_progress or _unwatched)
        return Rescue(
            backup=backup.backup,
            tables=tuple(rescued),
            migration=rescue.migration(f"restore-{found.run}", rescued),
        )

    def restore_in_place(self, run: int | str, *, sure: bool) -> Backup:
        """Have the database restored in place to the moment of the backup that was taken for a run; returns that backup.

        What anybody has written since is lost, the record of backfilld included: there the run is queued again, so this refuses
        while a worker is up, which would begin it anew. Raises UsageError for that, without `sure`, and where the provider cannot;
        BackupFailed where nothing was begun.
        """
        from backfilld.migrations.backups.providers import supabase  # noqa: PLC0415 - for this verb alone
        from backfilld.migrations.record import workers  # noqa: PLC0415 - as above

        backup = self.backup_of(run)
        if backup is None:
            msg = f"no backup was taken for run {run}: backfilld backup list"
            raise UsageError(msg)
        if backup.provider != supabase.Supabase.name:
            msg = (
                f"backup {backup.backup} is by {backup.provider}: its server is restored by hand, "
                f"as backfilld explain {run} --emergency has it"
            )
            raise UsageError(msg)
        with self._record_of_runs() as connection:
            present = [one.worker for one in workers.listed(connection) if one.is_present]
        if present:
            msg = f"stop the workers first ({', '.join(present)}): in the restored database the run is queued, and they would begin it"
            raise UsageError(msg)
        if not sure:
            msg = (
                f"all that was written since {backup.snapshot_at:%Y-%m-%d %H:%M:%S} UTC will be lost, and the project is away meanwhile; "
                "--yes if that is what you want"
            )
            raise UsageError(msg)
        supabase.restore_in_place(self._place(), backup)
        return backup

    def backup_of(self, run: int | str) -> Backup | None:
        """The newest backup that was taken for a run, proved rather than not; None where none was."""
        whole = [one for one in self.backups(run) if one.state == "taken"]
        return max(whole, key=lambda one: (one.proved_at is not None, one.backup), default=None)

    def expire_backups(self) -> list[int]:
        """Remove backups past their time that nothing needs; returns their numbers. The newest and the newest proved one stay."""
        from backfilld.migrations.backups import sweep  # noqa: PLC0415 - for these verbs alone

        with self._record_of_runs() as connection:
            return sweep.expire(connection, self._place())

    def _newest(self) -> int:
        found = next((one for one in self.backups() if one.state == "taken"), None)
        if found is None:
            msg = "there is no backup yet: backfilld backup now"
            raise UsageError(msg)
        return found.backup

    def _place(self) -> Place:
        from backfilld.migrations.backups.place import Place  # noqa: PLC0415 - for these verbs alone

        return Place.of(self._settings)


def _table(name: str) -> TableName:
    try:
        return TableName.parse(name)
    except Wrong as exc:
        raise UsageError(str(exc)) from exc
