"""What people see in a terminal: tables, the page of one run, a plan, and the live view of `watch`.

Everything here takes values and gives back something `rich` can print; nothing reads the database. Names and messages come
from databases and files, so they are shown as they are, never read as markup and never sent raw to the terminal.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from migrations.errors import Finding
from migrations.states import Phase, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from rich.console import Console, RenderableType

    from migrations.model import Lane, Quarantined
    from migrations.plan import Estimate, Plan, PlannedPhase, TableReport
    from migrations.risks import Risk
    from migrations.walks.forecast import Forecast
    from monitoring.pace import Changed, PaceReport
    from monitoring.progress import Progress

#: Without a terminal, at most one line per run in this time, unless its state or phase changed: logs are kept and read.
LINE_EVERY_SECONDS = 2.0
#: A page ends with the newest events; `backfilld events` has them all.
EVENTS_ON_A_PAGE = 8
#: Below this, a table of runs leaves out what the page of a run has too.
WIDE = 110

STYLES: dict[State, str] = {
    State.QUEUED: "cyan",
    State.RUNNING: "green",
    State.WAITING: "yellow",
    State.PAUSING: "yellow",
    State.PAUSED: "yellow",
    State.CANCELLING: "yellow",
    State.CANCELLED: "dim",
    State.ROLLING_BACK: "yellow",
    State.ROLLED_BACK: "dim",
    State.FAILED: "bold red",
    State.COMPLETED: "bold green",
}


# --- words and numbers -------------------------------------------------------------------------------------------------


def safe(value: object) -> str:
    """Text of a user's on one line, with nothing in it that a terminal would obey."""
    return "".join(
        c if c.isprintable() else " " if c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in str(value)
    )


def cell(value: object) -> Text:
    """The same for a table: a bare str in one would be read as markup."""
    return Text(safe(value))


def number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Two units at most: 44 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def size(amount: float | None) -> str:
    """Bytes, in the units PostgreSQL uses."""
    if amount is None:
        return "?"
    value = float(amount)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.1f} {unit}" if 0 < value < 10 and unit != "B" else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


def moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def rate(progress: Progress) -> str:
    return f"{number(progress.rows_per_second)} rows/s"


def rows(progress: Progress) -> str:
    """What has been passed over and what was changed; one number where they agree."""
    if progress.rows_total is None:
        return f"{number(progress.rows_done)} rows"
    walked = f"{number(progress.rows_walked)} of {number(progress.rows_total)} rows"
    if progress.phase is Phase.VERIFY:
        return f"{number(progress.rows_verified)} of {number(progress.rows_total)} rows verified"
    return walked if progress.rows_done == progress.rows_walked else f"{walked}, {number(progress.rows_done)} changed"


def line(progress: Progress) -> str:
    """A run on one line, for logs: no colour, no control character."""
    standing = [str(progress.state)] if progress.phase is Phase.DONE else [str(progress.phase), str(progress.state)]
    parts = [f"{progress.name} (run {progress.run}): {' '.join(standing)}"]
    if progress.rows_total is not None:
        parts += [f"{progress.percent:.1f} %", rows(progress)]
    if progress.state is State.RUNNING:
        parts += [rate(progress), f"width {progress.width}"]
    if progress.eta_seconds is not None:
        parts.append(f"{duration(progress.eta_seconds)} left")
    if progress.index_work is not None:
        parts.append(progress.index_work.in_words)
    if progress.quarantined:
        parts.append(f"{number(progress.quarantined)} quarantined")
    if progress.hold_reason and not progress.index_work:
        parts.append(progress.hold_reason if progress.state is State.WAITING else f"hold: {progress.hold_reason}")
    if progress.state in {State.FAILED, State.PAUSED} and progress.errors:
        parts.append(f"error: {progress.errors[0]['message']}")
    return safe(", ".join(parts))


# --- one run -----------------------------------------------------------------------------------------------------------


