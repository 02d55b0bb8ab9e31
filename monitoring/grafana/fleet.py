"""The workers: hosts and processes, side tasks, queues, latency, errors, Redis and the database."""

from __future__ import annotations

from backfilld.monitoring.grafana.layout import Page, Section, holds, state_changes, variable
from backfilld.monitoring.grafana.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Look,
    heatmap_panel,
    lines_panel,
    names_panel,
    stat_panel,
    timeline_panel,
)
from backfilld.monitoring.grafana.queries import Query, hosts_increase, hosts_quantile, hosts_rate, record, select

#: The hosts that were chosen.
HOSTS = 'instance=~"$instance"'

AT_A_GLANCE = Section(
    panels=[
        stat_panel(
            "Is every host there?",
            "Whether Prometheus could scrape each worker host. For one that it could not, check that "
            "`backfilld worker` runs there. The other hosts continue its work.",
            Query(select("up", HOSTS), "{{instance}}"),
            look=Look(unit="none", base=RED, steps=[(1, GREEN)], words={"1": ("yes", GREEN), "0": ("no", RED)}),
            size=(6, 4),
        ),
        stat_panel(
            "Which hosts reach PostgreSQL?",
            "Whether each host could read the record at the last scrape. Without PostgreSQL no run makes "
            "progress, and nothing is lost.",
            Query(select("backfilld_database_up", HOSTS), "{{instance}}"),
            look=Look(unit="none", base=RED, steps=[(1, GREEN)], words={"1": ("yes", GREEN), "0": ("no", RED)}),
            size=(6, 4),
        ),
        stat_panel(
            "Which hosts reach Redis?",
            "Redis only carries wake-ups: without it workers poll the record, and work continues more slowly.",
            Query(select("backfilld_redis_up", HOSTS), "{{instance}}"),
            look=Look(unit="none", base=RED, steps=[(1, GREEN)], words={"1": ("yes", GREEN), "0": ("no", RED)}),
            size=(6, 4),
        ),
        names_panel(
            "Which version runs where?",
            "Different versions are fine during an upgrade, and for no longer.",
            Query(select("backfilld_build_info", HOSTS), "{{instance}}: {{version}}"),
            look=Look(unit="none", base=BLUE),
            size=(6, 4),
        ),
        stat_panel(
            "How long does due work wait?",
            "How long the oldest due lane has waited for its step. More than a few seconds: the workers have "
            "too few threads, or messages get lost.",
            Query(record("backfilld_message_age_seconds"), "the oldest"),
            look=Look(unit="dtdurations", steps=[(5, YELLOW), (30, RED)]),
            size=(6, 4),
        ),
        stat_panel(
            "How soon does a wish take effect?",
            "Nine in ten pauses, cancels and rollbacks of the time shown took less than this, from being "
            "recorded until no batch was in flight. It should be about a second.",
            Query(
                f"histogram_quantile(0.9, sum by (le) (increase({select('backfilld_control_seconds_bucket')}[$__range]))) >= 0",
                "nine in ten",
            ),
            look=Look(unit="s", steps=[(1.5, YELLOW), (5, RED)], nothing="no wishes"),
            size=(6, 4),
        ),
        stat_panel(
            "How often was a process replaced?",
            "Processes that ended without being asked to, in the time shown. Their work was rolled back and "
            "repeated elsewhere. If one ends again and again, the log has `child.ended` with the reason; often "
            "it is memory.",
            Query(f"sum by (job) (increase({select('backfilld_child_restarts_total', HOSTS)}[$__range]))", "times"),
            look=Look(unit="none", decimals=0, steps=[(0.5, YELLOW), (5, RED)]),
            size=(6, 4),
        ),
        stat_panel(
            "Are people told?",
            "Notifications that wait to be sent, and those that failed for good: check the address in the settings.",
            Query(record("backfilld_notices"), "{{state}}"),
            look=Look(unit="none", steps=[(1, YELLOW), (20, RED)], names={"pending": "not sent yet"}),
            size=(6, 4),
        ),
    ],
)

