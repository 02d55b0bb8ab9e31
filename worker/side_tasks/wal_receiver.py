"""Keeps the WAL coming: pg_receivewal is started where nobody receives, and begun anew where the slot was lost.

Of several workers one receives: the slot has one reader. One that was killed is started again at the next tick, and continues with
the segment that it was at; the slot has kept the rest.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backfilld.migrations.backups import contents
from backfilld.migrations.backups.physical import receiver, tools
from backfilld.migrations.backups.physical.receiver import Receiver
from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.record import audit, backups, runs
from backfilld.migrations.telemetry import SideTaskFailed

if TYPE_CHECKING:
    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.telemetry import Observer

#: A receiver that is gone is started again within this; the slot keeps the WAL meanwhile.
TICK_SECONDS = 5.0


#: What the server or the role lacks is said again after this.
LACKING_SECONDS = 60.0


class WalKeeper:
    """Receives the WAL of one server, unless another worker does."""

    def __init__(self, place: Place, *, observe: Observer) -> None:
        self._place = place
        self._observe = observe
        self._receiver: Receiver | None = None
        self._not_before = 0.0

    def run_once(self, connection: Connection) -> int:
        """Start a receiver where there is none, and remove what no backup needs; returns how many were started.

        Raises psycopg.Error. What the server or this role lacks is told once a minute.
        """
        if time.monotonic() < self._not_before:
            return 0
        try:
            return self._keep(connection)
        except BackfilldError as exc:
            self._not_before = time.monotonic() + LACKING_SECONDS
            self._observe(SideTaskFailed(task="wal receiver", error_class="fatal", message=str(exc)))
            return 0

    def _keep(self, connection: Connection) -> int:
        server = contents.server(connection)
        if self._receiver is not None:
            if self._receiver.ended is None:
                self._prune(connection, server.system_identifier)
                return 0
            said = self._receiver.ended
            self._receiver.stop()
            self._receiver = None
            audit.record(connection, None, actor=runs.WORKER, what="backup.wal", error=said)
        known = receiver.slot(connection, self._place.settings.wal.slot)
        if known is not None and known.active:
            return 0
        tools.require(tools.facts(connection), self._place.settings, server.role)
        found = tools.find(self._place, server.major)
        self._receiver = Receiver.start(self._place, found, connection, server.system_identifier)
        if known is not None and known.is_lost:
            lost = (
                f"the replication slot {self._place.settings.wal.slot} was lost, and with it WAL since {known.received}"
            )
            audit.record(connection, None, actor=runs.WORKER, what="backup.wal", error=lost)
        return int(self._receiver is not None)

    def stop(self) -> None:
        """End the receiver, with what has come on disk."""
        if self._receiver is not None:
            self._receiver.stop()

    def _prune(self, connection: Connection, system: str) -> None:
        folder = self._place.settings.wal.folder
        kept = [
            str(one.details["first_segment"])
            for one in backups.listed(connection, states=["taking", "taken"])
            if one.system_identifier == system and "first_segment" in one.details
        ]
        if folder is not None and kept:
            receiver.prune(folder, system, min(kept, key=lambda name: name[8:]))