def block(progress: Progress) -> RenderableType:
    """A run in four or five lines, as `watch` shows it."""
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(ratio=1, overflow="fold")
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        Text.assemble((safe(progress.name), "bold"), (f"  run {progress.run}", "dim")),
        Text.assemble(
            *(() if progress.phase is Phase.DONE else ((str(progress.phase), "cyan"), (" · ", "dim"))),
            (str(progress.state), STYLES[progress.state]),
        ),
    )
    return Group(head, _bar(progress), _numbers(progress), *_remarks(progress))


def page(
    progress: Progress,
    lanes: Sequence[Lane],
    events: Sequence[Mapping[str, Any]],  # Any: columns of the audit
) -> RenderableType:
    """All about one run."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("phase", _phases(progress))
    facts.add_row("verified", _verified(progress))
    if progress.hot_update_ratio is not None:
        facts.add_row("HOT updates", f"{progress.hot_update_ratio:.1%}")
    if progress.space is not None and "after" in progress.space:
        facts.add_row("size", _sizes(progress.space["before"], progress.space["after"]))
    if progress.rollback is not None and progress.state is not State.ROLLED_BACK:
        facts.add_row("rollback", _way_back(progress.rollback))
    facts.add_row("created", f"{moment(progress.created_at)} UTC")
    facts.add_row("last moved", f"{moment(progress.updated_at)} UTC")
    parts: list[RenderableType] = [block(progress), Text(), facts]
    if progress.errors:
        parts += [Text(), _title("errors"), _error_table(progress)]
    walking = [lane for lane in lanes if lane.kind != "conductor"]
    if walking:
        parts += [Text(), _title("lanes"), lane_table(walking)]
    if events:
        parts += [Text(), _title("last events"), event_table(events[-EVENTS_ON_A_PAGE:])]
    return Group(*parts)


def _way_back(rollback: Mapping[str, Any]) -> Text:  # Any: JSON
    """Whether the run can still be rolled back, and what is in the way."""
    if not rollback["possible"]:
        return Text(f"not possible: {rollback['because']}", style="yellow")
    until = rollback["kept_until"]
    return Text(f"possible until {moment(datetime.fromisoformat(until))} UTC" if until else "possible")


def _sizes(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """What the walk made of the tables and their indexes."""
    return ", ".join(
        f"{what} {size(before[part])} > {size(after[part])}"
        + (f" ({after[part] / before[part] - 1:+.0%})" if before[part] else "")
        for what, part in (("heap", "heap_bytes"), ("indexes", "index_bytes"))
    )


def _bar(progress: Progress) -> RenderableType:
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    style = "red" if progress.state is State.FAILED else "yellow" if progress.state in _STOPPED else "green"
    bar.add_row(
        ProgressBar(total=100, completed=progress.percent, complete_style=style, finished_style=style),
        Text(f"{progress.percent:.1f} %"),
    )
    return bar


_STOPPED = frozenset({State.PAUSED, State.PAUSING, State.CANCELLING, State.CANCELLED, State.ROLLED_BACK})


def _numbers(progress: Progress) -> Text:
    parts = [rows(progress)]
    if progress.state is State.RUNNING:
        parts.append(rate(progress))
        if progress.eta_seconds is not None:
            parts.append(f"{duration(progress.eta_seconds)} left")
        parts.append(f"{progress.lanes} lanes, width {progress.width}")
    return Text(" · ".join(parts))


def _remarks(progress: Progress) -> list[Text]:
    """What a person should know or do, one line each."""
    remarks = []
    if progress.index_work is not None:
        remarks.append(Text.assemble(("index ", "cyan"), safe(progress.index_work.in_words)))
    elif progress.hold_reason:
        mark = "" if progress.state is State.WAITING else "hold  "
        remarks.append(Text.assemble((mark, "yellow"), safe(progress.hold_reason)))
    if progress.state in {State.FAILED, State.PAUSED}:
        remarks += [Text.assemble(("error ", "red"), safe(error["message"])) for error in progress.errors[:1]]
    if progress.quarantined:
        rows_ = "row" if progress.quarantined == 1 else "rows"
        remarks.append(
            Text.assemble(
                (f"{number(progress.quarantined)} {rows_} quarantined", "yellow"),
                (f": backfilld quarantine list {safe(progress.name)}", "dim"),
            )
        )
    return remarks


def _phases(progress: Progress) -> Text:
    words = []
    for phase in Phase:
        done = progress.phase.is_past(phase) or progress.state is State.COMPLETED
        words.append((str(phase), "bold" if phase is progress.phase else "green" if done else "dim"))
    return Text(" > ", style="dim").join(Text(word, style=style) for word, style in words)


def _verified(progress: Progress) -> Text:
    if progress.verified:
        return Text("yes, no row needs work", style="green")
    if progress.residual_rows:
        return Text(f"no, {number(progress.residual_rows)} rows still needed work", style="yellow")
    return Text("not yet")


def _error_table(progress: Progress) -> Table:
    table = _plain_table("lane", "class", "SQLSTATE", "message")
    for error in progress.errors:
        table.add_row(
            *(
                cell(error.get(key) if error.get(key) is not None else "")
                for key in ("lane", "class", "sqlstate", "message")
            )
        )
    return table


def lane_table(lanes: Iterable[Lane]) -> Table:
    table = _plain_table("lane", "kind", "table", "state", "walked", "changed", "batches", "retried", right=range(4, 8))
    for lane in lanes:
        state = "done" if lane.done_at is not None else "retrying" if lane.attempts else "open"
        table.add_row(
            str(lane.lane),
            lane.kind,
            cell(lane.relation),
            Text(state, style={"done": "dim", "retrying": "yellow"}.get(state, "")),
            number(lane.rows_walked),
            number(lane.rows_changed),
            number(lane.batches_committed),
            number(lane.batches_retried),
        )
    return table


def event_table(events: Iterable[Mapping[str, Any]]) -> Table:  # Any: columns of the audit
    table = _plain_table("at (UTC)", "who", "what", "detail")
    for event in events:
        detail = {key: value for key, value in event["detail"].items() if value not in (None, "", {}, [])}
        table.add_row(
            moment(event["at"]),
            cell(event["actor"]),
            cell(event["what"]),
            cell(", ".join(f"{key} {_told_short(value)}" for key, value in detail.items())),
        )
    return table


def _told_short(value: object) -> str:
    """A value of an event's detail in few words; `events --json` has all of it."""
    match value:
        case dict():
            return (
                str(value["message"]) if "message" in value else " ".join(f"{key}={one}" for key, one in value.items())
            )
        case list():
            return " ".join(str(one) for one in value)
        case str() if value.startswith("sha256:"):
            return value.removeprefix("sha256:")[:12]
        case _:
            return str(value)


