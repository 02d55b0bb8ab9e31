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
            "The signal that is beyond its hard limit or cannot be read, and for how long it has held. "
            "Work goes on by itself once it is well again; `backfilld pace` shows who is behind it.",
            Query(
                f"{record('backfilld_hold_info')} * on (job) group_left () {record_by('job', 'backfilld_hold_age_seconds')}",
                "{{reason}}",
            ),
            look=Look(unit="dtdurations", base=ORANGE, steps=[(1800, RED)], nothing="nothing"),
            size=(6, 4),
        ),
        stat_panel(
            "Did a person stop everything?",
            "Seconds since `backfilld pause --all`. It stays until `backfilld resume --all`, through every restart.",
            Query(record("backfilld_stop_age_seconds"), "stopped for"),
            look=Look(unit="dtdurations", steps=[(0.001, ORANGE)], words={"0": ("no", GREEN)}),
            size=(5, 4),
        ),
        stat_panel(
            "Is the governor awake?",
            f"Seconds since its last verdict: about one while a run is at work, up to 13 while none is. From {STALE_SECONDS:.0f} on all work is held, as nobody knows the load: "
            "look whether a worker runs, and whether it reaches PostgreSQL.",
            Query(record("backfilld_pace_age_seconds"), "since its last verdict"),
            look=Look(unit="s", decimals=1, steps=[(14, YELLOW), (STALE_SECONDS, RED)], nothing="no verdict yet"),
            size=(5, 4),
        ),
        stat_panel(
            "How many signals cannot be read?",
            "Each of them holds all work, as a bad value would. The table names them; "
            "mend what is asked, or switch the signal `off` in the settings.",
            Query(f"count({record('backfilld_signal_readable')} == 0) or vector(0)", "unreadable"),
            look=Look(unit="none", steps=[(1, RED)]),
            size=(4, 4),
        ),
        stat_panel(
            "How much of the allowed width is used?",
            "Lanes that may work at once, as a share of what a person allows. "
            "Low while signals are well: it comes back by one lane in three seconds.",
            Query(f"{record('backfilld_width')} / ({record('backfilld_width_limit')} > 0)", "of the width"),
            look=Look(unit="percentunit", base=ORANGE, steps=[(0.25, YELLOW), (0.75, GREEN)], least=0, most=1),
            size=(4, 4),
        ),
        table_panel(
            "How does each signal stand against its limits?",
            "From `slows from` on the pace falls smoothly, and from `stops from` on nothing moves; the bar says how far between the two. "
            "Limits are settings: docs/governor.md.",
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
            "How many lanes might work, and how many did?",
            "The width, what a person allows at most, and our sessions that are inside a batch or a step of DDL. "
            "Sessions far below the width: lanes rest, or there are not enough worker threads.",
            Query(record("backfilld_width"), "may work"),
            Query(record("backfilld_width_limit"), "allowed by a person"),
            Query(record("backfilld_working_sessions"), "at work"),
            look=Look(unit="none", least=0),
            steps=True,
        ),
        lines_panel(
            "What share of its time might a lane work?",
            "The rest of it lanes rest. A tenth is the least.",
            Query(f"1 / (1 + {record('backfilld_rest_ratio')})", "at work"),
            look=Look(unit="percentunit", least=0, most=1),
            steps=True,
        ),
        lines_panel(
            "How long might a batch last?",
            "Beside others a batch is short, as whoever wants one of its rows waits for its end. "
            "No line: as long as each run says.",
            Query(record("backfilld_batch_limit_seconds"), "at most"),
            look=Look(unit="s", least=0),
            steps=True,
        ),
        lines_panel(
            "Which signal slowed the work, and how much?",
            "Each signal's place between its limits: nothing below the soft one, all from the hard one on.",
            Query(pressure(), "{{signal}}"),
            look=Look(unit="percentunit", least=0, most=1, steps=[(1, RED)]),
            size=(12, 8),
        ),
        lines_panel(
            "Which signal held all work, and for how much of the time?",
            "Seconds held in each second, by signal. One that holds often at the same hour: work at other hours, with `windows`.",
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
            "Did the application wait for us?",
            "Batches that were cancelled so that a session could go on. Many: shorter batches, or other hours: "
            "`backfilld pace RUN --batch-seconds 0.2`.",
            Query(hosts_increase("job", "backfilld_give_way_total"), "batches that gave way"),
            look=Look(unit="short", least=0, steps=[(10, ORANGE)]),
            size=(6, 8),
        ),
        lines_panel(
            "Did DDL get its locks?",
            "Steps of DDL that had their lock, that timed out, and that were put off because of who holds it. "
            "`backfilld explain RUN` names who is in the way.",
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
            "From the first look until it had the lock. The application does not wait meanwhile: each try is short.",
            Query(hosts_quantile(0.5, "", "backfilld_lock_wait_seconds"), "half of them less than"),
            Query(hosts_quantile(0.95, "", "backfilld_lock_wait_seconds"), "95 % less than"),
            look=Look(unit="s", least=0),
            size=(6, 8),
        ),
        lines_panel(
            "Did we send anybody away?",
            "Sessions that kept DDL from its lock and were cancelled or ended, because the run's policy says so. "
            "None unless `cancel_blockers` is set.",
            Query(hosts_increase("how", "backfilld_blockers_sent_away_total"), "{{how}}"),
            look=Look(unit="short", least=0, steps=[(1, ORANGE)]),
            size=(6, 8),
        ),
    ],
)


def _signal() -> Panel:
    panel = lines_panel(
        "How near was $signal to its limits?",
        "Its value at each verdict, where it begins to slow the work, and where it stops it. No value: it could not be read.",
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
    description="How hard the database is worked, and what decides it.",
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
