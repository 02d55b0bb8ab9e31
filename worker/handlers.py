"""What a message is handed to. Calls, and comes back normally whatever happened.

Retries, backoff and errors live in PostgreSQL. An exception that left a handler would only put a message aside in Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg_pool import PoolTimeout

from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.postgres import connect
from backfilld.migrations.postgres.sqlstates import classify
from backfilld.migrations.telemetry import SideTaskFailed
from backfilld.monitoring import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.telemetry import Observer
    from backfilld.migrations.wire.messages import ControlMessage, LaneMessage
    from backfilld.worker.lanes.runner import Runner
    from backfilld.worker.side_tasks.control import Control


def of_lanes(runner: Runner, *, observe: Observer) -> Callable[[LaneMessage], None]:
    """Takes the next steps of a lane."""

    def advance(message: LaneMessage) -> None:
        with logs.bound(run=message.run, lane=message.lane):
            try:
                runner.advance(message)
            except PoolTimeout as exc:
                observe(SideTaskFailed(task="lanes", error_class="connection", message=str(exc)))
            except psycopg.Error as exc:
                observe(SideTaskFailed(task="lanes", error_class=classify(exc), message=str(exc).strip()))
            except Exception as exc:  # noqa: BLE001 - the edge of a thread: the run is marked failed, the next message is another's
                observe(SideTaskFailed(task="lanes", error_class="fatal", message=repr(exc)))

    return advance


def of_control(control: Control, *, database_url: str, observe: Observer) -> Callable[[ControlMessage], None]:
    """Takes up a wish."""

    def apply(message: ControlMessage) -> None:
        with logs.bound(run=message.run):
            try:
                with connect.connected(database_url) as connection:
                    control.apply(connection, message)
            except (psycopg.Error, BackfilldError) as exc:
                observe(SideTaskFailed(task="control", error_class="connection", message=str(exc).strip()))

    return apply
