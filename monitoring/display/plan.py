"""A plan: the tables it touches, its statements with their locks, its risks, or why it is refused."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from backfilld.migrations.errors import Finding
from backfilld.monitoring.display import application, policies
from backfilld.monitoring.display.backups import gate
from backfilld.monitoring.display.words import cell
from backfilld.monitoring.words import counted, duration, safe, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from backfilld.migrations.planning.estimate import CostEstimate
    from backfilld.migrations.planning.plan import Estimate, Plan, PlannedPhase, PlannedTransaction, TableReport
    from backfilld.migrations.planning.risks import Risk
    from backfilld.migrations.planning.summary import Summary


def plan(plan: Plan) -> RenderableType:
    """The tables a migration touches, its statements phase by phase with their locks, its risks, or why it is refused."""
    parts: list[RenderableType] = [
        Text.assemble((safe(plan.name), "bold"), ("  " + safe(plan.checksum.removeprefix("sha256:")[:12]), "dim")),
        Text(),
    ]
    if plan.parameters or plan.after:
        parts += [
            *(
                Text.assemble(("parameter ", "dim"), f"{name} = {safe(value)}")
                for name, value in plan.parameters.items()
            ),
            *(Text.assemble(("begins after ", "dim"), safe(name)) for name in plan.after),
            Text(),
        ]
    named = len(plan.operations) > 1
    if named:
        parts += [_marked(f"[{one.number}]", "cyan", Text(safe(one.summary))) for one in plan.operations]
        parts.append(Text())
    if not plan.refused:
        parts += [_summary(plan.summary), Text()]
    for report in plan.tables:
        parts += [_table_facts(report), Text()]
    if plan.backup is not None:
        parts += [gate(plan.backup), Text()]
    if not plan.refused:
        parts += _changes(plan, named=named)
    # Warnings are about what a migration does; one that is refused does nothing.
    if plan.findings:
        parts.append(refusals([Finding(**finding) for finding in plan.findings]))
    else:
        parts += [_marked("warning", "yellow", Text(safe(warning))) for warning in plan.warnings]
    return Group(*parts)


def _changes(plan: Plan, *, named: bool) -> list[RenderableType]:
    """The phases, what they cost, the impact on what depends on the tables, and the risks."""
    parts: list[RenderableType] = []
    for phase in plan.phases:
        parts += [_phase(phase, named=named), Text()]
    parts += [Text(_estimate(plan.estimate)), Text()]
    for report in plan.tables:
        if report.impacts:
            parts += [_impact(report, named=named), Text()]
    if plan.risks:
        parts += [_risks(plan.risks, named=named), Text()]
    if plan.application is not None and (shown := application.report(plan.application)) is not None:
        parts += [shown, Text()]
    for preview in plan.policies:
        parts += [policies.preview(preview), Text()]
    return parts


def refusals(findings: Sequence[Finding]) -> RenderableType:
    """Why it cannot run, and what to do about each."""
    return Group(
        *(
            _marked("refused", "bold red", Text.assemble(safe(one.problem), ".\n", (_lines(one.remedy), "green")))
            for one in findings
        )
    )


def _summary(summary: Summary) -> RenderableType:
    """What to read first: the locks that stop writes, what grows, what to deploy when, the approvals and the risks."""
    locks = [
        f"{counted(one.transactions, 'transaction')} with {one.lock}, {one.hold}"
        + (f" ({one.known})" if one.known else "")
        for one in summary.strong_locks
    ]
    grown = [
        f"{what} by about {size(growth)}"
        for what, growth in (("heap", summary.heap_growth_bytes), ("indexes", summary.index_growth_bytes))
        if growth
    ]
    if summary.wal_bytes:
        grown.append(f"about {size(summary.wal_bytes)} of WAL")
    usable = ", ".join(summary.usable_after_gate)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for title, values in (
        ("stops writes", locks or ["nothing"]),
        ("grows", [", ".join(grown) or "no rows are rewritten"]),
        ("usable once its gate is open", [usable] if usable else []),
        ("deploy in time", summary.fails),
        ("waits for approval", [", ".join(summary.approvals)] if summary.approvals else []),
        ("risks", [", ".join(f"{count} {level}" for level, count in summary.risks.items()) or "none"]),
    ):
        for number, value in enumerate(values):
            facts.add_row("" if number else title, cell(value))
    return Group(Text("summary", style="bold"), Padding(facts, (0, 0, 0, 2)))


def _table_facts(report: TableReport) -> RenderableType:
    known = [counted(report.rows, "row"), size(report.heap_bytes), f"indexes {size(report.index_bytes)}"]
    if report.key:
        known.append(f"key {', '.join(report.key)}")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for title, values in (
        ("triggers", report.triggers),
        ("published", report.publications),
        ("depend on it", () if report.impacts else report.dependents),
    ):
        if values:
            facts.add_row(title, cell(", ".join(values)))
    for walk in report.walks:
        facts.add_row("walked", cell(_walk(walk)))
        facts.add_row("grows", cell(_growth(walk, report)))
        if order := _order(walk):
            facts.add_row("order on disk", cell(order))
    for note in report.notes:
        facts.add_row("note", cell(note))
    head = Text.assemble((safe(report.name), "bold cyan"), "  ", safe(" · ".join(known)))
    return Group(head, Padding(facts, (0, 0, 0, 2))) if facts.row_count else head


def _walk(walk: CostEstimate) -> str:
    if walk.walk == "stage":
        return f"line by line: {walk.because}"
    if walk.walk == "keys":
        return f"by key, because {walk.because}" if walk.because else "by key, as the file asks"
    rounds = f", in {walk.stripes} rounds" if walk.stripes > 1 else ""
    if walk.walk == "ordered":
        return f"by pages in their order, by one lane{rounds}, " + (
            f"because {walk.because}" if walk.because else "as the file asks"
        )
    return f"by pages{rounds}"


def _order(walk: CostEstimate) -> str:
    """What becomes of the rows' order on disk; empty where they are in none."""
    if not walk.correlations:
        return ""
    moved = (
        "all rows move to new pages"
        if walk.moved_ratio >= 1
        else f"about 1 row in {round(1 / walk.moved_ratio)} moves to the end of the table"
    )
    changes = ", ".join(f"{one.column} {one.before:.2f} → about {one.after:.2f}" for one in walk.correlations)
    return f"{moved}; correlation of {changes}"


