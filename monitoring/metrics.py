"""What one process counts about itself. The numbers of runs come from the record instead: see `record`.

Counters and a histogram only, so that the numbers of several processes add up, those of ended ones included.
PROMETHEUS_MULTIPROC_DIR must be set before this is imported: prometheus_client decides then where values live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from backfilld.migrations.settings import Limits
from backfilld.migrations.telemetry import ErrorClass
from backfilld.migrations.wire.messages import CONTROL_VERBS

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Not prometheus_client's own: an application that imports our client keeps its metrics to itself.
REGISTRY = CollectorRegistry()

#: The label of every value outside its closed set.
OTHER = "other"

PARTS = ("wait", "statement", "commit")
WISHES = ("pause", "cancel", "rollback")
LOCK_OUTCOMES = ("had", "timed_out", "put_off")
#: The side tasks of a worker.
LOOPS = ("governor", "control", "give_way", "reconciler", "purger", "reporter", "notifier")
ERROR_CLASSES: tuple[str, ...] = get_args(ErrorClass)
#: The load signals; see also `know_signals`.
HOLD_REASONS = set(Limits.model_fields)

#: Fine around the target of 0.5 s, where a change of pace shows, and around the milliseconds of a commit.
BATCH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.5, 5.0, 10.0)
#: Around the second in which a wish should take effect.
CONTROL_BUCKETS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
#: From a free lock to one that is held for the half hour after which a run pauses.
LOCK_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0)

BATCH_SECONDS = Histogram(
    "backfilld_batch_seconds",
    "Wall seconds of a batch, by part: waiting for its turn, its statements, its commit.",
    ["part"],
    buckets=BATCH_BUCKETS,
    registry=REGISTRY,
)
ERRORS = Counter("backfilld_errors", "Errors met, by what happens next.", ["class"], registry=REGISTRY)
GIVE_WAYS = Counter(
    "backfilld_give_way",
    "Batches cancelled because a session waited for a lock of theirs.",
    registry=REGISTRY,
)
BLOCKERS_SENT_AWAY = Counter(
    "backfilld_blockers_sent_away",
    "Sessions that blocked a DDL lock and were cancelled or ended, as the run's cancel_blockers allows.",
    ["how"],
    registry=REGISTRY,
)
LOCK_TRIES = Counter(
    "backfilld_lock_tries",
    "Attempts of a DDL step to lock its table: acquired (had), timed out, or put off because of its present holders.",
    ["outcome"],
    registry=REGISTRY,
)
LOCK_WAIT_SECONDS = Histogram(
    "backfilld_lock_wait_seconds",
    "Seconds until a DDL step acquired its lock, from the first attempt.",
    buckets=LOCK_BUCKETS,
    registry=REGISTRY,
)
HOLD_SECONDS = Counter(
    "backfilld_hold_seconds", "Seconds in which all work was held, by load signal.", ["reason"], registry=REGISTRY
)
RECONCILER_WAKEUPS = Counter(
    "backfilld_reconciler_wakeups",
    "Due lanes that no message had woken; many mean that messages get lost.",
    registry=REGISTRY,
)
MESSAGES_DROPPED = Counter(
    "backfilld_messages_dropped", "Messages for a step already taken, or for no lane.", registry=REGISTRY
)
SENDS_FAILED = Counter(
    "backfilld_sends_failed", "Wake-ups that could not be sent; the reconciler replaces them.", registry=REGISTRY
)
CONTROL_MESSAGES = Counter("backfilld_control_messages", "Control messages handled.", ["verb"], registry=REGISTRY)
CONTROL_SECONDS = Histogram(
    "backfilld_control_seconds",
    "Seconds from a wish being recorded until no batch is in flight.",
    ["verb"],
    buckets=CONTROL_BUCKETS,
    registry=REGISTRY,
)
STATEMENTS_CANCELLED = Counter(
    "backfilld_statements_cancelled", "Statements in flight that were cancelled for a wish.", registry=REGISTRY
)
LOOP_TICKS = Counter("backfilld_loop_ticks", "Iterations of a side task.", ["loop"], registry=REGISTRY)
LOOP_ERRORS = Counter("backfilld_loop_errors", "Iterations of a side task that failed.", ["loop"], registry=REGISTRY)
NOTIFICATIONS = Counter(
    "backfilld_notifications",
    "Notifications: delivered, retried later, or failed for good.",
    ["outcome"],
    registry=REGISTRY,
)

# Every series starts at 0: an increase from nothing to 1 is invisible to rate().
for _part in PARTS:
    BATCH_SECONDS.labels(_part)
for _class in ERROR_CLASSES:
    ERRORS.labels(_class)
for _reason in (*sorted(HOLD_REASONS), OTHER):
    HOLD_SECONDS.labels(_reason)
for _outcome in ("delivered", "retried", "failed"):
    NOTIFICATIONS.labels(_outcome)
for _how in ("cancelled", "ended"):
    BLOCKERS_SENT_AWAY.labels(_how)
for _outcome in LOCK_OUTCOMES:
    LOCK_TRIES.labels(_outcome)
for _wish in WISHES:
    CONTROL_SECONDS.labels(_wish)
for _loop in LOOPS:
    LOOP_TICKS.labels(_loop)
    LOOP_ERRORS.labels(_loop)
for _verb in (*sorted(CONTROL_VERBS), OTHER):
    CONTROL_MESSAGES.labels(_verb)


def know_signals(names: Iterable[str]) -> None:
    """Give the operator's own signals a series among the reasons of a hold: they are few, and come from the settings."""
    for name in names:
        HOLD_REASONS.add(name)
        HOLD_SECONDS.labels(name)
