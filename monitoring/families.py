"""The metrics that come from the record: the name, help text and value of each.

Every worker host serves the same numbers, so they are compared over instances and never added up. The series of a run end with
it. docs/reference/metrics.md is this file for people; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from backfilld.migrations.application.checked import Kind
from backfilld.migrations.record.states import ENDED, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from backfilld.migrations.record.backups import Figures
    from backfilld.migrations.record.model import Pace
    from backfilld.migrations.record.partitions import PartitionedTable
    from backfilld.monitoring.progress import Progress

T = TypeVar("T")

#: A value of a run, or of the database; None: unknown, and no sample.
Number = float | None


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes on disk, in bytes. Read apart from the rest, because each needs a moment's lock on its table."""

    #: By run and kind: journal, archive.
    kept: Mapping[tuple[int, str], int] = field(default_factory=dict)
    #: Of the tables a run walks, now, by run: `heap_bytes`, `index_bytes`.
    tables: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The record at one moment."""

    #: Those that have not ended.
    runs: Sequence[Progress]
    ended: Mapping[State, int]
    pace: Pace
    message_age_seconds: float
    lanes_due: int
    working_sessions: int
    kept_overdue_seconds: float
    notices: Mapping[str, int]
    backups: Figures
    #: Tables whose next partitions a worker makes.
    partitioned: Sequence[PartitionedTable]
    #: None: this role may not read it.
    replica_lag_seconds: float | None
    #: None: could not be read in time.
    sizes: Sizes | None


@dataclass(frozen=True)
class _Of(Generic[T]):
    """One family with at most one sample for each thing it is about."""

    name: str
    says: str
    value: Callable[[T], Number]


_OF_RUNS: tuple[_Of[Progress], ...] = (
    _Of("backfilld_run_state_seconds", "Seconds since the run's state changed.", lambda run: run.state_seconds),
    _Of("backfilld_run_phase_seconds", "Seconds since the run entered its phase.", lambda run: run.phase_seconds),
    _Of(
        "backfilld_run_progress_ratio",
        "Share of the walk that is done, or of the archive or rollback at work.",
        lambda run: run.percent / 100,
    ),
    _Of(
        "backfilld_run_eta_seconds",
        "Seconds until the present walk is over; absent when unknown.",
        lambda run: run.eta_seconds,
    ),
    _Of("backfilld_run_rows", "Rows the walk passes over; absent until counted.", lambda run: run.rows_total),
    _Of(
        "backfilld_run_rows_remaining",
        "Rows still to be walked; absent until counted.",
        lambda run: run.rows_remaining,
    ),
    _Of(
        "backfilld_run_rows_verified",
        "Rows that the present verifying walk has read.",
        lambda run: run.rows_verified,
    ),
    _Of(
        "backfilld_run_residual_rows",
        "Rows that still needed work at the last verification, but for those that a person accepted; absent before the first.",
        lambda run: 0 if run.verified else run.residual_rows,
    ),
    _Of("backfilld_run_verified", "1 once a pass over the data has verified it.", lambda run: float(run.verified)),
    _Of(
        "backfilld_run_progress_age_seconds",
        "Seconds since a batch of the run committed.",
        lambda run: run.progress_age_seconds,
    ),
    _Of("backfilld_quarantined_rows", "Rows in quarantine.", lambda run: run.quarantined),
    _Of(
        "backfilld_quarantine_limit_rows",
        "Rows in quarantine beyond which the run pauses.",
        lambda run: run.max_quarantined,
    ),
    _Of(
        "backfilld_rollback_conflict_rows",
        "Rows written since the switch that do not fit the old column; they block a rollback.",
        lambda run: run.rollback_conflicts,
    ),
    _Of(
        "backfilld_run_behind_rows",
        "Rows that were written and are not yet in the other table of a rebuild, up to 100,000; absent where there is none.",
        lambda run: run.behind,
    ),
    _Of(
        "backfilld_run_behind_seconds",
        "Seconds for which the first of them has waited; absent where there is no other table.",
        lambda run: run.behind_seconds,
    ),
    _Of(
        "backfilld_run_hot_update_ratio",
        "Share of the changed rows that touched no index; absent when unknown.",
        lambda run: run.hot_update_ratio,
    ),
)


_OF_DATABASE: tuple[_Of[Snapshot], ...] = (
    _Of(
        "backfilld_message_age_seconds",
        "How long the oldest due lane has waited for its step.",
        lambda snapshot: snapshot.message_age_seconds,
    ),
    _Of("backfilld_lanes_due", "Lanes that are due now.", lambda snapshot: snapshot.lanes_due),
    _Of("backfilld_width", "Lanes that may work at once.", lambda snapshot: snapshot.pace.width),
    _Of(
        "backfilld_width_limit",
        "The configured maximum of lanes that may work at once.",
        lambda snapshot: snapshot.pace.max_width,
    ),
    _Of(
        "backfilld_working_sessions",
        "backfilld's sessions inside a batch or a step of DDL.",
        lambda snapshot: snapshot.working_sessions,
    ),
    _Of("backfilld_rest_ratio", "Seconds a lane rests for each second of work.", lambda snapshot: snapshot.pace.rest),
    _Of(
        "backfilld_batch_limit_seconds",
        "How long a batch may last at the present pace; absent: as long as its run allows.",
        lambda snapshot: snapshot.pace.batch_seconds,
    ),
    _Of(
        "backfilld_hold_age_seconds",
        "Seconds for which all work has been held by load; 0 when it is not.",
        lambda snapshot: snapshot.pace.held_seconds or 0.0,
    ),
    _Of(
        "backfilld_stop_age_seconds",
        "Seconds since a person stopped all runs; 0 when they are not stopped.",
        lambda snapshot: snapshot.pace.stopped_seconds or 0.0,
    ),
    _Of(
        "backfilld_pace_age_seconds",
        "Seconds since the governor's last verdict; absent before the first.",
        lambda snapshot: snapshot.pace.age_seconds,
    ),
    _Of(
        "backfilld_replica_lag_seconds",
        "Seconds the slowest standby is behind in replaying; 0 without one.",
        lambda snapshot: snapshot.replica_lag_seconds,
    ),
    _Of(
        "backfilld_kept_overdue_seconds",
        "Seconds since the retention of the most overdue run ended; 0 when none is overdue.",
        lambda snapshot: snapshot.kept_overdue_seconds,
    ),
)

_OF_BACKUPS: tuple[_Of[Figures], ...] = (
    _Of(
        "backfilld_backup_age_seconds",
        "Seconds since the moment that the newest backup holds; absent without one.",
        lambda backups: backups.age_seconds,
    ),
    _Of(
        "backfilld_backup_proved_age_seconds",
        "Seconds since the moment that the newest proved backup holds; absent without one.",
        lambda backups: backups.proved_age_seconds,
    ),
    _Of(
        "backfilld_backup_last_proved_timestamp_seconds",
        "When a backup was last restored and compared; absent before the first.",
        lambda backups: backups.last_proved,
    ),
    _Of(
        "backfilld_backup_duration_seconds",
        "How long the newest backup took; absent without one.",
        lambda backups: backups.take_seconds,
    ),
    _Of(
        "backfilld_backup_restore_seconds",
        "How long the last restore into a scratch server took, its comparison included; absent before the first.",
        lambda backups: backups.restore_seconds,
    ),
    _Of("backfilld_backup_bytes", "Backups that are kept, one copy of each.", lambda backups: backups.bytes),
)


def of(snapshot: Snapshot) -> Iterator[Metric]:
    """Every family, each with its samples; those of a run that has ended are not among them."""
    yield from _of_database(snapshot)
    yield from _of_signals(snapshot.pace.readings)
    yield from _of_all_runs(snapshot)
    for one in _OF_RUNS:
        family = GaugeMetricFamily(one.name, one.says, labels=["run"])
        for run in snapshot.runs:
            if (number := one.value(run)) is not None:
                family.add_metric([run.name], number)
        yield family
    yield from _with_more_labels(snapshot.runs)
    yield from _of_loads(snapshot.runs)
    if snapshot.sizes is not None:
        yield from _of_sizes(snapshot.runs, snapshot.sizes)


def _of_database(snapshot: Snapshot) -> Iterator[Metric]:
    for one in _OF_DATABASE:
        family = GaugeMetricFamily(one.name, one.says)
        if (number := one.value(snapshot)) is not None:
            family.add_metric([], number)
        yield family
    yield from _of_holds_and_notices(snapshot)
    yield from _of_backups(snapshot.backups)
    yield from _of_partitions(snapshot.partitioned)


def _of_partitions(tables: Sequence[PartitionedTable]) -> Iterator[Metric]:
    ahead = GaugeMetricFamily(
        "backfilld_partitions_ahead",
        "Partitions beyond the one that rows come into now, of tables whose next partitions a worker makes; absent before the first look.",
        labels=["table"],
    )
    strays = GaugeMetricFamily(
        "backfilld_default_partition_rows_found",
        "1 when rows are in the default partition that belong behind the first of the others; absent when unknown.",
        labels=["table"],
    )
    for one in tables:
        if one.partitions_ahead is not None:
            ahead.add_metric([one.relation], one.partitions_ahead)
        if one.has_strays is not None:
            strays.add_metric([one.relation], float(one.has_strays))
    yield from (ahead, strays)


def _of_backups(figures: Figures) -> Iterator[Metric]:
    for one in _OF_BACKUPS:
        family = GaugeMetricFamily(one.name, one.says)
        if (number := one.value(figures)) is not None:
            family.add_metric([], number)
        yield family
    yield CounterMetricFamily(
        "backfilld_backup_failures",
        "Backups on record that could not be taken, or proved bad.",
        value=figures.failures,
    )


def of_oldest_backups(oldest: Mapping[str, float]) -> Metric:
    """How old backups become when all goes as the schedule of this worker's settings has it."""
    family = GaugeMetricFamily(
        "backfilld_backup_scheduled_age_seconds",
        "How old the newest backup, and the newest proved one, become with the schedule; absent without one.",
        labels=["backup"],
    )
    for backup, seconds in oldest.items():
        family.add_metric([backup], seconds)
    return family


