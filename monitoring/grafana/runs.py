"""All runs at a glance: what is going on, what waits for a person, what is held and why, when it will end, what went wrong."""

from __future__ import annotations

from backfilld.monitoring.grafana.layout import Page, Section, holds, state_changes
from backfilld.monitoring.grafana.panels import (
    BLUE,
    CAUSES,
    GREEN,
    GREY,
    ORANGE,
    PHASES,
    RED,
    RUN_UID,
    STATES,
    YELLOW,
    Column,
    Look,
    bars_panel,
    lines_panel,
    stat_panel,
    table_panel,
    timeline_panel,
)
from backfilld.monitoring.grafana.queries import (
    RESTING,
    STATE_NUMBERS,
    Query,
    hosts_increase,
    numbered,
    record,
    record_by,
    record_rate,
    seconds_in_state,
    select,
)

#: What a walk passes over; a row that is quarantined is counted there.
WALKED = 'outcome=~"changed|unchanged"'
#: To the dashboard of the run that a cell names, or that a series is of.
OPEN = f"/d/{RUN_UID}?var-job=${{job}}&var-datasource=${{datasource}}&${{__url_time_range}}&var-run="
OPEN_NAMED, OPEN_LABELLED = OPEN + "${__value.raw}", OPEN + "${__field.labels.run}"

