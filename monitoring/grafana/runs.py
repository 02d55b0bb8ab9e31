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

#: What a walk passes over; a row that is set aside is counted there.
WALKED = 'outcome=~"changed|unchanged"'
#: To the dashboard of the run that a cell names, or that a series is of.
OPEN = f"/d/{RUN_UID}?var-job=${{job}}&var-datasource=${{datasource}}&${{__url_time_range}}&var-run="
OPEN_NAMED, OPEN_LABELLED = OPEN + "${__value.raw}", OPEN + "${__field.labels.run}"

AT_A_GLANCE = Section(
    panels=[
        stat_panel(
            "Is all work held?",
            "Seconds since a person stopped all runs, and since a load signal held all work. "
            "A stop ends with `backfilld resume --all`. What load holds goes on by itself: the governor's dashboard has the signal.",
            Query(record("backfilld_stop_age_seconds"), "stopped by a person"),
            Query(record("backfilld_hold_age_seconds"), "held by load"),
            look=Look(unit="dtdurations", steps=[(0.001, ORANGE), (1800, RED)], words={"0": ("no", GREEN)}),
            size=(6, 4),
        ),
        stat_panel(
            "How many rows are set aside?",
            "Rows of all runs that could not be converted, each with its key and error on record. "
            "`backfilld quarantine list RUN` names them; mend them, then `backfilld quarantine retry RUN`.",
            Query(f"sum by (job) ({record('backfilld_quarantined_rows')})", "rows"),
            look=Look(unit="locale", steps=[(1, ORANGE)], nothing="none"),
            size=(3, 4),
        ),
        stat_panel(
            "When will the last walk be over?",
            "The longest of the estimates of all runs, at the speed of the last minutes. "
            "It says nothing of approvals, of windows and of the walk that verifies after this one.",
            Query(f"max by (job) ({select('backfilld_run_eta_seconds')})", "left"),
            look=Look(unit="dtdurations", nothing="not known"),
            size=(5, 4),
        ),
        stat_panel(
            "Were there errors?",
            "Errors in the time shown, by what happens next: a batch that met a transient error or a lost connection is repeated, "
            "a row with an error of data is set aside, a fatal error fails its run, and Redis is asked again. "
            "Fatal ones need a person; many transient ones mean locks or timeouts: the fleet's dashboard has them over time.",
            Query(f"sum by (class) (increase({select('backfilld_errors_total')}[$__range]))", "{{class}}"),
            look=Look(unit="none", decimals=0, steps=[(0.5, YELLOW), (100, ORANGE)], nothing="none"),
            size=(6, 4),
        ),
        stat_panel(
            "Does every worker reach its servers?",
            "Whether all hosts read the record in PostgreSQL, and reach Redis. "
            "Without PostgreSQL nothing moves and nothing is lost; without Redis work goes on more slowly. "
            "The fleet's dashboard says which host it is.",
            Query(f"min by (job) ({select('backfilld_database_up')})", "PostgreSQL"),
            Query(f"min by (job) ({select('backfilld_redis_up')})", "Redis"),
            look=Look(unit="none", base=RED, steps=[(1, GREEN)], words={"1": ("yes", GREEN), "0": ("no", RED)}),
            size=(4, 4),
        ),
        table_panel(
            "Where does each run stand?",
            "One line for each run that has not ended; its name leads to its own dashboard. "
            "Look at what is held for long, and at rows set aside. `backfilld explain RUN` says what would let it go on.",
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
                "Rows set aside": Column(
                    source="F", look=Look(unit="locale", base=GREY, steps=[(1, ORANGE)]), width=120
                ),
            },
            size=(24, 8),
        ),
        bars_panel(
            "What are the runs doing?",
            "Runs that have not ended, by state. Many that are queued mean that no worker takes them up.",
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
            "And for how long. One that waits for approval: `backfilld approve RUN --phase PHASE` once the application is ready. "
            "One that is paused or failed: `backfilld explain RUN`, then `backfilld resume RUN`.",
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
            "Why is nothing moving?",
            "What holds runs, and for how long it has held the one it has held longest. "
            "Approvals, stops and locks need a person; hours, load and old transactions pass. "
            "`the load is not known` means that no worker reads the load: look whether one runs.",
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
            "How fast do the runs go?",
            "Rows walked in a second, changed or found right already. "
            "A run at zero that is not held: look when its last batch committed, below.",
            Query(
                f"sum by (run) ({record_rate('backfilld_rows_total', WALKED)})",
                "{{run}}",
            ),
            look=Look(unit="rowsps", least=0, link=OPEN_LABELLED),
        ),
        lines_panel(
            "Does what is left shrink?",
            "Rows still to be walked. One that grows belongs to a run that is verified, and walks again what it found.",
            Query(record("backfilld_run_rows_remaining"), "{{run}}"),
            look=Look(unit="short", least=0, link=OPEN_LABELLED),
        ),
        lines_panel(
            "Does the end come closer?",
            "Seconds until the present walk of each run is over. It should fall by a second each second; "
            "one that rises is slowed down: the governor's dashboard says by what.",
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
            "Has a run come to a stop?",
            "Seconds since a batch of the run committed. Runs that wait for a person or for their hours grow here too, "
            "and rightly; one that is running and not held should stay below a minute.",
            Query(record("backfilld_run_progress_age_seconds"), "{{run}}"),
            look=Look(unit="dtdurations", least=0, steps=[(300, RED)], link=OPEN_LABELLED),
            size=(12, 8),
        ),
        lines_panel(
            "When did errors come up?",
            "Errors from point to point, by what happens next. A crowd of them at one moment is a restart or a failover.",
            Query(hosts_increase("class", "backfilld_errors_total"), "{{class}}"),
            look=Look(unit="short", least=0, colours={"fatal": RED, "data": ORANGE}),
            size=(6, 8),
        ),
        stat_panel(
            "How did runs end?",
            "Runs on record that have ended. The rest have a line above.",
            Query(record("backfilld_runs_ended_total"), "{{state}}"),
            look=Look(unit="none", names={"rolled_back": "rolled back"}),
            size=(6, 8),
        ),
    ],
)

PAGE = Page(
    uid="backfilld-runs",
    title="backfilld: runs",
    description="All runs of one database at a glance.",
    sections=[AT_A_GLANCE, SPEED, HISTORY],
    annotations=[*state_changes(), holds()],
    since="now-3h",
)
