"""The data folder of a new server, made from the stores alone: the record may be lost with its database.

the stores are asked for their manifests     the first one that has what is wanted is used
the chain, and the WAL of its last link      with all that was received or archived since, where the moment is after its mark
the old server's settings stay               but for those that would reach for what belongs to it
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backfilld.migrations.backups import scratch
from backfilld.migrations.backups.physical import recovery, saved, segments
from backfilld.migrations.backups.physical.recovery import Target
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.stores.base import StoreFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backfilld.migrations.backups.physical.saved import Saved
    from backfilld.migrations.backups.place import Place, Watch

PROVIDER = "pg_basebackup"
#: Labels that a refusal names.
_MOST_NAMED = 5
#: Where the server's settings lay elsewhere, as Debian has them, none are in its backup.
_RIGHTS = "local all all peer\nhost all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n"


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Up to when a server is recovered; nothing: to the mark of the backup."""

    #: All that committed before.
    at: datetime | None = None
    #: All WAL before this place, and nothing from there on.
    lsn: str | None = None
    #: All WAL that there is.
    latest: bool = False

    @property
    def is_the_mark(self) -> bool:
        return self.at is None and self.lsn is None and not self.latest

    def target(self, backup: Saved) -> Target:
        if self.lsn is not None:
            return Target(lsn=self.lsn)
        if self.at is not None:
            return Target(time=self.at.isoformat())
        return Target() if self.latest else recovery.mark_of(backup)

    def is_after(self, backup: Saved) -> bool:
        """Whether a backup was whole by then: recovery goes forward only."""
        if self.lsn is not None:
            return segments.position(str(backup.details["mark_lsn"])) <= segments.position(self.lsn)
        return self.at is None or datetime.fromisoformat(str(backup.details["marked_at"])) <= self.at

    def in_words(self) -> str:
        if self.lsn is not None:
            return f" of before WAL {self.lsn}"
        return f" of before {self.at.isoformat()}" if self.at is not None else ""


@dataclass(frozen=True, kw_only=True)
class NewServer:
    """A data folder that recovers when it is started."""

    folder: Path
    label: str
    store: str
    #: What recovery was told about where to stop; nothing: it goes on to the end of the WAL.
    target: dict[str, str]
    #: `pg_ctl` of the version that it needs.
    program: str
    database: str

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return vars(self) | {"folder": str(self.folder)}


def make(  # noqa: PLR0913 - each is named where it is called
    place: Place, into: Path, watch: Watch, *, moment: Moment, label: str | None = None, store: str | None = None
) -> NewServer:
    """Make it from a backup, or the newest that has what is wanted, of one store or the first that has it.

    Raises BackupFailed, StoreFailed and what the watch raises; nothing is left then.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        msg = f"{into} is not empty: a server is made in a folder of its own"
        raise BackupFailed(msg)
    backup = _found(place, moment, label, store)
    chain = saved.chain(backup.store, backup.label)
    target = moment.target(backup)
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        _require_room(into.parent, recovery.needed_bytes(chain))
        # Beside its place, so that it is there whole or not at all.
        with scratch.fleeting_folder(into.parent.resolve(), prefix=f".{into.name}-") as making:
            data = making / "data"
            programs = recovery.build(place, chain, data, {}, watch, later=None if moment.is_the_mark else target)
            recovery.recover_to(target, data, {}, more=_settings(data, backup))
            if into.exists():
                into.rmdir()
            data.rename(into)
    except OSError as exc:
        msg = f"{into} cannot be made: {exc.strerror}: {exc.filename}"
        raise BackupFailed(msg) from exc
    return NewServer(
        folder=into,
        label=backup.label,
        store=backup.store.name,
        target=target.settings(),
        program=programs / "pg_ctl",
        database=str(backup.manifest["database"]),
    )


def _require_room(parent: Path, needed: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed:
        msg = f"the server needs about {needed:,} bytes in {parent}, the WAL since not counted, and {free:,} are free"
        raise BackupFailed(msg)


def _settings(data: Path, backup: Saved) -> dict[str, str]:
    """What is set beside where to stop; what ALTER SYSTEM had set on the old server is put aside."""
    (data / "postgresql.auto.conf").rename(data / "postgresql.auto.conf.before")
    more = {
        "hot_standby": "off",  # whoever gets in finds a server that has recovered, and limits of old make it no trouble
        "synchronous_standby_names": "",  # a commit would wait for a standby that is not its own
    }
    if not (data / "postgresql.conf").exists():
        (data / "postgresql.conf").touch(mode=0o600)
        more["max_prepared_transactions"] = str(backup.details["prepared_transactions"])
    if not (data / "pg_hba.conf").exists():
        (data / "pg_hba.conf").touch(mode=0o600)
        (data / "pg_hba.conf").write_text(_RIGHTS)
    return more


def _found(place: Place, moment: Moment, label: str | None, store: str | None) -> Saved:
    """Raises BackupFailed where none has what is wanted, or those of several servers have."""
    problems: list[str] = []
    for one in place.every_store((store,) if store is not None else ()):
        try:
            known = saved.of_provider(one, PROVIDER)
        except (BackupFailed, StoreFailed) as exc:
            problems.append(str(exc))
            continue
        wanted = [backup for backup in known if label in {None, backup.label} and moment.is_after(backup)]
        if label is None and len({backup.manifest["system_identifier"] for backup in wanted}) > 1:
            msg = f"store {one.name} has backups of several servers: say which with --label, one of {_named(wanted)}"
            raise BackupFailed(msg)
        if wanted:
            return wanted[0]
        problems.append(f"store {one.name} has {_named(known) or 'none'}")
    what = f"backup {label}" if label is not None else "physical backup"
    msg = f"there is no {what}{moment.in_words()}: {'; '.join(problems)}"
    raise BackupFailed(msg)


def _named(backups: list[Saved]) -> str:
    """The newest ones, of each server at least one."""

    def shown() -> Iterator[str]:
        seen: set[str] = set()
        for number, one in enumerate(backups):
            if number < _MOST_NAMED or one.manifest["system_identifier"] not in seen:
                yield one.label
            seen.add(one.manifest["system_identifier"])

    return ", ".join(shown())
