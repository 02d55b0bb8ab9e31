"""The parts of a worker, put together: the lanes that work, and the side tasks that watch over them.

A daemon has the lanes in some processes and the side tasks in another; `backfilld run` has all of them in one.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dramatiq

from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.wire.messages import CONTROL_QUEUE, LANES_QUEUE
from backfilld.monitoring import metrics
from backfilld.worker.actors import declare_control, declare_lanes, sender
from backfilld.worker.lanes.runner import Runner
from backfilld.worker.side_tasks import retention
from backfilld.worker.side_tasks.control import Control
from backfilld.worker.side_tasks.give_way import GiveWay
from backfilld.worker.side_tasks.governor import TICK_SECONDS as GOVERNOR_SECONDS
from backfilld.worker.side_tasks.governor import Governor
from backfilld.worker.side_tasks.notifier import Notifier
from backfilld.worker.side_tasks.reconciler import TICK_SECONDS as RECONCILER_SECONDS
from backfilld.worker.side_tasks.reconciler import Reconciler
from backfilld.worker.side_tasks.reporter import TICK_SECONDS as REPORTER_SECONDS
from backfilld.worker.side_tasks.reporter import Reporter
from backfilld.worker.side_tasks.side_task import Loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.postgres.connect import Connection, Pool
    from backfilld.migrations.settings import Settings
    from backfilld.migrations.telemetry import Observer

#: How often an idle consumer asks for messages. The default of a second would cost a third of a busy lane's time and most of
#: a pause's patience; at this an idle process asks Redis about fifty times a second.
WORKER_TIMEOUT_MILLISECONDS = 100
#: A batch that is still running after this is left to the server, which rolls it back.
SHUTDOWN_TIMEOUT_MILLISECONDS = 30_000


@dataclass(kw_only=True)
class Lanes:
    """Threads that take steps of lanes."""

    worker: dramatiq.Worker
    pool: Pool
    stopping: threading.Event

    def stop(self) -> None:
        """Let batches in flight commit, and go. Messages not begun go back to the queue."""
        self.stopping.set()
        self.worker.stop(timeout=SHUTDOWN_TIMEOUT_MILLISECONDS)
        self.pool.close()


@dataclass(kw_only=True)
class SideTasks:
    """The reconciler, the governor, the control, the one who gives way, the purger and the reporter, each in a thread of its own."""

    loops: list[Loop]
    stopping: threading.Event
    consumer: dramatiq.Worker | None = field(default=None)

    @property
    def oldest_tick_seconds(self) -> float:
        """How long the slowest of them has not come back."""
        return max(time.monotonic() - loop.last_tick for loop in self.loops)

    def stop(self) -> None:
        self.stopping.set()
        if self.consumer is not None:
            self.consumer.stop(timeout=SHUTDOWN_TIMEOUT_MILLISECONDS)
        for loop in self.loops:
            loop.join(timeout=SHUTDOWN_TIMEOUT_MILLISECONDS / 1000)


def start_lanes(settings: Settings, broker: dramatiq.Broker, *, threads: int, observe: Observer) -> Lanes:
    """Start `threads` threads that take steps of lanes."""
    stopping = threading.Event()
    # Two more than there are threads: after a lost connection a thread looks what became of its commit, and beside DDL that
    # waits for a lock another connection looks who is in the way.
    pool = open_pool(settings.require_database(), size=threads + 2)
    runner = Runner(pool, send=sender(broker), observe=observe, stopping=stopping, transforms=settings.transforms)
    declare_lanes(broker, runner, observe=observe)
    return Lanes(worker=_consume(broker, LANES_QUEUE, threads), pool=pool, stopping=stopping)


def start_side_tasks(
    settings: Settings, broker: dramatiq.Broker, *, observe: Observer, consume_control: bool
) -> SideTasks:
    """Start the side tasks; with `consume_control`, also the consumer of the control queue."""
    database_url, stopping = settings.require_database(), threading.Event()
    control = Control(observe=observe)
    reconciler = Reconciler(send=sender(broker), observe=observe)
    governor = Governor(settings.limits, observe=observe, signals=settings.signals, database_url=database_url)
    metrics.know_signals(signal.name for signal in settings.signals)
    give_way = GiveWay(observe=observe)

    def loop(name: str, task: Callable[[Connection], int], wait: object) -> Loop:
        return Loop(
            name,
            task,
            database_url=database_url,
            stopping=stopping,
            wait=wait,  # type: ignore[arg-type] # one of the callables below
            observe=observe,
        )

    loops = [
        loop("governor", governor.tick, lambda _done: stopping.wait(GOVERNOR_SECONDS)),
        loop("control", control.run_once, lambda remaining: control.wait(remaining, stopping)),
        loop("give way", give_way.run_once, lambda batches: give_way.wait(batches, stopping)),
        loop("reconciler", reconciler.run_once, lambda _woken: stopping.wait(RECONCILER_SECONDS)),
        loop("purger", retention.run_once, lambda _purged: stopping.wait(retention.TICK_SECONDS)),
        loop("reporter", Reporter(observe=observe).run_once, lambda _told: stopping.wait(REPORTER_SECONDS)),
    ]
    if settings.notifications:
        notifier = Notifier(settings.notifications, observe=observe)
        loops.append(loop("notifier", notifier.run_once, lambda sending: notifier.wait(sending, stopping)))
    for one in loops:
        one.start()
    tasks = SideTasks(loops=loops, stopping=stopping)
    if consume_control:
        declare_control(broker, control, database_url=database_url, observe=observe)
        tasks.consumer = _consume(broker, CONTROL_QUEUE, 1)
    return tasks


def _consume(broker: dramatiq.Broker, queue: str, threads: int) -> dramatiq.Worker:
    broker.emit_after("process_boot")
    worker = dramatiq.Worker(broker, queues={queue}, worker_timeout=WORKER_TIMEOUT_MILLISECONDS, worker_threads=threads)
    # No hoarding: a message taken ahead waits here while another process is idle.
    worker.queue_prefetch = threads
    worker.start()
    return worker
