"""What is kept so that a run can go back: its journal and its archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.queries import queries
from backfilld.migrations.record import audit

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.runs import LockedRun

_SQL = queries(__package__, "retention")

#: As many keys are named to people.
MOST_KEYS = 20

What = Literal["journal", "archive"]


def table_of(what: What, run: int) -> TableName:
    """The table that holds what is kept for a run."""
    return TableName("backfilld", f"{what}_{run}")


def is_kept(connection: Connection, what: What, run: int) -> bool:
    row = connection.execute(_SQL["is_kept"], {"what": what, "run": run}).fetchone()
    return bool(row and row["there"])


@dataclass(frozen=True, kw_only=True)
class Purged:
    """What was kept for a run, and is not any more."""

    run: int
    name: str
    journal_bytes: int
    archive_bytes: int
    rollback_conflicts: int


def overdue(connection: Connection) -> list[int]:
    """Runs whose old values have been kept for as long as they were to be."""
    return [row["run"] for row in connection.execute(_SQL["overdue"]).fetchall()]


def most_overdue_seconds(connection: Connection) -> float:
    """For how long the retention of the most overdue run has been over; 0 when none is overdue."""
    row = connection.execute(_SQL["most_overdue"]).fetchone()
    return float(row["seconds"]) if row else 0.0


def sizes(connection: Connection) -> dict[tuple[int, str], int]:
    """Bytes that are kept, by run and kind (journal, archive); takes a look at the files of each table."""
    return {(row["run"], row["kind"]): row["bytes"] for row in connection.execute(_SQL["all_kept"]).fetchall()}


def size(connection: Connection, run: int) -> dict[str, int]:
    """`journal_bytes`, `archive_bytes` (tables that it took away included) and `rollback_conflicts` of a run."""
    kept = dict(connection.execute(_SQL["kept"], {"run": run}).fetchone() or {})
    kept["archive_bytes"] += sum(kept_tables(connection, run).values())
    return kept


def kept_tables(connection: Connection, run: int) -> dict[TableName, int]:
    """The tables that a run took away and that are kept, each with its bytes."""
    rows = connection.execute(_SQL["kept_tables"], {"run": run}).fetchall()
    return {TableName("backfilld", row["name"]): row["bytes"] for row in rows}


def purge(connection: Connection, locked: LockedRun, *, actor: str) -> Purged:
    """Drop what is kept for a run that this transaction holds; there is no way back to its old values from then on.

    A partition's end locks the parent for a moment. Lanes lock it only for their session's first row, so that
    hardly any session blocks it, and none for longer than the caller's lock_timeout. Files go after the locks.
    """
    kept = size(connection, locked.run)
    tables = (table_of("journal", locked.run), table_of("archive", locked.run), *kept_tables(connection, locked.run))
    stages = [TableName("backfilld", row["name"]) for row in connection.execute(_SQL["stages"], {"run": locked.run})]
    for table in (*tables, *stages):
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table.identifier))
    connection.execute(_SQL["forget_rollback_conflicts"], {"run": locked.run})
    connection.execute(_SQL["forget_undo_rows"], {"run": locked.run})
    connection.execute(_SQL["forget_persona_rows"], {"run": locked.run})
    connection.execute(_SQL["forget_load_lines"], {"run": locked.run})
    connection.execute(_SQL["set_purged"], {"run": locked.run})
    audit.record(connection, locked.run, actor=actor, what="run.purged", **kept)
    return Purged(run=locked.run, name=locked.name, **kept)
