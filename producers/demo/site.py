"""Where the demo happens: the servers, the schema and its rows, and the daemon. All of it goes when the demo ends.

A demo that is killed leaves nothing either: each server has its watchdog (see `backfilld.producers.demo.servers`), and so has the daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString, Self

import psycopg
from psycopg.rows import dict_row

from backfilld.producers.demo.application import ORGANISATIONS, Rows
from backfilld.producers.demo.servers import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from backfilld.migrations.postgres.connect import Connection

#: Variables that would send us, the daemon or libpq elsewhere.
_OF_THE_USER = ("BACKFILLD_", "PG", "PROMETHEUS_", "DRAMATIQ_")

#: As few as promised, and more for as long as the machine is quick: the run must be long enough to be struck in the middle, and
#: short enough on two slow cores.
LEAST_JOBS = 300_000
MOST_JOBS = 900_000
JOBS_AT_ONCE = 50_000
LOADING_SECONDS = 6.0

PROCESSES = 2
THREADS = 2
#: Above the daemon's own limit for its batches in flight.
STOP_SECONDS = 60.0

# As that of a server in `backfilld.producers.demo.servers`, but for a whole group, and at once: what a daemon would wait for is gone by then.
# $1 is the folder to remove. The line read is the group to end, an empty one takes it back.
_WATCHDOG = """
group=
while read -r line; do group=$line; done
[ -z "$group" ] || kill -s KILL -- "-$group" 2>/dev/null
rm -rf -- "$1"
"""

_JOBS: LiteralString = """
    INSERT INTO public.jobs (organisation, customer_id, title, status, total, device_info, created_at)
    SELECT 1 + i %% %(organisations)s, 1 + i %% %(customers)s, 'Job ' || i,
           (ARRAY['new', 'in progress', 'on hold', 'à revoir', 'Done', 'cancelled'])[1 + i %% 6],
           i %% 1000, '{"os": "ios", "build": ' || i %% 100 || '}', now() - make_interval(mins => i)
    FROM generate_series(%(first)s::integer, %(last)s::integer) AS i
"""
_OTHERS: tuple[LiteralString, ...] = (
    """INSERT INTO public.customers (organisation, name, email)
       SELECT 1 + i %% %(organisations)s, 'Customer ' || i, 'customer' || i || '@example.org'
       FROM generate_series(1, %(customers)s::integer) AS i""",
    """INSERT INTO public.inventory (organisation, sku, quantity)
       SELECT 1 + i %% %(organisations)s, 'SKU-' || i, 1000000 FROM generate_series(1, %(inventory)s::integer) AS i""",
    """INSERT INTO public.messages (organisation, job_id, body)
       SELECT 1 + i %% %(organisations)s, i, 'we have received your order' FROM generate_series(1, %(messages)s::integer) AS i""",
)
_COUNTS = {"customers": 20_000, "inventory": 2_000, "messages": 50_000}


@contextlib.contextmanager
def own_environment() -> Iterator[Path]:
    """Work in a temporary folder, without the user's variables and `backfilld.toml`, until the end; then all is as before."""
    foreign = {name: value for name, value in os.environ.items() if name.upper().startswith(_OF_THE_USER)}
    folder = Path(tempfile.mkdtemp(prefix="backfilld-demo-"))
    for name in foreign:
        del os.environ[name]
    try:
        with contextlib.chdir(folder):
            yield folder
    finally:
        os.environ.update(foreign)
        shutil.rmtree(folder, ignore_errors=True)


