"""The daemon: one parent that keeps its children alive and serves their metrics.

The children are processes of their own, started afresh: one for the side tasks and the control queue, the others for lanes.
A child that dies is replaced, and takes none of its siblings with it (under Dramatiq's own command line it would): `children.py`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from backfilld.migrations import settings as settings_
from backfilld.migrations.errors import BackfilldError, InvalidSettings, Unreachable
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.record import schema
from backfilld.migrations.wire import broker
from backfilld.monitoring import logs, notices
from backfilld.monitoring.host import HostCollector
from backfilld.monitoring.record import RecordCollector
from backfilld.monitoring.server import Check, Server
from backfilld.worker.children import Child, look_at
from backfilld.worker.side_tasks.presence import announced
from backfilld.worker.start_checks import check_services

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backfilld.migrations.settings import Settings

#: How often the children are looked at.
LOOK_SECONDS = 0.2
#: Children get this long to let their batches commit. Longer than their own limit, so that they end by themselves.
STOP_SECONDS = 40.0

#: The child with the side tasks and the control queue.
CONTROL = "control"

log = structlog.get_logger("backfilld")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="backfilld worker")
    parser.add_argument("--processes", type=int, default=2, help="processes that work on lanes")
    parser.add_argument("--threads", type=int, default=2, help="lanes that each of them works on at once")
    arguments = parser.parse_args(argv)
    logs.configure()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: stopping.set())
    try:
        if not (1 <= arguments.processes <= 64 and 1 <= arguments.threads <= 64):
            parser.error("--processes and --threads take a number from 1 to 64")
        settings = settings_.load()
        notices.open_channels(settings.notifications)
        check_services(settings)
        folder = _folder()
        try:
            _run(settings, folder, processes=arguments.processes, threads=arguments.threads, stopping=stopping)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except BackfilldError as exc:
        remedy = {"remedy": exc.remedy} if isinstance(exc, Unreachable) and exc.remedy else {}
        log.error("daemon.refused", reason=str(exc), **remedy)  # noqa: TRY400 - it says what to do; a traceback would hide it
        return exc.exit_code
    return 0


def _folder() -> Path:
    """Where the processes leave their numbers and signs of life. Raises InvalidSettings when there is no room for it."""
    try:
        return Path(tempfile.mkdtemp(prefix="backfilld-"))
    except OSError as exc:
        raise InvalidSettings("TMPDIR", f"no folder can be made for temporary files: {exc.strerror}") from exc


def _run(settings: Settings, folder: Path, *, processes: int, threads: int, stopping: threading.Event) -> None:
    # Before anything of prometheus_client is asked for metrics: it decides by this where they live.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    children = [
        _child(CONTROL, ["control"], folder),
        *(
            _child(f"lanes-{number}", ["lanes", "--threads", str(threads)], folder)
            for number in range(1, processes + 1)
        ),
    ]
    record = RecordCollector(settings.require_database(), oldest_backups=settings.backup.oldest_seconds)
    host = HostCollector(children, broker.connect_redis(settings.require_redis(), patient=False))
    server = Server(
        host=settings.http_host,
        port=settings.http_port,
        live={child.name: child.live for child in children},
        ready={**{child.name: child.ready for child in children}, **_services(settings)},
        collectors=[record, host],
    )
    server.start()
    log.info("daemon.started", processes=processes, threads=threads, http=f"{settings.http_host}:{server.port}")
    try:
        with announced(settings.require_database(), transforms=settings.transforms, look=_look(settings, children)):
            look_at(children)
            while not stopping.wait(LOOK_SECONDS):
                look_at(children)
    finally:
        log.info("daemon.stopping")
        _stop(children)
        server.stop()
        record.close()
        log.info("daemon.stopped")


def _child(name: str, arguments: list[str], folder: Path) -> Child:
    heartbeat = folder / f"{name}.heartbeat"
    command = [
        *(sys.executable, "-P", "-m", "backfilld.worker.child", *arguments),
        *("--heartbeat", str(heartbeat), "--parent", str(os.getpid())),
    ]
    return Child(name=name, command=command, environment=os.environ, heartbeat=heartbeat)


def _look(settings: Settings, children: Sequence[Child]) -> Callable[[], tuple[bool, str | None]]:
    """Whether this daemon can take work, and what keeps it, or a part of it, from that."""
    client = broker.connect_redis(settings.require_redis(), patient=False)

    def look() -> tuple[bool, str | None]:
        problems = [child.words for child in children if not child.alive]
        works = any(child.alive for child in children if child.name != CONTROL)
        try:
            broker.check(client)
        except BackfilldError as exc:
            works, problems = False, [str(exc), *problems]
        return works, "; ".join(problems) or None

    return look


def _services(settings: Settings) -> dict[str, Callable[[], Check]]:
    client = broker.connect_redis(settings.require_redis())

    def database() -> Check:
        with connected(settings.require_database()) as connection:
            schema.check(connection)
        return Check(ok=True)

    def redis() -> Check:
        broker.check(client)
        return Check(ok=True)

    return {"database": database, "redis": redis}


def _stop(children: Sequence[Child]) -> None:
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("child.killed", pid=process.pid, seconds=STOP_SECONDS)  # noqa: TRY400 - nothing to trace
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
