"""What a backup is about: the tables whose rows it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import SEMANTICS
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "backups")

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