def _growth(walk: CostEstimate, report: TableReport) -> str:
    """Before vacuum gives anything back."""
    grown = [
        f"{what} by about {size(growth)} (+{growth / of:.0%})" if of else f"{what} by about {size(growth)}"
        for what, growth, of in (
            ("heap", walk.heap_growth_bytes, report.heap_bytes),
            ("indexes", walk.index_growth_bytes, report.index_bytes),
        )
    ]
    return f"{', '.join(grown)}; about {size(walk.wal_bytes)} of WAL"


def _impact(report: TableReport, *, named: bool) -> RenderableType:
    """What will happen to each thing that depends on a table; things with the same impact in one row."""
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", ratio=2)
    table.add_column(overflow="fold", ratio=3)
    alike: dict[tuple[int, str], list[str]] = {}
    for one in report.impacts:
        alike.setdefault((one.operation, one.impact), []).append(f"{one.kind} {one.name}")
    for (operation, impact), several in alike.items():
        mark = f"[{operation}] " if named else ""
        table.add_row(cell(mark + ", ".join(several)), cell(impact))
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
            held = next((one for one in phase.transactions if (one.operation, one.step) == step), None)
            begins = "in one transaction:" if sizes[step] > 1 else "by itself:"
            begins = _transaction(held) if held is not None else begins
            parts.append(Padding(Text(begins, style="dim"), (0, 0, 0, 2)))
        before = step
        also = f"on {' and '.join(action.also)} too" if action.also else ""
        known = ", ".join(part for part in (action.lock, also, action.hold, action.known) if part)
        remark = Text(f"lock {safe(known)}", style="dim")
        does = "" if action.note_says_what_it_does else action.does
        if said := "; ".join(part for part in (does, action.note) if part):
            remark.append(f": {safe(said)}")
        mark = f"[{action.operation}] " if named and action.operation is not None else ""
        parts += [
            Padding(Text.assemble((mark, "cyan"), _sql(action.sql)), (0, 0, 0, 2), expand=False),
            Padding(remark, (0, 0, 0, 4), expand=False),
        ]
    return Group(*parts)


def _transaction(held: PlannedTransaction) -> str:
    begins = f"in one transaction, which holds {held.lock} on {', '.join(map(safe, (*held.views, *held.tables)))}"
    if held.seconds is None:
        return f"{begins}:"
    keys = f" and as long as {held.most_keys:,} keys take at most" if held.most_keys else ""
    tried = f"{held.measured} of {counted(held.statements, 'statement')} timed on empty copies"
    return f"{begins} for about {1000 * held.seconds:,.0f} ms{keys} ({tried}):"


def _estimate(estimate: Estimate) -> str:
    if not estimate.rows:
        return "No rows to walk."
    return (
        f"About {counted(estimate.rows, 'row')} in {counted(estimate.batches, 'batch', 'batches')}; at an assumed speed "
        f"{duration(estimate.seconds)}, and longer when the application needs the database."
    )


def _sql(text: str) -> str:
    """Statements keep their lines: a trigger's body on one line is unreadable."""
    return "\n".join(safe(part) for part in text.splitlines())


def _lines(text: str) -> str:
    """A remedy may end with the lines of a file."""
    return "\n".join(safe(line) for line in text.split("\n"))


def _marked(mark: str, style: str, text: Text) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(mark, text)
    return table
