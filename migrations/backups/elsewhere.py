"""A backup that a provider keeps itself: told to be taken, settled in the WAL, looked at, and compared where it can be restored."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backfilld.migrations.backups import contents, wal
from backfilld.migrations.backups.place import BackupFailed, NotWhole
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import open_session_at
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.record import backups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.backups.contents import Held
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.external import External, Task
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup, TableSum


def write(provider: External, task: Task, record: Connection, session: Connection, compared: Sequence[Held]) -> None:
    """Have it taken, and put it on record. Raises BackupFailed, psycopg.Error, and what the watch raises.

    `compared` are the tables whose rows are to be compared later: in the snapshot of the session, or at the restore point.
    """
    taken = provider.take(task)
    name = wal.point_name(task.backup, task.label)
    if provider.replays and compared:
        sums, at = _at_a_point(record, task, compared, name)
    else:
        sums = _sums(session, compared, task.watch) if task.snapshot is not None else ()
        at = wal.restore_point(record, name)
    flushed = wal.flushed(record)
    provider.settle(task, taken)
    whole = backups.taken(
        record,
        task.backup,
        tables=sums,
        objects=(),
        lsn_stop=flushed,
        restore_point=name if at else None,
        restore_point_lsn=at,
        snapshot_at=taken.at,
        size=taken.bytes,
        details={
            **taken.details,
            "reference": taken.reference,
            "kept": taken.kept,
            "tables": list(task.holds),
        },
    )
    if not whole:
        msg = f"backup {task.backup} was given up meanwhile: this process gave no sign of life"
        raise BackupFailed(msg)


def prove(provider: External, place: Place, backup: Backup, watch: Watch) -> dict[str, Any]:  # Any: JSON
    """Restore it elsewhere and compare; returns what was found. Raises NotWhole, BackupFailed, and what the watch raises.

    Tables whose rows are not on record are read to their ends: they were written while the backup was taken, or nobody named them.
    """
    began = time.monotonic()
    expected = [TableName.parse(one.table) for one in backup.tables]
    with (
        provider.restored(place, backup, watch) as url,
        open_session_at(url, application_name=named("backup"), settings=contents.SESSION) as session,
    ):
        names = expected or [TableName.parse(one) for one in backup.details.get("tables", ())]
        there = contents.tables(session, names, everything=not names, excluded=place.settings.exclude_schemas)
        found = _sums(session, there, watch)
    if told := contents.differences(backup.tables, found):
        raise NotWhole(f"restored, it is not what was saved: {'; '.join(told)}")
    compared = {one.table for one in backup.tables}
    read = [one.table for one in found if one.table not in compared]
    return {
        "seconds": round(time.monotonic() - began, 1),
        "tables": [vars(one) for one in found],
        "warnings": f"read and not compared: {', '.join(read)}" if read else "",
    }


def _at_a_point(
    record: Connection, task: Task, held: Sequence[Held], name: str
) -> tuple[tuple[TableSum, ...], str | None]:
    """The rows of the tables at a restore point: those of tables that have the same before it and after it.

    A table that was written just then is left out: what it held at the point nobody knows.
    """
    with open_session_at(task.place.url, application_name=named("backup"), settings=contents.SESSION) as session:
        before = _sums(session, held, task.watch)
        at = wal.restore_point(record, name)
        after = _sums(session, held, task.watch) if at else ()
    return tuple(one for one, other in zip(before, after, strict=False) if one == other), at


def _sums(session: Connection, held: Sequence[Held], watch: Watch) -> tuple[TableSum, ...]:
    return tuple(replace(contents.checksum(session, one.name, watch), bytes=one.bytes) for one in held)
