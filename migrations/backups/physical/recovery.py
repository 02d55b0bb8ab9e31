"""From the objects of a chain to a data folder that recovers to a moment.

    unpack each link of the chain        every object is compared with its SHA-256 on the way
    combine                              by copying: a result of links shares its files with the whole backup, and starting it would
                                         change them
    the WAL beside it                    of the last link, which is all that a recovery to its mark needs
    where to stop                        at the mark, then on as a server of its own

What the settings of the lost server would do here is left out: it archives nothing into somebody's archive, loads no library that may
be missing, and a subscription of its does not take the changes that belong to the real one.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg.conninfo import make_conninfo

from backfilld.migrations.backups import scratch
from backfilld.migrations.backups.physical import objects, segments, tools, wal
from backfilld.migrations.backups.place import BackupFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from backfilld.migrations.backups.physical.saved import Saved
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.programs import Programs

#: In the data folder, so that it can be moved.
WAL_FOLDER = "backfilld_wal"
#: Replaying what was written while a large backup was taken.
RECOVERY_SECONDS = 6 * 3600.0
#: Came with version 17.
_EVENT_TRIGGERS = 17


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a recovery ends; by name where there is one, since nothing else is as exact."""

    name: str | None = None
    #: All before it, and nothing from it on.
    lsn: str | None = None
    #: With its time zone. Commits are compared with it.
    time: str | None = None

    @property
    def is_later(self) -> bool:
        """Beyond the mark of a backup: more WAL is needed than it has."""
        return self.name is None and self.lsn is None

    def settings(self) -> dict[str, str]:
        if self.name is not None:
            return {"recovery_target_name": self.name}
        if self.lsn is not None:
            return {"recovery_target_lsn": self.lsn, "recovery_target_inclusive": "off"}
        if self.time is not None:
            return {"recovery_target_time": self.time}
        return {}


def mark_of(backup: Saved) -> Target:
    """The moment up to which it is recovered."""
    name = backup.manifest.get("restore_point")
    return Target(name=name) if name else Target(lsn=str(backup.details["mark_lsn"]))


def build(  # noqa: PLR0913 - each is named where it is called
    place: Place, chain: Sequence[Saved], data: Path, user: dict[str, Any], watch: Watch, *, later: Target | None
) -> Programs:  # Any: as Popen has it
    """Make the data folder as the backup has it, with its WAL, not told yet where to stop. Raises BackupFailed, StoreFailed.

    Its parent folder is worked in, and belongs to the user of the server. `later`: a moment after the mark, for which all WAL since is
    brought, as far as there is any.
    """
    last = chain[-1]
    found = tools.find(place, last.major)
    parts = [data.with_name(f"{data.name}.{number}") for number in range(len(chain))] if len(chain) > 1 else [data]
    for link, part in zip(chain, parts, strict=True):
        objects.unpack(link.read(objects.DATA, watch), part)
        give(part, user)
    if len(chain) > 1:
        command = [found / "pg_combinebackup", *map(str, parts), f"--output={data}", "--no-sync"]
        scratch.run(command, data.parent, user, watch=watch)
        scratch.run([found / "pg_verifybackup", "--no-parse-wal", str(data)], data.parent, user, watch=watch)
        for part in parts:
            shutil.rmtree(part)
    objects.unpack(last.read(objects.WAL, watch), data / WAL_FOLDER)
    if later is not None:
        _bring_later(place, last, data / WAL_FOLDER, later, watch)
    give(data / WAL_FOLDER, user)
    return found


def _bring_later(place: Place, last: Saved, into: Path, target: Target, watch: Watch) -> None:
    """All WAL that was written after a backup. Raises BackupFailed where that does not reach to a place that is wanted."""
    details = last.details
    size = int(details["segment_bytes"])
    timeline = int(last.manifest["timeline"])
    names = segments.names(timeline, details["start_lsn"], details["until"], size)
    try:
        reached = wal.bring_later(place, str(last.manifest["system_identifier"]), names[-1], into, size, watch)
    except OSError as exc:
        msg = f"the WAL after {last.label} cannot be brought: {exc.strerror}: {exc.filename}"
        raise BackupFailed(msg) from exc
    if target.lsn is not None and segments.holding(timeline, target.lsn, size) > reached:
        where = place.settings.wal.folder or place.settings.wal.restore_command or "nowhere: backup.wal is not set here"
        msg = (
            f"the WAL reaches to the segment {reached}, and {target.lsn} is in {segments.holding(timeline, target.lsn, size)} "
            f"(it comes from {where})"
        )
        raise BackupFailed(msg)


