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
from functools import cache
from typing import TYPE_CHECKING, Literal

import psycopg

from backfilld.migrations.backups import contents, copies
from backfilld.migrations.backups.pacing import Pace
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.providers.base import ChainBroken, Chained, Mark, Task
from backfilld.migrations.backups.providers.external import External
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
    with connected(place.url) as record:
        server = contents.server(record)
        beginning = _Beginning(place, wanted, provider, record, server, provider.able(place, server))
        if isinstance(provider, Chained):
            parent = provider.based_on(place, record, server, backups.listed(record, states=["taken"]))
            if parent is not None:
                with suppress(ChainBroken):
                    return _take(beginning, parent, watch)
        return _take(beginning, None, watch)


@dataclass(frozen=True)
class _Beginning:
    place: Place
    wanted: Wanted
    provider: Provider
    record: Connection
    server: Server
    tool_version: str


def _take(beginning: _Beginning, parent: Backup | None, watch: Watch) -> Backup:
    """Take one that is based on this one, or a whole one. Raises ChainBroken where only a whole one can be taken."""
    place, wanted, provider, record = beginning.place, beginning.wanted, beginning.provider, beginning.record
    server = beginning.server
    external = provider if isinstance(provider, External) else None
    stores = _stores(place, wanted, provider)
    held = _tables(record, place, wanted)
    contents.require_visible(held, server.role)
    number = backups.next_number(record)
    shares_snapshot = external.joins(place) if external is not None else not isinstance(provider, Chained)
    with _session(place, number, shares_snapshot=shares_snapshot) as (session, snapshot):
        label = _label(server.database, snapshot["snapshot_at"].strftime("%Y%m%dT%H%M%SZ"), number)
        backups.insert(
            record,
            backup=number,
            label=label,
            run=wanted.run,
            provider=provider.name,
            kind="incremental" if parent is not None else provider.kind,
            parent=parent.backup if parent is not None else None,
            scope="all" if external is not None and external.whole else wanted.scope,
            requested_by=wanted.requested_by,
            details={"database": server.database, "encoding": server.encoding},
            tool_version=beginning.tool_version,
            server_version=server.server_version,
            system_identifier=server.system_identifier,
            timeline=server.timeline,
            lsn_start=snapshot["lsn"],
            snapshot_at=snapshot["snapshot_at"],
            copies=[backups.Copy(store=store.name, region=store.region) for store in stores],
            keep_seconds=place.keep_seconds,
        )
        taking = _Taking(beginning, parent, session, snapshot, stores, number, label)
        try:
            _write(taking, held, watch)
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
    beginning: _Beginning
    parent: Backup | None
    session: Connection
    snapshot: Row
    stores: Sequence[Store]
    number: int
    label: str

    @property
    def record(self) -> Connection:
        return self.beginning.record

    @property
    def place(self) -> Place:
        return self.beginning.place


