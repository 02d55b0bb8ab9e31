"""The actors: thin ends of the wire. Decode, call, and come back normally whatever happened.

Retries, backoff and errors live in PostgreSQL. An exception that left an actor would only put a message aside in Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dramatiq
import psycopg
from psycopg_pool import PoolTimeout

from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.postgres import connect
from backfilld.migrations.postgres.sqlstates import classify
from backfilld.migrations.telemetry import LoopFailed
from backfilld.migrations.wire.messages import (
    ADVANCE_LANE,
    APPLY_CONTROL,
    CONTROL_QUEUE,
    LANES_QUEUE,
    ControlMessage,
    LaneMessage,
)
from backfilld.monitoring import logs

if TYPE_CHECKING:
    from backfilld.migrations.telemetry import Observer
    from backfilld.worker.lanes.runner import Runner, Sender
    from backfilld.worker.side_tasks.control import Control


def declare_lanes(broker: dramatiq.Broker, runner: Runner, *, observe: Observer) -> None:
    """The actor that takes steps of lanes."""

    @dramatiq.actor(broker=broker, actor_name=ADVANCE_LANE, queue_name=LANES_QUEUE)
    def advance_lane(target: str, run: int, lane: int, seq: int) -> None:
        with logs.bound(run=run, lane=lane):
            try:
                runner.advance(LaneMessage(target=target, run=run, lane=lane, seq=seq))
            except PoolTimeout as exc:
                observe(LoopFailed(loop="lanes", error_class="connection", message=str(exc)))
            except psycopg.Error as exc:
                observe(LoopFailed(loop="lanes", error_class=classify(exc), message=str(exc).strip()))
            except Exception as exc:  # noqa: BLE001 - the edge of a thread: the run is marked failed, the next message is another's
                observe(LoopFailed(loop="lanes", error_class="fatal", message=repr(exc)))


def declare_control(broker: dramatiq.Broker, control: Control, *, database_url: str, observe: Observer) -> None:
    """The actor that takes up wishes."""

    @dramatiq.actor(broker=broker, actor_name=APPLY_CONTROL, queue_name=CONTROL_QUEUE)
    def apply_control(target: str, run: int, verb: str, actor: str) -> None:
        message = ControlMessage(target=target, run=run, verb=verb, actor=actor)
        with logs.bound(run=run):
            try:
                with connect.connected(database_url) as connection:
                    control.apply(connection, message)
            except (psycopg.Error, BackfilldError) as exc:
                observe(LoopFailed(loop="control", error_class="connection", message=str(exc).strip()))


def sender(broker: dramatiq.Broker) -> Sender:
    """Puts messages for lanes on the broker's queue."""

    def send(message: LaneMessage, /) -> None:
        broker.enqueue(
            dramatiq.Message(queue_name=LANES_QUEUE, actor_name=ADVANCE_LANE, args=message.args, kwargs={}, options={})
        )

    return send
