"""Taking a backup: from the row that says so, over the copies, to the manifest beside each of them.

    hold the number                 a session's lock, by which others see that somebody is at it
    the row `taking`                with the stores that will have copies: what a crash leaves is found by it, and removed
    the objects                     to all stores in one pass
    the manifest                    written last: who has it has a whole backup, also without this database
    the row `taken`

Whatever goes wrong, nothing of it stays: here, or by `sweep.py` where this process is gone.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from backfilld.migrations.backups import contents, copies, elsewhere, wal
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.providers.base import Task
from backfilld.migrations.backups.providers.external import External
from backfilld.migrations.backups.providers.external import Task as ExternalTask
from backfilld.migrations.backups.providers.named import provider_named
from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.postgres.connect import connected, open_session_at
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.queries import queries
from backfilld.migrations.record import backups

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.backups.contents import Held, Server
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.base import Provider
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection, Row
    from backfilld.migrations.record.backups import Backup
    from backfilld.migrations.stores.base import Store

_SQL = queries(__package__, "backups")

#: How often the record learns how much is written, and the session that holds the backup gives a sign of life.
BEAT_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be backed up, and for whom."""

    requested_by: str
    #: Before this run.
    run: int | None = None
    #: Whose rows; none: those of all tables.
    tables: tuple[TableName, ...] = ()
    #: Names of stores; none: those of the settings.
    copies: tuple[str, ...] = ()
    #: It is to be proved.
    compare: bool = True

    @property
    def scope(self) -> Literal["tables", "all"]:
        return "tables" if self.tables else "all"


def take(place: Place, wanted: Wanted, watch: Watch) -> Backup:
    """Take a backup; returns it. Raises BackupFailed, StoreFailed, psycopg.Error, Unreachable, and what the watch raises."""
    provider = provider_named(place.settings.provider)
    outside = provider if isinstance(provider, External) else None
    stores = _stores(place, wanted, elsewhere=outside is not None)
    with connected(place.url) as record:
        server = contents.server(record)
        version = provider.able(place, server)
        held = _tables(record, place, wanted)
        shares = outside is None or outside.wants_snapshot(place)
        # What is only compared at a restore point need not be compared where nobody asks for a proof.
        compared = held if shares or (wanted.compare and wanted.tables) else []
        contents.require_visible(compared, server.role)
        number = backups.next_number(record)
        with _session(place, number, shares=shares) as (session, snapshot):
            label = _label(server.database, snapshot["snapshot_at"].strftime("%Y%m%dT%H%M%SZ"), number)
            backups.insert(
                record,
                backup=number,
                label=label,
                run=wanted.run,
                provider=provider.name,
                kind=provider.kind,
                parent=None,
                scope="all" if outside is not None and outside.whole else wanted.scope,
                requested_by=wanted.requested_by,
                details={"database": server.database, "encoding": server.encoding},
                tool_version=version,
                server_version=server.server_version,
                system_identifier=server.system_identifier,
                timeline=server.timeline,
                lsn_start=snapshot["lsn"],
                snapshot_at=snapshot["snapshot_at"],
                copies=[backups.Copy(store=store.name, region=store.region) for store in stores],
                keep_seconds=place.keep_seconds,
            )
            taking = _Taking(place, server, record, session, stores, number, label, holds_snapshot=shares)
            try:
                if isinstance(provider, External):
                    _tell(provider, taking, wanted, held, compared, snapshot, watch)
                else:
                    _write(provider, taking, held, snapshot, watch)
            except BaseException as exc:
                _give_up(record, stores, number, label, exc)
                raise
        found = backups.get(record, number)
    if found is None or found.state != "taken":
        msg = f"backup {number} is gone from the record"
        raise BackupFailed(msg)
    return found


@dataclass(frozen=True)
class _Taking:
    place: Place
    server: Server
    record: Connection
    session: Connection
    stores: Sequence[Store]
    number: int
    label: str
    holds_snapshot: bool


def _tell(  # noqa: PLR0913, PLR0917 - what `take` has at hand
    provider: External,
    taking: _Taking,
    wanted: Wanted,
    held: Sequence[Held],
    compared: Sequence[Held],
    snapshot: Row,
    watch: Watch,
) -> None:
    """Have a provider take it that keeps its backups itself."""
    asked = ExternalTask(
        place=taking.place,
        server=taking.server,
        backup=taking.number,
        label=taking.label,
        run=wanted.run,
        tables=wanted.tables,
        holds=[str(one.name) for one in held],
        began_at=snapshot["snapshot_at"],
        snapshot=snapshot["snapshot"],
        watch=_Beat(taking, watch),
    )
    elsewhere.write(provider, asked, taking.record, taking.session, compared)


