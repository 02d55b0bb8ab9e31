"""Dialogs over the view: the question before a change, the form of the pace, and texts to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.console import Group
from rich.text import Text
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from backfilld.monitoring import display

if TYPE_CHECKING:
    from rich.console import RenderableType
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.monitoring.progress import Progress
    from backfilld.producers.watch.wishes import Wish

#: What the form steps through; a value that is none of these is added where it belongs.
STEPS: dict[str, tuple[float, ...]] = {
    "nice": (0, 0.25, 0.5, 1, 2, 4, 9, 19),
    "lanes": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    "batch_seconds": (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
}


class Question(ModalScreen[bool]):
    """Asks before a change. Esc is always no; a grave change takes a second key."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,n,q,ctrl+c", "no"), ("y", "yes"), ("enter", "really")]

    def __init__(self, wish: Wish) -> None:
        super().__init__()
        self._wish = wish
        self._said_yes = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="box grave" if self._wish.grave else "box"):
            yield _static(Text(self._wish.question, style="bold"))
            yield _static(Text("\n".join(self._wish.says)), id="says")
            yield _static(self._keys(), id="answer")

    def _keys(self) -> Text:
        if self._said_yes:
            return _keys(("Enter", "do it"), ("Esc", "no, leave it as it is"))
        return _keys(("y", "yes" + (", and then Enter" if self._wish.grave else "")), ("Esc", "no"))

    def action_no(self) -> None:
        self.dismiss(result=False)

    def action_yes(self) -> None:
        if not self._wish.grave:
            self.dismiss(result=True)
            return
        self._said_yes = True
        self.query_one("#answer", Static).update(Group(self._keys()))

    def action_really(self) -> None:
        if self._said_yes:
            self.dismiss(result=True)


class PaceForm(ModalScreen[dict[str, float]]):
    """The pace of a run: steps through values, shows what will be set, and returns what differs; nothing on Esc."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,ctrl+c", "no"),
        ("enter,y", "set"),
        ("up", "row(-1)"),
        ("down", "row(1)"),
        ("left,minus", "step(-1)"),
        ("right,plus", "step(1)"),
    ]

    def __init__(self, run: Progress, settings: RunSettings) -> None:
        super().__init__()
        self._run = run
        self._before: dict[str, float] = {name: getattr(settings, name) for name in STEPS}
        self._values = dict(self._before)
        self._row = 0

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield _static(Text(f"The pace of {display.safe(self._run.name)} (run {self._run.run})", style="bold"))
            yield _static(self._form(), id="form")
            yield _static(self._outcome(), id="outcome")
            yield _static(
                _keys(("↑↓", "choose"), ("←→", "less, more"), ("Enter", "set it"), ("Esc", "no")), id="answer"
            )

    def _form(self) -> Text:
        lines = []
        for row, (name, value) in enumerate(self._values.items()):
            chosen = row == self._row
            lines.append(
                Text.assemble(
                    ("> " if chosen else "  ", "bold"),
                    f"{_LABELS[name]:<14}",
                    (f" < {value:>4g} > " if chosen else f"   {value:>4g}   ", "reverse" if chosen else ""),
                    (f" {_meaning(name, value)}", "dim"),
                )
            )
        return Text("\n").join(lines)

    def _outcome(self) -> Text:
        if not self._changes:
            return Text("Nothing is changed yet.", style="dim")
        told = ", ".join(f"{name} {self._before[name]:g} → {value:g}" for name, value in self._changes.items())
        return Text(f"Will be set: {told}, from the next batch on.", style="yellow")

    @property
    def _changes(self) -> dict[str, float]:
        return {name: value for name, value in self._values.items() if value != self._before[name]}

    def action_row(self, by: int) -> None:
        self._row = (self._row + by) % len(STEPS)
        self._show()

    def action_step(self, by: int) -> None:
        name = list(STEPS)[self._row]
        values = sorted({*STEPS[name], self._before[name]})
        at = values.index(self._values[name]) + by
        self._values[name] = values[min(max(at, 0), len(values) - 1)]
        self._show()

    def action_set(self) -> None:
        self.dismiss(self._changes)

    def action_no(self) -> None:
        self.dismiss({})

    def _show(self) -> None:
        self.query_one("#form", Static).update(Group(self._form()))
        self.query_one("#outcome", Static).update(Group(self._outcome()))


_LABELS = {"nice": "nice", "lanes": "lanes", "batch_seconds": "batch seconds"}


def _meaning(name: str, value: float) -> str:
    match name:
        case "nice":
            return f"works {1 / (1 + value):.0%} of the time"
        case "lanes":
            return "lanes at once"
        case _:
            return "for one batch"


class Reading(ModalScreen[None]):
    """A text to read: the keys, or what a run waits for. Every key that leaves anything leaves it."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,e,enter,question_mark,ctrl+c", "leave")]

    def __init__(self, text: RenderableType) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box"):
            yield _static(self._text)
            yield _static(_keys(("Esc", "back")), id="answer")

    def action_leave(self) -> None:
        self.dismiss(None)


def _static(shown: RenderableType, *, id: str | None = None) -> Static:  # noqa: A002 - as textual calls it
    """What rich draws, in a Group: textual reads the colours of a bare Text as its own, which do not suit every terminal."""
    return Static(Group(shown), id=id)


def _keys(*pairs: tuple[str, str]) -> Text:
    return Text("  ").join(Text.assemble((key, "bold cyan"), f" {what}") for key, what in pairs)
