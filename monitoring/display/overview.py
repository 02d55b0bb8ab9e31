"""Many runs: a table with one line for each, and below it what people should know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from migrations.states import ENDED, Phase, State
from monitoring.display.page import remarks
from monitoring.display.words import cell, duration, left, moment, number, standing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from monitoring.progress import Progress

#: From this width on there is room for more than what one looks for first.
WIDE = 110
#: Below this, phase and rate are left to the page of a run.
NARROW = 64

#: What waits for a person.
_STUCK = frozenset({State.FAILED, State.WAITING, State.PAUSED})


def overview(runs: Sequence[Progress], *, width: int, left_out: int = 0) -> RenderableType:
    """Every run on a line, those that need somebody first; below, what holds them, what they failed of, and how many more ended."""
    if not runs:
        return Text("no runs yet: backfilld enqueue FILE", style="dim")
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False)
    columns = _columns(width)
    for name in columns:
        if name == "name":
            table.add_column(name, ratio=1, overflow="fold")
        else:
            table.add_column(name, justify="left" if name in {"phase", "state"} else "right", no_wrap=True)
    for progress in sorted(runs, key=_urgency):
        table.add_row(*(_CELLS[name](progress) for name in columns))
    return Group(table, *_notes_on(runs), Text(), _sum(runs, left_out))


def _columns(width: int) -> list[str]:
    columns = ["run", "name", "phase", "state", "done", "rows/s", "left"]
    if width < NARROW:
        return [name for name in columns if name not in {"phase", "rows/s"}]
    return [*columns, "rows changed", "for", "last moved (UTC)"] if width >= WIDE else columns


def _urgency(progress: Progress) -> tuple[int, int]:
    """Runs that failed, those that wait for a person, those that go on, those that have ended; the newest first of each."""
    order = (progress.state is State.FAILED, progress.state in _STUCK, progress.state not in ENDED, True)
    return order.index(True), -progress.run


_CELLS: dict[str, Callable[[Progress], RenderableType]] = {
    "run": lambda progress: str(progress.run),
    "name": lambda progress: cell(progress.name),
    "phase": lambda progress: "" if progress.phase is Phase.DONE else str(progress.phase),
    "state": standing,
    "done": lambda progress: f"{progress.percent:.1f} %",
    "rows/s": lambda progress: number(progress.rows_per_second) if progress.state is State.RUNNING else "",
    "left": left,
    "rows changed": lambda progress: number(progress.rows_done),
    "for": lambda progress: duration(progress.state_seconds),
    "last moved (UTC)": lambda progress: moment(progress.updated_at),
}


def _sum(runs: Sequence[Progress], left_out: int) -> Text:
    """How many there are of each, and how quick they are together."""
    going_on = [one for one in runs if one.state not in ENDED]
    counts = [
        (len([one for one in going_on if one.state is State.FAILED]), "failed"),
        (len([one for one in going_on if one.state is State.WAITING]), "waiting for approval"),
        (len([one for one in going_on if one.state is State.PAUSED]), "paused"),
        (len([one for one in going_on if one.state not in _STUCK]), "going on"),
        (len(runs) - len(going_on), "ended"),
    ]
    told = [f"{count} {what}" for count, what in counts if count]
    rate = sum(one.rows_per_second for one in going_on if one.state is State.RUNNING)
    if rate:
        told.append(f"{number(rate)} rows/s in all")
    if left_out:
        told.append(f"{number(left_out)} that ended before are not shown: backfilld status --all")
    return Text(" · ".join(told), style="dim")


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
