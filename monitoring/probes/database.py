"""The load signals of the server itself, and who else is at work in the database.

A query that fails costs its own signals only. All are sent in one round trip; when one fails, each is sent alone, in a savepoint
of its own, and those that failed continue to be sent alone until they succeed.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import TransactionStatus

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.postgres.pipelines import pipeline
from backfilld.migrations.postgres.sqlstates import lost
from backfilld.migrations.queries import queries
from backfilld.migrations.settings import Limits
from backfilld.monitoring.probes.lag import History, replica_lag
from backfilld.monitoring.probes.reading import Reading, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import LiteralString

    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = queries(__package__, "probes")

#: Statement text that a scrape sends together with others.
STANDBYS = _SQL["standbys"]

#: The views answer in milliseconds; one that takes this long is itself a sign of trouble.
STATEMENT_TIMEOUT = "2s"
#: What all queries together may take; what is left then counts as unreadable. Well below the age at which a verdict is none.
PATIENCE_SECONDS = 6.0
#: A table that grew by less is no burden, even where its share is large.
LEAST_GROWTH_BYTES = 64 * 2**20
#: Fewer dead rows than this are no burden, even where their share is large: autovacuum looks once a minute, and a table of ten rows that
#: is written ten times meanwhile is well.
FEWEST_DEAD_TUPLES = 50_000


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Sessions at work in the database; read together with the signals."""

    #: Sessions of others that have run something within two seconds.
    others: int
    #: A run may be at work.
    runs: bool
    #: How many transactions have ended in this database, batches of runs left out; None: unknown. Only its growth tells.
    transactions: int | None = None


#: Unknown: assume that others are active.
BUSY = Scene(others=1, runs=True)


@dataclass(frozen=True)
class _Probe:
    """A query, the signals it is for, and what its rows say of them."""

    query: str
    signals: tuple[str, ...]
    judge: Callable[[Sequence[Row]], Sequence[Reading]]
    parameters: Mapping[str, object] = field(default_factory=dict)
    #: About what runs do: there is nothing to ask while none is at work.
    of_runs: bool = False