def _of_holds_and_notices(snapshot: Snapshot) -> Iterator[Metric]:
    pace = snapshot.pace
    held = GaugeMetricFamily(
        "backfilld_hold_info", "The load signal that holds all work; 1, absent when none does.", labels=["reason"]
    )
    if pace.hold_reason is not None:
        held.add_metric([pace.hold_signal or "other"], 1)
    yield held
    notices = GaugeMetricFamily(
        "backfilld_notices", "Notifications that are pending, or failed for good.", labels=["state"]
    )
    for state, count in snapshot.notices.items():
        notices.add_metric([state], count)
    yield notices


def _of_signals(readings: Mapping[str, Mapping[str, float | None]]) -> Iterator[Metric]:
    values = GaugeMetricFamily(
        "backfilld_signal",
        "The load signals at the last verdict; absent when one could not be read.",
        labels=["signal"],
    )
    limits = GaugeMetricFamily(
        "backfilld_signal_limit",
        "Where a signal begins to slow work down (soft), and where it holds all work (hard).",
        labels=["signal", "limit"],
    )
    readable = GaugeMetricFamily(
        "backfilld_signal_readable", "1 when the signal could be read at the last verdict.", labels=["signal"]
    )
    for signal, reading in readings.items():
        readable.add_metric([signal], float(reading["value"] is not None))
        for family, labels, key in (
            (values, [signal], "value"),
            (limits, [signal, "soft"], "soft"),
            (limits, [signal, "hard"], "hard"),
        ):
            if (number := reading[key]) is not None:
                family.add_metric(labels, number)
    yield from (values, limits, readable)


