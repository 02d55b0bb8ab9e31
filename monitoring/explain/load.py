"""What is said of the load: what holds a run, what slows it, and what helps against each signal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from backfilld.monitoring.explain.explanation import Remedy
from backfilld.monitoring.words import counted, duration, sentence, signal_name, signal_value

if TYPE_CHECKING:
    from backfilld.migrations.holds import Hold
    from backfilld.monitoring.explain.explanation import Told
    from backfilld.monitoring.explain.facts import Facts

#: A batch that costs more of its target than this before its first row is worth a sentence.
FIXED_SHARE = 0.5

#: What helps against a load signal, by its name.
AGAINST: dict[str, str] = {
    "replica_lag_seconds": "look at the standby: is it up, does a query block its replay (pg_stat_replication)",
    "slot_retained_bytes": "look at the slot furthest behind, and drop one that has no reader (pg_replication_slots)",
    "slot_used_share": "let the slot's consumer catch up before the slot is lost (pg_replication_slots)",
    "archive_backlog_segments": "find out why the archiver is behind (pg_stat_archiver)",
    "wal_bytes_per_second": "it falls by itself once the heavy writer is done",
    "blocked_sessions": "sessions wait for batches; smaller batches hold locks more briefly: backfilld pace {name} --batch-seconds 0.1",
    "lock_waiters": "find the session that holds the lock (pg_blocking_pids)",
    "active_connections": "it falls by itself when the application has less to do",
    "connections": "look for idle sessions (pg_stat_activity), or raise max_connections",
    "commit_seconds": "look at the disk of the WAL, and at synchronous standbys",
    "foreground_latency": "the application is slower than without backfilld; it recovers while work is on hold",
    "snapshot_age_seconds": "end the oldest transaction, or wait for it; until then vacuum cannot clean up (pg_stat_activity, backend_xmin)",
    "dead_tuples": "let vacuum catch up: VACUUM the table, or make autovacuum faster for it",
    "table_growth": "the table has grown more than it should: find out what keeps vacuum from freeing space",
}


def held(facts: Facts, hold: Hold) -> Told:
    """Why all work is held, and what would end that."""
    yield sentence(f"All work has been held for {duration(hold.seconds)} because of the load: {hold.reason}")
    signal = facts.pace.hold_signal or ""
    limit = next((one.hard for one in facts.signals if one.name == signal), None)
    below = f" once it is below {signal_value(signal, limit)}" if limit is not None else ""
    yield Remedy(f"it continues by itself{below}")
    if signal in AGAINST:
        yield Remedy(AGAINST[signal].format(name=facts.run.name))
    for one in facts.signals:
        if one.value is None:
            yield sentence(f"{signal_name(one.name).capitalize()} cannot be read: {one.detail or 'no reason given'}")
    yield Remedy("see every signal beside its limits: backfilld pace")


def slowed(facts: Facts) -> Told:
    """What makes it slower than it might be."""
    for one in facts.signals:
        if one.value is not None and one.soft is not None and one.hard is not None and one.soft < one.value < one.hard:
            detail = f" ({one.detail})" if one.detail else ""
            value, soft, hard = (signal_value(one.name, number) for number in (one.value, one.soft, one.hard))
            named = signal_name(one.name).capitalize()
            yield f"{named} slows it down: {value}{detail}; slower from {soft}, held from {hard}."
            if one.name in AGAINST:
                yield Remedy(AGAINST[one.name].format(name=facts.run.name))
    if facts.batch_fixed_seconds > FIXED_SHARE * facts.batch_target_seconds > 0:
        fixed, target = (
            f"{1000 * seconds:.0f} ms" for seconds in (facts.batch_fixed_seconds, facts.batch_target_seconds)
        )
        yield (
            f"A batch costs {fixed} before its first row, and should last {target}: network round trips to the database, a "
            "processor that is short, or a service that a Python function asks."
        )
        yield Remedy("run the worker nearer to the database, or give it more of a processor")
        yield Remedy(f"or let batches last longer: backfilld pace {facts.run.name} --batch-seconds {_longer(facts):g}")
    if facts.pace.width < min(facts.run.lanes, facts.pace.max_width):
        yield f"At the present pace {facts.pace.width} of its {counted(facts.run.lanes, 'lane')} may work at once."


def _longer(facts: Facts) -> float:
    """A target of which the fixed part is a tenth."""
    return math.ceil(100 * facts.batch_fixed_seconds) / 10
