"""Many runs: a table with one line for each, and below it what people should know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.console import Group
from rich.table import Table
from rich.text import Text

from backfilld.migrations.record.states import ENDED, State
from backfilld.monitoring.display.page import remarks
from backfilld.monitoring.display.words import cell, left, phase, share, standing
from backfilld.monitoring.words import duration, moment, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from backfilld.monitoring.progress import Progress

#: From this width on there is room for the less important columns.
WIDE = 110
#: Below this, phase and rate are shown only on the page of a run.
NARROW = 64

#: Between two columns.
GAP = 2
#: Columns of words; the others are numbers, aligned right.
LEFT = frozenset({"name", "phase", "state"})

#: What waits for a person.
_STUCK = frozenset({State.FAILED, State.WAITING, State.PAUSED})


def overview(runs: Sequence[Progress], *, width: int, left_out: int = 0) -> RenderableType:
    """Every run on a line, those that need a person first; below, what holds them, why they failed, and how many more ended."""
    if not runs:
        return Text("no runs yet: backfilld enqueue FILE", style="dim")
    shown = sorted(runs, key=_urgency)
    return Group(_table(_columns(width), shown, width=width), *_notes_on(runs), Text(), _sum(runs, left_out))


def _table(columns: Sequence[str], runs: Sequence[Progress], *, width: int) -> Text:
    """The runs in columns, the name in what the others leave of the width, on several lines where that is not enough.

    The rate gives way to a long name. Not a table of rich: that measures and draws each cell by itself, a quarter of a second for
    two hundred runs.
    """
    rows = [[_text(_CELLS[name](run)) for name in columns] for run in runs]
    widths = [max(len(name), *(row[at].cell_len for row in rows)) for at, name in enumerate(columns)]
    at_name = columns.index("name")
    others = sum(widths) - widths[at_name] + GAP * (len(columns) - 1)
    if "rows/s" in columns and widths[at_name] > width - others:
        return _table([name for name in columns if name != "rows/s"], runs, width=width)
    widths[at_name] = max(width - others, len("name"))
    lines = [_line([[Text(name, style="bold")] for name in columns], columns, widths), [Text("─" * width, style="dim")]]
    for row in rows:
        cells = [[cell] for cell in row]
        cells[at_name] = [Text(part) for part in _parts(row[at_name].plain, widths[at_name])]
        lines.append(_line(cells, columns, widths))
    table = Text("\n").join(one for several in lines for one in several)
    table.no_wrap = True
    return table


def _parts(name: str, width: int) -> list[str]:
    """A name on as many lines as it needs, broken behind a separator where there is one in the second half of a line."""
    parts = []
    while cell_len(name) > width:
        most = chop_cells(name, width)[0]
        end = max(most.rfind(one) for one in "-_. ") + 1
        parts.append(most[:end] if 2 * end > len(most) else most)
        name = name[len(parts[-1]) :]
    return [*parts, name]


def _line(cells: Sequence[Sequence[Text]], columns: Sequence[str], widths: Sequence[int]) -> list[Text]:
    """One run, on as many lines as its tallest cell has parts."""
    return [
        _side_by_side([parts[at] if at < len(parts) else Text() for parts in cells], columns, widths)
        for at in range(max(len(parts) for parts in cells))
    ]


def _side_by_side(cells: Sequence[Text], columns: Sequence[str], widths: Sequence[int]) -> Text:
    pieces: list[str | Text] = []
    for name, one, size in zip(columns, cells, widths, strict=True):
        room = " " * max(size - one.cell_len, 0)
        pieces += [" " * GAP if pieces else "", *((one, room) if name in LEFT else (room, one))]
    line = Text.assemble(*pieces)
    line.rstrip()
    return line


def _text(value: str | Text) -> Text:
    return value if isinstance(value, Text) else Text(value)


def _columns(width: int) -> list[str]:
    columns = ["run", "name", "phase", "state", "done", "rows/s", "left"]
    if width < NARROW:
        return [name for name in columns if name not in {"phase", "rows/s"}]
    return [*columns, "rows changed", "for", "last moved (UTC)"] if width >= WIDE else columns


def _urgency(progress: Progress) -> tuple[int, int]:
    """Failed runs, those that wait for a person, those in progress, those that have ended; the newest first of each."""
    order = (progress.state is State.FAILED, progress.state in _STUCK, progress.state not in ENDED, True)
    return order.index(True), -progress.run


_CELLS: dict[str, Callable[[Progress], str | Text]] = {
    "run": lambda progress: str(progress.run),
    "name": lambda progress: cell(progress.name),
    "phase": phase,
    "state": standing,
    "done": share,
    "rows/s": lambda progress: number(progress.rows_per_second) if progress.state is State.RUNNING else "",
    "left": left,
    "rows changed": lambda progress: number(progress.rows_done),
    "for": lambda progress: duration(progress.state_seconds),
    "last moved (UTC)": lambda progress: moment(progress.updated_at),
}


def _sum(runs: Sequence[Progress], left_out: int) -> Text:
    """How many there are of each, and their rate together."""
    in_progress = [one for one in runs if one.state not in ENDED]
    counts = [
        (len([one for one in in_progress if one.state is State.FAILED]), "failed"),
        (len([one for one in in_progress if one.state is State.WAITING]), "waiting for approval"),
        (len([one for one in in_progress if one.state is State.PAUSED]), "paused"),
        (len([one for one in in_progress if one.state not in _STUCK]), "in progress"),
        (len(runs) - len(in_progress), "ended"),
    ]
    told = [f"{count} {what}" for count, what in counts if count]
    rate = sum(one.rows_per_second for one in in_progress if one.state is State.RUNNING)
    if rate:
        told.append(f"{number(rate)} rows/s in all")
    if left_out:
        told.append(f"{number(left_out)} that ended earlier are not shown: backfilld status --all")
    return Text(" · ".join(told), style="dim")


def _notes_on(runs: Sequence[Progress]) -> list[RenderableType]:
    """Remarks with the runs they are about: runs that share a hold share its line."""
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