# --- pace --------------------------------------------------------------------------------------------------------------


def changes(report: PaceReport) -> list[str]:
    """What was set, with what it was before: first of the run, then of the database."""
    of_run = [one for one in report.changed if one.name != "width"]
    of_database = [one for one in report.changed if one.name == "width"]
    told = []
    if report.run and of_run:
        changed = ", ".join(f"{one.name} {_before_and_after(one)}" for one in of_run)
        told.append(f"{report.run.name} (run {report.run.run}): {changed}, from the next batch on")
    told += [f"database: width at most {_before_and_after(one)}, for all runs" for one in of_database]
    return told


def pace(report: PaceReport) -> list[str]:
    """The pace of the database with what it is made of, and the settings of the run."""
    held = f", hold: {report.hold_reason}" if report.hold_reason else ""
    told = [f"database: width {report.width} of at most {report.max_width}{held}"]
    for signal in report.signals:
        value = "cannot be read" if signal.value is None else f"{signal.value:.3g}"
        detail = f" ({signal.detail})" if signal.detail else ""
        slower = f", slower from {signal.soft:g}" if signal.soft is not None else ""
        stops = f", held from {signal.hard:g}" if signal.hard is not None else ""
        told.append(f"  {signal.name.replace('_', ' ')}: {value}{detail}{slower}{stops}")
    if report.run and report.settings:
        settings = report.settings.model_dump(mode="json", exclude={"approve", "journal", "retention_days"})
        told.append(f"{report.run.name} (run {report.run.run}):")
        told += [f"  {name}: {_setting(value)}" for name, value in settings.items()]
    return told


