"""One run in depth: where it is, how fast it goes, what its lanes do, what it leaves behind."""

from __future__ import annotations

from backfilld.monitoring.grafana.layout import Page, Section, state_changes, variable
from backfilld.monitoring.grafana.panels import (
    BLUE,
    CAUSES,
    GREEN,
    ORANGE,
    PHASES,
    PURPLE,
    RED,
    RUN_UID,
    STATES,
    YELLOW,
    Look,
    lines_panel,
    stat_panel,
    timeline_panel,
    words_panel,
)
from backfilld.monitoring.grafana.queries import (
    PHASE_NUMBERS,
    STATE_NUMBERS,
    Query,
    numbered,
    record,
    record_rate,
    seconds_in_state,
    select,
)

RUN = 'run="$run"'


def of_run(metric: str, *matchers: str) -> str:
    """A gauge of the run."""
    return record(metric, RUN, *matchers)


AT_A_GLANCE = Section(
    panels=[
        words_panel(
            "Where does it stand?",
            "Its phase and state, and for how long it has been in that state. "
            "`waiting` wants `backfilld approve $run --phase PHASE`; `paused` and `failed` want a person: `backfilld explain $run`.",
            Query(seconds_in_state(run=RUN), "{{phase}}, {{state}}"),
            look=Look(unit="dtdurations", base=BLUE, nothing="has ended"),
            size=(6, 4),
        ),
        stat_panel(
            "How far is it?",
            "How much of the present walk is done. A run that verifies walks the table a second time.",
            Query(of_run("backfilld_run_progress_ratio"), "of the walk"),
            look=Look(unit="percentunit", decimals=1, least=0, most=1, base=BLUE),
            size=(4, 4),
        ),
        stat_panel(
            "When will this walk be over?",
            "At the speed of the last minutes; not known before the table has been counted, and while nothing moves.",
            Query(of_run("backfilld_run_eta_seconds"), "left"),
            look=Look(unit="dtdurations", nothing="not known"),
            size=(5, 4),
        ),
        words_panel(
            "What holds it?",
            "The one cause that comes first, and for how long. `backfilld explain $run` says what would let it go on.",
            Query(of_run("backfilld_run_held_seconds"), "{{cause}}"),
            look=Look(
                unit="dtdurations", base=YELLOW, steps=[(1800, ORANGE)], nothing="nothing holds it", names=CAUSES
            ),
            size=(5, 4),
        ),
        stat_panel(
            "Is the data proved?",
            "Yes once a pass over the whole table has found nothing left to do. The gate opens then: deploy what needs the new data.",
            Query(of_run("backfilld_run_verified"), "verified"),
            look=Look(unit="none", words={"1": ("yes", GREEN), "0": ("not yet", BLUE)}),
            size=(4, 4),
        ),
        words_panel(
            "What did it stop for?",
            "The class of the error for which it paused itself or failed; a run that a person paused has none. "
            "`backfilld explain $run` has the error in words, and what to do about it.",
            Query(of_run("backfilld_run_error_info"), "{{class}}"),
            look=Look(unit="none", base=ORANGE, nothing="nothing"),
            size=(5, 4),
        ),
        stat_panel(
            "How near is it to its limit of rows set aside?",
            "Rows in quarantine as a share of those at which the run pauses. "
            "`backfilld quarantine list $run` names them and their errors; mend them, then `backfilld quarantine retry $run`.",
            Query(
                f"{of_run('backfilld_quarantined_rows')} / (({of_run('backfilld_quarantine_limit_rows')}) > 0)",
                "of the limit",
            ),
            look=Look(unit="percentunit", least=0, steps=[(0.5, YELLOW), (0.8, ORANGE), (1, RED)], nothing="no limit"),
            size=(5, 4),
        ),
        stat_panel(
            "How many rows did the last verification find?",
            "Rows that still needed work when all had been looked at. They are walked again; "
            "if they keep coming, the application writes rows that need it, and the code that does has to be deployed first.",
            Query(of_run("backfilld_run_residual_rows"), "rows"),
            look=Look(unit="locale", steps=[(1, ORANGE)], nothing="not verified yet"),
            size=(5, 4),
        ),
        stat_panel(
            "Is a row in the way of going back?",
            "Rows written since the switch that do not fit the old column. `backfilld rollback $run` refuses while there are any; "
            "`backfilld status $run` names them.",
            Query(of_run("backfilld_rollback_conflict_rows"), "rows"),
            look=Look(unit="locale", steps=[(1, ORANGE)]),
            size=(5, 4),
        ),
        stat_panel(
            "How long ago did a batch commit?",
            "Below a minute while the run is running and nothing holds it. "
            "More than that with no cause beside it: look whether a worker runs, and at the errors of the fleet.",
            Query(of_run("backfilld_run_progress_age_seconds"), "ago"),
            look=Look(unit="dtdurations", steps=[(60, YELLOW), (300, ORANGE)]),
            size=(4, 4),
        ),
    ],
)

