"""Many runs: a table with one line for each, and below it what people should know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from migrations.states import State
from monitoring.display.page import remarks
from monitoring.display.words import STYLES, cell, duration, moment, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from monitoring.progress import Progress

#: Below this, a table of runs leaves out what the page of a run has too.
WIDE = 110


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
        for remark in remarks(progress):
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
