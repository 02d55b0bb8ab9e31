"""One child of the daemon: `python -m backfilld.worker.child lanes` or `… control`. Started by `backfilld.worker.supervisor`, which restarts it."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from backfilld.migrations import settings as settings_
from backfilld.migrations.wire.broker import connect_broker
from backfilld.monitoring import logs
from backfilld.monitoring.observers import Observers

if TYPE_CHECKING:
    from backfilld.worker.lanes.wiring import Lanes
    from backfilld.worker.side_tasks.wiring import SideTasks

#: How often a child shows that it is alive, and looks whether its parent is.
HEARTBEAT_SECONDS = 0.5
#: A side task that has not come back for this long hangs. Longer than the slowest of them sleeps.
HUNG_SECONDS = 60.0


def main() -> None:
    """Work until SIGTERM, or until the parent is gone."""
    parser = argparse.ArgumentParser(prog="backfilld.worker.child")
    parser.add_argument("role", choices=["lanes", "control"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--heartbeat", type=Path, required=True)
    # Given, not asked: a parent that died during the imports has been replaced by another process.
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()

    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: stopping.set())
    # Ctrl-C reaches the whole process group; the parent decides, and says it once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure()
    settings = settings_.load()
    observe = Observers()
    broker = connect_broker(settings.require_redis(), observe=observe)
    # Each role imports its own parts: with a tenth of a processor the other's would be ten seconds.
    worker: Lanes | SideTasks
    if arguments.role == "lanes":
        from backfilld.worker.lanes.wiring import start_lanes  # noqa: PLC0415 - as above

        worker = start_lanes(settings, broker, threads=arguments.threads, observe=observe)
    else:
        from backfilld.worker.side_tasks.wiring import start_side_tasks  # noqa: PLC0415 - as above

        worker = start_side_tasks(settings, broker, observe=observe, consume_control=True)

    while os.getppid() == arguments.parent:
        if worker.oldest_tick_seconds < HUNG_SECONDS:
            arguments.heartbeat.write_text(f"{time.time()}\n", encoding="ascii")
        if stopping.wait(HEARTBEAT_SECONDS):
            break
    worker.stop()
    broker.close()


if __name__ == "__main__":
    main()
