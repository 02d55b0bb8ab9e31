"""Whether a run may begin, by what is known of backups. Pure: it is told what there is, and says what is to be done next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from backfilld.migrations.backup_settings import seconds_of
from backfilld.migrations.file.backup_gate import BackupGate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from backfilld.migrations.backup_settings import BackupSettings, Level
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.record.backups import Backup


class Next(StrEnum):
    """What is to be done before the run may begin."""

    NOTHING = "nothing"
    TAKE = "take"
    VERIFY = "verify"
    PROVE = "prove"


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a run waits for."""

    level: Level
    max_age: timedelta
    #: As migration files write them; none: the tables of the whole database.
    tables: frozenset[str]
    copies: frozenset[str]


def asked_of(migration: Migration) -> BackupGate:
    """What its file says of backups."""
    return migration.settings.backup or BackupGate()


def touched(migration: Migration) -> tuple[TableName, ...] | None:
    """The tables that a run is to be able to go back for; None: all, as its file says so, or has SQL that names no table."""
    asked = asked_of(migration).tables
    if asked == "all":
        return None
    if asked != "touched":
        return tuple(asked)
    return None if any(operation.table is None for operation in migration.operations) else operated(migration)


def operated(migration: Migration) -> tuple[TableName, ...]:
    """The tables that its operations name."""
    return tuple(dict.fromkeys(one.table for one in migration.operations if one.table is not None))


def level_of(wanted: BackupGate, settings: BackupSettings, *, keeps: bool, size: int) -> tuple[Level, str]:
    """What a run of this size must wait for, and why: what its file says, or the settings, or what is cheap.

    `keeps`: this process has a place for backups.
    """
    if wanted.require is not None:
        return wanted.require, "its file says so"
    if settings.require is not None:
        return settings.require, "the settings say so (backup.require)"
    if not keeps:
        return "off", "no place for backups is set in this process (BACKFILLD_STORES)"
    return settings.default_level(size)


def need_of(wanted: BackupGate, settings: BackupSettings, level: Level, tables: Sequence[str]) -> Need:
    """The whole of it; `tables` are those that hold the rows."""
    return Need(
        level=level,
        max_age=timedelta(seconds=seconds_of(wanted.max_age or settings.max_age)),
        tables=frozenset(tables),
        copies=frozenset(wanted.copies or settings.copies),
    )


def judge(need: Need, known: Sequence[Backup], *, run: int, now: datetime) -> tuple[Next, Backup | None]:
    """What is to be done next, and with which backup; `known` are those on record, the newest first."""
    if need.level == "off":
        return Next.NOTHING, None
    if need.level == "recent":
        found = next((one for one in known if _serves(one, need) and _age(one.snapshot_at, now) <= need.max_age), None)
    else:
        # Its own. What takes longer than a backup may be old is not begun again for ever: what counts is when the last was learned.
        found = next(
            (one for one in known if one.run == run and _serves(one, need) and _age(one.known_at, now) <= need.max_age),
            None,
        )
    if found is None:
        return Next.TAKE, None
    if need.level in {"verified", "proved"} and found.verified_at is None:
        return Next.VERIFY, found
    if need.level == "proved" and found.proved_at is None:
        return Next.PROVE, found
    return Next.NOTHING, found


def _serves(backup: Backup, need: Need) -> bool:
    """Whether it has the rows and the copies."""
    return (
        backup.state == "taken"
        and backup.has_rows_of(need.tables)
        and need.copies <= {one.store for one in backup.copies}
    )


def _age(at: datetime | None, now: datetime) -> timedelta:
    return now - at if at is not None else timedelta.max