def _before_and_after(one: Changed) -> str:
    if one.before == one.after:
        return f"{_setting(one.after)} (as it was)"
    return f"{_setting(one.before)} → {_setting(one.after)}"


def _setting(value: object) -> str:
    match value:
        case list():
            return "; ".join(str(one) for one in value) or "any time"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


# --- many runs ---------------------------------------------------------------------------------------------------------


def overview(runs: Sequence[Progress], *, width: int) -> RenderableType:
    """Every run on a line, newest first; below, what holds them, what they failed of, and which rows are set aside."""
    if not runs:
        return Text("no runs yet: backfilld enqueue FILE", style="dim")
    wide = width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False)
    table.add_column("run", justify="right", no_wrap=True)
    table.add_column("name", ratio=1, overflow="fold")
    table.add_column("phase", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("rows/s", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    if wide:
        table.add_column("rows changed", justify="right", no_wrap=True)
        table.add_column("last moved (UTC)", no_wrap=True)
    for progress in runs:
        cells: list[RenderableType] = [
            str(progress.run),
            cell(progress.name),
            str(progress.phase),
            Text(str(progress.state), style=STYLES[progress.state]),
            f"{progress.percent:.1f} %",
            number(progress.rows_per_second) if progress.state is State.RUNNING else "",
            duration(progress.eta_seconds) if progress.eta_seconds is not None else "",
        ]
        if wide:
            cells += [number(progress.rows_done), moment(progress.updated_at)]
        table.add_row(*cells)
    return Group(table, *_notes_on(runs))


def _notes_on(runs: Sequence[Progress]) -> list[RenderableType]:
    """Remarks with the runs they are about: a hold is the database's, so all runs share it and it is said once."""
    about: dict[str, tuple[Text, list[str]]] = {}
    for progress in runs:
        for remark in _remarks(progress):
            about.setdefault(remark.plain, (remark, []))[1].append(str(progress.run))
    if not about:
        return []
    notes = Table.grid(padding=(0, 2))
    notes.add_column(style="dim", no_wrap=True)
    notes.add_column(overflow="fold")
    for remark, numbers in about.values():
        shown = numbers if len(numbers) < 4 else [*numbers[:2], "..."]
        notes.add_row(f"{'run' if len(numbers) == 1 else 'runs'} {', '.join(shown)}", remark)
    return [Text(), notes]


def quarantine(rows_: Sequence[Quarantined]) -> RenderableType:
    """Rows that are set aside: which, why, and how often they were tried."""
    if not rows_:
        return Text("no rows are set aside", style="dim")
    table = _plain_table("table", "key", "SQLSTATE", "error", "tries", right=[4])
    for row in rows_:
        tries = f"{row.attempts}, retry" if row.retry else str(row.attempts)
        table.add_row(cell(row.relation), cell(", ".join(row.key)), cell(row.sqlstate), cell(row.error), tries)
    return table


# --- a plan ------------------------------------------------------------------------------------------------------------


def plan(plan: Plan) -> RenderableType:
    """The tables a migration touches, its statements phase by phase with their locks, what to know, and what forbids it."""
    parts: list[RenderableType] = [
        Text.assemble((safe(plan.name), "bold"), ("  " + safe(plan.checksum.removeprefix("sha256:")[:12]), "dim")),
        Text(),
    ]
    named = len(plan.operations) > 1
    if named:
        parts += [_marked(f"[{one.number}]", "cyan", Text(safe(one.summary))) for one in plan.operations]
        parts.append(Text())
    for report in plan.tables:
        parts += [_table_facts(report), Text()]
    if not plan.refused:
        parts += _changes(plan, named=named)
    for warning in plan.warnings:
        parts.append(_marked("warning", "yellow", Text(safe(warning))))
    if plan.warnings and plan.findings:
        parts.append(Text())
    if plan.findings:
        parts.append(refusals([Finding(**finding) for finding in plan.findings]))
    return Group(*parts)


def _changes(plan: Plan, *, named: bool) -> list[RenderableType]:
    """The phases, what they cost, what becomes of others, and what may go wrong."""
    parts: list[RenderableType] = []
    for phase in plan.phases:
        parts += [_phase(phase, named=named), Text()]
    parts += [Text(_estimate(plan.estimate)), Text()]
    for report in plan.tables:
        if report.fates:
            parts += [_fates(report, named=named), Text()]
    if plan.risks:
        parts += [_risks(plan.risks, named=named), Text()]
    return parts


def refusals(findings: Sequence[Finding]) -> RenderableType:
    """Why it cannot run, and what to do about each."""
    return Group(
        *(
            _marked("refused", "bold red", Text.assemble(safe(one.problem), ".\n", (safe(one.remedy), "green")))
            for one in findings
        )
    )


def _table_facts(report: TableReport) -> RenderableType:
    known = [f"{number(report.rows)} rows", size(report.heap_bytes), f"indexes {size(report.index_bytes)}"]
    if report.key:
        known.append(f"key {', '.join(report.key)}")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for title, values in (
        ("triggers", report.triggers),
        ("published", report.publications),
        ("depend on it", () if report.fates else report.dependents),
    ):
        if values:
            facts.add_row(title, cell(", ".join(values)))
    for walk in report.walks:
        facts.add_row("walked", cell(_walk(walk)))
        facts.add_row("grows", cell(_growth(walk, report)))
    for note in report.notes:
        facts.add_row("note", cell(note))
    head = Text.assemble((safe(report.name), "bold cyan"), "  ", safe(" · ".join(known)))
    return Group(head, Padding(facts, (0, 0, 0, 2))) if facts.row_count else head


def _walk(walk: Forecast) -> str:
    if walk.walk == "keys":
        return f"by key, because {walk.because}" if walk.because else "by key, as the file asks"
    return f"by pages, in {walk.stripes} rounds" if walk.stripes > 1 else "by pages"


def _growth(walk: Forecast, report: TableReport) -> str:
    """Before vacuum gives anything back."""
    grown = [
        f"{what} by about {size(growth)} (+{growth / of:.0%})" if of else f"{what} by about {size(growth)}"
        for what, growth, of in (
            ("heap", walk.heap_growth_bytes, report.heap_bytes),
            ("indexes", walk.index_growth_bytes, report.index_bytes),
        )
    ]
    return f"{', '.join(grown)}; about {size(walk.wal_bytes)} of WAL"


def _fates(report: TableReport, *, named: bool) -> RenderableType:
    """What will happen to each thing that depends on a table; what fares alike stands together."""
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", ratio=2)
    table.add_column(overflow="fold", ratio=3)
    alike: dict[tuple[int, str], list[str]] = {}
    for one in report.fates:
        alike.setdefault((one.operation, one.fate), []).append(f"{one.kind} {one.name}")
    for (operation, fate), several in alike.items():
        mark = f"[{operation}] " if named else ""
        table.add_row(cell(mark + ", ".join(several)), cell(fate))
    return Group(Text(f"what depends on {safe(report.name)}", style="bold"), Padding(table, (0, 0, 0, 2)))


def _risks(risks: Sequence[Risk], *, named: bool) -> RenderableType:
    styles = {"high": "bold red", "medium": "yellow", "low": "dim"}
    parts: list[RenderableType] = [Text("risks", style="bold")]
    for risk in risks:
        mark = f"[{risk.operation}] " if named and risk.operation is not None else ""
        said = Text.assemble(safe(mark + risk.reason), ".\n", (safe(risk.remedy), "green"))
        parts.append(Padding(_marked(f"{risk.level:<6}", styles[risk.level], said), (0, 0, 0, 2)))
    return Group(*parts)


def _phase(phase: PlannedPhase, *, named: bool = False) -> RenderableType:
    head = Text(str(phase.phase), style="bold")
    if phase.waits_for_approval:
        head.append("  waits for approval", style="yellow")
    if not phase.actions:
        head.append("  nothing to do", style="dim")
    parts: list[RenderableType] = [head]
    transactions = [(action.operation, action.step) for action in phase.actions]
    sizes = Counter[tuple[int | None, int | None] | None](one for one in transactions if one[1] is not None)
    before: tuple[int | None, int | None] | None = None
    for action, step in zip(phase.actions, transactions, strict=True):
        if step != before and max(sizes[step], sizes[before]) > 1:
            parts.append(
                Padding(Text("in one transaction:" if sizes[step] > 1 else "by itself:", style="dim"), (0, 0, 0, 2))
            )
        before = step
        known = ", ".join(part for part in (action.lock, action.hold, action.known) if part)
        remark = Text(f"lock {safe(known)}", style="dim")
        # A note of the operation's own tells of a scan in better words.
        does = "" if "scan" in action.does and "scan" in action.note else action.does
        if said := "; ".join(part for part in (does, action.note) if part):
            remark.append(f": {safe(said)}")
        mark = f"[{action.operation}] " if named and action.operation is not None else ""
        parts += [
            Padding(Text.assemble((mark, "cyan"), _sql(action.sql)), (0, 0, 0, 2), expand=False),
            Padding(remark, (0, 0, 0, 4), expand=False),
        ]
    return Group(*parts)


def _estimate(estimate: Estimate) -> str:
    if not estimate.rows:
        return "No rows to walk over."
    return (
        f"About {number(estimate.rows)} rows in {number(estimate.batches)} batches; at an assumed speed "
        f"{duration(estimate.seconds)}, and more when the application needs the database."
    )


def _sql(text: str) -> str:
    """Statements keep their lines: a trigger's body on one line is not read by anybody."""
    return "\n".join(safe(part) for part in text.splitlines())


def _marked(mark: str, style: str, text: Text) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(mark, text)
    return table


# --- watching ----------------------------------------------------------------------------------------------------------


class Watch:
    """The live view: a block per run that is redrawn in a terminal; elsewhere a line whenever there is news."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
        self._told: dict[int, _Told] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, runs: Sequence[Progress]) -> None:
        """The runs as they are now; call it as often as you like."""
        if self._live is not None:
            blocks: list[RenderableType] = []
            for progress in runs:
                blocks += [block(progress), Text()]
            self._live.update(Group(*blocks[:-1]), refresh=True)
            return
        for progress in runs:
            self._tell(progress)

    def _tell(self, progress: Progress) -> None:
        now, text = self._clock(), line(progress)
        told = self._told.get(progress.run)
        standing = (progress.phase, progress.state)
        is_news = told is None or told.standing != standing
        if told is not None and not is_news and (told.text == text or now - told.at < LINE_EVERY_SECONDS):
            return
        self._told[progress.run] = _Told(now, standing, text)
        self._console.print(Text(text), soft_wrap=True)


@dataclass(frozen=True)
class _Told:
    """The last line a run was told in."""

    at: float
    standing: tuple[Phase, State]
    text: str


def _title(text: str) -> Rule:
    return Rule(Text(text, style="bold"), align="left", style="dim", characters="─")


def _plain_table(*columns: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    return table