def _of_all_runs(snapshot: Snapshot) -> Iterator[Metric]:
    going = GaugeMetricFamily(
        "backfilld_runs", "Runs that have not ended, by state; every state has a series.", labels=["state"]
    )
    for state in State:
        if state not in ENDED:
            going.add_metric([state], sum(run.state is state for run in snapshot.runs))
    ended = CounterMetricFamily("backfilld_runs_ended", "Runs on record that have ended.", labels=["state"])
    for state in sorted(ENDED):
        ended.add_metric([state], snapshot.ended.get(state, 0))
    yield from (going, ended)


def _with_more_labels(runs: Sequence[Progress]) -> Iterator[Metric]:
    rows = CounterMetricFamily("backfilld_rows", "Rows walked, by outcome.", labels=["run", "outcome"])
    batches = CounterMetricFamily("backfilld_batches", "Batches, by outcome.", labels=["run", "outcome"])
    info = GaugeMetricFamily(
        "backfilld_run_info", "Phase and state of a run; always 1.", labels=["run", "phase", "state"]
    )
    lanes = GaugeMetricFamily("backfilld_run_lanes", "Lanes of the present walk, by state.", labels=["run", "state"])
    errors = GaugeMetricFamily(
        "backfilld_run_error_info",
        "Why a run paused itself or failed; always 1, absent for a run that a person paused.",
        labels=["run", "class"],
    )
    held = GaugeMetricFamily(
        "backfilld_run_held_seconds",
        "Seconds for which the run has been held, with the one cause that comes first; absent when nothing holds it.",
        labels=["run", "cause"],
    )
    found = GaugeMetricFamily(
        "backfilld_application_findings",
        "What the newest check of the application found, by kind; every kind has a series, absent for runs that check nothing.",
        labels=["run", "kind"],
    )
    for run in runs:
        if run.application is not None:
            for kind in Kind:
                found.add_metric([run.name, kind], run.application["counts"].get(kind, 0))
        if run.policies:
            found.add_metric([run.name, "policies"], len(run.policies))
        rows.add_metric([run.name, "changed"], run.rows_changed)
        rows.add_metric([run.name, "unchanged"], run.rows_unchanged)
        rows.add_metric([run.name, "quarantined"], run.quarantined)
        batches.add_metric([run.name, "committed"], run.batches_committed)
        batches.add_metric([run.name, "retried"], run.batches_retried)
        info.add_metric([run.name, run.phase, run.state], 1)
        for state, count in run.lanes_by_state.items():
            lanes.add_metric([run.name, state], count)
        if run.error_class is not None:
            errors.add_metric([run.name, run.error_class], 1)
        if run.hold is not None:
            held.add_metric([run.name, run.hold.cause], run.hold.seconds)
    yield from (rows, batches, info, lanes, errors, held, found)


