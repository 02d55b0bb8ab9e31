"""What a backup is about: the tables whose rows it holds, and the checksum of each."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.backups.place import LOOK_SECONDS, BackupFailed
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import SEMANTICS
from backfilld.migrations.queries import queries, templates
from backfilld.migrations.record.backups import TableSum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.backups.place import Watch
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "backups")
_CHECKSUM = templates(__package__, "checksum")

#: The texts of values must be the same on both sides of a comparison; no limit of time ends a dump, and a session that hears nothing
#: for a minute is one of a worker that is gone.
SESSION = {
    **SEMANTICS,
    "lc_monetary": "C",
    "bytea_output": "hex",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
}


@dataclass(frozen=True, kw_only=True)
class Server:
    """What a backup must know of its server."""

    server_version: int
    system_identifier: str
    timeline: int
    encoding: str
    database: str
    role: str

    @property
    def major(self) -> int:
        return self.server_version // 10_000


@dataclass(frozen=True, kw_only=True)
class Held:
    """A table that holds rows of its own."""

    name: TableName
    bytes: int
    #: Row security would hide rows from this role.
    hides_rows: bool


def server(connection: Connection) -> Server:
    return Server(**(connection.execute(_SQL["server"]).fetchone() or {}))


def written(connection: Connection) -> str:
    """Where the next record of the WAL will be: all that has committed is before it."""
    row = connection.execute(_SQL["written"]).fetchone() or {}
    return str(row["lsn"])


def extensions(connection: Connection, tables: Sequence[Held]) -> set[str]:
    """Those whose types the columns of these tables have: their rows cannot be restored without them."""
    asked = {"schemas": [one.name.schema for one in tables], "names": [one.name.name for one in tables]}
    return {row["extension"] for row in connection.execute(_SQL["extensions_of_tables"], asked).fetchall()}


def is_same(one: Connection, other: Connection) -> bool:
    """Whether both lead to one database."""
    first, second = (each.execute(_SQL["which_database"]).fetchone() for each in (one, other))
    return first == second


def tables(
    connection: Connection, named: Sequence[TableName], *, everything: bool = False, excluded: Sequence[str] = ()
) -> list[Held]:
    """The tables that hold the rows of these, partitions in place of their table; those that are not there are left out."""
    rows = connection.execute(
        _SQL["tables"],
        {
            "schemas": [one.schema for one in named],
            "names": [one.name for one in named],
            "everything": everything,
            "excluded": list(excluded),
        },
    ).fetchall()
    return [
        Held(name=TableName(row["schema"], row["name"]), bytes=row["bytes"], hides_rows=row["hides_rows"])
        for row in rows
    ]


def require_visible(held: Sequence[Held], role: str) -> None:
    """Raises BackupFailed where this role would see, and so save, a part of the rows only."""
    if hidden := [str(one.name) for one in held if one.hides_rows]:
        msg = (
            f"row security hides rows of {', '.join(hidden)} from the role {role}, and a backup would have a part of them only: "
            f"ALTER ROLE {role} BYPASSRLS"
        )
        raise BackupFailed(msg)


def checksum(
    session: Connection, table: TableName, watch: Watch, *, size: int = 0, as_of: str | None = None
) -> TableSum:
    """Count and sum up the rows of a table as this session sees them. Raises BackupFailed, psycopg.Error and what the watch raises.

    The session has the settings `SESSION`. With `as_of`, a `pg_snapshot`, of the rows that are there those which that snapshot saw.
    """
    statement = _CHECKSUM["checksum"].format(table=table.identifier)
    if as_of is not None:
        _, end, at_work = as_of.split(":")
        statement = _CHECKSUM["checksum_as_of"].format(
            table=table.identifier,
            snapshot_end=sql.Literal(int(end)),
            # As rows have them: without what counts how often they began anew.
            at_work=sql.Literal([int(one) % 2**32 for one in at_work.split(",") if one]),
        )
    found: list[TableSum] = []
    problem: list[BaseException] = []

    def ask() -> None:
        try:
            row = session.execute(statement).fetchone() or {}
            found.append(TableSum(table=str(table), rows=row["rows"], checksum=row["checksum"], bytes=size))
        except BaseException as exc:  # noqa: BLE001 - a thread's edge: raised again in the thread that waits
            problem.append(exc)

    asking = Thread(target=ask, name="backfilld-checksum", daemon=True)
    asking.start()
    try:
        while asking.is_alive():
            asking.join(LOOK_SECONDS)
            if asking.is_alive():
                watch()  # a statement cannot be held: it is one scan
    except BaseException:
        session.cancel_safe(timeout=5.0)
        asking.join(5.0)
        raise
    if problem:
        raise problem[0]
    return found[0]


def differences(expected: Sequence[TableSum], found: Sequence[TableSum]) -> list[str]:
    """What is not the same, in words; nothing where all is. Pure."""
    by_table = {one.table: one for one in found}
    told = []
    for one in expected:
        other = by_table.get(one.table)
        if other is None:
            told.append(f"{one.table} is missing")
        elif other.rows != one.rows:
            told.append(f"{one.table} has {other.rows} rows in place of {one.rows}")
        elif other.checksum != one.checksum:
            told.append(f"{one.table} has {one.rows} rows, and other values in some of them")
    return told
