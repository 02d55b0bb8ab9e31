"""The metrics of runs, read from PostgreSQL at each scrape: right with any number of workers, and after a restart.

A scrape never waits long for the database. When it is away, everything else is still answered, and
`backfilld_database_up` is 0.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from threading import Lock, Thread
from typing import TYPE_CHECKING

import psycopg
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from backfilld.migrations.errors import Unreachable
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.connect import apply_settings, connect
from backfilld.migrations.postgres.safe_path import one_moment
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.record import backups, lanes, notices, pace, partitions, runs
from backfilld.migrations.rollback import retention
from backfilld.migrations.telemetry import SideTaskFailed, nobody
from backfilld.monitoring import families, progress
from backfilld.monitoring.families import Sizes, Snapshot
from backfilld.monitoring.probes import STANDBYS, History, replica_lag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.telemetry import Observer

#: No query may cost the application more than this.
STATEMENT_TIMEOUT = "2s"
#: A session that waits for a table keeps later ones waiting behind it; so briefly that it does not show.
SIZES_LOCK_TIMEOUT = "50ms"
#: A scrape waits for the database no longer than this, even on a dead network; Prometheus gives up on us after 10 s.
DEADLINE_SECONDS = 3.0
#: The longest lag of a replica that is measured; a longer one reads as about this.
LAG_HORIZON_SECONDS = 3600.0


class RecordCollector(Collector):
    """Reads the record at each scrape, over one connection of its own that is opened when needed."""

    def __init__(
        self,
        database_url: str,
        *,
        observe: Observer = nobody,
        deadline_seconds: float = DEADLINE_SECONDS,
        oldest_backups: Mapping[str, float] | None = None,
    ) -> None:
        """`oldest_backups`: how old the newest backups may become, in seconds, as `BackupSettings.oldest_seconds` has it."""
        self._oldest_backups = oldest_backups or {}
        self._url = database_url
        self._observe = observe
        self._deadline_seconds = deadline_seconds
        self._lock = Lock()
        #: The reading under way. Scrapes that meet share it, so that only one thread at a time uses the connection.
        self._reading: Future[Snapshot] | None = None
        self._connection: Connection | None = None
        self._history = History(LAG_HORIZON_SECONDS)
        self._was_up = True

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        yield GaugeMetricFamily(
            "backfilld_database_up", "1 when the record in PostgreSQL could be read.", value=float(snapshot is not None)
        )
        yield families.of_oldest_backups(self._oldest_backups)
        if snapshot is not None:
            yield from families.of(snapshot)

    def close(self) -> None:
        """Close the connection; a later scrape opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _snapshot(self) -> Snapshot | None:
        try:
            snapshot = self._start_reading().result(self._deadline_seconds)
        except TimeoutError:
            self._tell(f"no answer within {self._deadline_seconds:g} s")
            return None
        except (
            psycopg.Error,
            Unreachable,
            ValueError,
            LookupError,
        ) as exc:  # another release may have written what this one cannot read
            self._tell(str(exc).strip())
            return None
        self._was_up = True
        return snapshot

    def _start_reading(self) -> Future[Snapshot]:
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = Future()
                # A thread for each reading, and a daemon: a frozen server answers neither a query nor its cancellation, and no
                # timeout, ours or its own, ends the wait.
                Thread(target=self._read_into, args=(self._reading,), name="backfilld-record", daemon=True).start()
            return self._reading

    def _read_into(self, future: Future[Snapshot]) -> None:
        try:
            future.set_result(self._read())
        except BaseException as exc:  # noqa: BLE001 - a thread's edge: raised again in the thread that waits
            self.close()
            future.set_exception(exc)

    def _read(self) -> Snapshot:
        if self._connection is None or self._connection.closed:
            # Less patient than a worker.
            self._connection = connect(self._url, application_name=named("metrics"), patience_seconds=DEADLINE_SECONDS)
        connection = self._connection
        with one_moment(connection):
            apply_settings(connection, _SETTINGS)
            going = runs.listed(connection, most=None)
            snapshot = self._look(connection, going)
        return replace(snapshot, sizes=_sizes(connection, going))

    def _look(self, connection: Connection, going: Sequence[Run]) -> Snapshot:
        """All but sizes, at one moment."""
        told = progress.read_within(connection, going)
        waiting = lanes.waiting(connection)
        standbys = connection.execute(STANDBYS).fetchall()
        return Snapshot(
            runs=told,
            ended=runs.count_ended(connection),
            pace=pace.read(connection),
            message_age_seconds=waiting.seconds,
            lanes_due=waiting.lanes,
            working_sessions=pace.working_sessions(connection),
            kept_overdue_seconds=retention.most_overdue_seconds(connection),
            notices=dict(zip(("pending", "failed"), notices.count(connection), strict=True)),
            backups=backups.figures(connection),
            partitioned=partitions.listed(connection),
            replica_lag_seconds=replica_lag(standbys, self._history).value,
            sizes=None,
        )

    def _tell(self, message: str) -> None:
        """Report an absence once, not at each scrape."""
        if self._was_up:
            self._was_up = False
            self._observe(SideTaskFailed(task="metrics", error_class="connection", message=message))


def _sizes(connection: Connection, going: Sequence[Run]) -> Sizes | None:
    """Sizes on disk. Reading one needs a moment's lock on its table: where another session holds it, no size this time."""
    names = {run.run: _walked(run) for run in going}
    every = sorted({name for several in names.values() for name in several}, key=str)
    try:
        with connection.transaction():
            apply_settings(connection, {**_SETTINGS, "lock_timeout": SIZES_LOCK_TIMEOUT})
            of_tables = catalog.sizes_of(connection, every)
            stored = retention.sizes(connection)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege):
        return None
    sums = {
        run: {part: sum(of_tables[name][part] for name in several) for part in ("heap_bytes", "index_bytes")}
        for run, several in names.items()
        if several and all(name in of_tables for name in several)
    }
    return Sizes(kept=stored, tables=sums)


def _walked(run: Run) -> list[TableName]:
    """The tables and partitions that lanes of a run walk, once their sizes before the walk are on record."""
    return [TableName.parse(name) for name in (run.space or {}).get("before", {}).get("tables", {})]


_SETTINGS = {
    "statement_timeout": STATEMENT_TIMEOUT,
    "transaction_read_only": "on",
    # A role that may not see the quarantine gets an error, and not a quarantine of 0.
    "row_security": "off",
    "search_path": "",
}
