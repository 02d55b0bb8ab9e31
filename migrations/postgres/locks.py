"""Locks on tables: which one an action needs, which sessions block it, and how one of those is cancelled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import sql

from backfilld.migrations.postgres.pipelines import pipeline
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = queries(__package__, "locks")


class LockMode(StrEnum):
    """What a statement locks its table with, by PostgreSQL's own names, from the weakest to the strongest (manual, 13.3)."""

    #: No lock on the table, or none but the ACCESS SHARE of looking it up.
    NONE = "none"
    ACCESS_SHARE = "ACCESS SHARE"
    ROW_SHARE = "ROW SHARE"
    ROW_EXCLUSIVE = "ROW EXCLUSIVE"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    SHARE = "SHARE"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    EXCLUSIVE = "EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"
    #: A DO block of a user's: known only once it has run.
    UNKNOWN = "the locks of whatever it executes"


#: The modes, from the weakest to the strongest, each with the ones it waits for (manual, 13.3).
_CONFLICTS = {
    LockMode.ACCESS_SHARE: (LockMode.ACCESS_EXCLUSIVE,),
    LockMode.ROW_SHARE: (LockMode.EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE),
    LockMode.ROW_EXCLUSIVE: (
        *(LockMode.SHARE, LockMode.SHARE_ROW_EXCLUSIVE, LockMode.EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE),
    ),
    LockMode.SHARE_UPDATE_EXCLUSIVE: (
        *(LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE, LockMode.SHARE_ROW_EXCLUSIVE),
        *(LockMode.EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE),
    ),
    LockMode.SHARE: (
        *(LockMode.ROW_EXCLUSIVE, LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE_ROW_EXCLUSIVE),
        *(LockMode.EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE),
    ),
    LockMode.SHARE_ROW_EXCLUSIVE: (
        *(LockMode.ROW_EXCLUSIVE, LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE, LockMode.SHARE_ROW_EXCLUSIVE),
        *(LockMode.EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE),
    ),
    LockMode.EXCLUSIVE: (
        *(LockMode.ROW_SHARE, LockMode.ROW_EXCLUSIVE, LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE),
        *(LockMode.SHARE_ROW_EXCLUSIVE, LockMode.EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE),
    ),
    LockMode.ACCESS_EXCLUSIVE: (
        *(LockMode.ACCESS_SHARE, LockMode.ROW_SHARE, LockMode.ROW_EXCLUSIVE, LockMode.SHARE_UPDATE_EXCLUSIVE),
        *(LockMode.SHARE, LockMode.SHARE_ROW_EXCLUSIVE, LockMode.EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE),
    ),
}
MODES = tuple(_CONFLICTS)
#: The modes under which the application cannot write.
BLOCKS_WRITES = frozenset(_CONFLICTS[LockMode.ROW_EXCLUSIVE])
#: The modes as `pg_locks` calls them, AccessExclusiveLock and the like.
_IN_PG_LOCKS = {f"{mode.title().replace(' ', '')}Lock": mode for mode in MODES}

#: As many of those in the way are named in a message; the record has them all.
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Needed:
    """The lock that an action needs, of the strongest mode that any of its statements takes."""

    #: In the order of their names: two transactions that lock several tables in one order cannot wait for each other.
    tables: tuple[TableName, ...]
    mode: LockMode
    #: Whether it is taken before the first statement, by a LOCK TABLE.
    #: Several tables are, so that no transaction waits for the second one with the first in hand, and so is a table whose
    #: lock would be raised half-way. What needs one table, and asks for its strongest lock first, leaves that to the
    #: statement: it knows best what it needs (ONLY, partitions, IF EXISTS), and LOCK TABLE takes no foreign table and wants
    #: rights that an owner may have taken from himself.
    first: bool
    #: Views that are locked before the tables, the outermost first: as whoever reads them does.
    views: tuple[TableName, ...] = ()

    @property
    def statements(self) -> tuple[sql.Composed, ...]:
        """What takes the lock before the first statement; nothing where the statements take it themselves."""
        if not self.first:
            return ()
        tables = sql.SQL(", ").join(table.identifier for table in self.tables)
        lock = sql.SQL("LOCK TABLE {} IN {} MODE").format(tables, sql.SQL(self.mode))  # one of MODES
        return (*(_view_alone(view) for view in self.views), lock)

    def __str__(self) -> str:
        return " and ".join(str(table) for table in self.tables)


