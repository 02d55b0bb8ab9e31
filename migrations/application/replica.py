"""A replica on which the application's statements are planned and run for their times, where the operator names one."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.errors import Finding, InvalidSettings, Unreachable
from backfilld.migrations.postgres.connect import apply_settings, connect
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "replica")

#: A replica that has not replayed by then what was committed when the check began lags. Above what a healthy one takes, and below
#: what a lane waits for a check.
CATCH_UP_SECONDS = 10.0
_POLL_SECONDS = 0.1
_SETTING = "BACKFILLD_APPLICATION_REPLICA_URL"


class NotUsable(Exception):
    """The replica that is named cannot be asked, is not one of this database, or lags; `finding` says which, and what helps."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.finding = Finding("application_replica", problem, remedy)


@contextmanager
def reader(
    connection: Connection, url: str | None, *, catch_up_seconds: float = CATCH_UP_SECONDS
) -> Iterator[Connection]:
    """Where statements are planned and run: on the replica, once it has all that is committed now; without a `url` on `connection`.

    Raises NotUsable, and never plans on the primary in place of a replica that is named: its operator wants it left in peace.
    """
    if url is None:
        yield connection
        return
    try:
        replica = connect(url, application_name="backfilld plans", patience_seconds=CATCH_UP_SECONDS)
    except InvalidSettings:
        raise NotUsable(
            f"{_SETTING} is not a URL or connection string that libpq understands", "postgresql://user@host/name"
        ) from None
    except Unreachable as exc:
        raise NotUsable(
            f"the replica of {_SETTING} cannot be asked: {exc}", "Start it, or correct the setting"
        ) from exc
    with replica:
        try:
            _check(connection, replica)
            _catch_up(connection, replica, catch_up_seconds)
        except psycopg.Error as exc:
            problem = f"the replica of {_SETTING} cannot be asked: {str(exc).strip()}"
            raise NotUsable(problem, "Look into its log") from exc
        yield replica


def _check(connection: Connection, replica: Connection) -> None:
    """Raises NotUsable for a server that is no replica, or of another system or database."""
    here, there = (one.execute(_SQL["identity"]).fetchone() for one in (connection, replica))
    assert here is not None  # noqa: S101 - a query that gives one row
    assert there is not None  # noqa: S101 - as above
    remedy = f"Name a replica of this database in {_SETTING}, or remove the setting: statements are then planned here"
    if here["system"] != there["system"]:
        msg = f"{_SETTING} names a server of another system ({there['system']}, and this one is {here['system']})"
        raise NotUsable(msg, remedy)
    if here["database"] != there["database"]:
        msg = f"{_SETTING} names the database {there['database']}, and this one is {here['database']}"
        raise NotUsable(msg, remedy)
    if not there["is_replica"]:
        raise NotUsable(f"{_SETTING} names no replica: that server does not follow another", remedy)


def _catch_up(connection: Connection, replica: Connection, seconds: float) -> None:
    """Wait until the replica has all that is committed now. Raises NotUsable where it does not come so far."""
    with connection.transaction():
        # Its COMMIT writes all that was committed before, which lanes do without waiting for the disk.
        apply_settings(connection, {"synchronous_commit": "local"})
        connection.execute(_SQL["write"])
    wanted = connection.execute(_SQL["written"]).fetchone()
    assert wanted is not None  # noqa: S101 - as above
    deadline = time.monotonic() + seconds
    while True:
        row = replica.execute(_SQL["replayed"], {"wanted": wanted["place"]}).fetchone()
        assert row is not None  # noqa: S101 - as above
        if row["missing"] <= 0:
            return
        if time.monotonic() > deadline:
            raise NotUsable(
                f"the replica of {_SETTING} lags: it lacks {row['missing']} bytes of WAL after {seconds:g} s",
                "Wait until it has caught up (pg_stat_replication), then ask again; or remove the setting",
            )
        time.sleep(_POLL_SECONDS)