def _write(taking: _Taking, held: Sequence[Held], watch: Watch) -> None:
    record, number, label = taking.record, taking.number, taking.label
    server, provider, wanted = taking.beginning.server, taking.beginning.provider, taking.beginning.wanted
    beat = _Beat(taking, watch)
    mark = cache(lambda: _mark(record, f"backfilld-{number}-{label[-8:]}"))
    taken = provider.take(
        Task(
            place=taking.place,
            server=server,
            number=number,
            label=label,
            run=wanted.run,
            parent=taking.parent,
            session=taking.session,
            snapshot=taking.snapshot.get("snapshot", ""),
            tables=held,
            everything=wanted.scope == "all",
            begin=beat.begin,
            mark=mark,
            watch=beat,
            pace=Pace(taking.place.settings.mb_per_second * 1e6),
            compare=wanted.compare,
        )
    )
    point = mark()
    flushed = record.execute(_SQL["flushed"]).fetchone() or {}
    # The row is what the manifest is made from, so that both say the same; a row that is `taken` without a manifest fails its
    # verification, and a manifest without the row is found by `sweep.py`.
    manifest = {
        "label": label,
        "provider": provider.name,
        "run": wanted.run,
        "parent": taking.parent.label if taking.parent is not None else None,
        "tables": [vars(one) for one in taken.tables],
        "objects": [vars(one) for one in taken.objects],
        "details": dict(taken.details),
        "lsn_start": taking.snapshot["lsn"],
        "lsn_stop": flushed.get("lsn"),
        "restore_point": point.name,
        "restore_point_lsn": point.lsn if point.name else None,
        "snapshot_at": taking.snapshot["snapshot_at"].isoformat(),
        **{key: value for key, value in vars(server).items() if key != "role"},
    }
    if taking.stores:
        with copies.Copies(taking.stores, label, copies.MANIFEST) as written:
            written.write(json.dumps(manifest, indent=1).encode())
            written.finish()
    whole = backups.taken(
        record,
        number,
        tables=taken.tables,
        objects=taken.objects,
        details=taken.details,
        snapshot_at=taken.at,
        size=taken.bytes,
        lsn_stop=flushed.get("lsn"),
        restore_point=point.name,
        restore_point_lsn=point.lsn if point.name else None,
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

    def begin(self, name: str) -> copies.Copies:
        self._objects.append(copies.Copies(self._taking.stores, self._taking.label, name))
        return self._objects[-1]

    def __call__(self) -> str | None:
        now = time.monotonic()
        if "snapshot" in self._taking.snapshot and now - self._began > self._taking.place.most_seconds:
            msg = (
                f"it takes longer than {self._taking.place.most_seconds:.0f} s, for which its snapshot keeps vacuum from its work "
                "(limits.snapshot_age_seconds)"
            )
            raise BackupFailed(msg)
        if now - self._last > BEAT_SECONDS:
            self._last = now
            backups.grows(self._taking.record, self._taking.number, sum(one.bytes for one in self._objects))
            if not self._taking.session.lock.locked():  # a checksum is a sign of life itself
                self._taking.session.execute("SELECT")
        return self._watch()


def _mark(record: Connection, name: str) -> Mark:
    """A restore point of this name, where this role may make one; else the place in the WAL alone."""
    may = record.execute(_SQL["may_name_a_point"]).fetchone()
    if not (may and may["may"]):
        return Mark(name=None, lsn=contents.written(record))
    row = record.execute(_SQL["restore_point"], {"name": name}).fetchone() or {}
    return Mark(name=name, lsn=str(row["lsn"]))


def _stores(place: Place, wanted: Wanted, provider: Provider) -> list[Store]:
    if not isinstance(provider, External):
        return place.stores_for(wanted.copies)
    if wanted.copies:
        msg = f"the provider {provider.name} keeps its backups itself: it makes no copy in store {wanted.copies[0]}"
        raise BackupFailed(msg)
    return []


def _tables(record: Connection, place: Place, wanted: Wanted) -> list[Held]:
    held = contents.tables(record, wanted.tables, everything=not wanted.tables, excluded=place.settings.exclude_schemas)
    if not held:
        what = ", ".join(map(str, wanted.tables)) or "the database"
        msg = f"there is nothing to back up: {what} has no table that holds rows"
        raise BackupFailed(msg)
    return held


@contextmanager
def _session(place: Place, number: int, *, shares_snapshot: bool) -> Iterator[tuple[Connection, Row]]:
    """A session that holds the backup, and its snapshot where others share that: it keeps vacuum from its work."""
    session = open_session_at(place.url, application_name=named(f"backup={number}"), settings=contents.SESSION)
    with session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY" if shares_snapshot else "BEGIN READ ONLY")
        backups.hold(session, backups.BACKUPS, number)
        snapshot = session.execute(_SQL["snapshot" if shares_snapshot else "moment"]).fetchone()
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