def needed_bytes(chain: Sequence[Saved]) -> int:
    """What recovering a chain takes on disk: all of its links unpacked, what they are combined to, and the WAL."""
    plain = [int(link.details["plain_bytes"]) for link in chain]
    return plain[0] + sum(plain) * (len(chain) > 1) + int(chain[-1].details["wal_bytes"]) * 2


def give(folder: Path, user: dict[str, Any]) -> None:  # Any: as Popen has it
    """Give a folder and all in it to the user of the server."""
    if user:
        os.chown(folder, user["user"], user["group"])
        for at, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.chown(f"{at}/{name}", user["user"], user["group"], follow_symlinks=False)


def recover_to(
    target: Target, data: Path, user: dict[str, Any], *, more: dict[str, str]
) -> None:  # Any: as Popen has it
    """Tell a data folder where to stop, in place of what the backed up server had set by ALTER SYSTEM."""
    settings = {
        "restore_command": f'cp "{WAL_FOLDER}/%f" "%p"',
        **target.settings(),
        "recovery_target_timeline": "current",
        "recovery_target_action": "promote",
        "archive_mode": "off",
        "max_logical_replication_workers": "0",
        **more,
    }
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
    (data / "postgresql.auto.conf").write_text("".join(lines))
    (data / "recovery.signal").touch()
    give(data, user)


def prepare_scratch(
    data: Path, user: dict[str, Any], target: Target, *, major: int, prepared_transactions: int
) -> None:  # Any: as Popen has it
    """Tell a data folder that is thrown away where to stop. Its own settings name libraries, places and limits that this host has not."""
    (data / "postgresql.conf").write_text("")
    (data / "pg_hba.conf").write_text("local all all trust\n")
    more = {
        "hot_standby": "off",  # until it has recovered it has nothing to ask for
        "max_prepared_transactions": str(prepared_transactions),
        **({"event_triggers": "off"} if major >= _EVENT_TRIGGERS else {}),
    }
    recover_to(target, data, user, more=more)


@contextmanager
def recovered(place: Place, chain: Sequence[Saved], watch: Watch, *, target: Target | None = None) -> Iterator[str]:
    """The URL of the database on a scratch server that was recovered to a moment, of the backup's mark unless another is given.

    Raises BackupFailed, StoreFailed, and what the watch raises; nothing is left at the end.
    """
    last = chain[-1]
    with scratch.folder_for(needed_bytes(chain)) as (folder, user):
        data = folder / "data"
        found = build(place, chain, data, user, watch, later=target if target is not None and target.is_later else None)
        prepared = int(last.details["prepared_transactions"])
        prepare_scratch(data, user, target or mark_of(last), major=last.major, prepared_transactions=prepared)
        superuser = str(last.details["superuser"])
        with scratch.running(
            found, data, folder, user, watch=watch, superuser=superuser, start_seconds=RECOVERY_SECONDS
        ) as url:
            yield make_conninfo(url, dbname=str(last.manifest["database"]))


def verify(place: Place, backup: Saved, watch: Watch) -> None:
    """Unpack one link of a chain, and have pg_verifybackup compare every file with the manifest, and read the WAL that it names.

    Raises BackupFailed, StoreFailed, and what the watch raises.
    """
    found = tools.find(place, backup.major)
    needs = int(backup.details["plain_bytes"]) + int(backup.details["wal_bytes"])
    with scratch.folder_for(needs) as (folder, user):
        data, with_wal = folder / "data", folder / "wal"
        objects.unpack(backup.read(objects.DATA, watch), data)
        objects.unpack(backup.read(objects.WAL, watch), with_wal)
        for one in (data, with_wal):
            give(one, user)
        kept = b"".join(backup.read(objects.BACKUP_MANIFEST, watch))
        if (data / objects.BACKUP_MANIFEST).read_bytes() != kept:
            msg = "its backup_manifest is not the one that lies beside it"
            raise BackupFailed(msg)
        scratch.run([found / "pg_verifybackup", f"--wal-directory={with_wal}", str(data)], folder, user, watch=watch)