AT_A_GLANCE = Section(
    panels=[
        stat_panel(
            "Is all work held?",
            "Seconds since a person stopped all runs, and since a load signal held all work. A stop ends with "
            "`backfilld resume --all`. A hold ends by itself: the governor dashboard has the signal.",
            Query(record("backfilld_stop_age_seconds"), "stopped by a person"),
            Query(record("backfilld_hold_age_seconds"), "held by load"),
            look=Look(unit="dtdurations", steps=[(0.001, ORANGE), (1800, RED)], words={"0": ("no", GREEN)}),
            size=(6, 4),
        ),
        stat_panel(
            "How many rows are quarantined?",
            "Rows of all runs that could not be converted, each recorded with its key and error. `backfilld "
            "quarantine list RUN` names them; fix them, then `backfilld quarantine retry RUN`.",
            Query(f"sum by (job) ({record('backfilld_quarantined_rows')})", "rows"),
            look=Look(unit="locale", steps=[(1, ORANGE)], nothing="none"),
            size=(3, 4),
        ),
        stat_panel(
            "When will the last walk be over?",
            "The longest estimate of all runs, at the speed of the last minutes. It does not include "
            "approvals, windows, or the verifying walk that follows.",
            Query(f"max by (job) ({select('backfilld_run_eta_seconds')})", "left"),
            look=Look(unit="dtdurations", nothing="not known"),
            size=(5, 4),
        ),
        stat_panel(
            "Were there errors?",
            "Errors in the time shown, by what happens next: after a transient error or a lost connection the "
            "batch is repeated, after a data error the row is quarantined, after a fatal error the run fails, "
            "and after a Redis error the worker tries again. Fatal errors need a person; many transient ones "
            "mean locks or timeouts: the fleet dashboard has them over time.",
            Query(f"sum by (class) (increase({select('backfilld_errors_total')}[$__range]))", "{{class}}"),
            look=Look(unit="none", decimals=0, steps=[(0.5, YELLOW), (100, ORANGE)], nothing="none"),
            size=(6, 4),
        ),
        stat_panel(
            "Does every worker reach its servers?",
            "Whether all hosts read the record in PostgreSQL, and reach Redis. Without PostgreSQL no run makes "
            "progress, and nothing is lost; without Redis work continues more slowly. The fleet dashboard says "
            "which host it is.",
            Query(f"min by (job) ({select('backfilld_database_up')})", "PostgreSQL"),
            Query(f"min by (job) ({select('backfilld_redis_up')})", "Redis"),
            look=Look(unit="none", base=RED, steps=[(1, GREEN)], words={"1": ("yes", GREEN), "0": ("no", RED)}),
            size=(4, 4),
        ),
        table_panel(
            "What are the phase and state of each run?",
            "One line for each run that has not ended; its name leads to its own dashboard. Look at long holds "
            "and at quarantined rows. `backfilld explain RUN` says what ends a hold.",
            Query(seconds_in_state()),
            Query(record_by("run", "backfilld_run_progress_ratio")),
            Query(record_by("run", "backfilld_run_eta_seconds")),
            Query(record_by("run", "backfilld_run_rows_remaining")),
            Query(record_by("run, cause", "backfilld_run_held_seconds")),
            Query(record_by("run", "backfilld_quarantined_rows")),
            columns={
                "Run": Column(source="run", look=Look(link=OPEN_NAMED), width=230),
                "Phase": Column(source="phase", look=Look(words=PHASES), width=95),
                "State": Column(source="state", look=Look(words=STATES), width=160),
                "In this state for": Column(source="A", look=Look(unit="dtdurations"), width=150),
                "Progress": Column(source="B", look=Look(unit="percentunit", least=0, most=1), bar=True),
                "Time left": Column(source="C", look=Look(unit="dtdurations"), width=150),
                "Rows left": Column(source="D", look=Look(unit="locale"), width=120),
                "Held by": Column(
                    source="cause", look=Look(words={c: (w, ORANGE) for c, w in CAUSES.items()}), width=230
                ),
                "Held for": Column(source="E", look=Look(unit="dtdurations"), width=150),
                "Quarantined rows": Column(
                    source="F", look=Look(unit="locale", base=GREY, steps=[(1, ORANGE)]), width=120
                ),
            },
            size=(24, 8),
        ),
        bars_panel(
            "What are the runs doing?",
            "Runs that have not ended, by state. If many are queued, no worker takes them.",
            Query(record("backfilld_runs"), "{{state}}"),
            look=Look(
                unit="none",
                base=BLUE,
                names={state: text for state, (text, _colour) in STATES.items() if text != state},
                colours={state: colour for state, (_text, colour) in STATES.items()},
            ),
            size=(6, 7),
        ),
        bars_panel(
            "Which runs wait for a person?",
            "And for how long. If one waits for approval: `backfilld approve RUN --phase PHASE` once the "
            "application is ready. If one is paused or failed: `backfilld explain RUN`, then `backfilld resume "
            "RUN`.",
            Query(seconds_in_state(f'state=~"{RESTING}"'), "{{run}}: {{state}} in {{phase}}"),
            look=Look(
                unit="dtdurations",
                base=YELLOW,
                steps=[(3600, ORANGE), (86400, RED)],
                nothing="none",
                link=OPEN_LABELLED,
            ),
            size=(9, 7),
        ),
        bars_panel(
            "What holds the runs?",
            "What holds runs, and for how long it has held the longest of them. Approvals and stops need a "
            "person; windows, load and old transactions pass by themselves. `the load is unknown` means that "
            "no worker reads the load: check that one runs.",
            Query(f"max by (cause) ({select('backfilld_run_held_seconds')})", "{{cause}}"),
            look=Look(unit="dtdurations", base=YELLOW, steps=[(1800, ORANGE)], nothing="nothing is held", names=CAUSES),
            size=(9, 7),
        ),
    ],
)

SPEED = Section(
    title="Speed",
    panels=[
        lines_panel(
            "How fast are the runs?",
            "Rows walked per second, changed or already right. If a run is at zero and not on hold, check when "
            "its last batch committed, below.",
            Query(
                f"sum by (run) ({record_rate('backfilld_rows_total', WALKED)})",
                "{{run}}",
            ),
            look=Look(unit="rowsps", least=0, link=OPEN_LABELLED),
        ),
        lines_panel(
            "Are fewer rows left?",
            "Rows still to be walked. They grow when verify has found rows that the run processes again.",
            Query(record("backfilld_run_rows_remaining"), "{{run}}"),
            look=Look(unit="short", least=0, link=OPEN_LABELLED),
        ),
        lines_panel(
            "Does the estimate fall?",
            "Seconds until the present walk of each run is over. It should fall by a second per second; if it "
            "rises, the run is slowed down: the governor dashboard says by which signal.",
            Query(record("backfilld_run_eta_seconds"), "{{run}}"),
            look=Look(unit="dtdurations", least=0, link=OPEN_LABELLED),
        ),
    ],
)

