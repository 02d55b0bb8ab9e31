"""Receiving: threads that take messages from a queue and hand each to a function of ours, which never raises."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dramatiq

from backfilld.migrations.wire.broker import Broker
from backfilld.migrations.wire.messages import (
    ADVANCE_LANE,
    APPLY_CONTROL,
    CONTROL_QUEUE,
    LANES_QUEUE,
    ControlMessage,
    LaneMessage,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long a thread without a message sleeps before it looks whether it is to stop.
WORKER_TIMEOUT_MILLISECONDS = 500
#: What a message is doing that is still under way after this is left to the server, which rolls it back.
SHUTDOWN_TIMEOUT_MILLISECONDS = 30_000


@dataclass(frozen=True)
class Receiver:
    """Threads that take messages of one queue, until they are stopped."""

    _worker: dramatiq.Worker

    def stop(self) -> None:
        """Let messages in hand be finished. Those not begun go back to the queue."""
        if isinstance(self._worker.broker, Broker):
            self._worker.broker.stop_resting()
        self._worker.stop(timeout=SHUTDOWN_TIMEOUT_MILLISECONDS)


def receive_lanes(broker: dramatiq.Broker, advance: Callable[[LaneMessage], None], *, threads: int) -> Receiver:
    """Take wake-ups of lanes, as many at once as there are threads."""

    @dramatiq.actor(broker=broker, actor_name=ADVANCE_LANE, queue_name=LANES_QUEUE)
    def advance_lane(target: str, run: int, lane: int, seq: int) -> None:
        advance(LaneMessage(target=target, run=run, lane=lane, seq=seq))

    return _receive(broker, LANES_QUEUE, threads)


def receive_control(broker: dramatiq.Broker, apply: Callable[[ControlMessage], None]) -> Receiver:
    """Take control messages, one at a time."""

    @dramatiq.actor(broker=broker, actor_name=APPLY_CONTROL, queue_name=CONTROL_QUEUE)
    def apply_control(target: str, run: int, verb: str, actor: str) -> None:
        apply(ControlMessage(target=target, run=run, verb=verb, actor=actor))

    return _receive(broker, CONTROL_QUEUE, 1)


def _receive(broker: dramatiq.Broker, queue: str, threads: int) -> Receiver:
    broker.emit_after("process_boot")
    for name in (queue, f"{queue}.DQ"):
        # What goes wrong with Redis the broker has told, once and with what to do; Dramatiq says it at each try.
        logging.getLogger(f"dramatiq.worker.ConsumerThread({name})").setLevel(logging.CRITICAL + 1)
    worker = dramatiq.Worker(broker, queues={queue}, worker_timeout=WORKER_TIMEOUT_MILLISECONDS, worker_threads=threads)
    # No hoarding: a message taken ahead waits here while another process is idle.
    worker.queue_prefetch = threads
    worker.start()
    return Receiver(worker)
