"""A data folder for a server of a person's, made from the stores alone: the record may be lost with its database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backfilld.migrations.backups.physical import recovery, saved
from backfilld.migrations.backups.physical.recovery import Target
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.stores.base import StoreFailed

if TYPE_CHECKING:
    from pathlib import Path

    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.stores.base import Store

PROVIDER = "pg_basebackup"


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A data folder that recovers when it is started."""

    folder: Path
    label: str
    #: What recovery was told about where to stop; nothing: it goes on to the end of the WAL.
    target: dict[str, str]
    #: `postgres` of the version that it needs.
    program: str
    database: str

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return vars(self) | {"folder": str(self.folder)}


def rebuild(  # noqa: PLR0913 - each is named where it is called
    place: Place,
    into: Path,
    watch: Watch,
    *,
    label: str | None = None,
    at: datetime | None = None,
    latest: bool = False,
) -> Rebuilt:
    """Make it from a backup, or the newest that has what is wanted: its own mark, an instant after that, or the end of the WAL.

    Raises BackupFailed, StoreFailed and what the watch raises; what was made is left to be looked at then.
    """
    if into.exists() and any(into.iterdir()):
        msg = f"{into} is not empty: a server is made in a folder of its own"
        raise BackupFailed(msg)
    store, found = _found(place, label, at)
    chain = saved.chain(store, found)
    target = Target(time=at.isoformat()) if at is not None else Target() if latest else recovery.mark_of(chain[-1])
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        if into.exists():
            into.rmdir()
        programs = recovery.build(place, chain, into, {}, watch, later=target.is_later)
        of_before = into / "postgresql.auto.conf"
        of_before.rename(into / "postgresql.auto.conf.before")
        recovery.recover_to(target, into, {}, more={})
    except OSError as exc:
        msg = f"{into} cannot be made: {exc.strerror}: {exc.filename}"
        raise BackupFailed(msg) from exc
    return Rebuilt(
        folder=into,
        label=found,
        target=target.settings(),
        program=programs / "postgres",
        database=str(chain[-1].manifest["database"]),
    )


def _found(place: Place, label: str | None, at: datetime | None) -> tuple[Store, str]:
    """The first store that has it, and the label. Raises BackupFailed."""
    problems = []
    for store in place.stores_for():
        try:
            known = saved.newest(store, PROVIDER)
        except (BackupFailed, StoreFailed) as exc:
            problems.append(f"store {store.name}: {exc}")
            continue
        wanted = [one for one in known if (label is None or one == label) and _is_before(store, one, at)]
        if wanted:
            return store, wanted[0]
        problems.append(f"store {store.name} has none")
    what = f"a backup {label}" if label is not None else "a physical backup"
    when = f" of before {at.isoformat()}" if at is not None else ""
    msg = f"there is no {what.removeprefix('a ')}{when}: {'; '.join(problems)}"
    raise BackupFailed(msg)


def _is_before(store: Store, label: str, at: datetime | None) -> bool:
    """Whether a backup was whole at an instant: recovery goes forward only."""
    return at is None or datetime.fromisoformat(saved.one(store, label).details["marked_at"]) <= at
