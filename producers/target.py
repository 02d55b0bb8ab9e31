"""One target database and its settings, as every method of the client reaches them."""

from __future__ import annotations

import getpass
import logging
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backfilld.producers import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.settings import Limits, Settings

_log = logging.getLogger("backfilld")


class Target:
    """One target database. Every method opens a connection of its own and closes it."""

    def __init__(
        self,
        database_url: str | None = None,
        redis_url: str | None = None,
        *,
        actor: str | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """What is not given comes from `BACKFILLD_…` variables and `backfilld.toml`.

        `actor` is who asks, for the audit. `warn` receives non-fatal warnings; default: the logger `backfilld`.
        """
        from backfilld.migrations import settings as settings_file  # noqa: PLC0415 - a deploy script that only imports us pays nothing

        given = {"database_url": database_url, "redis_url": redis_url}
        self._settings: Settings = settings_file.load(**{name: url for name, url in given.items() if url is not None})
        self._actor = actor or f"{_user()}@{socket.gethostname()}"
        self._warn = warn or _log.warning

    @property
    def limits(self) -> Limits:
        """The limits of load signals in the settings of this process."""
        return self._settings.limits

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection to the record that is kept open, for a caller that reads often. Raises as every method does."""
        with self._record_of_runs() as connection:
            yield connection

    @contextmanager
    def _record_of_runs(self) -> Iterator[Connection]:
        with waiting.record(self._settings.require_database()) as connection:
            yield connection


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