WALK = Section(
    title="The walk",
    panels=[
        lines_panel(
            "How fast does it go, and what becomes of the rows?",
            "Rows in a second: changed, found right already, or set aside. "
            "Only rows set aside: stop and look at them before the limit does it.",
            Query(record_rate("backfilld_rows_total", RUN), "{{outcome}}"),
            look=Look(
                unit="rowsps",
                least=0,
                names={"unchanged": "right already", "quarantined": "set aside"},
                colours={"changed": GREEN, "unchanged": BLUE, "quarantined": RED},
            ),
            stacked=True,
        ),
        lines_panel(
            "How many rows are there still to do?",
            "Rows the walk passes over, rows still before it, and rows that verifying has looked at.",
            Query(of_run("backfilld_run_rows"), "in all"),
            Query(of_run("backfilld_run_rows_remaining"), "still to walk"),
            Query(of_run("backfilld_run_rows_verified"), "verified"),
            look=Look(unit="short", least=0),
        ),
        lines_panel(
            "Do its batches commit?",
            "Batches in a second, and those that were rolled back to be tried again. "
            "Many of the latter: locks, or somebody who waited for what a batch held. `backfilld events $run` tells.",
            Query(record_rate("backfilld_batches_total", RUN), "{{outcome}}"),
            look=Look(
                unit="ops", least=0, names={"retried": "tried again"}, colours={"committed": GREEN, "retried": ORANGE}
            ),
        ),
        lines_panel(
            "What do its lanes do?",
            "Lanes of the present walk. Asleep: until their turn, by the pace. Trying again: after an error. "
            "If all are, the run is held by the error.",
            Query(of_run("backfilld_run_lanes"), "{{state}}"),
            look=Look(
                unit="none",
                least=0,
                decimals=0,
                names={"open": "at work or due", "retrying": "trying again"},
                colours={"open": GREEN, "retrying": RED, "asleep": BLUE, "done": "text"},
            ),
            stacked=True,
            steps=True,
        ),
        lines_panel(
            "When was it held, and by what?",
            "Seconds for which it had been held, by cause; each hold is a ramp that begins at nothing.",
            Query(of_run("backfilld_run_held_seconds"), "{{cause}}"),
            look=Look(unit="dtdurations", least=0, names=CAUSES),
        ),
        lines_panel(
            "Was its estimate true?",
            "Time left, and time since the phase began. The first should fall as the second rises.",
            Query(of_run("backfilld_run_eta_seconds"), "left"),
            Query(of_run("backfilld_run_phase_seconds"), "in this phase"),
            look=Look(unit="dtdurations", least=0),
        ),
        timeline_panel(
            "Which phases and states has it gone through?",
            "Phase above, state below, over time. Who caused each change: `backfilld events $run`.",
            Query(numbered("phase", PHASE_NUMBERS, RUN), "phase"),
            Query(numbered("state", STATE_NUMBERS, RUN), "state"),
            look=Look(
                unit="none",
                words={str(number): PHASES[phase] for phase, number in PHASE_NUMBERS.items()}
                | {str(number): STATES[state] for state, number in STATE_NUMBERS.items()},
            ),
            size=(24, 5),
        ),
    ],
)

LEFT_BEHIND = Section(
    title="What it does to the table, and what it keeps",
    panels=[
        lines_panel(
            "When were rows set aside?",
            "Rows in quarantine, and the number at which the run pauses.",
            Query(of_run("backfilld_quarantined_rows"), "set aside"),
            Query(of_run("backfilld_quarantine_limit_rows"), "limit"),
            look=Look(unit="short", least=0, colours={"set aside": ORANGE, "limit": RED}),
            size=(6, 8),
            steps=True,
        ),
        lines_panel(
            "Does the table grow?",
            "Heap and indexes of the tables that are walked, before and now. "
            "Growth beyond a fifth means that vacuum does not keep up: look for old transactions, or slow the run down.",
            Query(of_run("backfilld_run_table_bytes"), "{{part}}, {{moment}}"),
            look=Look(
                unit="bytes",
                least=0,
                colours={"heap, before": BLUE, "heap, now": GREEN, "indexes, before": PURPLE, "indexes, now": ORANGE},
            ),
            size=(6, 8),
        ),
        lines_panel(
            "Do its updates spare the indexes?",
            "Share of the changed rows that touched no index. A low share with an index on the changed column cannot be helped; "
            "without one it means that pages are full.",
            Query(of_run("backfilld_run_hot_update_ratio"), "touched no index"),
            look=Look(unit="percentunit", least=0, most=1),
            size=(6, 8),
        ),
        lines_panel(
            "What is kept for the way back?",
            "Old values of this run. They go when their retention ends: `backfilld status $run` says when.",
            Query(of_run("backfilld_run_kept_bytes"), "{{kind}}"),
            look=Look(unit="bytes", least=0),
            size=(6, 8),
            stacked=True,
        ),
    ],
)

PAGE = Page(
    uid=RUN_UID,
    title="backfilld: one run",
    description="One run in depth.",
    sections=[AT_A_GLANCE, WALK, LEFT_BEHIND],
    variables=[
        variable(
            "run",
            "Run",
            f"label_values({select('backfilld_run_info')}, run)",
            "The migration's name. A run that has ended is found in a time in which it was there.",
        )
    ],
    annotations=state_changes(RUN),
)
