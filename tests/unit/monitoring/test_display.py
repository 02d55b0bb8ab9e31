"""What people see: readable at 80 columns and at 120, and never obeying what a database or a file says."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fix_progress import AT, CONDUCTOR, FAILED, HELD, LANE, RUNNING, WAITING
from rich.console import Console

from backfilld.migrations.planning.estimate import CostEstimate
from backfilld.migrations.planning.plan import Estimate, Plan, PlannedAction, PlannedPhase, TableReport
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.record.model import Quarantined
from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring import display

if TYPE_CHECKING:
    from rich.console import RenderableType

    from backfilld.monitoring.progress import Progress

EVENT: dict[str, Any] = {
    "event": 1,
    "at": AT,
    "run": 12,
    "actor": "ann@laptop",
    "what": "run.failed",
    "detail": {"before": "running", "error": {"class": "fatal", "message": "boom [red]"}},
}


def printed(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return _text(console)


def _text(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "renderable",
    [
        pytest.param(lambda width: display.overview([HELD, RUNNING, FAILED, WAITING], width=width), id="overview"),
        pytest.param(lambda _: display.page(FAILED, [CONDUCTOR, LANE], [EVENT] * 20), id="page"),
        pytest.param(lambda _: display.block(HELD), id="block"),
        pytest.param(lambda _: display.plan(plan()), id="plan"),
    ],
)
def test_nothing_is_wider_than_the_terminal_or_cut_off(
    renderable: Any, width: int
) -> None:  # Any: a lambda of the table
    text = printed(renderable(width), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text


def test_every_state_has_a_style() -> None:
    assert set(display.STYLES) == set(State)


@pytest.mark.parametrize(
    "told", [display.line(FAILED), printed(display.page(FAILED, [], [])), printed(display.overview([FAILED], width=80))]
)
def test_what_a_database_says_is_shown_and_not_obeyed(told: str) -> None:
    shown = " ".join(told.split())  # a table may break the line
    assert "no function [bold]foo[/bold] \\x1b[31mHINT\\x07" in shown
    assert not any(ord(c) < 32 and c != "\n" for c in told)


def test_the_overview_says_a_shared_hold_once() -> None:
    other = replace(HELD, run=14, quarantined=0)
    text = printed(display.overview([other, HELD], width=80))
    assert text.count("replica lag 4.2 s, limit 2 s") == 1
    assert "runs 14, 13" in text


def test_the_overview_puts_first_what_needs_somebody_and_counts_what_is_left_out() -> None:
    done = replace(
        RUNNING, run=20, name="done", state=State.COMPLETED, phase=Phase.DONE, percent=100.0, eta_seconds=None
    )
    waiting = replace(WAITING, run=10, name="waiting")
    text = printed(display.overview([done, RUNNING, HELD, waiting, FAILED], width=80, left_out=1234))
    order = [int(row.split()[0]) for row in text.splitlines()[2:] if row.split()[:1] and row.split()[0].isdecimal()]
    assert order[:5] == [11, 10, 13, 12, 20]
    assert "1 failed · 1 waiting for approval · 2 going on · 1 ended" in text
    assert "1,234 that ended before are not shown: backfilld status --all" in " ".join(text.split())
    assert "held" in text
    assert "backfilld explain jobs-new-field" in " ".join(text.split())
    assert "backfilld approve jobs-new-field --phase contract" in " ".join(text.split())


def test_a_narrow_overview_leaves_out_what_the_page_has_too() -> None:
    text = printed(display.overview([HELD, RUNNING], width=60), 60)
    assert max(len(line) for line in text.splitlines()) <= 60
    assert "rows/s" not in text.splitlines()[0]
    assert "45.2 %" in text


def test_an_empty_overview_says_how_to_begin() -> None:
    assert "backfilld enqueue FILE" in printed(display.overview([], width=80))


def test_the_page_says_whether_the_run_can_be_rolled_back() -> None:
    told: dict[str, object] = {"possible": True, "because": None, "kept_until": "2026-05-11T12:00:00+00:00"}
    assert "possible until 2026-05-11 12:00:00 UTC" in printed(
        display.page(replace(FAILED, rollback=told), [], []), 120
    )
    told |= {"possible": False, "because": "2 rows hold what the old column cannot: 7; 9"}
    assert "not possible: 2 rows hold" in printed(display.page(replace(FAILED, rollback=told), [], []), 120)


def test_the_page_shows_numbers_lanes_errors_and_only_the_newest_events() -> None:
    events = [{**EVENT, "what": f"event.{number:02}"} for number in range(20)]
    text = printed(display.page(replace(FAILED, hot_update_ratio=0.981), [CONDUCTOR, LANE], events), 120)
    for part in (
        "452,000 of 1,000,000 rows",
        "45.2 %",
        "98.1%",
        "42883",
        "123,456",
        "120,000",
        "event.19",
        "error boom [red]",
    ):
        assert part in text
    assert "event.11" not in text
    assert "coordinator" not in text


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (
            RUNNING,
            "jobs-new-field (run 12): backfill running, 45.2 %, 452,000 of 1,000,000 rows, 12,346 rows/s, width 3, 44 s left",
        ),
        (
            replace(RUNNING, state=State.QUEUED, rows_total=None, eta_seconds=None),
            "jobs-new-field (run 12): backfill queued",
        ),
        (
            replace(RUNNING, rows_done=7, eta_seconds=None, quarantined=3, hold_reason="replica lag 4.2 s"),
            (
                "jobs-new-field (run 12): backfill running, 45.2 %, 452,000 of 1,000,000 rows, 7 changed, 12,346 rows/s, "
                "width 3, 3 quarantined, hold: replica lag 4.2 s"
            ),
        ),
        (
            replace(RUNNING, phase=Phase.DONE, state=State.COMPLETED, percent=100.0, eta_seconds=None),
            "jobs-new-field (run 12): completed, 100.0 %, 452,000 of 1,000,000 rows",
        ),
        (
            replace(RUNNING, phase=Phase.VERIFY, percent=100.0, rows_verified=1234),
            "jobs-new-field (run 12): verify running, 100.0 %, 1,234 of 1,000,000 rows verified, 12,346 rows/s, width 3, 44 s left",
        ),
        (
            WAITING,
            (
                "jobs-new-field (run 12): contract waiting, 100.0 %, 452,000 of 1,000,000 rows, "
                "waiting for approval of contract: backfilld approve jobs-new-field --phase contract"
            ),
        ),
    ],
)
def test_a_run_on_one_line(progress: Progress, line: str) -> None:
    assert display.line(progress) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (601, "10 min"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float | None, text: str) -> None:
    assert display.duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 kB"), (456 * 1024, "456 kB"), (1.25 * 2**40, "1.2 TB"), (None, "?")],
)
def test_sizes_are_in_the_units_of_postgres(amount: float | None, text: str) -> None:
    assert display.size(amount) == text


# --- the story ---------------------------------------------------------------------------------------------------------


def event(what: str, *, actor: str = "worker", run: int | None = 12, **detail: Any) -> dict[str, Any]:  # Any: JSON
    return {"event": 1, "at": AT, "run": run, "actor": actor, "what": what, "detail": detail}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (event("run.enqueued", checksum="sha256:" + "ab" * 32), "enqueued it, checksum abababababab"),
        (event("run.pausing", before="running", reason="asked to pause"), "asked to pause"),
        (event("run.paused", before="pausing", reason="no batch is in flight"), "paused: no batch is in flight"),
        (event("run.running", before="queued", reason="the first step"), "began to work"),
        (event("run.waiting", before="running", reason="contract waits for approval"), "contract waits for approval"),
        (event("run.failed", before="running", error={"message": "boom"}), "failed: boom"),
        (event("phase.backfill"), "phase backfill began"),
        (event("phase.done"), "every phase is over"),
        (event("phase.expand", direction="back"), "phase expand is being taken back"),
        (
            {**event("phase.backfill"), "detail": {"pass": 2, "reason": "3 rows still need work"}},
            "the data is walked once more (pass 2): 3 rows still need work",
        ),
        (event("phase.approved", phase="contract"), "approved phase contract"),
        (event("run.tuned", nice=[0.0, 1.5], windows=[[], ["a", "b"]]), "set nice 0 → 1.5, windows none → a; b"),
        (event("pace.width", max_width=[8, 3]), "set the width of the database 8 → 3"),
        (event("hold.began", signal="x", reason="replica lag 41 s, limit 30 s"), "held: replica lag 41 s, limit 30 s"),
        (event("lock.waiting", message="ann's psql holds jobs", blockers=[]), "lock waiting: ann's psql holds jobs"),
        (
            event("batch.gave_way", lane=3, pid=4711, application_name="psql", seconds=0.312),
            "a batch of lane 3 gave way to session 4711 (psql), which had waited 0.31 s",
        ),
        (
            event("pace.changed", width=3, batch_seconds=0.1, rest=0.5, reason="lag"),
            "the pace is now width 3, batches of 0.1 s at most, 0.5 s of rest for each second of work: lag",
        ),
        (
            event("archive.done", operation=0, rows=1000, changed=3, missing=0),
            "the walk for archive is over: 1,000 rows looked at, 3 changed",
        ),
        # Another version's kind, and another version's detail of a kind that is known.
        (event("moon.rose", phase="full", empty=None), "moon.rose: phase full"),
        (event("batch.gave_way", who="psql"), "batch.gave_way: who psql"),
        (event("run.tuned", nice=3), "run.tuned: nice 3"),
    ],
)
def test_every_kind_of_event_is_a_sentence(told: dict[str, Any], sentence: str) -> None:
    assert display.sentence(told) == sentence


def test_the_story_names_each_day_once_and_marks_what_was_of_all_runs() -> None:
    later = AT.replace(day=5)
    text = printed(
        display.story(
            [
                event("run.pausing", actor="ann@laptop", reason="asked to pause"),
                event("all.stopped", actor="bob@[red]", run=None),
                {**event("run.running", reason="asked to resume"), "at": later},
            ]
        )
    )
    assert text.splitlines()[0] == "Monday, 2026-05-04 (UTC)"
    assert text.count("(UTC)") == 2
    assert "12:00:00  ann@laptop  asked to pause" in text
    assert "bob@[red]   all runs: stopped, until backfilld resume --all" in text
    assert printed(display.story([])) == ""


def test_an_explanation_ends_in_what_helps() -> None:
    text = printed(
        display.explanation(
            "jobs (run 1)", ["It waits for [you]."], ["say so: backfilld approve jobs --phase contract"]
        )
    )
    assert "It waits for [you]." in text
    assert "> say so: backfilld approve jobs --phase contract" in text
    shown = display.remedy("say so: backfilld approve jobs")
    assert [(shown.plain[span.start : span.end], span.style) for span in shown.spans] == [
        ("backfilld approve jobs", "green")
    ]


# --- plan and quarantine -----------------------------------------------------------------------------------------------


def plan(*, findings: tuple[dict[str, str], ...] = ()) -> Plan:
    body = "CREATE FUNCTION f() RETURNS trigger AS $$\nBEGIN\n  RETURN NEW;\nEND $$"
    expand = PlannedPhase(
        phase=Phase.EXPAND,
        actions=(
            PlannedAction(
                sql='ALTER TABLE "jobs" ADD COLUMN "new_field" text',
                lock=LockMode.ACCESS_EXCLUSIVE,
                note="for milliseconds",
            ),
            PlannedAction(sql=body, lock=LockMode.NONE, note=""),
        ),
        waits_for_approval=False,
    )
    contract = PlannedPhase(
        phase=Phase.CONTRACT,
        actions=(PlannedAction(sql='DROP TRIGGER "t" ON "jobs"', lock=LockMode.ACCESS_EXCLUSIVE, note=""),),
        waits_for_approval=True,
    )
    switch = PlannedPhase(phase=Phase.SWITCH, actions=(), waits_for_approval=False)
    table = TableReport(
        name="jobs",
        rows=1_000_000,
        heap_bytes=120 * 2**20,
        index_bytes=40 * 2**20,
        key=("tenant", "id"),
        triggers=("audit [red]",),
        publications=("supabase_realtime",),
        dependents=("view open_jobs",),
        walks=(
            CostEstimate(
                walk="pages",
                because="",
                stripes=16,
                heap_growth_bytes=12 * 2**20,
                index_growth_bytes=2 * 2**20,
                wal_bytes=300 * 2**20,
            ),
            CostEstimate(
                walk="keys",
                because="the expression reads [n], which it sets",
                stripes=1,
                heap_growth_bytes=120 * 2**20,
                index_growth_bytes=40 * 2**20,
                wal_bytes=500 * 2**20,
            ),
        ),
        notes=("never analyzed",),
    )
    return Plan(
        name="jobs-new-field",
        checksum="sha256:" + "ab" * 32,
        phases=() if findings else (expand, switch, contract),
        tables=(table,),
        estimate=Estimate(rows=1_000_000, batches=134, seconds=66.7),
        warnings=("every changed row is sent on",),
        findings=findings,
    )


def test_a_plan_shows_the_table_each_statement_with_its_lock_and_what_to_know() -> None:
    text = printed(display.plan(plan()), 120)
    for part in (
        "jobs  1,000,000 rows · 120 MB · indexes 40 MB · key tenant, id",
        "by pages, in 16 rounds",
        "heap by about 12 MB (+10%), indexes by about 2.0 MB (+5%); about 300 MB of WAL",
        "by key, because the expression reads [n], which it sets",
        "audit [red]",
        "supabase_realtime",
        "view open_jobs",
        "never analyzed",
        'ALTER TABLE "jobs" ADD COLUMN "new_field" text',
        "lock ACCESS EXCLUSIVE: for milliseconds",
        "    RETURN NEW;",
        "switch  nothing to do",
        "contract  waits for approval",
        "About 1,000,000 rows in 134 batches",
        "1 min 07 s",
        "warning  every changed row is sent on",
    ):
        assert part in text
    assert "refused" not in text


def test_a_refused_plan_says_why_and_what_to_do_and_promises_nothing() -> None:
    finding = {"check": "row_security", "problem": "rows would be hidden", "remedy": "Use a role with BYPASSRLS"}
    text = printed(display.plan(plan(findings=(finding,))))
    assert "refused  rows would be hidden." in text
    assert "Use a role with BYPASSRLS" in text
    assert "batches" not in text


def test_the_quarantine_shows_which_rows_and_why() -> None:
    row = Quarantined(
        quarantine=1,
        run=12,
        operation=0,
        relation="jobs",
        key=("4711", "a"),
        sqlstate="22P02",
        error="invalid input [bold]",
        retry=True,
        attempts=2,
        quarantined_at=AT,
    )
    text = printed(display.quarantine([row]))
    for part in ("jobs", "4711, a", "22P02", "invalid input [bold]", "2, retry"):
        assert part in text
    assert "no rows" in printed(display.quarantine([]))


# --- watching ----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_there_is_a_line_every_two_seconds_and_one_for_each_change() -> None:
    console, clock = Console(file=io.StringIO(), width=80), Clock()
    moving = [replace(RUNNING, rows_done=number, rows_walked=number) for number in range(6)]
    with display.Watch(console, clock=clock) as watch:
        for seconds, progress in [
            (0.0, moving[0]),
            (0.5, moving[1]),  # too soon
            (1.9, moving[2]),  # still
            (2.0, moving[3]),
            (2.1, replace(moving[4], phase=Phase.VERIFY)),  # news does not wait
            (2.2, replace(moving[4], phase=Phase.VERIFY, state=State.PAUSED)),
            (9.0, replace(moving[4], phase=Phase.VERIFY, state=State.PAUSED)),  # nothing new
        ]:
            clock.now = 100.0 + seconds
            watch.show([progress])
    expected = [
        display.line(moving[0]),
        display.line(moving[3]),
        display.line(replace(moving[4], phase=Phase.VERIFY)),
        display.line(replace(moving[4], phase=Phase.VERIFY, state=State.PAUSED)),
    ]
    assert _text(console).splitlines() == expected
    assert "\x1b" not in _text(console)


def test_runs_are_throttled_each_for_itself() -> None:
    console, clock = Console(file=io.StringIO(), width=80), Clock()
    with display.Watch(console, clock=clock) as watch:
        watch.show([RUNNING])
        watch.show([RUNNING, HELD])
    assert _text(console).splitlines() == [display.line(RUNNING), display.line(HELD)]


def test_lines_may_be_asked_for_in_a_terminal_too() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with display.Watch(console, plain=True) as watch:
        watch.show([RUNNING])
    assert _text(console) == display.line(RUNNING) + "\n"


def test_in_a_terminal_the_view_is_redrawn_and_the_cursor_comes_back() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with display.Watch(console) as watch:
        watch.show([RUNNING])
        watch.show([replace(RUNNING, percent=46.0), HELD])
    text = _text(console)
    assert "45.2 %" in text
    assert "46.0 %" in text
    assert "hold  replica lag 4.2 s, limit 2 s" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