HISTORY = Section(
    title="What happened",
    panels=[
        timeline_panel(
            "What has each run been doing, and since when?",
            "The state of each run over time. Who changed it, and why: `backfilld events RUN`.",
            Query(numbered("state", STATE_NUMBERS), "{{run}}"),
            look=Look(unit="none", words={str(number): STATES[state] for state, number in STATE_NUMBERS.items()}),
            size=(24, 7),
        ),
        lines_panel(
            "Has a run stalled?",
            "Seconds since a batch of the run committed. For runs that wait for a person or a window it grows "
            "too; while running and not on hold it should stay below a minute.",
            Query(record("backfilld_run_progress_age_seconds"), "{{run}}"),
            look=Look(unit="dtdurations", least=0, steps=[(300, RED)], link=OPEN_LABELLED),
            size=(12, 8),
        ),
        lines_panel(
            "When did errors occur?",
            "Errors from point to point, by what happens next. Many at one moment: a restart or a failover.",
            Query(hosts_increase("class", "backfilld_errors_total"), "{{class}}"),
            look=Look(unit="short", least=0, colours={"fatal": RED, "data": ORANGE}),
            size=(6, 8),
        ),
        stat_panel(
            "How did runs end?",
            "Recorded runs that have ended. The others have a line above.",
            Query(record("backfilld_runs_ended_total"), "{{state}}"),
            look=Look(unit="none", names={"rolled_back": "rolled back"}),
            size=(6, 8),
        ),
    ],
)

BACKUPS = Section(
    title="Backups",
    panels=[
        stat_panel(
            "How old is what can be recovered?",
            "Seconds since the moment that the newest backup holds, and the newest that was restored and compared. Empty "
            "without a backup: `backfilld backup now`.",
            Query(record("backfilld_backup_age_seconds"), "newest"),
            Query(record("backfilld_backup_proved_age_seconds"), "newest proved"),
            Query(f"{record('backfilld_backup_scheduled_age_seconds')}", "{{backup}}, by its schedule"),
            look=Look(unit="dtdurations", steps=[(86400, ORANGE), (8 * 86400, RED)], nothing="no backup"),
            size=(6, 7),
        ),
        lines_panel(
            "How long would a recovery take?",
            "How long the last restore into a scratch server took, and how long the newest backup did.",
            Query(record("backfilld_backup_restore_seconds"), "restore"),
            Query(record("backfilld_backup_duration_seconds"), "backup"),
            look=Look(unit="dtdurations", least=0),
            size=(9, 7),
        ),
        stat_panel(
            "When was one last proved?",
            "When a backup was last restored and compared with what it was to hold.",
            Query(f"{record('backfilld_backup_last_proved_timestamp_seconds')} * 1000", "last proof"),
            look=Look(unit="dateTimeFromNow", base=BLUE, nothing="never"),
            size=(3, 7),
        ),
        stat_panel(
            "How large are they?",
            "Backups that are kept, one copy of each.",
            Query(record("backfilld_backup_bytes"), "backups"),
            look=Look(unit="bytes", base=BLUE),
            size=(3, 7),
        ),
        stat_panel(
            "How many failed?",
            "Backups on record that could not be taken, or proved bad: `backfilld backup list` says why.",
            Query(record("backfilld_backup_failures_total"), "failures"),
            look=Look(unit="none", steps=[(1, ORANGE)]),
            size=(3, 7),
        ),
    ],
)

PAGE = Page(
    uid="backfilld-runs",
    title="backfilld: runs",
    description="All runs of one database at a glance.",
    sections=[AT_A_GLANCE, SPEED, HISTORY, BACKUPS],
    annotations=[*state_changes(), holds()],
    since="now-3h",
)