class Database:
    """Reads the signals of one server; keeps what they are compared with."""

    def __init__(self, limits: Limits) -> None:
        self._judged = {name for name in Limits.model_fields if getattr(limits, name) is not None}
        # Twice the limit: enough to tell "beyond the limit" from "far beyond", and the history stays small.
        self._wal = History(2 * limits.replica_lag_seconds.hard if limits.replica_lag_seconds else 60.0)
        self._xids = History(2 * limits.snapshot_age_seconds.hard if limits.snapshot_age_seconds else 60.0)
        #: Time and place of the WAL at the last reading.
        self._wal_before: tuple[float, int] | None = None
        #: Tables that are being changed, how large they were before, and about how many rows a run walks.
        self._changing: tuple[tuple[TableName, int | None, int | None], ...] = ()
        self._scene = BUSY
        #: Queries that failed when they were last asked.
        self._suspects: frozenset[str] = frozenset()

    def read(self, connection: Connection, *, at_work: bool = True) -> tuple[list[Reading], Scene]:
        """Every signal that is judged, in a transaction or in none. Unless a run is `at_work`, signals of what runs do are 0.

        A signal whose query fails is None, with the error as its detail; a lost connection raises psycopg's error.
        Inside a transaction of the caller's, our `statement_timeout` stays until it ends.
        """
        probes = [probe for probe in self._probes() if not probe.signals or self._judged & set(probe.signals)]
        self._scene = BUSY
        deadline = time.monotonic() + PATIENCE_SECONDS
        idle = [] if at_work else [probe for probe in probes if probe.of_runs]
        probes = [probe for probe in probes if probe not in idle]
        nothing = [
            Reading(signal=signal, value=0.0, detail="no run is at work") for probe in idle for signal in probe.signals
        ]
        in_transaction = connection.info.transaction_status is TransactionStatus.INTRANS
        with nullcontext() if in_transaction else connection.transaction():
            apply_settings(connection, {"statement_timeout": STATEMENT_TIMEOUT})
            together = [probe for probe in probes if probe.query not in self._suspects]
            answers = self._ask_together(connection, together)
            alone = [probe for probe in probes if probe.query not in answers]
            answers |= {probe.query: self._ask_alone(connection, probe, deadline) for probe in alone}
        self._suspects = frozenset(query for query, answer in answers.items() if isinstance(answer, str))
        judged = [reading for reading in nothing if reading.signal in self._judged]
        return self._readings(probes, answers) + judged, self._scene

    def _readings(self, probes: Sequence[_Probe], answers: Mapping[str, Sequence[Row] | str]) -> list[Reading]:
        readings: list[Reading] = []
        for probe in probes:
            answer = answers[probe.query]
            if isinstance(answer, str):
                readings += [unreadable(signal, answer) for signal in probe.signals]
            else:
                readings += probe.judge(answer)
        return [reading for reading in readings if reading.signal in self._judged]

    def _ask_together(self, connection: Connection, probes: Collection[_Probe]) -> dict[str, Sequence[Row] | str]:
        try:
            with connection.transaction(), pipeline(connection):
                cursors = {probe.query: connection.execute(_text(probe), probe.parameters) for probe in probes}
                return {query: cursor.fetchall() for query, cursor in cursors.items()}
        except psycopg.Error as exc:
            if lost(exc):
                raise
            return {}

    def _ask_alone(self, connection: Connection, probe: _Probe, deadline: float) -> Sequence[Row] | str:
        """The rows, or what went wrong."""
        if time.monotonic() > deadline:
            return f"no time was left after {PATIENCE_SECONDS:g} s"
        try:
            with connection.transaction():
                return connection.execute(_text(probe), probe.parameters).fetchall()
        except psycopg.Error as exc:
            if lost(exc):
                raise
            return exc.diag.message_primary or str(exc)

    def _probes(self) -> list[_Probe]:
        tables = {
            "schemas": [table.schema for table, _, _ in self._changing],
            "names": [table.name for table, _, _ in self._changing],
        }
        sizes = tables | {"bytes_before": [before for _, before, _ in self._changing]}
        rows = tables | {"rows_total": [total for _, _, total in self._changing]}
        return [
            _Probe("standbys", ("replica_lag_seconds",), lambda rows: [replica_lag(rows, self._wal)]),
            _Probe("slots", ("slot_retained_bytes", "slot_used_share"), _slots),
            _Probe("archiver", ("archive_backlog_segments",), _archiver),
            _Probe("wal_position", ("wal_bytes_per_second",), self._wal_rate),
            _Probe(
                "blocked_sessions",
                ("blocked_sessions",),
                lambda rows: [_waiters("blocked_sessions", rows)],
                of_runs=True,
            ),
            _Probe("lock_waiters", ("lock_waiters",), lambda rows: [_waiters("lock_waiters", rows)]),
            _Probe("active_sessions", ("active_connections",), _active_connections),
            _Probe("all_sessions", ("connections",), _connections),
            _Probe("horizon", ("snapshot_age_seconds",), self._snapshot_age),
            _Probe("dead_tuples", ("dead_tuples",), _dead_tuples, rows, of_runs=True),
            _Probe("table_sizes", ("table_growth",), _table_growth, sizes, of_runs=True),
            _Probe("changing", (), self._remember_tables, of_runs=True),
            _Probe("others", (), self._look_around),
        ]

    def _wal_rate(self, rows: Sequence[Row]) -> list[Reading]:
        (row,) = rows
        before, self._wal_before = self._wal_before, (row["at"], row["wal"])
        if before is None or row["at"] <= before[0]:
            return [Reading(signal="wal_bytes_per_second", value=0.0, detail="first reading")]
        rate = max(0.0, (row["wal"] - before[1]) / (row["at"] - before[0]))
        return [Reading(signal="wal_bytes_per_second", value=rate, detail=f"{rate / 2**20:.1f} MiB/s")]

    def _snapshot_age(self, rows: Sequence[Row]) -> list[Reading]:
        name = "snapshot_age_seconds"
        at, next_xid = rows[0]["at"], rows[0]["next_xid"]
        if next_xid is not None:
            self._xids.add(at, next_xid)
        oldest = Reading(signal=name, value=0.0, detail="")
        for row in rows:
            # Neither, where the session is hidden from this role: nothing is known of it.
            seconds = row["seconds"] or (self._xids.seconds_behind(row["xid"], at) if row["xid"] is not None else 0.0)
            if seconds > (oldest.value or 0.0):
                oldest = Reading(signal=name, value=seconds, detail=row["holder"])
        return [oldest]

    def _remember_tables(self, rows: Sequence[Row]) -> list[Reading]:
        # For the next reading: not worth a round trip of its own.
        self._changing = tuple(
            (TableName.parse(row["relation"]), row["bytes_before"], row["rows_total"]) for row in rows
        )
        return []

    def _look_around(self, rows: Sequence[Row]) -> list[Reading]:
        (row,) = rows
        self._scene = Scene(others=row["sessions"], runs=row["runs"], transactions=row["transactions"])
        return []