PROCESSES = Section(
    title="Processes and side tasks",
    panels=[
        timeline_panel(
            "Which process was down, and when?",
            "Whether each process of each host ran and reported lately. One that dies is replaced within a second.",
            Query(select("backfilld_child_up", HOSTS), "{{instance}} {{child}}"),
            look=Look(unit="none", words={"1": ("up", GREEN), "0": ("down", RED)}),
            size=(12, 8),
        ),
        lines_panel(
            "Do all side tasks run?",
            "Ticks per second of each side task, all hosts together. One that falls to zero is stuck: without "
            "the governor all work is held, without control a pause is slow, without the reconciler lost work "
            "is not found.",
            Query(hosts_rate("loop", "backfilld_loop_ticks_total", HOSTS), "{{loop}}"),
            look=Look(unit="ops", least=0, names={"give_way": "giving way"}),
            size=(6, 8),
        ),
        lines_panel(
            "Which side tasks fail?",
            "Ticks that met an error, from point to point. The side task tries again; the log has `side_task.failed`.",
            Query(hosts_increase("loop", "backfilld_loop_errors_total", HOSTS), "{{loop}}"),
            look=Look(unit="short", least=0, steps=[(5, ORANGE)], names={"give_way": "giving way"}),
            size=(6, 8),
        ),
    ],
)

QUEUES = Section(
    title="Queues",
    panels=[
        lines_panel(
            "Do messages pile up in Redis?",
            "Messages that wait; every host sees the same ones. Control messages that stay: no worker serves them.",
            Query(record("backfilld_queue_messages"), "{{queue}}"),
            look=Look(unit="short", least=0, names={"lanes": "steps of lanes", "control": "wishes of people"}),
            size=(6, 8),
        ),
        lines_panel(
            "Are more lanes due than are working?",
            "Lanes that are due now, and backfilld's sessions inside a batch or a step of DDL.",
            Query(record("backfilld_lanes_due"), "due"),
            Query(record("backfilld_working_sessions"), "at work"),
            look=Look(unit="none", least=0),
            size=(6, 8),
            steps=True,
        ),
        lines_panel(
            "Do messages get lost?",
            "Due lanes that no message had woken, messages for a step already taken, and wake-ups that could "
            "not be sent. The reconciler makes up for all of them; a steady rate points to a fault of Redis or "
            "of a worker.",
            Query(hosts_rate("job", "backfilld_reconciler_wakeups_total", HOSTS), "woken by the reconciler"),
            Query(hosts_rate("job", "backfilld_messages_dropped_total", HOSTS), "already taken"),
            Query(hosts_rate("job", "backfilld_sends_failed_total", HOSTS), "could not be sent"),
            look=Look(unit="ops", least=0),
            size=(6, 8),
        ),
        lines_panel(
            "What do people ask for?",
            "Wishes taken up, by verb, and statements that were cancelled for one.",
            Query(hosts_increase("verb", "backfilld_control_messages_total", HOSTS), "{{verb}}"),
            Query(hosts_increase("job", "backfilld_statements_cancelled_total", HOSTS), "statements cancelled"),
            look=Look(unit="short", least=0),
            size=(6, 8),
        ),
    ],
)

LATENCY = Section(
    title="Latency",
    panels=[
        lines_panel(
            "How long does a batch take, and where?",
            "95 in 100 batches took less, in each part: waiting for their turn, their statement, their commit. "
            "A slow commit points to the disk or a synchronous standby. A dot is one batch and leads to its "
            "run.",
            Query(hosts_quantile(0.95, "part", "backfilld_batch_seconds", HOSTS), "{{part}}", exemplars=True),
            look=Look(unit="s", least=0, names={"wait": "waiting for its turn"}),
        ),
        heatmap_panel(
            "How are the statements of batches spread?",
            "Two bands are two kinds of tables or batches; a single band high up is a batch that waits for a lock.",
            Query(
                hosts_increase("le", "backfilld_batch_seconds_bucket", HOSTS, 'part="statement"'),
                "{{le}}",
                exemplars=True,
                buckets=True,
            ),
            look=Look(unit="s"),
            size=(8, 8),
        ),
        lines_panel(
            "Which wish took long to take effect?",
            "95 in 100 took less, by verb. More than a second: a statement that could not be cancelled, or a "
            "worker that does not answer.",
            Query(hosts_quantile(0.95, "verb", "backfilld_control_seconds", HOSTS), "{{verb}}"),
            look=Look(unit="s", least=0, steps=[(1, ORANGE)]),
        ),
    ],
)

