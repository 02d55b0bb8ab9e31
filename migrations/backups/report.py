"""What the gate of a run will do, before there is one: the provider, how much must be known and why, the tables, and what is missing.

Nothing is taken. The provider's tool is run once, as a program that is there may still crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.backups import contents, gate
from backfilld.migrations.backups.gate import Next
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.providers.base import Foreseeing
from backfilld.migrations.backups.providers.external import External
from backfilld.migrations.backups.providers.named import provider_named
from backfilld.migrations.record import backups

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from backfilld.migrations.backup_settings import Level
    from backfilld.migrations.backups.contents import Held
    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.file.backup_gate import BackupGate
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.postgres.connect import Connection


@dataclass(frozen=True, kw_only=True)
class GateTable:
    """A table whose rows the backup must have."""

    table: str
    #: On disk, without indexes.
    bytes: int


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What a run will wait for, with the settings of this process."""

    provider: str
    #: The version of its tool, as that says it; None where it could not be run.
    version: str | None
    require: Level
    #: Why that much is required.
    because: str
    max_age_seconds: float
    tables: tuple[GateTable, ...]
    bytes: int
    #: Where the backup will be: names of stores, or the provider's own place.
    copies: tuple[str, ...]
    #: What is to be done next, and with which backup on record; `take` at first, unless a recent one will do.
    next: Next
    backup: int | None
    #: What would keep the gate shut, each with what helps.
    missing: tuple[str, ...]


def look(connection: Connection, place: Place, migration: Migration, *, has_record: bool) -> GateReport | None:
    """None where nothing is required, and nobody has asked for a backup."""
    wanted, settings = gate.asked_of(migration), place.settings
    named = gate.touched(migration)
    held = contents.tables(connection, named or (), everything=named is None, excluded=settings.exclude_schemas)
    size = sum(one.bytes for one in held)
    level, because = gate.level_of(wanted, settings, keeps=place.keeps, size=size)
    if level == "off" and wanted.require is None:
        return None
    need = gate.need_of(wanted, settings, level, [str(one.name) for one in held])
    known = backups.listed(connection, states=["taken"]) if has_record else []
    # No run has the number 0: what another run has is not its own.
    step, backup = gate.judge(need, known, run=0, now=_now(connection)) if held else (Next.NOTHING, None)
    version, missing = _missing(connection, place, wanted, held, level) if step is not Next.NOTHING else (None, ())
    external = isinstance(provider_named(settings.provider), External)
    names = [store.name for store in place.stores]
    return GateReport(
        provider=settings.provider,
        version=version,
        require=level,
        because=because,
        max_age_seconds=need.max_age.total_seconds(),
        tables=tuple(GateTable(table=str(one.name), bytes=one.bytes) for one in held),
        bytes=size,
        copies=(settings.provider,) if external else tuple(wanted.copies or settings.copies or names),
        next=step,
        backup=backup.backup if backup is not None else None,
        missing=missing,
    )


def _now(connection: Connection) -> datetime:
    row = connection.execute("SELECT clock_timestamp() AS now").fetchone()
    if row is None:
        raise LookupError("clock_timestamp")
    now: datetime = row["now"]
    return now


def _missing(
    connection: Connection, place: Place, wanted: BackupGate, held: Sequence[Held], level: Level
) -> tuple[str | None, tuple[str, ...]]:
    provider, server = provider_named(place.settings.provider), contents.server(connection)
    version: str | None = None
    told: list[str] = []
    try:
        version = provider.able(place, server)
    except BackupFailed as exc:
        told.append(str(exc))
    told += _of_places(place, wanted, external=isinstance(provider, External))
    try:
        contents.require_visible(held, server.role)
    except BackupFailed as exc:
        told.append(str(exc))
    if version is not None and isinstance(provider, Foreseeing):
        told += provider.lacks(place, connection, held, level)
    return version, tuple(told)


def _of_places(place: Place, wanted: BackupGate, *, external: bool) -> Iterator[str]:
    if external:
        if wanted.copies:
            yield f"the provider {place.settings.provider} keeps its backups itself: it makes no copy in store {wanted.copies[0]}"
        return
    try:
        place.stores_for(wanted.copies)
    except BackupFailed as exc:
        yield str(exc)
