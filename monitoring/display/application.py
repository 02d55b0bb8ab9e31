"""What a check of the application's statements found: counts first, then each statement with what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from backfilld.monitoring.display.words import cell
from backfilld.monitoring.words import counted, number, safe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from backfilld.migrations.application.report import Breaks, LosesIndex, Report, Unchecked

#: More of a kind are counted, and are all in `--json`.
_MOST_SHOWN = 20


def report(found: Report) -> RenderableType | None:
    """The section of a plan; None where nobody asked and nothing is to be told."""
    if not (found.asked or found.breaks or found.loses_index):
        return None
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for mark, style, several in (
        ("breaks", "bold red", [_broken(one) for one in found.breaks]),
        ("loses its index", "yellow", [_without_index(one) for one in found.loses_index]),
        ("not checked", "yellow", [_unchecked(one) for one in found.cannot_be_checked]),
        ("not known", "yellow", [_sentence(one.problem, one.remedy) for one in found.silence]),
        ("not tried", "yellow", [Text(safe(one)) for one in found.untried]),
    ):
        for text in several[:_MOST_SHOWN]:
            table.add_row(Text(mark, style=style), text)
        if len(several) > _MOST_SHOWN:
            table.add_row("", cell(f"and {number(len(several) - _MOST_SHOWN)} more, all of them with --json"))
    head = Text.assemble(("the application's statements", "bold"), f"  {' · '.join(_counts(found))}")
    return Group(head, Padding(table, (0, 0, 0, 2))) if table.row_count else Group(head)


def _counts(found: Report) -> Iterator[str]:
    yield f"{number(found.checked)} checked"
    if found.unchecked:
        yield f"{number(found.unchecked)} cannot be"
    by_phase: dict[str, list[Breaks]] = {}
    for one in found.breaks:
        by_phase.setdefault(str(one.phase), []).append(one)
    for phase, several in by_phase.items():
        hourly = sum(one.calls_per_hour or 0 for one in several)
        yield f"{phase} breaks {number(len(several))}" + (f" ({number(round(hourly))} calls/h)" if hourly else "")
    if found.loses_index:
        yield f"{counted(len(found.loses_index), 'statement loses its index', 'statements lose their index')}"


def _broken(one: Breaks) -> Text:
    return Text.assemble(
        (safe(one.statement), "cyan"), "\n", safe(f"from {one.phase} on: {one.message} ({one.sqlstate}); {_sent(one)}")
    )


def _without_index(one: LosesIndex) -> Text:
    uses = f", which it reads by {', '.join(one.indexes)} today" if one.indexes else ""
    told = f"from {one.phase} on: no index on {one.table} ({counted(one.rows, 'row')}) can be used{uses}; {_sent(one)}"
    return Text.assemble((safe(one.statement), "cyan"), "\n", safe(told))


def _unchecked(one: Unchecked) -> Text:
    shown = one.source if one.calls is None else one.statement
    return Text.assemble((safe(shown), "cyan"), "\n", safe(one.because))


def _sent(one: Breaks | LosesIndex) -> str:
    if one.calls is None:
        return one.source
    by = f" by {', '.join(one.roles)}" if one.roles else ""
    return f"{counted(one.calls, 'call')}{by}, {number(round(one.calls_per_hour or 0))} an hour"


def _sentence(problem: str, remedy: str) -> Text:
    return Text.assemble(safe(problem), ".\n", (safe(remedy), "green"))
