"""Receives the WAL into a folder, as it is written: pg_receivewal with a slot, from which PITR has all between two backups.

    FOLDER/SYSTEM/0001/000000010000000000000007     what came without a gap is one stretch
    FOLDER/SYSTEM/0002/…                            after a gap another begins: the slot was lost, or read by another host

A slot whose receiver is gone keeps WAL until the disk is full, so one is refused where the server sets no limit. The slot also tells
whether somebody receives: of several workers one does.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from backfilld.migrations.backups import programs
from backfilld.migrations.backups.physical import segments, tools
from backfilld.migrations.backups.physical.segments import PARTIAL
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "physical")
STOP_SECONDS = 10.0
_LOG = "receiver.log"

#: The receiver, ended when our end of the pipe is closed: also when we are killed. Ends when it does.
_KEEPER = """
exec 3<&0
"$@" </dev/null &
receiver=$!
( read -r _ <&3; kill -s INT "$receiver" 2>/dev/null ) &
keeper=$!
exec 3<&-
wait "$receiver"
code=$?
kill "$keeper" 2>/dev/null
exit "$code"
"""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The slot of the receiver."""

    active: bool
    #: Up to where all has come; None: nothing has.
    received: str | None
    #: The server has removed WAL that was still needed.
    is_lost: bool


def slot(connection: Connection, name: str) -> Slot | None:
    row = connection.execute(_SQL["slot"], {"slot": name}).fetchone()
    return Slot(**row) if row else None


def stretches(folder: Path, system: str) -> list[Path]:
    """The folders of what came without a gap, the newest last."""
    return sorted(one for one in (folder / system).glob("[0-9]" * 4) if one.is_dir())


def find(folder: Path, system: str, name: str) -> Path | None:
    """A segment, whole or as far as it has come."""
    for stretch in reversed(stretches(folder, system)):
        for path in (stretch / name, stretch / (name + PARTIAL)):
            if path.is_file():
                return path
    return None


def opened(folder: Path, system: str, name: str) -> IO[bytes]:
    """A segment, to be read; one that is completed meanwhile is the same file. Raises BackupFailed."""
    for _ in range(2):  # it had another name a moment ago
        path = find(folder, system, name)
        with suppress(FileNotFoundError):
            if path is not None:
                return path.open("rb")
    msg = f"the WAL segment {name} is gone from {folder}"
    raise BackupFailed(msg)


def came_without_a_gap(folder: Path, system: str, wanted: Iterable[str]) -> bool:
    """Whether one stretch has all of these segments."""
    names = list(wanted)
    return any(
        all((stretch / name).is_file() or (stretch / (name + PARTIAL)).is_file() for name in names)
        for stretch in stretches(folder, system)
    )


def prune(folder: Path, system: str, before: str) -> int:
    """Remove whole segments that no backup needs any more: those before this one. Returns how many."""
    gone = 0
    for stretch in stretches(folder, system):
        for path in stretch.iterdir():
            # Of whatever timeline: a number is what counts.
            if len(path.name) == len(before) and path.name[8:] < before[8:]:
                path.unlink()
                gone += 1
    for stretch in stretches(folder, system)[:-1]:
        with suppress(OSError):
            (stretch / _LOG).unlink(missing_ok=True)
            stretch.rmdir()
    return gone


class Receiver:
    """One pg_receivewal of ours."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    def start(cls, place: Place, found: programs.Programs, connection: Connection, system: str) -> Receiver | None:
        """Receive from the slot, which is made where there is none; None where somebody else does.

        A slot that was lost is made anew. Raises BackupFailed, psycopg.Error.
        """
        settings = place.settings.wal
        if settings.folder is None:
            raise TypeError(settings)
        known = slot(connection, settings.slot)
        if known is not None and known.active:
            return None
        if known is not None and known.is_lost:
            connection.execute(_SQL["drop_slot"], {"slot": settings.slot})
            known = None
        if known is None:
            connection.execute(_SQL["make_slot"], {"slot": settings.slot})
        try:
            into = _folder(settings.folder / system, known, tools.facts(connection).segment_bytes)
            into.mkdir(mode=0o700, parents=True, exist_ok=True)
            log = into / _LOG
            process = _spawn(place, found, into, log)
        except OSError as exc:
            msg = f"the WAL cannot be received into {settings.folder}: {exc.strerror}"
            raise BackupFailed(msg) from exc
        return cls(process, log)

    @property
    def ended(self) -> str | None:
        """What it said, once it has ended; None while it receives."""
        code = self._process.poll()
        if code is None:
            return None
        said = self._log.read_text(errors="replace").strip()[-500:] if self._log.exists() else ""
        return f"pg_receivewal ended with {code}: {said or 'it said nothing'}"

    def stop(self) -> None:
        """End it, with what has come on disk."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _folder(above: Path, known: Slot | None, segment_bytes: int) -> Path:
    """The stretch that is continued, or a new one: what the slot does not keep any more would be asked for in vain."""
    there = stretches(above.parent, above.name)
    if not there:
        return above / "0001"
    wanted = segments.continues_with((one.name for one in there[-1].iterdir()), segment_bytes)
    kept = known.received if known is not None else None
    if kept is None or (wanted is not None and wanted < segments.position(kept) // segment_bytes):
        return above / f"{int(there[-1].name) + 1:04d}"
    return there[-1]


def _spawn(place: Place, found: programs.Programs, into: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [
        found / "pg_receivewal",
        f"--directory={into}",
        f"--slot={place.settings.wal.slot}",
        "--synchronous",
        "--no-loop",
        "--no-password",
    ]
    with log.open("wb") as errors:
        return subprocess.Popen(  # noqa: S603 - our own script; its arguments are not parsed
            ["/bin/sh", "-c", _KEEPER, "backfilld-receiver", *command],
            env=programs.environment(place.url, application_name=named("wal receiver")),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
