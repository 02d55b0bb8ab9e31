"""The list of runs: a row each, with as many columns as the window has room for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual.widgets import DataTable

from backfilld.migrations.record.states import State
from backfilld.monitoring import display
from backfilld.producers.watch import sections

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backfilld.monitoring.progress import Progress

#: Columns with their widths, and the width of the window from which they are shown: the most important columns stay longest.
_COLUMNS: tuple[tuple[str, int, int], ...] = (
    ("run", 5, 84),
    ("name", 0, 0),
    ("phase", 8, 76),
    ("state", 12, 0),
    ("bar", 14, 96),
    ("done", 7, 0),
    ("rows/s", 8, 68),
    ("left", 10, 56),
    ("held by", 0, 124),
)
#: A name is cut before its column gets narrower than this.
_NARROWEST_NAME = 12
#: The share of the rest that the name gets when the reason of a hold is shown as well.
_NAME_SHARE = 0.4


class RunsTable(DataTable[Text]):
    """Keeps the cursor on the chosen run while other runs come and go."""

    def __init__(self) -> None:
        super().__init__(
            id="runs", cursor_type="row", cursor_foreground_priority="css", cursor_background_priority="css"
        )
        self._shown: tuple[tuple[str, ...], int, tuple[int, ...]] | None = None

    @property
    def chosen(self) -> int | None:
        """The run under the cursor."""
        if self._shown is None or not 0 <= self.cursor_row < len(self._shown[2]):
            return None
        return self._shown[2][self.cursor_row]

    def show(self, runs: Sequence[Progress], width: int) -> None:
        """The runs as they are now, in a window of this width."""
        columns = _columns(width)
        shown = (tuple(columns), width, tuple(run.run for run in runs))
        if shown != self._shown:
            chosen = self.chosen
            self._shown = shown
            self.clear(columns=True)
            for name, cells in columns.items():
                self.add_column(_title(name, cells), width=cells, key=name)
            for run in runs:
                self.add_row(*(_cell(name, run, cells) for name, cells in columns.items()), key=str(run.run))
            # Its own height: "auto" asks for rows that textual counts only when it is idle, and was seen to stay at none.
            self.styles.height = len(runs) + 1
            if chosen in shown[2]:
                self.move_cursor(row=shown[2].index(chosen), animate=False)
            return
        for run in runs:
            for name, cells in columns.items():
                there, wanted = self.get_cell(str(run.run), name), _cell(name, run, cells)
                if there != wanted or there.spans != wanted.spans:
                    self.update_cell(str(run.run), name, wanted)


def _columns(width: int) -> dict[str, int]:
    """Each column with its cells; the name and the reason share what the others leave."""
    shown = {name: cells for name, cells, from_ in _COLUMNS if width >= from_}
    # Each has a space on both sides; one more cell for a scrollbar's sake.
    left = width - sum(shown.values()) - 2 * len(shown) - 2
    if "held by" in shown:
        shown["name"] = max(int(left * _NAME_SHARE), _NARROWEST_NAME)
        shown["held by"] = max(left - shown["name"], _NARROWEST_NAME)
    else:
        shown["name"] = max(left, _NARROWEST_NAME)
    return shown


def _title(column: str, cells: int) -> Text:
    if column in {"run", "done", "rows/s", "left"}:
        return _right(column, cells)
    return Text("" if column == "bar" else column)


def _cell(column: str, run: Progress, cells: int) -> Text:
    return _CELLS[column](run, cells)


def _rate(run: Progress, cells: int) -> Text:
    return _right(display.number(run.rows_per_second) if run.state is State.RUNNING else "", cells)


def _left(run: Progress, cells: int) -> Text:
    return _right(display.left(run), cells)


def _reason(run: Progress, cells: int) -> Text:
    reason = run.hold_reason or (str(run.errors[0]["message"]) if run.errors else "")
    return Text(_cut(display.safe(reason), cells), style=sections.style_of(run))


_CELLS: dict[str, Callable[[Progress, int], Text]] = {
    "run": lambda run, cells: _right(str(run.run), cells),
    "name": lambda run, cells: Text(_cut(display.safe(run.name), cells)),
    "phase": lambda run, _: Text(display.phase(run)),
    "state": lambda run, _: display.standing(run),
    "bar": lambda run, cells: sections.bar(run.percent / 100, cells, sections.style_of(run)),
    "done": lambda run, cells: _right(display.share(run), cells),
    "rows/s": _rate,
    "left": _left,
    "held by": _reason,
}


def _right(text: str, cells: int) -> Text:
    """Right-aligned text; textual's table has no alignment."""
    return Text(text.rjust(cells))


def _cut(text: str, cells: int) -> str:
    return text if len(text) <= cells else text[: cells - 1] + "…"
