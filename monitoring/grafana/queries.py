"""How a metric is asked for, so that several worker hosts are right: docs/reference/metrics.md.

A metric from the record says the same on every host: the greatest counts. One of a host is added up.
"""

from __future__ import annotations

from dataclasses import dataclass

#: One Prometheus job for each database that is changed.
JOB = 'job="$job"'
#: Above the state's own number in a timeline of phases, so that one set of words does for both.
PHASE_NUMBERS = {"expand": 11, "backfill": 12, "verify": 13, "switch": 14, "contract": 15}
STATE_NUMBERS = {
    "queued": 1,
    "running": 2,
    "waiting": 3,
    "pausing": 4,
    "paused": 5,
    "cancelling": 6,
    "rolling_back": 7,
    "failed": 8,
}
#: States in which nothing happens until a person acts.
RESTING = "waiting|paused|failed"


@dataclass(frozen=True)
class Query:
    """One query of a panel. `legend` is in words; `{{label}}` stands for a label's value."""

    expression: str
    legend: str = ""
    #: Dots of single batches on top of the line, each with its run and lane.
    exemplars: bool = False
    #: The buckets of a histogram, for a heatmap.
    buckets: bool = False


def select(metric: str, *matchers: str) -> str:
    """The series of one database. `matchers` are those of PromQL: `run="$run"`."""
    return f"{metric}{{{','.join([JOB, *matchers])}}}"


def record(metric: str, *matchers: str) -> str:
    """A gauge from the record."""
    return f"max without (instance) ({select(metric, *matchers)})"


def record_by(labels: str, metric: str, *matchers: str) -> str:
    """A gauge from the record, with these labels only: for tables, whose rows are matched by their labels."""
    return f"max by ({labels}) ({select(metric, *matchers)})"


def record_rate(metric: str, *matchers: str) -> str:
    """What a counter from the record gains in a second."""
    return f"max without (instance) (rate({select(metric, *matchers)}[$__rate_interval]))"


def hosts_rate(labels: str, metric: str, *matchers: str) -> str:
    """What a counter of all hosts gains in a second, by these labels."""
    return f"sum by ({labels}) (rate({select(metric, *matchers)}[$__rate_interval]))"


def hosts_increase(labels: str, metric: str, *matchers: str) -> str:
    """What a counter of all hosts has gained from point to point, by these labels."""
    return f"sum by ({labels}) (increase({select(metric, *matchers)}[$__rate_interval]))"


def hosts_quantile(quantile: float, labels: str, metric: str, *matchers: str) -> str:
    """A quantile of a histogram of all hosts."""
    by = ", ".join(filter(None, [labels, "le"]))
    return f"histogram_quantile({quantile}, {hosts_rate(by, f'{metric}_bucket', *matchers)})"


def seconds_in_state(*matchers: str, run: str = "") -> str:
    """For how long runs have been in their state, with the labels `run`, `phase` and `state`.

    The state is the side that may have two series of one run: a host scraped before a change, and one after it.
    """
    runs = [run] if run else []
    info = record_by("job, run, phase, state", "backfilld_run_info", *runs, *matchers)
    return f"{info} * on (job, run) group_left () {record_by('job, run', 'backfilld_run_state_seconds', *runs)}"


def numbered(label: str, numbers: dict[str, int], *matchers: str) -> str:
    """Where a run stands as a number, for a timeline: one series for each run."""
    each = [(select("backfilld_run_info", f'{label}="{word}"', *matchers), number) for word, number in numbers.items()]
    cases = [f"{series} * {number}" for series, number in each]
    return f"max by (run) ({' or '.join(cases)})"


def pressure() -> str:
    """Each signal's place between its limits: 0 up to soft, 1 from hard on."""
    soft, hard = (record_by("signal", "backfilld_signal_limit", f'limit="{limit}"') for limit in ("soft", "hard"))
    value = record_by("signal", "backfilld_signal")
    return f"clamp(({value} - {soft}) / ({hard} - {soft}), 0, 1)"
