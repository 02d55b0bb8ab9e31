"""The side tasks, put together. A daemon has them in a process of their own, which imports nothing that lanes need."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backfilld.migrations.backups.place import Place
from backfilld.migrations.wire.receive import SHUTDOWN_TIMEOUT_MILLISECONDS, receive_control
from backfilld.migrations.wire.send import sender
from backfilld.monitoring import metrics
from backfilld.worker import handlers
from backfilld.worker.side_tasks import backups, partitions, retention, sources
from backfilld.worker.side_tasks.activity import Activity
from backfilld.worker.side_tasks.backups import BackupKeeper
from backfilld.worker.side_tasks.control import Control
from backfilld.worker.side_tasks.give_way import GiveWay
from backfilld.worker.side_tasks.governor import Governor
from backfilld.worker.side_tasks.notifier import Notifier
from backfilld.worker.side_tasks.reconciler import Reconciler
from backfilld.worker.side_tasks.reporter import TICK_SECONDS as REPORTER_SECONDS
from backfilld.worker.side_tasks.reporter import Reporter
from backfilld.worker.side_tasks.side_task import SideTask
from backfilld.worker.side_tasks.sources import SourceReader
from backfilld.worker.side_tasks.wal_receiver import TICK_SECONDS as WAL_SECONDS
from backfilld.worker.side_tasks.wal_receiver import WalKeeper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.settings import Settings
    from backfilld.migrations.telemetry import Observer
    from backfilld.migrations.wire.broker import AnyBroker
    from backfilld.migrations.wire.receive import Receiver


@dataclass(kw_only=True)
class SideTasks:
    """The reconciler, governor, control, give-way, purger, reporter and notifier, each in a thread with a connection of its own."""

    tasks: list[SideTask]
    stopping: threading.Event
    #: What ends the waits of the tasks, once the process stops.
    wakers: Sequence[Callable[[], None]]
    receiver: Receiver | None = field(default=None)

    @property
    def oldest_tick_seconds(self) -> float:
        """How long the slowest of them has not come back."""
        return max(time.monotonic() - task.last_tick for task in self.tasks)

    def stop(self) -> None:
        self.stopping.set()
        for wake in self.wakers:
            wake()
        if self.receiver is not None:
            self.receiver.stop()
        for task in self.tasks:
            task.join(timeout=SHUTDOWN_TIMEOUT_MILLISECONDS / 1000)


def start_side_tasks(settings: Settings, broker: AnyBroker, *, observe: Observer, consume_control: bool) -> SideTasks:
    """Start the side tasks; with `consume_control`, also the consumer of the control queue."""
    database_url, stopping = settings.require_database(), threading.Event()
    activity = Activity()
    control = Control(observe=observe, activity=activity, send=sender(broker))
    reconciler = Reconciler(send=sender(broker), observe=observe, activity=activity)
    governor = Governor(
        settings.limits, observe=observe, signals=settings.signals, database_url=database_url, activity=activity
    )
    metrics.know_signals(signal.name for signal in settings.signals)
    give_way = GiveWay(observe=observe, activity=activity)

    def side_task(name: str, task: Callable[[Connection], int], wait: object) -> SideTask:
        return SideTask(
            name,
            task,
            database_url=database_url,
            stopping=stopping,
            wait=wait,  # type: ignore[arg-type] # one of the callables below
            observe=observe,
        )

    tasks = [
        side_task("governor", governor.tick, lambda _done: governor.wait(stopping)),
        side_task("control", control.run_once, lambda remaining: control.wait(remaining, stopping)),
        side_task("give way", give_way.run_once, lambda batches: give_way.wait(batches, stopping)),
        side_task("reconciler", reconciler.run_once, lambda _woken: reconciler.wait(stopping)),
        side_task("purger", retention.run_once, lambda _purged: stopping.wait(retention.TICK_SECONDS)),
        side_task("partitions", partitions.run_once, lambda _made: stopping.wait(partitions.TICK_SECONDS)),
        side_task("reporter", Reporter(observe=observe).run_once, lambda _told: stopping.wait(REPORTER_SECONDS)),
    ]
    if settings.notifications:
        notifier = Notifier(settings.notifications, observe=observe)
        tasks.append(side_task("notifier", notifier.run_once, lambda sending: notifier.wait(sending, stopping)))
    if (place := Place.of(settings)).keeps:
        keeper = BackupKeeper(place, observe=observe, stopping=stopping)
        tasks.append(side_task("backups", keeper.run_once, lambda _done: stopping.wait(backups.TICK_SECONDS)))
    if settings.sources:
        reader = SourceReader(settings.sources, database_url=database_url, observe=observe, stopping=stopping)
        tasks.append(
            side_task(
                "sources",
                reader.run_once,
                lambda _begun: activity.wait(stopping, seconds=sources.TICK_SECONDS, idle_seconds=sources.IDLE_SECONDS),
            )
        )
    wakers: list[Callable[[], None]] = [control.look, activity.end]
    if settings.backup.provider == "pg_basebackup" and settings.backup.wal.folder is not None:
        wal = WalKeeper(Place.of(settings), observe=observe)
        tasks.append(side_task("wal receiver", wal.run_once, lambda _started: stopping.wait(WAL_SECONDS)))
        wakers.append(wal.stop)
    for one in tasks:
        one.start()
    started = SideTasks(tasks=tasks, stopping=stopping, wakers=wakers)
    if consume_control:
        apply = handlers.of_control(control, database_url=database_url, observe=observe)
        started.receiver = receive_control(broker, apply)
    return started
