"""What people see: readable at 80 columns and at 120, and never obeying what a database or a file says."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fix_progress import AT, CONDUCTOR, FAILED, HELD, LANE, RUNNING, WAITING
from rich.console import Console

from backfilld.migrations.file.run_settings import RunSettings
from backfilld.migrations.holds import Cause, Hold
from backfilld.migrations.planning.estimate import ColumnOrder, CostEstimate
from backfilld.migrations.planning.plan import Estimate, Plan, PlannedAction, PlannedPhase, TableReport
from backfilld.migrations.planning.summary import StrongLocks, Summary
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.record.model import Changed, Pace, Quarantined
from backfilld.migrations.record.states import LaneKind, Phase, State
from backfilld.migrations.settings import Limits
from backfilld.monitoring import display
from backfilld.monitoring import pace as pace_report
from backfilld.monitoring.after_contract import AfterContract
from backfilld.monitoring.display.story import _SENTENCES
from backfilld.monitoring.progress import OldValuesWalk

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_golden import Golden
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


@pytest.mark.parametrize("shown", [display.block, lambda run: display.overview([run], width=120)])
def test_what_contract_takes_from_the_application_is_told_while_it_waits(
    shown: Callable[[Progress], RenderableType],
) -> None:
    fails = AfterContract(operation=0, fails="an INSERT that leaves out jobs.eur fails", last_seconds=3.4)
    text = " ".join(printed(shown(replace(WAITING, after_contract=(fails,))), 120).split())
    assert "After contract an INSERT that leaves out jobs.eur fails; the last one came 3 s ago" in text


def test_the_overview_puts_first_what_needs_somebody_and_counts_what_is_left_out() -> None:
    done = replace(
        RUNNING, run=20, name="done", state=State.COMPLETED, phase=Phase.DONE, percent=100.0, eta_seconds=None
    )
    waiting = replace(WAITING, run=10, name="waiting")
    text = printed(display.overview([done, RUNNING, HELD, waiting, FAILED], width=80, left_out=1234))
    order = [int(row.split()[0]) for row in text.splitlines()[2:] if row.split()[:1] and row.split()[0].isdecimal()]
    assert order[:5] == [11, 10, 13, 12, 20]
    assert "1 failed · 1 waiting for approval · 2 in progress · 1 ended" in text
    assert "1,234" in text
    assert "backfilld status --all" in " ".join(text.split())
    assert "held" in text
    assert "backfilld explain jobs-new-field" in " ".join(text.split())
    assert "backfilld approve jobs-new-field --phase contract" in " ".join(text.split())


def test_a_narrow_overview_leaves_out_what_the_page_has_too() -> None:
    text = printed(display.overview([HELD, RUNNING], width=60), 60)
    assert max(len(line) for line in text.splitlines()) <= 60
    assert "rows/s" not in text.splitlines()[0]
    assert "45.2 %" in text


@pytest.mark.parametrize("width", [60, 70, 80, 120])
def test_a_long_name_takes_lines_of_its_own_and_leaves_the_columns_where_they_are(width: int) -> None:
    name = "inventory-price-numeric-precision-of-shops"
    lines = printed(display.overview([replace(RUNNING, name=name), RUNNING], width=width), width).splitlines()
    rows = lines[2 : lines.index("")]
    starts = lines[0].index("name")
    shown = [row[starts:].split()[0] for row in rows]
    assert max(map(len, lines)) <= width
    assert "".join(shown[:-1]) == name
    assert all(part.endswith("-") for part in shown[:-2]), "broken where a reader would"
    assert rows[0].index("running") == rows[-1].index("running") == lines[0].index("state")
    assert len(shown) == 2 if width == 120 else len(shown) <= 4


def test_the_page_of_a_run_tells_its_own_story_and_not_that_of_the_pace() -> None:
    own = event("run.enqueued", checksum="sha256:ab")
    person = {**event("all.stopped"), "run": None, "actor": "ann@laptop"}
    pace = {**event("pace.changed", width=2, reason="others"), "run": None, "actor": "worker"}
    text = printed(display.page(RUNNING, [], [own, person, *[pace] * 20]))
    assert ("enqueued it" in text, "stopped, until" in text, "set the pace" in text) == (True, True, False)


def test_an_empty_overview_says_how_to_begin() -> None:
    assert "backfilld enqueue FILE" in printed(display.overview([], width=80))


def test_the_page_says_whether_the_run_can_be_rolled_back() -> None:
    told: dict[str, object] = {"possible": True, "because": None, "kept_until": "2026-05-11T17:45:00+05:45"}
    assert "possible until 2026-05-11 12:00:00 UTC" in printed(
        display.page(replace(FAILED, rollback=told), [], []), 120
    )
    told |= {"possible": False, "because": "2 rows hold values that the old column cannot: 7; 9"}
    assert "not possible: 2 rows hold" in printed(display.page(replace(FAILED, rollback=told), [], []), 120)


def test_the_page_shows_numbers_lanes_errors_and_only_the_newest_events() -> None:
    events = [{**EVENT, "what": f"event.{number:02}"} for number in range(20)]
    text = printed(display.page(replace(FAILED, hot_update_ratio=0.981), [CONDUCTOR, LANE], events), 120)
    for part in (
        "452,000 of about 1,000,000 rows",
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


BACK = replace(RUNNING, state=State.ROLLING_BACK, percent=40.0)
STATUS: dict[str, Progress] = {
    "queued": replace(
        RUNNING,
        phase=Phase.EXPAND,
        state=State.QUEUED,
        rows_done=0,
        rows_walked=0,
        rows_total=None,
        percent=0.0,
        eta_seconds=None,
    ),
    "running": RUNNING,
    "running, some unchanged": replace(RUNNING, rows_done=7),
    "running, more than estimated": replace(
        RUNNING, rows_done=1_100_000, rows_walked=1_100_000, percent=99.9, eta_seconds=None
    ),
    "running, as many as estimated": replace(
        RUNNING, rows_done=1_000_000, rows_walked=1_000_000, percent=99.9, eta_seconds=None
    ),
    "held": replace(HELD, name="orders"),
    "verifying": replace(RUNNING, phase=Phase.VERIFY, percent=100.0, rows_verified=1234),
    "verifying more than there were": replace(RUNNING, phase=Phase.VERIFY, percent=100.0, rows_verified=1_000_001),
    "waiting": WAITING,
    "archiving": replace(
        RUNNING,
        phase=Phase.CONTRACT,
        percent=40.0,
        old_values_walk=OldValuesWalk(kind=LaneKind.ARCHIVE, rows_walked=400, rows_total=1000),
    ),
    "comparing policies": replace(
        RUNNING,
        phase=Phase.VERIFY,
        percent=40.0,
        rows_done=0,
        rows_walked=0,
        rows_total=0,
        personas=3,
        old_values_walk=OldValuesWalk(kind=LaneKind.COMPARE, rows_walked=400, rows_total=1000),
    ),
    "confirming policies": replace(
        RUNNING,
        phase=Phase.SWITCH,
        percent=40.0,
        rows_done=0,
        rows_walked=0,
        rows_total=0,
        personas=1,
        old_values_walk=OldValuesWalk(kind=LaneKind.CONFIRM, rows_walked=400, rows_total=1000),
    ),
    "policies compared": replace(
        WAITING, phase=Phase.SWITCH, rows_done=0, rows_walked=0, rows_total=0, rows_compared=1000, personas=3
    ),
    "verifying nothing": replace(RUNNING, phase=Phase.VERIFY, percent=100.0, rows_done=0, rows_walked=0, rows_total=0),
    "paused": replace(RUNNING, state=State.PAUSED, eta_seconds=None),
    "failed": FAILED,
    "completed": replace(
        RUNNING, phase=Phase.DONE, state=State.COMPLETED, percent=100.0, eta_seconds=None, verified=True
    ),
    "completed, with lines set aside": replace(
        RUNNING, phase=Phase.DONE, state=State.COMPLETED, percent=100.0, eta_seconds=None, load={"set_aside": 2}
    ),
    "restoring": replace(BACK, old_values_walk=OldValuesWalk(kind=LaneKind.RESTORE, rows_walked=400, rows_total=1000)),
    "undoing": replace(BACK, old_values_walk=OldValuesWalk(kind=LaneKind.UNDO, rows_walked=400, rows_total=1000)),
    "rolling back": replace(BACK, percent=0.0, eta_seconds=None),
    "rolled back": replace(RUNNING, phase=Phase.EXPAND, state=State.ROLLED_BACK, percent=100.0, eta_seconds=None),
}


def test_a_run_reads_as_the_golden_file_says(golden: Golden) -> None:
    shown = {case: [display.line(run), *printed(display.block(run), 100).splitlines()] for case, run in STATUS.items()}
    assert golden.holds_cases("status.txt", shown), "look at what `pytest --write-golden` writes, and commit it"


@pytest.mark.parametrize("case", STATUS)
def test_there_are_never_more_rows_than_all_and_never_all_of_them_before_the_end(case: str) -> None:
    for walked, total in re.findall(r"([\d,]+) of (?:about )?([\d,]+)", display.rows(STATUS[case])):
        walked, total = int(walked.replace(",", "")), int(total.replace(",", ""))  # noqa: PLW2901 - the numbers
        assert walked < total or STATUS[case].percent == 100.0


def test_a_run_that_is_rolled_back_shows_no_work_that_is_not_there_any_more() -> None:
    gone = STATUS["rolled back"]
    text = printed(display.page(replace(gone, verified=False), [], []), 120)
    for word in ("expand", "verified", "rows", "%"):
        assert word not in text
    assert "%" not in printed(display.overview([gone], width=120))


def test_the_pace_reads_as_the_golden_file_says_with_the_most_important_signal_first(golden: Golden) -> None:
    readings: dict[str, Any] = {  # as jsonb gives them back: the shorter the name, the sooner
        "queue": {"value": 1.5, "soft": 1, "hard": 2, "detail": "of ann"},
        "connections": {"value": 0.3},
        "blocked_sessions": {"value": None},
        "replica_lag_seconds": {"value": 4.2, "detail": "walreceiver"},
        "snapshot_age_seconds": {"value": 25_000},
        "slot_retained_bytes": {"value": 9 * 2**30},
        "wal_bytes_per_second": {"value": 21_585_920},
    }
    now = Pace(width=2, max_width=8, hold_reason=None, age_seconds=1.0, readings=readings)
    signals = pace_report.signals(now, Limits())
    assert [one.name for one in signals] == [name for name in Limits.model_fields if name in readings] + ["queue"]
    settings = RunSettings(windows=("daily 01:00-05:00 UTC",))
    report = pace_report.PaceReport(
        width=2,
        max_width=8,
        hold_reason="replica lag 42 s, limit 30 s",
        signals=signals,
        run=RUNNING,
        settings=settings,
    )
    changed = replace(
        report,
        changed=(
            Changed(name="nice", before=0.0, after=1.5),
            Changed(name="lanes", before=4, after=4),
            Changed(name="windows", before=[], after=["daily 01:00-05:00 UTC"]),
            Changed(name="width", before=8, after=3),
        ),
    )
    shown = {"shown": display.pace(report), "changed": display.changes(changed)}
    assert golden.holds_cases("pace.txt", shown), "look at what `pytest --write-golden` writes, and commit it"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("replica_lag_seconds", 42.0, "42 s"),
        ("snapshot_age_seconds", 21_600, "6 h 00 min"),
        ("slot_retained_bytes", 2.0**30, "1.0 GB"),
        ("wal_bytes_per_second", 2e8, "191 MB/s"),
        ("dead_tuples", 0.75, "0.75"),
        ("commit_seconds", float("inf"), "inf"),
    ],
)
def test_a_signal_is_in_the_unit_of_its_name(name: str, value: float, text: str) -> None:
    assert display.signal_value(name, value) == text
    assert not display.signal_name(name).endswith(("seconds", "bytes", "second"))


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2000, "2,000 rows")])
def test_one_of_anything_is_not_several(count: int, text: str) -> None:
    assert display.counted(count, "row") == text


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


EVENTS: dict[str, dict[str, Any]] = {  # Any: JSON
    **{
        f"{state} after {before}": event(f"run.{state}", before=before, reason="a reason")
        for before, state in (
            ("queued", "running"),
            ("paused", "running"),
            ("failed", "running"),
            ("waiting", "running"),
            ("running", "waiting"),
            ("running", "pausing"),
            ("pausing", "paused"),
            ("running", "cancelling"),
            ("cancelling", "cancelled"),
            ("running", "rolling_back"),
            ("rolling_back", "rolled_back"),
            ("running", "completed"),
        )
    },
    "failed": event("run.failed", before="running", reason="a reason", error={"message": "boom"}),
    "enqueued": event("run.enqueued", checksum="sha256:" + "ab" * 32),
    "enqueued after others": event(
        "run.enqueued", checksum="sha256:" + "ab" * 32, parameters={"tenant": "5"}, after=["jobs-new-field"]
    ),
    "examined": event("run.examined", warnings=["operations[0].sql: a policy is changed"]),
    "verified": event("run.verified"),
    "residual": event("run.residual", residual_rows=1),
    "residual rows accepted": event("residual.accepted", actor="ann@laptop", rows=8),
    "the application was checked": event(
        "application.checked", moment="after_switch", statements=214, counts={"needed": 2, "unknown": 1}, findings=[]
    ),
    "the application was checked beforehand": event(
        "application.checked", moment="before", statements=1, counts={}, findings=[]
    ),
    "findings were accepted": event("application.accepted", actor="ann@laptop"),
    "verified, with residual rows": event("run.verified", residual_rows=7),
    "phase": event("phase.backfill"),
    "the last phase": event("phase.done"),
    "phase on the way back": event("phase.expand", direction="back"),
    "another pass": {**event("phase.backfill"), "detail": {"pass": 2, "reason": "3 rows still need work"}},
    "read by a worker": event("load.staged", operation=0, lines=3000),
    "read anew by a worker": event("load.restarted", operation=0, lines=800),
    "approved": event("phase.approved", phase="contract"),
    "tuned": event("run.tuned", nice=[0.0, 1.5], windows=[[], ["a", "b"]]),
    "width": event("pace.width", max_width=[8, 3]),
    "pace": event("pace.changed", width=1, batch_seconds=0.1, rest=0.5, reason="lag"),
    "stop": event("all.stopped", run=None),
    "stop lifted": event("all.resumed", run=None),
    "hold": event("hold.began", signal="x", reason="replica lag 41 s, limit 30 s"),
    "hold over": event("hold.ended", signal="x", reason="replica lag 41 s, limit 30 s"),
    "lock waiting": event("lock.waiting", message="waiting for the lock on jobs; held by ann's psql", blockers=[]),
    "lock": event("lock.had", seconds=73.0),
    "blocker cancelled": event("blocker.cancelled", pid=4711, application_name="psql"),
    "blocker ended": event("blocker.ended", pid=4711),
    "gave way": event("batch.gave_way", lane=3, pid=4711, application_name="psql", seconds=0.312),
    "split": event("lane.split", lane=1, rows=1, gives_to=5),
    "rewritten": event("table.rewritten", lane=3),
    "API recorded": event("application.recorded", probes=["my jobs"]),
    "code checked": event(
        "application.code",
        actor="ann@laptop",
        commands=[
            {"name": "edge functions", "passes": False, "fails_from": "contract"},
            {"name": "worker", "passes": True, "fails_from": None},
        ],
    ),
    "archive round": event("archive.round", operation=0, rows=111_026, missing=111_026),
    "archive": event("archive.done", operation=0, rows=1000, changed=3, missing=0),
    "compared": event("compare.done", operation=0, rows=100_000, changed=0, missing=0),
    "confirmed": event("confirm.done", operation=0, rows=1, changed=0, missing=0),
    "unexpected": event(
        "policies.unexpected",
        operation=0,
        phase="switch",
        findings=[{"persona": "ann", "command": "select", "said": "ann sees 12 rows that it could not before"}],
    ),
    "undo": event("undo.done", operation=0, rows=1, changed=1, missing=0),
    "retry": event("quarantine.retry", operations=[0]),
    "verified, with values of the application's": event("run.verified", residual_rows=0, own_values=1204),
    "proof undone": event(
        "proof.void", changes=["the sync trigger ~backfilld_sync_0123456789_000 on jobs has changed"]
    ),
    "asked about rows": event("proof.asked"),
    "purged": event("run.purged", journal_bytes=21_585_920, archive_bytes=0),
    "space": event("space.before", heap_bytes=8192, index_bytes=16_384),
    "index built": event("index.built", index="i", table="jobs", seconds=73.0),
    "index dropped": event("index.dropped", index="i", table="jobs", seconds=0.2),
    "partitions made": event(
        "partitions.made", table="public.events", partitions=["events_2027_01", "events_2027_02"], reaches="2027-03-01"
    ),
    "partitions ended": event("partitions.ended", table="public.events"),
    "backup gate": event("backup.gate", backup=3, required="verified", level="proved", lsn="0/15F3A98"),
    "backup wal": event("backup.wal", error="pg_receivewal ended with 1: it was away"),
    "backup failed": event("backup.failed", step="take", error="store west: away"),
    "index invalid": event("index.left_invalid", index="i", table="jobs"),
    "a kind of another release": event("moon.rose", phase="full", empty=None),
    "a detail of another release": event("batch.gave_way", who="psql"),
    "another detail of another release": event("run.tuned", nice=3),
}


def test_each_kind_of_event_reads_as_the_golden_file_says(golden: Golden) -> None:
    shown = {case: display.sentence(told) for case, told in EVENTS.items()}
    assert golden.holds_cases("story.txt", shown), "look at what `pytest --write-golden` writes, and commit it"


def test_every_kind_with_a_sentence_is_in_the_golden_file() -> None:
    assert {*_SENTENCES} <= {told["what"] for told in EVENTS.values()}
    assert {told["what"] for told in EVENTS.values()} >= {
        f"run.{state}" for state in State if state is not State.QUEUED
    }


@pytest.mark.parametrize(
    "case", ["a kind of another release", "a detail of another release", "another detail of another release"]
)
def test_what_another_release_wrote_is_shown_by_its_name(case: str) -> None:
    assert display.sentence(EVENTS[case]).startswith(EVENTS[case]["what"])


@pytest.mark.parametrize("state", ["pausing", "cancelling", "rolling_back"])
def test_what_a_person_asked_for_is_told_by_the_state_and_not_by_its_reason(state: str) -> None:
    asked = [
        display.sentence(event(f"run.{state}", before="running", reason=reason)) for reason in ("x", "", "asked to y")
    ]
    assert len(set(asked)) == 1


def test_the_story_names_each_day_once_and_marks_what_was_of_all_runs() -> None:
    later = AT.replace(day=5)
    text = printed(
        display.story(
            [
                event("run.pausing", actor="ann@laptop", reason="asked to pause"),
                event("all.stopped", actor="bob@[red]", run=None),
                {**event("run.running", before="paused"), "at": later},
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
                moved_ratio=0.125,
                correlations=(ColumnOrder(column="id", before=1.0, after=0.77),),
            ),
            CostEstimate(
                walk="ordered",
                because="the table is clustered on jobs_id",
                stripes=1,
                heap_growth_bytes=120 * 2**20,
                index_growth_bytes=40 * 2**20,
                wal_bytes=500 * 2**20,
                moved_ratio=1.0,
                correlations=(ColumnOrder(column="id", before=1.0, after=1.0),),
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
        summary=Summary(
            strong_locks=(
                StrongLocks(lock=LockMode.ACCESS_EXCLUSIVE, hold="unknown", known="by rule", transactions=2),
            ),
            heap_growth_bytes=132 * 2**20,
            index_growth_bytes=0,
            wal_bytes=300 * 2**20,
            usable_after_gate=("jobs.new_field",),
            fails=("after contract an INSERT that leaves out jobs.new_field fails",),
            approvals=(Phase.CONTRACT,),
            risks={"high": 1, "low": 2},
        ),
        warnings=("every changed row is sent on",),
        findings=findings,
    )


def test_a_plan_shows_the_table_each_statement_with_its_lock_and_what_to_know() -> None:
    text = printed(display.plan(plan()), 120)
    for part in (
        "jobs  1,000,000 rows · 120 MB · indexes 40 MB · key tenant, id",
        "by pages, in 16 rounds",
        "about 1 row in 8 moves to the end of the table; correlation of id 1.00 → about 0.77",
        "by pages in their order, by one lane, because the table is clustered on jobs_id",
        "all rows move to new pages; correlation of id 1.00 → about 1.00",
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


def test_a_plan_opens_with_a_summary() -> None:
    text = " ".join(printed(display.plan(plan()), 200).split())
    assert text.index("summary") < text.index("ALTER TABLE")
    for part in (
        "stops writes 2 transactions with ACCESS EXCLUSIVE, unknown (by rule)",
        "grows heap by about 132 MB, about 300 MB of WAL",
        "usable once its gate is open jobs.new_field",
        "deploy in time after contract an INSERT that leaves out jobs.new_field fails",
        "waits for approval contract",
        "risks 1 high, 2 low",
    ):
        assert part in text


def test_a_refused_plan_says_why_and_what_to_do_and_promises_nothing() -> None:
    remedy = "Use a role with BYPASSRLS, or these lines:\nname: x\noperations:\n  - sql:"
    finding = {"check": "row_security", "problem": "rows would be hidden", "remedy": remedy}
    text = printed(display.plan(plan(findings=(finding,))))
    assert "refused  rows would be hidden." in text
    # A file to copy: each of its lines is as far in as the first.
    first, *lines = (line.rstrip() for line in text[text.index("Use a role") :].splitlines())
    indent = lines[0][: lines[0].index("name")]
    assert (first, lines[:3]) == (remedy.splitlines()[0], [f"{indent}{line}" for line in remedy.splitlines()[1:]])
    assert "batches" not in text
    assert "warning" not in text, "of what it would do, which it will not"


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
        kept=None,
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
    nobody = Hold(cause=Cause.WORKERS, reason="no worker is running for this database", seconds=9.0)
    held = replace(RUNNING, phase=Phase.VERIFY, state=State.PAUSED, hold=nobody, hold_reason=nobody.reason)
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
            (32.3, replace(moving[4], phase=Phase.VERIFY, state=State.PAUSED)),  # silence for ever could mean anything
            (32.4, held),  # what holds it is news too
        ]:
            clock.now = 100.0 + seconds
            watch.show([progress])
    expected = [
        display.line(moving[0]),
        display.line(moving[3]),
        display.line(replace(moving[4], phase=Phase.VERIFY)),
        display.line(replace(moving[4], phase=Phase.VERIFY, state=State.PAUSED)),
        display.line(replace(moving[4], phase=Phase.VERIFY, state=State.PAUSED)),
        display.line(held),
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
