"""What a backup is compared with: how many rows a table has, and a checksum of them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.pq import TransactionStatus

from backfilld.migrations.backups.pacing import Asked, Pace
from backfilld.migrations.backups.place import LOOK_SECONDS
from backfilld.migrations.queries import templates
from backfilld.migrations.record.backups import TableSum

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.backups.contents import Held
    from backfilld.migrations.backups.place import Watch
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = templates(__package__, "checksum")

#: A statement reads so many pages at first, and then as many as take about so long: in between the load may hold it.
FIRST_PAGES, STATEMENT_SECONDS = 128, 0.1


def checksum(
    session: Connection,
    table: Held,
    watch: Watch,
    *,
    as_of: str | None = None,
    pace: Pace | None = None,
) -> TableSum:
    """Count and sum up the rows of a table as this session sees them. Raises BackupFailed, psycopg.Error and what the watch raises.

    The session has the settings `SESSION`. With `as_of`, a `pg_snapshot`, of the rows that are there those which that snapshot saw.
    Page by page, as fast as the watch and the pace allow; in one snapshot, be it the session's own.
    """
    with _one_snapshot(session):
        parts = list(
            _parts(session, table.name, watch, sql.SQL("true") if as_of is None else _seen_by(as_of), pace or Pace())
        )
    rows, total = sum(one["rows"] for one in parts), sum(int(one["checksum"]) for one in parts)
    return TableSum(table=str(table.name), rows=rows, checksum=str(total), bytes=table.bytes)


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


def _parts(session: Connection, table: TableName, watch: Watch, seen: sql.Composable, pace: Pace) -> Iterator[Row]:
    """The sums of pages after pages."""

    def sum_of(pages: sql.Composable) -> Row:
        return _ask(session, _SQL["checksum"].format(table=table.identifier, seen=seen, pages=pages), watch)

    # Asked within the snapshot: rows that come later, on pages that come later, are none of it.
    extent = _ask(session, _SQL["extent"].format(table=sql.Literal(table.identifier.as_string(session))), watch)
    if not extent["has_pages"]:
        yield sum_of(sql.SQL("true"))
        return
    pages, block = extent["pages"], extent["block"]
    asked, first, count = Asked(watch), 0, FIRST_PAGES
    while first < pages:
        if not (asked.may_go_on() and pace.may_go_on()):
            session.execute("SELECT")  # one that is not heard of for a minute is ended
            continue
        if pace.burst is not None:
            count = min(count, max(1, pace.burst // block))
        last, began = min(first + count, pages), time.monotonic()
        yield sum_of(
            sql.SQL("counted.ctid >= {}::pg_catalog.tid AND counted.ctid < {}::pg_catalog.tid").format(
                sql.Literal(f"({first},0)"), sql.Literal(f"({last},0)")
            )
        )
        pace.spent((last - first) * block)
        took = max(time.monotonic() - began, 1e-6)
        count = max(1, min(round((last - first) * STATEMENT_SECONDS / took), 2 * count))
        first = last


@contextmanager
def _one_snapshot(session: Connection) -> Iterator[None]:
    """Of the transaction that the session is in; or one of its own."""
    if session.info.transaction_status is not TransactionStatus.IDLE:
        yield
        return
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _seen_by(snapshot: str) -> sql.Composable:
    _, end, at_work = snapshot.split(":")
    return _SQL["seen_by"].format(
        snapshot_end=sql.Literal(int(end)),
        # As rows have them: without what counts how often they began anew.
        at_work=sql.Literal([int(one) % 2**32 for one in at_work.split(",") if one]),
    )


def _ask(session: Connection, statement: sql.Composed, watch: Watch) -> Row:
    """Ask for one row, in a thread of its own: the watch may end what waits for a lock, or takes long."""
    found: list[Row] = []
    problem: list[BaseException] = []

    def ask() -> None:
        try:
            found.append(session.execute(statement).fetchone() or {})
        except BaseException as exc:  # noqa: BLE001 - a thread's edge: raised again in the thread that waits
            problem.append(exc)

    asking = Thread(target=ask, name="backfilld-checksum", daemon=True)
    asking.start()
    try:
        while asking.is_alive():
            asking.join(LOOK_SECONDS)
            if asking.is_alive():
                watch()  # what one statement reads cannot be held
    except BaseException:
        session.cancel_safe(timeout=5.0)
        asking.join(5.0)
        raise
    if problem:
        raise problem[0]
    return found[0]
