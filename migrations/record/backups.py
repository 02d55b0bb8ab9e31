"""Backups on record: what was backed up, where its copies are, and how far each was proved.

A backup that is being taken is held by a session of who takes it, with an advisory lock of a transaction: one whose holder is gone
is seen at once, and no crash can leave the lock behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from psycopg.types.json import Jsonb

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = queries(__package__, "backups")

#: Classes of advisory locks; any constants do, as long as all releases use the same.
BACKUPS, GATES, CLOCK = 0x62616B75, 0x67617465, 0x636C6F63
#: Advisory locks have 31 bits for the number.
_NUMBERS = 2**31 - 1

Kind = Literal["logical", "full", "incremental", "external"]
State = Literal["taking", "taken", "failed", "expired"]


@dataclass(frozen=True, kw_only=True)
class TableSum:
    """A table in a backup: how many rows it had in the snapshot, and their checksum, which does not depend on their order."""

    #: As a migration file writes it.
    table: str
    rows: int
    checksum: str
    #: On disk, without indexes.
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object of a backup; every copy has the same."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A store that holds a backup."""

    store: str
    region: str


@dataclass(frozen=True, kw_only=True)
class Backup:
    """One backup. Any: JSON for people."""

    backup: int
    label: str
    run: int | None
    provider: str
    kind: Kind
    parent: int | None
    state: State
    scope: Literal["tables", "all"]
    tables: tuple[TableSum, ...]
    requested_by: str
    #: The provider's own.
    details: dict[str, Any]
    tool_version: str | None
    server_version: int | None
    system_identifier: str | None
    timeline: int | None
    lsn_start: str | None
    lsn_stop: str | None
    snapshot_at: datetime | None
    restore_point: str | None
    restore_point_lsn: str | None
    bytes: int
    objects: tuple[StoredObject, ...]
    copies: tuple[Copy, ...]
    began_at: datetime
    taken_at: datetime | None
    verified_at: datetime | None
    proved_at: datetime | None
    proof: dict[str, Any] | None
    expires_at: datetime | None
    error: str | None
    #: By the database's clock.
    now: datetime

    @classmethod
    def from_row(cls, row: Row) -> Backup:
        return cls(
            **{
                **row,
                "tables": tuple(TableSum(**one) for one in row["tables"]),
                "objects": tuple(StoredObject(**one) for one in row["objects"]),
                "copies": tuple(Copy(**one) for one in row["copies"]),
            }
        )

    @property
    def level(self) -> Literal["taking", "taken", "verified", "proved", "failed", "expired"]:
        """How much is known of it, in a word."""
        if self.state != "taken":
            return self.state
        return "proved" if self.proved_at else "verified" if self.verified_at else "taken"

    def has_rows_of(self, tables: Collection[str]) -> bool:
        """Whether it holds the rows of these tables: a backup of the whole server, or of what the provider was told, does."""
        if self.scope == "all" and self.kind != "logical":
            return True
        return {*tables} <= {one.table for one in self.tables} | {*self.details.get("tables", ())}

    @property
    def known_at(self) -> datetime:
        """When the last was learned of it."""
        return max(at for at in (self.began_at, self.taken_at, self.verified_at, self.proved_at) if at is not None)

    def to_json(self) -> dict[str, Any]:
        """Documented keys, in their order. Any: JSON."""
        plain = {
            key: value.isoformat() if hasattr(value, "isoformat") else value
            for key, value in vars(self).items()
            if key not in {"tables", "objects", "copies", "now"}
        }
        return {
            **plain,
            "level": self.level,
            "tables": [vars(one) for one in self.tables],
            "objects": [vars(one) for one in self.objects],
            "copies": [vars(one) for one in self.copies],
        }


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What metrics tell of backups; None: there is none."""

    age_seconds: float | None
    proved_age_seconds: float | None
    last_proved: float | None
    failures: int
    bytes: int
    take_seconds: float | None
    restore_seconds: float | None


def next_number(connection: Connection) -> int:
    row = connection.execute(_SQL["next_backup"]).fetchone()
    return int(row["backup"]) if row else 0


def hold(connection: Connection, kind: int, number: int) -> bool:
    """Hold a backup or the gate of a run until this transaction ends; False where another session does."""
    row = connection.execute(_SQL["hold_backup"], {"class": kind, "number": number % _NUMBERS}).fetchone()
    return bool(row and row["held"])


def insert(connection: Connection, *, copies: Sequence[Copy], details: dict[str, Any], **columns: Any) -> None:
    """A backup begins; who calls holds it. Any: JSON, and columns of the table by their names."""
    connection.execute(_SQL["insert_backup"], {**columns, "details": Jsonb(details), "copies": _listed(copies)})


def grows(connection: Connection, backup: int, size: int) -> None:
    connection.execute(_SQL["backup_grows"], {"backup": backup, "bytes": size})


def taken(  # noqa: PLR0913 - one row; each column is named where it is called. Any: JSON
    connection: Connection,
    backup: int,
    *,
    tables: Sequence[TableSum],
    objects: Sequence[StoredObject],
    lsn_stop: str | None,
    details: Mapping[str, Any] | None = None,
    restore_point: str | None = None,
    restore_point_lsn: str | None = None,
    taken_at: datetime | None = None,
    snapshot_at: datetime | None = None,
    size: int | None = None,
) -> bool:
    """Every copy is whole; False where somebody has declared it failed meanwhile.

    `snapshot_at`, `size` and `details` where a provider knows them only now. Any: JSON.
    """
    changed = connection.execute(
        _SQL["backup_taken"],
        {
            "backup": backup,
            "tables": _listed(tables),
            "objects": _listed(objects),
            "bytes": size if size is not None else sum(one.bytes for one in objects),
            "snapshot_at": snapshot_at,
            "lsn_stop": lsn_stop,
            "details": Jsonb(dict(details or {})),
            "restore_point": restore_point,
            "restore_point_lsn": restore_point_lsn,
            "taken_at": taken_at,
        },
    )
    return changed.rowcount == 1


def verified(connection: Connection, backup: int) -> None:
    connection.execute(_SQL["backup_verified"], {"backup": backup})


def proved(connection: Connection, backup: int, proof: dict[str, Any]) -> None:  # Any: JSON
    connection.execute(_SQL["backup_proved"], {"backup": backup, "proof": Jsonb(proof)})


def failed(connection: Connection, backup: int, error: str) -> None:
    connection.execute(_SQL["backup_failed"], {"backup": backup, "error": error})


def expired(connection: Connection, backup: int) -> None:
    connection.execute(_SQL["backup_expired"], {"backup": backup})


def removed(connection: Connection, backup: int) -> None:
    connection.execute(_SQL["backup_removed"], {"backup": backup})


def get(connection: Connection, backup: int) -> Backup | None:
    row = connection.execute(_SQL["backup"], {"backup": backup}).fetchone()
    return Backup.from_row(row) if row else None


def listed(
    connection: Connection, *, run: int | None = None, states: Sequence[State] | None = None, most: int | None = None
) -> list[Backup]:
    """Backups, the newest first."""
    asked = {"run": run, "states": list(states) if states is not None else None, "most": most}
    return [Backup.from_row(row) for row in connection.execute(_SQL["backups"], asked).fetchall()]


def of_run(connection: Connection, run: int) -> Backup | None:
    """The backup to go back to for a run: one that was taken for it, proved rather than not; else the recent one that let it begin."""
    row = connection.execute(_SQL["backup_of_run"], {"run": run}).fetchone()
    return Backup.from_row(row) if row else None


def abandoned(connection: Connection) -> list[int]:
    """Backups that are being taken by nobody; the transaction of the caller holds them from now on."""
    return [row["backup"] for row in connection.execute(_SQL["abandoned_backups"], {"class": BACKUPS}).fetchall()]


def to_remove(connection: Connection) -> list[int]:
    return [row["backup"] for row in connection.execute(_SQL["backups_to_remove"]).fetchall()]


def to_expire(connection: Connection) -> list[int]:
    return [row["backup"] for row in connection.execute(_SQL["backups_to_expire"]).fetchall()]


def figures(connection: Connection) -> Figures:
    return Figures(**(connection.execute(_SQL["backup_figures"]).fetchone() or {}))


def _listed(values: Sequence[TableSum] | Sequence[StoredObject] | Sequence[Copy]) -> Jsonb:
    return Jsonb([vars(one) for one in values])
