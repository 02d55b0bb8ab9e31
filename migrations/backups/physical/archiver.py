"""The server's own archiver, whose `archive_command` is somebody else's: whether it gets on, and how far it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.backup_settings import seconds_of
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from backfilld.migrations.backups.place import Watch
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "physical")
POLL_SECONDS = 0.2
#: How often is looked beside something that lasts.
LOOK_SECONDS = 1.0
#: Of a segment's name: eight digits each for timeline, log and piece; a history or backup file has more.
_NAME = 24


@dataclass(frozen=True, kw_only=True)
class Archiver:
    """As pg_stat_archiver has it."""

    is_on: bool
    last_archived: str | None
    #: The file at which it fails now; None where the last one went well.
    failing: str | None
    failures: int

    def has(self, segment: str) -> bool:
        """Whether a segment is archived, or a later one: they go in their order."""
        last = (self.last_archived or "")[:_NAME]
        return len(last) == _NAME and last[8:] >= segment[8:]

    @property
    def problem(self) -> str:
        """Why nothing is archived; empty where it gets on."""
        if not self.is_on or self.failing is None:
            return ""
        return (
            f"the server's archive_command fails at {self.failing} ({self.failures} failures so far): what it says is in the server's "
            "log, and no recovery can go beyond that file"
        )


def look(connection: Connection) -> Archiver:
    return Archiver(**(connection.execute(_SQL["archiver"]).fetchone() or {}))


def require_well(connection: Connection) -> None:
    """Before a backup is taken that would wait in vain. Raises BackupFailed."""
    if problem := look(connection).problem:
        raise BackupFailed(problem)


class Watched:
    """A watch that also ends what waits for an archiver that gets nowhere: at its end a base backup waits for it without a word."""

    def __init__(self, connection: Connection, watch: Watch, *, patience: str) -> None:
        self._connection, self._watch, self._patience = connection, watch, patience
        self._looked = time.monotonic()
        self._failing_since: float | None = None

    def __call__(self) -> str | None:
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            problem = look(self._connection).problem
            self._failing_since = (self._failing_since or now) if problem else None
            if self._failing_since is not None and now - self._failing_since >= seconds_of(self._patience):
                raise BackupFailed(problem)
        return self._watch()


def wait_for(connection: Connection, segment: str, watch: Watch, *, patience: str) -> None:
    """Return once a segment is archived, at once where the server archives nothing. Raises BackupFailed, and what the watch raises."""
    deadline = time.monotonic() + seconds_of(patience)
    while (found := look(connection)).is_on and not found.has(segment):
        if time.monotonic() > deadline:
            msg = (
                f"the WAL segment {segment} is not archived after {patience}, the last one is {found.last_archived or 'none'}: "
                + (found.problem or "is archive_timeout set, where the role may not call pg_switch_wal()?")
            )
            raise BackupFailed(msg)
        watch()
        time.sleep(POLL_SECONDS)
