"""The metrics of runs, read from PostgreSQL when somebody asks: right with any number of workers, and after a restart.

A scrape never waits long for the database. When it is away, everything else is still answered, and
`backfilld_database_up` is 0.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock, Thread
from typing import TYPE_CHECKING

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from psycopg.rows import dict_row

from migrations.events import LoopFailed, nobody
from migrations.postgres.connect import apply_settings
from migrations.sql import queries
from monitoring.probes import STANDBYS, History, replica_lag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from migrations.events import Observer
    from migrations.model import Row
    from migrations.postgres.connect import Connection

_RUNS = queries("metrics")["runs_not_ended"]
_MESSAGE_AGE = queries("lanes")["message_age"]
_PACE = queries("pace")["pace_readings"]

#: No query may cost the application more than this.
STATEMENT_TIMEOUT = "2s"
CONNECT_TIMEOUT_SECONDS = 2
#: A scrape gives up on the database after this, whatever the network does; Prometheus gives up on us after 10 s.
DEADLINE_SECONDS = 3.0
#: A replica's lag beyond this is told as about this much.
LAG_HORIZON_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the record said at one moment. Rows of queries: each column is used once, below, where its metric is."""

    runs: Sequence[Row]
    message_age_seconds: float
    width: int
    rest: float
    #: Each load signal as the governor wrote it: `value` (None: could not be read), `soft`, `hard`.
    readings: Mapping[str, Mapping[str, float | None]]
    #: None: this role may not know.
    replica_lag_seconds: float | None


class RecordCollector(Collector):
    """Reads the record at each scrape, over one connection of its own that is opened when needed."""

    def __init__(
        self, database_url: str, *, observe: Observer = nobody, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
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
        if snapshot is not None:
            yield from _of_database(snapshot)
            yield from _of_runs(snapshot.runs)

    def close(self) -> None:
        """Let go of the connection; a later scrape opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _snapshot(self) -> Snapshot | None:
        try:
            snapshot = self._start_reading().result(self._deadline_seconds)
        except TimeoutError:
            self._tell(f"no answer within {self._deadline_seconds:g} s")
            return None
        except psycopg.Error as exc:
            self._tell(str(exc).strip())
            return None
        self._was_up = True
        return snapshot

    def _start_reading(self) -> Future[Snapshot]:
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = Future()
                # A thread for each reading, and one that the end of the process does not wait for: a server that is frozen
                # answers neither a query nor its cancellation, and no timeout of ours or of the server ends the wait.
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
            self._connection = _connect(self._url)
        connection = self._connection
        with connection.transaction(), connection.pipeline():
            apply_settings(connection, _SETTINGS)
            runs = connection.execute(_RUNS)
            age = connection.execute(_MESSAGE_AGE)
            paces = connection.execute(_PACE)
            standbys = connection.execute(STANDBYS)
            (pace,) = paces.fetchall()
            return Snapshot(
                runs=runs.fetchall(),
                message_age_seconds=age.fetchall()[0]["seconds"],
                width=pace["width"],
                rest=pace["rest"],
                readings=pace["readings"],
                replica_lag_seconds=replica_lag(standbys.fetchall(), self._history).value,
            )

    def _tell(self, message: str) -> None:
        """Once per absence, not once per scrape."""
        if self._was_up:
            self._was_up = False
            self._observe(LoopFailed(loop="metrics", error_class="connection", message=message))


_SETTINGS = {
    "statement_timeout": STATEMENT_TIMEOUT,
    "transaction_read_only": "on",
    # A role that may not see the quarantine gets an error, and not a quarantine of 0.
    "row_security": "off",
    "search_path": "",
}


def _connect(url: str) -> Connection:
    # Not `migrations.postgres.connect`: that waits five times as long, as a worker should.
    return psycopg.connect(
        url,
        autocommit=True,
        row_factory=dict_row,
        prepare_threshold=None,
        application_name="backfilld metrics",
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        tcp_user_timeout=round(DEADLINE_SECONDS * 1000),
    )


def _of_database(snapshot: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "backfilld_message_age_seconds",
        "How long the oldest due lane has waited for its step.",
        value=snapshot.message_age_seconds,
    )
    yield GaugeMetricFamily("backfilld_width", "Lanes that may work at once.", value=snapshot.width)
    yield GaugeMetricFamily(
        "backfilld_rest_ratio", "Seconds a lane rests for each second of work.", value=snapshot.rest
    )
    yield from _of_signals(snapshot.readings)
    if snapshot.replica_lag_seconds is not None:
        yield GaugeMetricFamily(
            "backfilld_replica_lag_seconds",
            "Seconds the slowest standby is behind in replaying; 0 without one.",
            value=snapshot.replica_lag_seconds,
        )


def _of_signals(readings: Mapping[str, Mapping[str, float | None]]) -> Iterator[Metric]:
    values = GaugeMetricFamily(
        "backfilld_signal",
        "The load signals at the last verdict; absent when one could not be read.",
        labels=["signal"],
    )
    limits = GaugeMetricFamily(
        "backfilld_signal_limit",
        "Where a load signal begins to slow the work (soft), and where it stops it (hard).",
        labels=["signal", "limit"],
    )
    for signal, reading in readings.items():
        for metric, labels, key in (
            (values, [signal], "value"),
            (limits, [signal, "soft"], "soft"),
            (limits, [signal, "hard"], "hard"),
        ):
            if (number := reading[key]) is not None:
                metric.add_metric(labels, number)
    yield from (values, limits)


def _of_runs(runs: Sequence[Row]) -> Iterator[Metric]:
    rows = CounterMetricFamily("backfilld_rows", "Rows walked, by what became of them.", labels=["run", "outcome"])
    batches = CounterMetricFamily("backfilld_batches", "Batches, by what became of them.", labels=["run", "outcome"])
    remaining = GaugeMetricFamily(
        "backfilld_run_rows_remaining", "Rows still to be walked; absent until counted.", labels=["run"]
    )
    age = GaugeMetricFamily(
        "backfilld_run_progress_age_seconds", "Seconds since a batch of the run committed.", labels=["run"]
    )
    quarantined = GaugeMetricFamily("backfilld_quarantined_rows", "Rows that are set aside now.", labels=["run"])
    info = GaugeMetricFamily("backfilld_run_info", "Where a run stands; 1.", labels=["run", "phase", "state"])
    for run in runs:
        name = run["name"]
        for outcome in ("changed", "unchanged", "quarantined"):
            rows.add_metric([name, outcome], run[outcome])
        for outcome in ("committed", "retried"):
            batches.add_metric([name, outcome], run[outcome])
        if run["remaining"] is not None:
            remaining.add_metric([name], run["remaining"])
        age.add_metric([name], run["progress_age_seconds"])
        quarantined.add_metric([name], run["quarantined"])
        info.add_metric([name, run["phase"], run["state"]], 1)
    yield from (rows, batches, remaining, age, quarantined, info)