def _write(provider: Provider, taking: _Taking, held: Sequence[Held], snapshot: Row, watch: Watch) -> None:
    record, number, label = taking.record, taking.number, taking.label
    beat = _Beat(taking, watch)
    taken = provider.take(
        Task(
            place=taking.place,
            server=taking.server,
            session=taking.session,
            snapshot=snapshot["snapshot"],
            tables=held,
            everything=_is_everything(record, number),
            begin=beat.begin,
            watch=beat,
        )
    )
    point = wal.point_name(number, label)
    at, flushed = wal.restore_point(record, point), wal.flushed(record)
    # The row is what the manifest is made from, so that both say the same; a row that is `taken` without a manifest fails its
    # verification, and a manifest without the row is found by `sweep.py`.
    manifest = {
        "label": label,
        "provider": provider.name,
        "tables": [vars(one) for one in taken.tables],
        "objects": [vars(one) for one in taken.objects],
        "lsn_start": snapshot["lsn"],
        "lsn_stop": flushed,
        "restore_point": point if at else None,
        "restore_point_lsn": at,
        "snapshot_at": snapshot["snapshot_at"].isoformat(),
        **{key: value for key, value in vars(taking.server).items() if key != "role"},
    }
    with copies.Copies(taking.stores, label, copies.MANIFEST) as written:
        written.write(json.dumps(manifest, indent=1).encode())
        written.finish()
    whole = backups.taken(
        record,
        number,
        tables=taken.tables,
        objects=taken.objects,
        lsn_stop=flushed,
        restore_point=point if at else None,
        restore_point_lsn=at,
    )
    if not whole:
        msg = f"backup {number} was given up meanwhile: this process gave no sign of life"
        raise BackupFailed(msg)


class _Beat:
    """A watch that also says how far the backup is, and ends one that takes too long."""

    def __init__(self, taking: _Taking, watch: Watch) -> None:
        self._taking = taking
        self._watch = watch
        self._began = self._last = time.monotonic()
        self._objects: list[copies.Copies] = []
        self._allowed = 0.0

    def begin(self, name: str) -> copies.Copies:
        self._objects.append(copies.Copies(self._taking.stores, self._taking.label, name))
        return self._objects[-1]

    def __call__(self) -> str | None:
        now = time.monotonic()
        if self._taking.holds_snapshot and now - self._began > self._taking.place.most_seconds:
            msg = (
                f"it takes longer than {self._taking.place.most_seconds:.0f} s, for which its snapshot keeps vacuum from its work "
                "(limits.snapshot_age_seconds)"
            )
            raise BackupFailed(msg)
        size = sum(one.bytes for one in self._objects)
        if now - self._last > BEAT_SECONDS:
            self._last = now
            backups.grows(self._taking.record, self._taking.number, size)
            if not self._taking.session.lock.locked():  # a checksum is a sign of life itself
                self._taking.session.execute("SELECT")
        return self._watch() or self._too_fast(size, now - self._began)

    def _too_fast(self, size: int, seconds: float) -> str | None:
        most = self._taking.place.settings.mb_per_second * 1e6
        return "backup.mb_per_second" if most and size > most * max(seconds, 1.0) else None


def _stores(place: Place, wanted: Wanted, *, elsewhere: bool) -> list[Store]:
    if not elsewhere:
        return place.stores_for(wanted.copies)
    if wanted.copies:
        msg = f"the provider {place.settings.provider} keeps its backups itself: it has no copy in store {wanted.copies[0]}"
        raise BackupFailed(msg)
    return []


def _tables(record: Connection, place: Place, wanted: Wanted) -> list[Held]:
    held = contents.tables(record, wanted.tables, everything=not wanted.tables, excluded=place.settings.exclude_schemas)
    if not held:
        what = ", ".join(map(str, wanted.tables)) or "the database"
        msg = f"there is nothing to back up: {what} has no table that holds rows"
        raise BackupFailed(msg)
    return held


def _is_everything(record: Connection, number: int) -> bool:
    found = backups.get(record, number)
    return found is not None and found.scope == "all"


@contextmanager
def _session(place: Place, number: int, *, shares: bool) -> Iterator[tuple[Connection, Row]]:
    """A session that holds the backup, and with `shares` a snapshot that others can join."""
    session = open_session_at(place.url, application_name=named(f"backup={number}"), settings=contents.SESSION)
    with session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY" if shares else "BEGIN")
        backups.hold(session, backups.BACKUPS, number)
        snapshot = session.execute(_SQL["snapshot" if shares else "moment"]).fetchone()
        if snapshot is None:
            raise LookupError("pg_export_snapshot")
        yield session, snapshot


def _label(database: str, moment: str, number: int) -> str:
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", database).strip("-") or "database"
    return f"{readable}/{moment}-{number}-{secrets.token_hex(4)}"


def _give_up(record: Connection, stores: Sequence[Store], number: int, label: str, exc: BaseException) -> None:
    """Put on record what went wrong, and remove what was written; what cannot be done now `sweep.py` does."""
    with suppress(psycopg.Error):
        backups.failed(record, number, in_words(exc))
        if not copies.remove(stores, label):
            backups.removed(record, number)


def in_words(exc: BaseException) -> str:
    """What went wrong with a backup, for the record."""
    if isinstance(exc, BackfilldError | psycopg.Error):
        return " ".join(str(exc).split())
    return "it was told to stop" if not str(exc) else f"{type(exc).__name__}: {exc}"


def manifest_of(raw: bytes) -> dict[str, Any]:  # Any: JSON
    """What a manifest says. Raises BackupFailed for one that is none."""
    try:
        found = json.loads(raw)
        return {"tables": found["tables"], "objects": found["objects"], **found}
    except (ValueError, KeyError, TypeError) as exc:
        msg = f"its manifest cannot be read: {exc}"
        raise BackupFailed(msg) from exc