SERVERS = Section(
    title="Errors, and the servers behind",
    panels=[
        lines_panel(
            "Which hosts meet errors?",
            "Errors per second, by host and by what happens next. One host alone: its network or its clock. "
            "All of them: the server.",
            Query(hosts_rate("instance, class", "backfilld_errors_total", HOSTS), "{{instance}} {{class}}"),
            look=Look(unit="ops", least=0),
            size=(8, 8),
        ),
        lines_panel(
            "Do notifications get out?",
            "From point to point: delivered, will be retried, and failed for good.",
            Query(hosts_increase("outcome", "backfilld_notifications_total", HOSTS), "{{outcome}}"),
            look=Look(
                unit="short",
                least=0,
                names={"retried": "to be tried again", "failed": "failed for good"},
                colours={"delivered": GREEN, "retried": YELLOW, "failed": RED},
            ),
            size=(8, 8),
        ),
        lines_panel(
            "How far behind are the standbys?",
            "How many seconds the slowest standby is behind in replaying; empty without one. By default work "
            "slows down from 5 and is held from 30 on.",
            Query(record("backfilld_replica_lag_seconds"), "the slowest"),
            look=Look(unit="s", least=0, steps=[(5, YELLOW), (30, RED)]),
            size=(8, 8),
        ),
        lines_panel(
            "How much is kept for rollbacks?",
            "Old values of all runs, ended ones included.",
            Query(record("backfilld_kept_bytes"), "{{kind}}"),
            look=Look(unit="bytes", least=0),
            size=(12, 6),
            stacked=True,
        ),
        stat_panel(
            "Is anything kept past its retention?",
            "Runs with old values, and for how long the retention of the most overdue one has been over. The "
            "purger drops it within the hour; if not: `backfilld purge`.",
            Query(record("backfilld_kept_overdue_seconds"), "overdue for"),
            look=Look(unit="dtdurations", steps=[(3600, YELLOW), (86400, RED)], words={"0": ("no", GREEN)}),
            size=(6, 6),
        ),
        stat_panel(
            "Of how many runs are old values kept?",
            "Runs for which old values are kept.",
            Query(record("backfilld_kept_runs"), "runs"),
            look=Look(unit="none"),
            size=(6, 6),
        ),
        lines_panel(
            "How many partitions are ahead?",
            "Of tables that a `rebuild` has cut by ranges: partitions beyond the one that rows come into now. A worker makes the next; "
            "`backfilld partitions` says what keeps it.",
            Query(record("backfilld_partitions_ahead"), "{{table}}"),
            look=Look(unit="none", least=0),
            size=(12, 6),
        ),
        stat_panel(
            "Are rows in a default partition?",
            "Rows whose own partition cannot be made before they are moved: the runbook of BackfilldRowsInDefaultPartition says how.",
            Query(record("backfilld_default_partition_rows_found"), "{{table}}"),
            look=Look(unit="none", words={"0": ("no", GREEN), "1": ("yes", YELLOW)}),
            size=(12, 6),
        ),
    ],
)

PAGE = Page(
    uid="backfilld-fleet",
    title="backfilld: fleet",
    description="Workers, queues and servers.",
    sections=[AT_A_GLANCE, PROCESSES, QUEUES, LATENCY, SERVERS],
    variables=[
        variable(
            "instance",
            "Host",
            f"label_values({select('backfilld_database_up')}, instance)",
            "Worker hosts. What comes from the record is the same on all of them, and not filtered by this.",
            several=True,
            everything=".+",
        )
    ],
    annotations=[*state_changes(), holds()],
)