def _of_loads(runs: Sequence[Progress]) -> Iterator[Metric]:
    """Of runs that load files."""
    lines = GaugeMetricFamily(
        "backfilld_load_lines", "Lines of the files of a load, by what became of them.", labels=["run", "outcome"]
    )
    source = GaugeMetricFamily(
        "backfilld_load_source_bytes",
        "Size of the files of a load, and how much of it is staged.",
        labels=["run", "part"],
    )
    for run in runs:
        if run.load is None:
            continue
        for outcome in ("inserted", "updated", "same", "set_aside", "duplicates"):
            lines.add_metric([run.name, outcome], run.load[outcome])
        source.add_metric([run.name, "staged"], run.load["bytes_read"])
        if run.load["bytes_total"] is not None:
            source.add_metric([run.name, "total"], run.load["bytes_total"])
    yield from (lines, source)


def _of_sizes(runs: Sequence[Progress], sizes: Sizes) -> Iterator[Metric]:
    tables = GaugeMetricFamily(
        "backfilld_run_table_bytes",
        "Size of the tables that are walked, heap and indexes, before the walk and now.",
        labels=["run", "part", "moment"],
    )
    old_values_of_run = GaugeMetricFamily(
        "backfilld_run_kept_bytes",
        "Old values kept for a rollback: journal, archive.",
        labels=["run", "kind"],
    )
    for run in runs:
        before = (run.space or {}).get("before")
        now = sizes.tables.get(run.run)
        for part, column in (("heap", "heap_bytes"), ("indexes", "index_bytes")):
            if before is not None and now is not None:
                tables.add_metric([run.name, part, "before"], before[column])
                tables.add_metric([run.name, part, "now"], now[column])
        for kind in KINDS:
            old_values_of_run.add_metric([run.name, kind], sizes.kept.get((run.run, kind), 0))
    kept = GaugeMetricFamily(
        "backfilld_kept_bytes", "Old values kept for a rollback, all runs together: journal, archive.", labels=["kind"]
    )
    for kind in KINDS:
        kept.add_metric([kind], sum(amount for (_, of), amount in sizes.kept.items() if of == kind))
    number = len({run for run, _ in sizes.kept})
    yield from (tables, old_values_of_run, kept)
    yield GaugeMetricFamily("backfilld_kept_runs", "Runs for which old values are kept.", value=number)


#: Kinds of old values.
KINDS = ("journal", "archive")