def _view_alone(view: TableName) -> sql.Composed:
    """Lock a view ACCESS EXCLUSIVE and nothing that it reads, as a LOCK TABLE of it would. It changes nothing.

    ALTER TABLE, because the view may be a materialized one.
    """
    return sql.SQL("ALTER TABLE IF EXISTS {} SET SCHEMA {}").format(view.identifier, sql.Identifier(view.schema))


class Locking(Protocol):
    """One statement, and the lock that it takes on its table."""

    @property
    def lock(self) -> LockMode: ...


class Changing(Protocol):
    """What a step is asked for its lock: an operation's `Action`."""

    @property
    def table(self) -> TableName | None: ...
    @property
    def statements(self) -> Sequence[Locking]: ...
    @property
    def locks(self) -> Sequence[TableName]: ...
    @property
    def views(self) -> Sequence[TableName]: ...
    @property
    def index(self) -> object | None: ...


def needed(action: Changing) -> Needed | None:
    """What an action must lock; None when it takes no lock on a table, or none that is known beforehand."""
    modes = [statement.lock for statement in action.statements if statement.lock in _CONFLICTS]
    tables = {*action.locks, *(() if action.table is None else (action.table,))}
    if not tables or action.index is not None or not (modes or action.locks):
        return None
    strongest = max(modes, key=MODES.index, default=MODES[-1])
    return Needed(
        tables=tuple(sorted(tables, key=lambda table: (table.schema, table.name))),
        mode=strongest,
        first=bool(action.locks) or modes[0] != strongest,
        views=tuple(action.views),
    )


def strength(mode: LockMode | None) -> int:
    """For comparing modes: the stronger, the larger."""
    return MODES.index(mode) if mode in MODES else -1


def from_pg_locks(name: str) -> LockMode:
    """A mode by the name that `pg_locks` has for it: AccessExclusiveLock."""
    return _IN_PG_LOCKS[name]


@dataclass(frozen=True, kw_only=True)
class Blocker:
    """A session, or a prepared transaction, that is in the way of a lock. What this role may not see is None."""

    #: None: a prepared transaction, which has no session.
    pid: int | None
    gid: str | None
    application_name: str
    role: str | None
    backend_type: str | None
    state: str | None
    query: str | None
    #: Since its transaction began.
    transaction_seconds: float | None
    #: Since it began to do what it does: its statement, or its idleness.
    state_seconds: float | None
    #: The moment of that.
    since: datetime | None
    #: Whether it waits for a lock itself.
    waits: bool
    #: Whether it is connected to this database.
    is_here: bool
    #: An autovacuum that PostgreSQL itself never cancels.
    prevents_wraparound: bool | None
    is_ours: bool
    may_be_signalled: bool

    @property
    def is_idle(self) -> bool:
        return (self.state or "").startswith("idle in transaction")

    def to_json(self) -> dict[str, Any]:
        """For the record. Any: JSON for people."""
        seconds = self.transaction_seconds
        return {
            "pid": self.pid,
            "application_name": self.application_name or self.gid or "",
            "role": self.role,
            "state": self.state,
            "seconds": round(seconds, 1) if seconds is not None else None,
            "query": self.query,
        }

    def __str__(self) -> str:
        """`pid 123 (psql, idle in transaction, 73 s): UPDATE …`."""
        age = f"{self.transaction_seconds:.0f} s" if self.transaction_seconds is not None else ""
        if self.pid is None:
            return f"the prepared transaction {self.gid!r} ({age})" if self.gid else "a prepared transaction"
        if self.backend_type is None:
            return f"pid {self.pid} (this role may not see more; grant it pg_monitor)"
        what = self.application_name or (self.backend_type if self.backend_type != "client backend" else "")
        doing = "waits itself" if self.waits and not self.is_idle else self.state
        return f"pid {self.pid} ({', '.join(part for part in (what, doing, age) if part)}): {self.query or '-'}"


