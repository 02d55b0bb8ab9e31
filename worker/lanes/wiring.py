"""The lanes' part of a worker, put together. A daemon has it in processes of their own, which import no side task."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backfilld.migrations.backups.place import Place
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.wire.receive import receive_lanes
from backfilld.migrations.wire.send import sender
from backfilld.monitoring.checks.targets import Targets
from backfilld.worker import handlers
from backfilld.worker.lanes.runner import Runner

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Pool
    from backfilld.migrations.settings import Settings
    from backfilld.migrations.telemetry import Observer
    from backfilld.migrations.wire.broker import AnyBroker
    from backfilld.migrations.wire.receive import Receiver


@dataclass(kw_only=True)
class Lanes:
    """Threads that take steps of lanes."""

    receiver: Receiver
    pool: Pool
    stopping: threading.Event

    @property
    def oldest_tick_seconds(self) -> float:
        """None of them is waited for: how long a statement may take is the server's to say."""
        return 0.0

    def stop(self) -> None:
        """Let batches in flight commit, and go. Messages not begun go back to the queue."""
        self.stopping.set()
        self.receiver.stop()
        self.pool.close()


def start_lanes(settings: Settings, broker: AnyBroker, *, threads: int, observe: Observer) -> Lanes:
    """Start `threads` threads that take steps of lanes."""
    stopping = threading.Event()
    if settings.transforms and (here := str(Path.cwd())) not in sys.path:
        # Last: a module of the application's may lie where the worker was started, and shadows nothing.
        sys.path.append(here)
    # Two more than there are threads: after a lost connection a thread looks what became of its commit, and beside DDL that
    # waits for a lock another connection looks who is in the way.
    pool = open_pool(settings.require_database(), size=threads + 2)
    runner = Runner(
        pool,
        send=sender(broker),
        observe=observe,
        stopping=stopping,
        transforms=settings.transforms,
        refuses_foreign_code=settings.refuses_foreign_code,
        backups=Place.of(settings),
        targets=Targets(
            allowed=settings.application_targets,
            allowed_post=settings.application_targets_post,
            values=settings.application_values,
            jwt_secret=settings.application_jwt_secret,
            jwt_roles=settings.application_jwt_roles,
        ),
        replica_url=settings.replica_url,
    )
    receiver = receive_lanes(broker, handlers.of_lanes(runner, observe=observe), threads=threads)
    return Lanes(receiver=receiver, pool=pool, stopping=stopping)
