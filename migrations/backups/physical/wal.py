"""The WAL of a backup: waited for until it has come, and given back segment by segment."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from backfilld.migrations.backup_settings import seconds_of
from backfilld.migrations.backups import contents
from backfilld.migrations.backups.physical import archiver, receiver, segments, tools
from backfilld.migrations.backups.physical.receiver import Receiver
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.programs import Programs
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "physical")
POLL_SECONDS = 0.1
#: A receiver that was killed is started again by its worker within this.
GONE_SECONDS = 15.0


class Wal(Protocol):
    """Where the WAL of one backup is to be had."""

    def wait(self, until: str, watch: Watch) -> None:
        """Return once all up to here has come. Raises BackupFailed, and what the watch raises."""

    def files(self, names: Sequence[str], watch: Watch) -> Iterator[tuple[str, IO[bytes]]]:
        """Each of these segments, open until the next one is asked for. Raises BackupFailed, and what the watch raises."""


@contextmanager
def source(place: Place, found: Programs, connection: Connection, system: str) -> Iterator[Wal]:
    """The WAL from now on. Where nobody receives it, this process does for as long as it takes. Raises BackupFailed, psycopg.Error."""
    if place.settings.wal.restore_command is not None:
        yield Archive(place, connection, place.settings.wal.restore_command)
        return
    own = Receiver.start(place, found, connection, system)
    try:
        received = Received(place, connection, system, own)
        received.wait_for_somebody()
        yield received
    finally:
        if own is not None:
            own.stop()


@dataclass
class Received:
    """WAL that comes by the receiver: of this process, or of a worker's."""

    place: Place
    connection: Connection
    system: str
    own: Receiver | None
    _seen: float = field(default_factory=time.monotonic)

    def wait_for_somebody(self) -> None:
        """Return once the slot is read. Raises BackupFailed."""
        while not self._look().active:
            time.sleep(POLL_SECONDS)

    def wait(self, until: str, watch: Watch) -> None:
        deadline = time.monotonic() + seconds_of(self.place.settings.wal.patience)
        while True:
            known = self._look()
            if known.received is not None and segments.position(known.received) >= segments.position(until):
                return
            if time.monotonic() > deadline:
                msg = f"the WAL up to {until} has not come within {self.place.settings.wal.patience}: it is at {known.received}"
                raise BackupFailed(msg)
            watch()
            time.sleep(POLL_SECONDS)

    def files(self, names: Sequence[str], watch: Watch) -> Iterator[tuple[str, IO[bytes]]]:
        folder = self.place.settings.wal.folder
        if folder is None:
            raise TypeError(folder)
        if not receiver.came_without_a_gap(folder, self.system, names):
            missing = [one for one in names if receiver.find(folder, self.system, one) is None]
            msg = (
                f"the WAL segment {missing[0]} is not in {folder}: is another host's receiver at the slot "
                f"{self.place.settings.wal.slot}?"
                if missing
                else f"the WAL between {names[0]} and {names[-1]} has a gap in {folder}"
            )
            raise BackupFailed(msg)
        for name in names:
            watch()
            with receiver.opened(folder, self.system, name) as file:
                yield name, file

    def _look(self) -> receiver.Slot:
        known = receiver.slot(self.connection, self.place.settings.wal.slot)
        name = self.place.settings.wal.slot
        if known is None or known.is_lost:
            how = "is gone" if known is None else "was lost: the server has removed WAL that had not been received"
            msg = f"the replication slot {name} {how}; its receiver begins anew, and so does the backup"
            raise BackupFailed(msg)
        if self.own is not None and (said := self.own.ended):
            msg = f"the WAL is received no longer: {said}"
            raise BackupFailed(msg)
        if known.active:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > GONE_SECONDS:
            msg = f"nobody receives the WAL: the replication slot {name} is not read"
            raise BackupFailed(msg)
        return known


@dataclass(frozen=True)
class Archive:
    """WAL that the server's own `archive_command` keeps, and `restore_command` fetches."""

    place: Place
    connection: Connection
    command: str

    def wait(self, until: str, watch: Watch) -> None:
        """Return once the server says that it has archived it; whether it can be fetched is for `files` to see."""
        switch(self.connection)
        timeline, size = contents.server(self.connection).timeline, tools.facts(self.connection).segment_bytes
        last, patience = segments.ending(timeline, until, size), self.place.settings.wal.patience
        archiver.wait_for(self.connection, last, watch, patience=patience)

    def files(self, names: Sequence[str], watch: Watch) -> Iterator[tuple[str, IO[bytes]]]:
        deadline = time.monotonic() + seconds_of(self.place.settings.wal.patience)
        with tempfile.TemporaryDirectory(prefix="backfilld-wal-") as folder:
            for name in names:
                path = Path(folder) / name
                while (said := fetch(self.command, name, path)) is not None:
                    if time.monotonic() > deadline:
                        msg = (
                            f"the WAL segment {name} is not in the archive after {self.place.settings.wal.patience}: {said}; see "
                            "pg_stat_archiver, and archive_timeout where the role may not call pg_switch_wal()"
                        )
                        raise BackupFailed(msg)
                    watch()
                    time.sleep(POLL_SECONDS * 10)
                with path.open("rb") as file:
                    yield name, file
                path.unlink()


def switch(connection: Connection) -> None:
    """Have the segment archived that is being written, where this role may; else its time comes by itself."""
    if tools.facts(connection).may_switch:
        connection.execute(_SQL["switch_wal"])


def fetch(command: str, name: str, into: Path) -> str | None:
    """Fetch a segment by `restore_command`: None once it is there; else what the command said."""
    words = command.replace("%f", shlex.quote(name)).replace("%p", shlex.quote(str(into)))
    done = subprocess.run(  # noqa: S602 - the operator's own command, from the settings of this process
        words, shell=True, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if not done.returncode and into.is_file():
        return None
    into.unlink(missing_ok=True)
    return f"restore_command ended with {done.returncode}: {done.stderr.strip()[-300:] or 'it said nothing'}"


def bring_later(  # noqa: PLR0913, PLR0917 - one call, of `recovery.py`
    place: Place, system: str, after: str, into: Path, segment_bytes: int, watch: Watch
) -> str:
    """Bring what was written after a backup into a folder that has its WAL; returns the last segment that there is.

    `after` is the last segment of the backup, which had not come to its end. Raises OSError, and what the watch raises.
    """
    last, settings = after, place.settings.wal
    while True:
        watch()
        path = into / last
        if settings.restore_command is not None:
            if fetch(settings.restore_command, last, path.with_suffix(".fetched")) is not None:
                return last
            path.with_suffix(".fetched").rename(path)
        else:
            found = receiver.find(settings.folder, system, last) if settings.folder is not None else None
            if found is None:
                return last
            shutil.copyfile(found, path)
            if found.name.endswith(segments.PARTIAL):
                return last
        last = segments.next_name(last, segment_bytes)