def _text(probe: _Probe) -> LiteralString:
    return _SQL[probe.query]


def _slots(rows: Sequence[Row]) -> list[Reading]:
    most = max(rows, key=lambda row: row["retained_bytes"], default=None)
    fullest = max(rows, key=lambda row: row["used_share"] or 0.0, default=None)

    def detail(row: Row | None) -> str:
        if row is None:
            return "no slot"
        return f"{row['slot_name']}{'' if row['active'] else ', not in use,'} keeps {row['retained_bytes'] / 2**20:.0f} MiB"

    return [
        Reading(
            signal="slot_retained_bytes",
            value=float(max(0, most["retained_bytes"])) if most else 0.0,
            detail=detail(most),
        ),
        Reading(
            signal="slot_used_share", value=(fullest["used_share"] or 0.0) if fullest else 0.0, detail=detail(fullest)
        ),
    ]


def _archiver(rows: Sequence[Row]) -> list[Reading]:
    (row,) = rows
    name = "archive_backlog_segments"
    if row["segments"] is None:
        return [
            unreadable(
                name, f"nothing was archived yet, and {row['failed_count']} attempts failed ({row['last_failed_wal']})"
            )
        ]
    detail = f"archiving of {row['last_failed_wal']} fails" if row["failing"] else ""
    return [Reading(signal=name, value=row["segments"], detail=detail)]


def _waiters(signal: str, rows: Sequence[Row]) -> Reading:
    (row,) = rows
    detail = f"session {row['longest_pid']} has waited {row['longest_seconds']:.1f} s" if row["sessions"] else ""
    return Reading(signal=signal, value=float(row["sessions"]), detail=detail)


def _active_connections(rows: Sequence[Row]) -> list[Reading]:
    (row,) = rows
    detail = f"{row['active']} of {row['max_connections']}"
    if row["hidden"]:
        detail += f", {row['hidden']} of them hidden and counted as active: grant pg_monitor to this role"
    return [Reading(signal="active_connections", value=row["active"] / row["max_connections"], detail=detail)]


def _connections(rows: Sequence[Row]) -> list[Reading]:
    (row,) = rows
    return [
        Reading(signal="connections", value=row["sessions"] / row["most"], detail=f"{row['sessions']} of {row['most']}")
    ]


def _dead_tuples(rows: Sequence[Row]) -> list[Reading]:
    worst = Reading(signal="dead_tuples", value=0.0, detail="")
    for row in rows:
        if row["dead"] < FEWEST_DEAD_TUPLES:
            continue
        share = row["dead"] / (row["live"] + row["dead"])
        if share > (worst.value or 0.0):
            vacuum = (
                "a vacuum is running"
                if row["vacuuming"]
                else "autovacuum is off"
                if row["autovacuum_off"]
                else "no vacuum is running"
            )
            worst = Reading(
                signal="dead_tuples", value=share, detail=f"{row['relation']}: {row['dead']} dead rows, {vacuum}"
            )
    return [worst]


def _table_growth(rows: Sequence[Row]) -> list[Reading]:
    worst = Reading(signal="table_growth", value=0.0, detail="")
    for row in rows:
        grown = row["bytes"] - row["bytes_before"]
        share = grown / row["bytes_before"]
        if grown >= LEAST_GROWTH_BYTES and share > (worst.value or 0.0):
            worst = Reading(
                signal="table_growth", value=share, detail=f"{row['relation']} has grown by {grown / 2**20:.0f} MiB"
            )
    return [worst]
