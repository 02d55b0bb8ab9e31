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
            "What are its phase and state?",
            "Its phase and state, and for how long it has been in that state. If `waiting`: `backfilld approve "
            "$run --phase PHASE`. If `paused` or `failed`: `backfilld explain $run`.",
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
            "At the speed of the last minutes; unknown before the table has been counted, and while no batch commits.",
            Query(of_run("backfilld_run_eta_seconds"), "left"),
            look=Look(unit="dtdurations", nothing="not known"),
            size=(5, 4),
        ),
        words_panel(
            "What holds it?",
            "The one cause that comes first, and for how long. `backfilld explain $run` says what ends the hold.",
            Query(of_run("backfilld_run_held_seconds"), "{{cause}}"),
            look=Look(
                unit="dtdurations", base=YELLOW, steps=[(1800, ORANGE)], nothing="nothing holds it", names=CAUSES
            ),
            size=(5, 4),
        ),
        stat_panel(
            "Is the data proved?",
            "Yes once a pass over the whole table has found no row that needs work. Then the gate opens: "
            "deploy what needs the new data.",
            Query(of_run("backfilld_run_verified"), "verified"),
            look=Look(unit="none", words={"1": ("yes", GREEN), "0": ("not yet", BLUE)}),
            size=(4, 4),
        ),
        words_panel(
            "Why did it stop?",
            "The class of the error for which the run paused itself or failed; empty when a person paused it. "
            "`backfilld explain $run` has the error and what to do about it.",
            Query(of_run("backfilld_run_error_info"), "{{class}}"),
            look=Look(unit="none", base=ORANGE, nothing="nothing"),
            size=(5, 4),
        ),
        stat_panel(
            "How close is it to its limit of quarantined rows?",
            "Quarantined rows as a share of those at which the run pauses. `backfilld quarantine list $run` "
            "names them and their errors; fix them, then `backfilld quarantine retry $run`.",
            Query(
                f"{of_run('backfilld_quarantined_rows')} / (({of_run('backfilld_quarantine_limit_rows')}) > 0)",
                "of the limit",
            ),
            look=Look(unit="percentunit", least=0, steps=[(0.5, YELLOW), (0.8, ORANGE), (1, RED)], nothing="no limit"),
            size=(5, 4),
        ),
        stat_panel(
            "How many rows did the last verification find?",
            "Rows that still needed work at the end of the pass. The run processes them again; if they keep "
            "coming, the application writes them, and has to be fixed first.",
            Query(of_run("backfilld_run_residual_rows"), "rows"),
            look=Look(unit="locale", steps=[(1, ORANGE)], nothing="not verified yet"),
            size=(5, 4),
        ),
        stat_panel(
            "Does a row block a rollback?",
            "Rows written since the switch that do not fit the old column. `backfilld rollback $run` refuses while there are any; "
            "`backfilld status $run` names them.",
            Query(of_run("backfilld_rollback_conflict_rows"), "rows"),
            look=Look(unit="locale", steps=[(1, ORANGE)]),
            size=(5, 4),
        ),
        stat_panel(
            "How long ago did a batch commit?",
            "Less than a minute while the run is running and not on hold. If it is more and no cause is shown, "
            "check that a worker runs, and the errors on the fleet dashboard.",
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
            "How fast is it, and what happens to the rows?",
            "Rows per second: changed, already right, or quarantined. If all are quarantined, pause the run "
            "and look at them before it reaches its limit.",
            Query(record_rate("backfilld_rows_total", RUN), "{{outcome}}"),
            look=Look(
                unit="rowsps",
                least=0,
                names={"unchanged": "right already"},
                colours={"changed": GREEN, "unchanged": BLUE, "quarantined": RED},
            ),
            stacked=True,
        ),
        lines_panel(
            "How many rows are left?",
            "Rows of the walk, rows still ahead of it, and rows read by verify.",
            Query(of_run("backfilld_run_rows"), "in all"),
            Query(of_run("backfilld_run_rows_remaining"), "still to walk"),
            Query(of_run("backfilld_run_rows_verified"), "verified"),
            look=Look(unit="short", least=0),
        ),
        lines_panel(
            "What became of the lines of its file?",
            "Of a run that loads a file: lines whose row was inserted, updated, or as given already; those that are set aside "
            "(`backfilld quarantine list $run`), and those that another line with the same key replaces.",
            Query(of_run("backfilld_load_lines"), "{{outcome}}"),
            look=Look(
                unit="short",
                least=0,
                names={"same": "as given already", "set_aside": "set aside"},
                colours={"inserted": GREEN, "updated": BLUE, "set_aside": RED},
            ),
            stacked=True,
        ),
        lines_panel(
            "How much of its file is in the database?",
            "Of a run that loads a file: its size, and how much of it `backfilld enqueue` has sent. If the second does not rise, "
            "call enqueue again: it goes on from there.",
            Query(of_run("backfilld_load_source_bytes"), "{{part}}"),
            look=Look(unit="bytes", least=0),
        ),
        lines_panel(
            "Do its batches commit?",
            "Batches per second, and those that were rolled back to be retried. If many are retried, the cause "
            "is locks, or sessions that waited for a lock of a batch: `backfilld events $run`.",
            Query(record_rate("backfilld_batches_total", RUN), "{{outcome}}"),
            look=Look(
                unit="ops", least=0, names={"retried": "tried again"}, colours={"committed": GREEN, "retried": ORANGE}
            ),
        ),
        lines_panel(
            "What are its lanes doing?",
            "Lanes of the present walk. Asleep: until their turn, by the pace. Retrying: after an error. If "
            "all of them are retrying, the error holds the run.",
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
            "When was it on hold, and why?",
            "Seconds on hold, by cause; each hold is a ramp that starts at zero.",
            Query(of_run("backfilld_run_held_seconds"), "{{cause}}"),
            look=Look(unit="dtdurations", least=0, names=CAUSES),
        ),
        lines_panel(
            "What did checks of the application find?",
            "Statements that break or lose their index, as planned; statements that still need what contract removes; regressions; "
            "and what is not known. `backfilld explain $run` names each.",
            Query(of_run("backfilld_application_findings"), "{{kind}}"),
            look=Look(
                unit="none",
                least=0,
                decimals=0,
                names={"loses_index": "lose their index", "needed": "need what contract removes"},
                colours={"needed": RED, "regression": ORANGE, "unknown": YELLOW},
            ),
            steps=True,
        ),
        lines_panel(
            "Was its estimate right?",
            "Time left, and time since the phase began. The first should fall as the second rises.",
            Query(of_run("backfilld_run_eta_seconds"), "left"),
            Query(of_run("backfilld_run_phase_seconds"), "in this phase"),
            look=Look(unit="dtdurations", least=0),
        ),
        timeline_panel(
            "Which phases and states has it been in?",
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
    title="Effect on the table, and old values",
    panels=[
        lines_panel(
            "When were rows quarantined?",
            "Quarantined rows, and the number at which the run pauses.",
            Query(of_run("backfilld_quarantined_rows"), "quarantined"),
            Query(of_run("backfilld_quarantine_limit_rows"), "limit"),
            look=Look(unit="short", least=0, colours={"quarantined": ORANGE, "limit": RED}),
            size=(6, 8),
            steps=True,
        ),
        lines_panel(
            "Does the table grow?",
            "Heap and indexes of the tables that are walked, before and now. Growth of more than a fifth means "
            "that vacuum is too slow: look for old transactions, or slow the run down.",
            Query(of_run("backfilld_run_table_bytes"), "{{part}}, {{moment}}"),
            look=Look(
                unit="bytes",
                least=0,
                colours={"heap, before": BLUE, "heap, now": GREEN, "indexes, before": PURPLE, "indexes, now": ORANGE},
            ),
            size=(6, 8),
        ),
        lines_panel(
            "Do its updates avoid index entries?",
            "Share of the changed rows that touched no index. A low share is unavoidable when an index holds "
            "the changed column; otherwise it means that pages are full.",
            Query(of_run("backfilld_run_hot_update_ratio"), "touched no index"),
            look=Look(unit="percentunit", least=0, most=1),
            size=(6, 8),
        ),
        lines_panel(
            "What is kept for a rollback?",
            "Old values of this run, until their retention ends: `backfilld status $run` says when.",
            Query(of_run("backfilld_run_kept_bytes"), "{{kind}}"),
            look=Look(unit="bytes", least=0),
            size=(6, 8),
            stacked=True,
        ),
        lines_panel(
            "How far behind is the other table of a rebuild?",
            "Rows that were written and wait to be brought over, up to 100,000, and for how long the first of them has. The switch "
            "waits until there are few, and so does a rollback; empty without a `rebuild`.",
            Query(of_run("backfilld_run_behind_rows"), "rows"),
            Query(of_run("backfilld_run_behind_seconds"), "seconds"),
            look=Look(unit="short", least=0),
            size=(12, 6),
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
            "The migration's name. To find a run that has ended, choose a time in which it was active.",
        )
    ],
    annotations=state_changes(RUN),
)