class Site:
    """Two servers and a daemon. Entering it starts nothing yet; leaving it ends what was started."""

    def __init__(self, folder: Path) -> None:
        """Raises EmbeddedUnavailable."""
        # Its bootstrap user is the platform's superuser, so that `postgres` can be what it is on Supabase: an ordinary role.
        self.postgres = EmbeddedPostgres(superuser="supabase_admin")
        self.valkey = EmbeddedValkey()
        self.daemon = Daemon(folder)
        self._folders: list[Path] = [folder]
        self._processes: list[int] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def start_servers(self) -> None:
        for server in (self.postgres, self.valkey):
            self._stack.callback(server.close)
            server.start()
            self._folders.append(server.folder)
            self._processes.append(server.pid)

    def build(self) -> Rows:
        """The schema, and as many rows as the machine loads in a few seconds."""
        schema = resources.files(__package__).joinpath("schema.sql").read_bytes()
        with self.superuser() as connection:
            connection.execute(schema)
            # Foreign keys are right by construction; checking each row would take half of the loading.
            connection.execute("SET session_replication_role = replica")
            began, jobs = time.monotonic(), 0
            values = {**_COUNTS, "organisations": ORGANISATIONS}
            for statement in _OTHERS:
                connection.execute(statement, values)
            while jobs < LEAST_JOBS or (jobs < MOST_JOBS and time.monotonic() - began < LOADING_SECONDS):
                chunk = {**values, "first": jobs + 1, "last": jobs + JOBS_AT_ONCE}
                connection.execute(_JOBS, chunk)
                jobs += JOBS_AT_ONCE
            connection.execute("ANALYZE")
        return Rows(jobs=jobs, **_COUNTS)

    def start_daemon(self) -> None:
        self._stack.callback(self.daemon.close)
        self.daemon.start(self.database_url, self.valkey.url)

    @property
    def database_url(self) -> str:
        """As the role that owns the tables: NOSUPERUSER, BYPASSRLS."""
        return self.postgres.url(user="postgres")

    @property
    def application_url(self) -> str:
        """As the role that requests come in with."""
        return self.postgres.url(user="authenticator")

    def superuser(self) -> Connection:
        """A connection that uses no code of backfilld."""
        return psycopg.connect(self.postgres.url(), autocommit=True, row_factory=dict_row, application_name="demo")

    def on_the_way_out(self, callback: Callable[[], None]) -> None:
        """Call this when the site is left, before anything that was started earlier is ended."""
        self._stack.callback(callback)

    def left_behind(self) -> tuple[str, ...]:
        """Processes and folders that are still there, in words; to be asked once everything was left."""
        processes = [f"process {pid}" for pid in self._processes if _is_running(os.kill, pid)]
        daemon = ["a process of the daemon"] if self.daemon.is_running else []
        return (*processes, *daemon, *(f"folder {folder}" for folder in self._folders if folder.exists()))


class Daemon:
    """`backfilld worker` in a process group of its own, with a watchdog that ends it when the demo dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "worker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[str] | None = None

    def start(self, database_url: str, redis_url: str) -> None:
        environment = {
            **os.environ,
            "BACKFILLD_DATABASE_URL": database_url,
            "BACKFILLD_REDIS_URL": redis_url,
            "BACKFILLD_HTTP_PORT": "0",  # any that is free
            # On a busy laptop the default limits would hold the demo for longer than a person watches.
            "BACKFILLD_LIMITS__FOREGROUND_LATENCY": '{"soft": 3, "hard": 10}',
            "TMPDIR": str(self._folder),
        }
        command = ["worker", "--processes", str(PROCESSES), "--threads", str(THREADS)]
        self._watchdog = subprocess.Popen(  # noqa: S603 - our own script, its arguments are not parsed
            ["/bin/sh", "-c", _WATCHDOG, "backfilld-watchdog", str(self._folder)],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-c", "from backfilld.producers.cli import main; main()", *command],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._tell_watchdog(str(self._process.pid))

    def lines(self) -> list[dict[str, Any]]:
        """What the daemon has logged so far (Any: JSON)."""
        found = []
        for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # a line that is being written
                parsed = json.loads(line)
                if isinstance(parsed, dict):
                    found.append(parsed)
        return found

    def count(self, event: str) -> int:
        """How often the daemon has logged this."""
        return sum(line.get("event") == event for line in self.lines())

    def children(self) -> dict[str, int]:
        """The newest process of each child, by its name."""
        return {line["child"]: line["pid"] for line in self.lines() if line.get("event") == "child.started"}

    def errors(self) -> list[str]:
        """Its last warnings and errors, and what it printed before logging was set up."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []
        return [line for line in lines if '"level": "info"' not in line][-10:]

    def stop(self) -> int:
        """Ask it to stop, and wait. Returns its exit code."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.close()
            return -signal.SIGKILL

    def close(self) -> None:
        """End what still runs of it: all that it works on is thrown away."""
        if self._process is not None:
            if self.is_running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._tell_watchdog("")
            with contextlib.suppress(BrokenPipeError):
                self._watchdog.stdin.close()
            self._watchdog.wait()

    @property
    def has_ended(self) -> bool:
        """Whether the daemon is gone that should be running."""
        return self._process is not None and self._process.poll() is not None

    @property
    def is_running(self) -> bool:
        """Whether any process of its group is there, the children included."""
        return self._process is not None and _is_running(os.killpg, self._process.pid)

    def _tell_watchdog(self, line: str) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it was killed
                print(line, file=self._watchdog.stdin, flush=True)


def _is_running(send: Callable[[int, int], None], number: int) -> bool:
    """Whether a process or a group is there; signal 0 only asks."""
    try:
        send(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process, which got the pid meanwhile
        return False
    return True
