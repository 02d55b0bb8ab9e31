"""Backups from Python: taken, looked at, proved and given up, beside those that runs ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backfilld.migrations.errors import UsageError
from backfilld.migrations.identifiers import TableName, Wrong
from backfilld.producers.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from backfilld.migrations.backups.physical.new_server import NewServer
    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.backups.rescue import Rescued
    from backfilld.migrations.record.backups import Backup


def _unwatched() -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Rescue:
    """Rows of a backup beside the tables, and the migration that puts back those that are wrong. Any: as a file has it."""

    #: None: the rows are those of another server.
    backup: int | None
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

    def rescue(  # noqa: PLR0913 - each is named where it is called
        self,
        run: int | str | None,
        into: str,
        tables: Sequence[str] = (),
        *,
        backup: int | None = None,
        from_url: str | None = None,
        on_progress: Callable[[], str | None] | None = None,
    ) -> Rescue:
        """Restore rows from the backup of a run's gate into a schema beside the tables, and compare them by key.

        They come from another one with `backup`, and with `from_url` from a server, one that `recover_server` made say. `tables`
        default to those that the run touches. Nothing of the tables themselves is changed: `.migration` is what would put back the
        rows that are wrong or missing, None where none are. Raises UsageError where there is no backup.
        """
        from backfilld.migrations.backups import gate, rescue  # noqa: PLC0415 - for this verb alone
        from backfilld.migrations.record import runs  # noqa: PLC0415 - as above
        from backfilld.producers import waiting  # noqa: PLC0415 - as above

        named = tuple(_table(one) for one in tables)
        with self._record_of_runs() as connection:
            if run is not None:
                named = named or gate.operated(waiting.find(connection, run).migration)
            name = rescue.name_of(into, lambda name: runs.find(connection, name) is not None)
        if not named:
            what = "without a run no table is known" if run is None else f"run {run} names no table"
            msg = f"{what}; name those whose rows you want"
            raise UsageError(msg)
        watch, found = on_progress or _unwatched, None
        if from_url is not None:
            rescued = rescue.rescue_from(self._place(), from_url, named, schema=into, watch=watch)
        else:
            found = self._to_restore(run, backup)
            rescued = rescue.rescue(self._place(), found, named, schema=into, watch=watch)
        return Rescue(
            backup=found.backup if found is not None else None,
            tables=tuple(rescued),
            migration=rescue.migration(name, rescued),
        )

    def _to_restore(self, run: int | str | None, number: int | None) -> Backup:
        """Raises UsageError."""
        if number is not None:
            return self.backup(number)
        if run is None:
            msg = "say what the rows are restored from: the backup of a run, another one, or a server"
            raise UsageError(msg)
        found = self.backup_of(run)
        if found is None:
            msg = f"no backup was taken for run {run}: backfilld backup list"
            raise UsageError(msg)
        return found

    def recover_server(  # noqa: PLR0913 - each is named where it is called
        self,
        into: str | Path,
        *,
        label: str | None = None,
        store: str | None = None,
        at: datetime | None = None,
        lsn: str | None = None,
        latest: bool = False,
        on_progress: Callable[[], str | None] | None = None,
    ) -> NewServer:
        """Make the data folder of a new server from a physical backup, of the newest unless a label says which.

        It recovers to the backup's mark when it is started; or to an instant, a place in the WAL or the end of the WAL, for which the
        WAL since must be there. Needs the stores and no database. Raises BackfilldError where it cannot be made; nothing is left then.
        """
        from backfilld.migrations.backups.physical import new_server  # noqa: PLC0415 - for this verb alone
        from backfilld.migrations.backups.place import Place  # noqa: PLC0415 - as above

        moment = new_server.Moment(at=at, lsn=lsn, latest=latest)
        return new_server.make(
            Place.of_stores(self._settings),
            Path(into),
            on_progress or _unwatched,
            moment=moment,
            label=label,
            store=store,
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
        """The newest backup that was taken for a run, proved rather than not; or the recent one that its gate was satisfied with."""
        from backfilld.migrations.record import backups  # noqa: PLC0415 - for these verbs alone
        from backfilld.producers import waiting  # noqa: PLC0415 - as above

        with self._record_of_runs() as connection:
            return backups.of_run(connection, waiting.find(connection, run).run)

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
