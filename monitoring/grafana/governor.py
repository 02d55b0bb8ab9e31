"""The governor: every signal against its limits, what it decided, what it holds and why, and how we gave way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.holds import STALE_SECONDS
from backfilld.monitoring.grafana.layout import Page, Section, holds, state_changes, variable
from backfilld.monitoring.grafana.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Column,
    Look,
    lines_panel,
    stat_panel,
    table_panel,
    words_panel,
)
from backfilld.monitoring.grafana.queries import (
    Query,
    hosts_increase,
    hosts_quantile,
    hosts_rate,
    pressure,
    record,
    record_by,
    select,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Panel

AT_A_GLANCE = Section(
    panels=[
        words_panel(
            "What holds all work now?",
            "The signal that is over its hard limit or cannot be read, and for how long it has held all work. "
            "Work continues by itself once the signal recovers; `backfilld pace` shows the sessions behind it.",
            Query(
                f"{record('backfilld_hold_info')} * on (job) group_left () {record_by('job', 'backfilld_hold_age_seconds')}",
                "{{reason}}",
            ),
            look=Look(unit="dtdurations", base=ORANGE, steps=[(1800, RED)], nothing="nothing"),
            size=(6, 4),
        ),
        stat_panel(
            "Did a person stop all runs?",
            "Seconds since `backfilld pause --all`. The stop outlasts restarts and ends with `backfilld resume --all`.",
            Query(record("backfilld_stop_age_seconds"), "stopped for"),
            look=Look(unit="dtdurations", steps=[(0.001, ORANGE)], words={"0": ("no", GREEN)}),
            size=(5, 4),
        ),
        stat_panel(
            "Is the governor awake?",
            "Seconds since its last verdict: about one while a run is active, up to 13 otherwise. From "
            f"{STALE_SECONDS:.0f} on all work is held, because the load is unknown: check that a worker runs "
            "and reaches PostgreSQL.",
            Query(record("backfilld_pace_age_seconds"), "since its last verdict"),
            look=Look(unit="s", decimals=1, steps=[(14, YELLOW), (STALE_SECONDS, RED)], nothing="no verdict yet"),
            size=(5, 4),
        ),
        stat_panel(
            "How many signals cannot be read?",
            "Each of them holds all work, like a value over its hard limit. The table names them; fix the "
            "cause, or switch the signal `off` in the settings.",
            Query(f"count({record('backfilld_signal_readable')} == 0) or vector(0)", "unreadable"),
            look=Look(unit="none", steps=[(1, RED)]),
            size=(4, 4),
        ),
        stat_panel(
            "How much of the allowed width is used?",
            "Lanes that may work at once, as a share of the configured maximum. If it is low while all signals "
            "are fine, it recovers by one lane every three seconds.",
            Query(f"{record('backfilld_width')} / ({record('backfilld_width_limit')} > 0)", "of the width"),
            look=Look(unit="percentunit", base=ORANGE, steps=[(0.25, YELLOW), (0.75, GREEN)], least=0, most=1),
            size=(4, 4),
        ),
        table_panel(
            "Where is each signal between its limits?",
            "From `slows from` on the pace falls gradually, and from `stops from` on all work is held; the bar "
            "shows the position between the two. Limits are settings: docs/governor.md.",
            Query(record_by("signal", "backfilld_signal")),
            Query(record_by("signal", "backfilld_signal_limit", 'limit="soft"')),
            Query(record_by("signal", "backfilld_signal_limit", 'limit="hard"')),
            Query(pressure()),
            Query(record_by("signal", "backfilld_signal_readable")),
            columns={
                "Signal": Column(source="signal", width=230),
                "Now": Column(source="A", width=140, look=Look(nothing="unreadable")),
                "Slows from": Column(source="B", width=140),
                "Stops from": Column(source="C", width=140),
                "Between its limits": Column(
                    source="D",
                    look=Look(unit="percentunit", least=0, most=1, steps=[(0.01, YELLOW), (0.5, ORANGE), (1, RED)]),
                    bar=True,
                ),
                "Readable": Column(
                    source="E", width=110, look=Look(unit="none", words={"1": ("yes", GREEN), "0": ("no", RED)})
                ),
            },
            size=(24, 12),
        ),
    ],
)

VERDICTS = Section(
    title="Verdicts",
    panels=[
        lines_panel(
            "How many lanes could work, and how many did?",
            "The width, its configured maximum, and backfilld's sessions inside a batch or a step of DDL. Far "
            "fewer sessions than the width: lanes rest, or there are too few worker threads.",
            Query(record("backfilld_width"), "may work"),
            Query(record("backfilld_width_limit"), "allowed by a person"),
            Query(record("backfilld_working_sessions"), "at work"),
            look=Look(unit="none", least=0),
            steps=True,
        ),
        lines_panel(
            "What was the duty cycle of a lane?",
            "The part of its time that a lane may work; it rests during the remainder. The minimum is a tenth.",
            Query(f"1 / (1 + {record('backfilld_rest_ratio')})", "at work"),
            look=Look(unit="percentunit", least=0, most=1),
            steps=True,
        ),
        lines_panel(
            "How long could a batch last?",
            "While other sessions are active batches are short, because a session that needs one of their rows "
            "waits for the end of the batch. No line: as long as each run allows.",
            Query(record("backfilld_batch_limit_seconds"), "at most"),
            look=Look(unit="s", least=0),
            steps=True,
        ),
        lines_panel(
            "Which signal slowed work down, and how much?",
            "Each signal's position between its limits: 0 up to the soft limit, 1 from the hard limit on.",
            Query(pressure(), "{{signal}}"),
            look=Look(unit="percentunit", least=0, most=1, steps=[(1, RED)]),
            size=(12, 8),
        ),
        lines_panel(
            "Which signal held all work, and for what part of the time?",
            "Seconds held per second, by signal. If one holds work at the same hour every day, let the run "
            "work at other hours, with `windows`.",
            Query(hosts_rate("reason", "backfilld_hold_seconds_total"), "{{reason}}"),
            look=Look(unit="percentunit", least=0),
            size=(12, 8),
            stacked=True,
        ),
    ],
)

GIVING_WAY = Section(
    title="Giving way, and locks",
    panels=[
        lines_panel(
            "Did the application wait for backfilld?",
            "Batches that were cancelled because a session waited for a lock of theirs. If there are many, use "
            "shorter batches or other hours: `backfilld pace RUN --batch-seconds 0.2`.",
            Query(hosts_increase("job", "backfilld_give_way_total"), "batches that gave way"),
            look=Look(unit="short", least=0, steps=[(10, ORANGE)]),
            size=(6, 8),
        ),
        lines_panel(
            "Did DDL get its locks?",
            "Steps of DDL that acquired their lock, that timed out, and that were put off because of its "
            "present holders. `backfilld explain RUN` names the blockers.",
            Query(hosts_increase("outcome", "backfilld_lock_tries_total"), "{{outcome}}"),
            look=Look(
                unit="short",
                least=0,
                names={"had": "had it", "timed_out": "timed out", "put_off": "put off"},
                colours={"had": GREEN, "timed_out": ORANGE, "put_off": BLUE},
            ),
            size=(6, 8),
        ),
        lines_panel(
            "How long did DDL wait for its locks?",
            "From the first attempt until the lock was acquired. The application does not wait during this "
            "time: each attempt is short.",
            Query(hosts_quantile(0.5, "", "backfilld_lock_wait_seconds"), "half of them less than"),
            Query(hosts_quantile(0.95, "", "backfilld_lock_wait_seconds"), "95 % less than"),
            look=Look(unit="s", least=0),
            size=(6, 8),
        ),
        lines_panel(
            "Were blockers cancelled or ended?",
            "Sessions that blocked DDL and were cancelled or ended, as `cancel_blockers` of the run allows. "
            "None unless it is set.",
            Query(hosts_increase("how", "backfilld_blockers_sent_away_total"), "{{how}}"),
            look=Look(unit="short", least=0, steps=[(1, ORANGE)]),
            size=(6, 8),
        ),
    ],
)


def _signal() -> Panel:
    panel = lines_panel(
        "How close was $signal to its limits?",
        "Its value at each verdict, and its two limits. A gap: it could not be read.",
        Query(record("backfilld_signal", 'signal="$signal"'), "value"),
        Query(record("backfilld_signal_limit", 'signal="$signal"'), "{{limit}} limit"),
        look=Look(unit="short", colours={"value": BLUE, "soft limit": YELLOW, "hard limit": RED}),
        size=(8, 7),
    )
    panel.repeat, panel.repeat_direction, panel.max_per_row = "signal", "h", 3
    return panel


SIGNALS = Section(title="Each signal over time", closed=True, panels=[_signal()])

PAGE = Page(
    uid="backfilld-governor",
    title="backfilld: governor",
    description="How hard backfilld works the database, and which signals decide it.",
    sections=[AT_A_GLANCE, VERDICTS, GIVING_WAY, SIGNALS],
    variables=[
        variable(
            "signal",
            "Signal",
            f"label_values({select('backfilld_signal_limit')}, signal)",
            "The signals of the last row.",
            several=True,
        )
    ],
    annotations=[holds(), *state_changes()],
)
