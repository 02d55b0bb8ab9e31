"""A server of its own for a moment, on the worker's host: what is restored there is looked at and thrown away.

It listens on a socket in a folder that only we can enter, is never on disk for good, and is ended with its folder by a shell that
waits for us to go: also when we are killed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from backfilld.migrations.backups.place import LOOK_SECONDS, BackupFailed, NotHere
from backfilld.migrations.backups.programs import go_last

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.backups.place import Watch
    from backfilld.migrations.backups.programs import Programs

#: What a restore needs beside the rows: indexes and WAL of a database that is thrown away are few.
ROOM = 2.5
START_SECONDS = 120.0
POLL_SECONDS = 0.05
#: The path of a socket may have about a hundred bytes, and its name takes fifteen.
_LONGEST_FOLDER = 80

#: $1 is the folder to remove; the rest is the server. Ends when its input does.
_KEEPER = """
folder=$1; shift
"$@" </dev/null >>"$folder/log" 2>&1 &
server=$!
read -r _
kill -s QUIT "$server" 2>/dev/null
wait "$server"
rm -rf -- "$folder"
"""
#: $1 is the folder to remove, once its input ends; a program of ours that outlives us may still write there.
_JANITOR = """
read -r _
until rm -rf -- "$1"; do sleep 1; done
"""
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "shared_buffers": "64MB",
    "maintenance_work_mem": "128MB",
    "max_connections": "20",
    "max_wal_size": "4GB",
}


@contextmanager
def server(programs: Programs, *, encoding: str, needs_bytes: int, watch: Watch) -> Iterator[str]:
    """The URL of an empty database on a scratch server, which is gone at the end. Raises BackupFailed."""
    if not programs.has_server:
        raise NotHere(no_server(programs))
    with folder_for(int(needs_bytes * ROOM)) as (folder, user):
        data = folder / "data"
        run(
            [
                programs / "initdb",
                f"--pgdata={data}",
                "--username=backfilld",
                "--auth=trust",
                "--no-sync",
                f"--encoding={encoding}",
                "--locale=C",
            ],
            folder,
            user,
        )
        with running(programs, data, folder, user, watch=watch) as socket:
            yield socket


@contextmanager
def running(  # noqa: PLR0913 - each is named where it is called
    programs: Programs,
    data: Path,
    folder: Path,
    user: dict[str, Any],
    *,
    watch: Watch,
    superuser: str = "backfilld",
    start_seconds: float = START_SECONDS,
) -> Iterator[str]:  # Any: as Popen has it
    """The URL of a server over this data, while it runs; its folder is gone at the end. Raises BackupFailed."""
    options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    command = [programs / "postgres", "-D", str(data), "-k", str(folder), *options]
    with subprocess.Popen(  # noqa: S603 - our own script; its arguments are not parsed
        ["/bin/sh", "-c", _KEEPER, "backfilld-scratch", str(folder), *command],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **user,
    ) as keeper:
        go_last(keeper)
        try:
            _wait_until_ready(data, folder / "log", watch, start_seconds)
            yield f"postgresql:///postgres?host={quote(str(folder), safe='')}&user={quote(superuser, safe='')}"
        finally:
            if keeper.stdin is not None:
                keeper.stdin.close()
            keeper.wait()


def run(command: list[str], folder: Path, user: dict[str, Any], *, watch: Watch | None = None) -> None:
    """Run one of the server's programs as the user of the scratch server. Any: as Popen has it.

    Raises BackupFailed, and what the watch raises; the program is gone by then.
    """
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603 - a program that the operator has installed, and no shell
            command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            **user,
        ) as process,
    ):
        go_last(process)
        try:
            code = None
            while code is None:
                if watch is not None:
                    watch()
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(LOOK_SECONDS)
        finally:
            process.kill()
        if code:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()[-1000:]
            msg = f"{Path(command[0]).name} of a scratch server ended with {code}: {said}"
            raise BackupFailed(msg)


@contextmanager
def fleeting_folder(parent: Path, *, prefix: str) -> Iterator[Path]:
    """A folder that is gone at the end, also when we are killed."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with subprocess.Popen(  # noqa: S603 - our own script
        ["/bin/sh", "-c", _JANITOR, "backfilld-scratch", str(folder)],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ):  # which closes its input, and waits for it
        yield folder


@contextmanager
def folder_for(needs_bytes: int) -> Iterator[tuple[Path, dict[str, Any]]]:  # Any: as Popen has it
    """A folder that the scratch server's user has for itself, and that user. Root may not run a server: nobody does.

    It is gone at the end, also when we are killed: it may hold a whole server's rows.
    """
    if problem := _no_room(needs_bytes):
        raise NotHere(problem)
    user: dict[str, Any] = {}
    with fleeting_folder(_parent(), prefix="backfilld-scratch-") as folder:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        yield folder, user


def no_server(programs: Programs) -> str:
    """What is missing where these programs have no server."""
    return (
        f"{programs.folder} has no initdb and postgres to restore with; say where they are: BACKFILLD_BACKUP__PROGRAMS"
    )


def no_room(rows_bytes: int) -> str:
    """What is missing for a restore of tables of this size; empty where there is room."""
    return _no_room(int(rows_bytes * ROOM))


def extensions(programs: Programs) -> set[str] | None:
    """Those that a scratch server would have; None where that cannot be told."""
    try:
        done = subprocess.run(  # noqa: S603 - a program that the operator has installed, and no shell
            [programs / "pg_config", "--sharedir"], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {one.stem for one in Path(done.stdout.strip(), "extension").glob("*.control")}


def _no_room(needs_bytes: int) -> str:
    free = shutil.disk_usage(_parent()).free
    if free >= needs_bytes:
        return ""
    return f"a restore needs about {needs_bytes:,} bytes in {_parent()}, and {free:,} are free; set TMPDIR to a larger place"


def _parent() -> Path:
    parent = tempfile.gettempdir()
    return Path(parent if len(parent) <= _LONGEST_FOLDER else "/tmp")  # noqa: S108 - mkdtemp makes the name safe


def _wait_until_ready(data: Path, log: Path, watch: Watch, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            lines = (data / "postmaster.pid").read_text().splitlines()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
        watch()
        said = log.read_text(errors="replace") if log.exists() else ""
        if "FATAL:" in said or time.monotonic() > deadline:
            msg = f"a scratch server did not start: {said.strip()[-1000:]}"
            raise BackupFailed(msg)
        time.sleep(POLL_SECONDS)


def _environment() -> dict[str, str]:
    """Ours, without what would send a program of PostgreSQL elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