def in_words(blockers: Sequence[Blocker]) -> str:
    """Who is in the way, the oldest transaction first; those that do not wait themselves before those that do."""
    ordered = sorted(blockers, key=lambda blocker: blocker.waits)
    named = "; ".join(str(blocker) for blocker in ordered[:NAMED])
    return named + (f"; and {len(ordered) - NAMED} more" if len(ordered) > NAMED else "")


def holders(connection: Connection, lock: Needed) -> list[Blocker]:
    """Who holds what a lock would have to wait for, as far as can be seen without asking for it."""
    return _in_the_way(connection.execute(_SQL["in_the_way"], _who(lock, waiting=None)).fetchall())


def prepare(connection: Connection, *, lock_timeout_ms: int) -> int:
    """Prepare one try, in its transaction; returns the session's pid, which libpq does not know behind a pooler.

    An ordinary autovacuum is cancelled once a session has waited for `deadlock_timeout`, a second unless set: longer than we ever wait.
    Where this role may set it, it is shorter; and in a deadlock it is then our statement that is cancelled.
    """
    sooner = _SOONER if connection.info.server_version >= _PARAMETER_PRIVILEGES else _SOONER_ON_14
    row = connection.execute(sooner, {"timeout": f"{max(lock_timeout_ms // 2, 1)}ms"}).fetchone()
    return int(row["pid"]) if row else 0


#: PostgreSQL 14 knows no rights on settings: whoever is a superuser may.
_PARAMETER_PRIVILEGES = 150_000
_SOONER = (
    "SELECT pg_backend_pid() AS pid, CASE WHEN has_parameter_privilege('deadlock_timeout', 'SET') "
    "THEN set_config('deadlock_timeout', %(timeout)s::text, true) END AS deadlock_timeout"
)
_SOONER_ON_14 = (
    "SELECT pg_backend_pid() AS pid, CASE WHEN current_setting('is_superuser') = 'on' "
    "THEN set_config('deadlock_timeout', %(timeout)s::text, true) END AS deadlock_timeout"
)


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A session of ours that waits for a lock, and who it waits for."""

    #: The table as PostgreSQL writes it, or `a row`.
    awaited: str
    blockers: tuple[Blocker, ...]


def queue(connection: Connection, pid: int, lock: Needed | None) -> Queue | None:
    """Whom this session waits for, to the head of the queue; None when it waits for no lock."""
    with connection.transaction(), pipeline(connection):
        waits = connection.execute(_SQL["awaited"], {"waiting": pid})
        found = connection.execute(_SQL["in_the_way"], _who(lock, waiting=pid))
        awaited, rows = waits.fetchone(), found.fetchall()
    if awaited is None or not rows:
        return None
    return Queue(awaited=awaited["relation"] or "a row", blockers=tuple(_in_the_way(rows)))


def send_away(connection: Connection, blocker: Blocker, *, waiting: int, ends: bool) -> bool:
    """Cancel the statement of a blocker, or end its session; False when it is gone, or does something else by now."""
    row = connection.execute(
        _SQL["send_away"],
        {"waiting": waiting, "pid": blocker.pid, "ends": ends, "state": blocker.state, "since": blocker.since},
    ).fetchone()
    return row is not None and bool(row["sent"])


def _who(lock: Needed | None, *, waiting: int | None) -> dict[str, Any]:  # Any: whatever psycopg can send
    return {
        "waiting": waiting,
        "tables": [table.identifier.as_string() for table in lock.tables] if lock else [],
        "modes": [name for name, mode in _IN_PG_LOCKS.items() if lock and mode in _CONFLICTS[lock.mode]],
    }


def _in_the_way(rows: Sequence[Row]) -> list[Blocker]:
    return [Blocker(**row) for row in rows]
