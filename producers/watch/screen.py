"""The full-screen view: shows each reading, confirms before a key changes anything, and shows the answer."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual import on
from textual.app import App
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import DataTable, Static

from backfilld.migrations.record.states import ENDED, State
from backfilld.monitoring import display
from backfilld.monitoring.words import redact
from backfilld.producers.watch import questions, sections, wishes
from backfilld.producers.watch.reading import EVENTS, Picture, Reader, Trouble
from backfilld.producers.watch.runs_table import RunsTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from backfilld.monitoring.progress import Progress
    from backfilld.producers.client import Client
    from backfilld.producers.watch.reading import Detail
    from backfilld.producers.watch.wishes import Wish

#: From this width on there are two columns below the list.
WIDE = 108
#: In one column, what comes below the events is to be seen too.
FEW_EVENTS = 6
#: A picture older than this is told to be old.
OLD_SECONDS = 3.0
#: An answer that takes longer is waited for visibly.
SLOW_SECONDS = 1.0

#: What each key does, in the order in which they are shown while there is room.
KEYS: tuple[tuple[str, str, str], ...] = (
    ("p", "pause", "Pause the chosen run until it is resumed"),
    ("r", "resume", "Resume a paused or failed run"),
    ("a", "approve", "Approve the phase that waits"),
    ("e", "explain", "Explain what the run waits for, and what would let it continue"),
    ("s", "slow down", "Set nice, lanes and batch seconds of the run"),
    ("c", "cancel", "Cancel the run for good"),
    ("R", "roll back", "Roll the run back"),
    ("P", "stop all", "Stop all runs of the database, or let them continue"),
    ("?", "help", "Show these keys"),
    ("q", "quit", "Leave; the runs continue"),
)

#: States in which a key is shown; one that is not shown is answered all the same, by the record.
_SENSIBLE: dict[str, frozenset[State]] = {
    "p": frozenset({State.QUEUED, State.RUNNING, State.WAITING}),
    "r": frozenset({State.PAUSING, State.PAUSED, State.FAILED}),
    "a": frozenset({State.WAITING}),
    "s": frozenset(State) - ENDED,
    "c": frozenset(State) - ENDED - {State.CANCELLING, State.ROLLING_BACK},
    "R": frozenset(State) - {State.ROLLED_BACK, State.ROLLING_BACK},
}


class Seen(Message):
    """The reader has something new."""

    def __init__(self, seen: Picture | Trouble) -> None:
        super().__init__()
        self.seen = seen


class Answered(Message):
    """A command has been answered, or refused."""

    def __init__(self, asked: int, answer: str, *, refused: bool, then: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.asked, self.answer, self.refused, self.then = asked, answer, refused, then


class Watch(App[int]):
    """Runs until it is quit; `return_code` is then 1 when a run that was watched did not end well, 130 for Ctrl-C."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "backfilld watch"
    CSS_PATH = "screen.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("p", "pause"),
        ("r", "resume"),
        ("a", "approve"),
        ("e", "explain"),
        ("s", "pace"),
        ("c", "cancel"),
        ("R", "roll_back"),
        ("P", "stop_or_go"),
        ("question_mark", "help"),
        ("q", "leave(0)"),
        ("ctrl+c", "leave(130)"),
    ]

    def __init__(self, make_client: Callable[[Callable[[str], None]], Client], *, run: int | None = None) -> None:
        """`make_client` receives where warnings go. With a `run`, only that one is watched."""
        # The terminal's own colours, whatever they are: the view is as dark or as light as everything else there.
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self._client = make_client(self._warn)
        self._run = run
        self.picture: Picture | None = None
        self._seen_at = time.monotonic()
        self._trouble: str | None = None
        #: Commands under way: what was asked, and when.
        self._asked: dict[int, tuple[str, float]] = {}
        self._number = 0
        self._reader = Reader(self._client, self._on_read, run=run)

    def compose(self) -> ComposeResult:
        yield Static(id="top")
        yield RunsTable()
        yield Static(id="trouble")
        with VerticalScroll(id="detail"):
            yield Static(id="heading")
            yield Static(id="numbers")
            with Horizontal(id="columns"):
                with Vertical(id="left"):
                    yield Static("lanes", classes="title", markup=False)
                    yield Static(id="lanes")
                    yield Static("events (UTC), newest first", classes="title", markup=False)
                    yield Static(id="events")
                with Vertical(id="right"):
                    yield Static("pace", classes="title", markup=False)
                    yield Static(id="pace")
                    yield Static("load signals", classes="title", markup=False)
                    yield Static(id="signals")
        yield Static(id="keys")

    def on_mount(self) -> None:
        self._show()
        self._reader.start()
        self.set_interval(0.5, self._tick)

    def on_unmount(self) -> None:
        self._reader.stop()

    # --- showing -------------------------------------------------------------------------------------------------------

    def _on_read(self, seen: Picture | Trouble) -> None:
        """In the reader's thread."""
        self.post_message(Seen(seen))

    @on(Seen)
    def _on_seen(self, message: Seen) -> None:
        if isinstance(message.seen, Trouble):
            self._trouble = message.seen.reason
        else:
            self.picture, self._trouble, self._seen_at = message.seen, None, time.monotonic()
        self._show()

    @on(DataTable.RowHighlighted)
    def _on_chosen(self) -> None:
        # The row under the cursor, not the message's: the list may have changed since it was sent.
        if self._run is None and self._is_there:
            self._reader.choose(self.screen_stack[0].query_one(RunsTable).chosen)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    def _tick(self) -> None:
        self._reader.cut_if_hung()
        if self._is_there:
            self._show_trouble()

    @property
    def _is_there(self) -> bool:
        """Not before the view is built, nor while it is taken down: messages and timers come at any time."""
        return self.is_running and bool(self.screen_stack) and bool(self.screen_stack[0].query("#keys"))

    def _show(self) -> None:
        if not self._is_there:
            return
        base = self.screen_stack[0]
        width, picture = self.size.width, self.picture
        base.set_class(width >= WIDE, "-wide")
        self._show_trouble()
        self._put("top", self._top(width))
        self._put("keys", self._keys_line(width))
        table = base.query_one(RunsTable)
        table.display = self._run is None and picture is not None and bool(picture.runs)
        base.query_one("#columns").display = picture is not None and picture.detail is not None
        if picture is None or picture.detail is None:
            nothing = "no run is in progress: backfilld enqueue FILE" if picture else "reading…"
            self._put("heading", Text(nothing, style="dim"))
            self._put("numbers", Text())
            return
        if table.display:
            table.show(picture.runs, width)
        self._show_detail(picture, picture.detail, width)

    def _show_detail(self, picture: Picture, detail: Detail, width: int) -> None:
        inner = width - 3
        left, right = (inner * 11 // 20 - 1, inner * 9 // 20 - 1) if width >= WIDE else (inner, inner)
        for name, shown in (
            ("heading", sections.heading(detail.progress)),
            ("numbers", sections.numbers(detail.progress, inner)),
            ("lanes", sections.lanes(detail, left)),
            ("events", sections.events(detail, EVENTS if width >= WIDE else FEW_EVENTS)),
            ("pace", sections.pace(picture)),
            ("signals", sections.signals(picture.signals, right)),
        ):
            self._put(name, shown)

    def _put(self, name: str, shown: RenderableType) -> None:
        # In a Group, so that rich draws it: textual reads the colours of a bare Text as its own, not the terminal's.
        self.screen_stack[0].query_one(f"#{name}", Static).update(Group(shown))

    def _top(self, width: int) -> RenderableType:
        table = Table.grid(expand=True, padding=(0, 1))
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", no_wrap=True)
        place = f"  {display.safe(self.picture.place)}" if self.picture else ""
        told = Text()
        if self.picture is not None and width >= 50:
            failed = sum(run.state is State.FAILED for run in self.picture.runs)
            in_progress = sum(run.state not in ENDED for run in self.picture.runs) - failed
            told = Text(f"{in_progress} in progress" + (f", {failed} failed" if failed else ""))
            if self.picture.stop is not None:
                told = Text("all runs are stopped", style="bold yellow")
        table.add_row(Text.assemble(("backfilld watch", "bold"), (place, "dim")), told)
        return table

    def _show_trouble(self) -> None:
        told = self._told_trouble()
        shown = self.screen_stack[0].query_one("#trouble", Static)
        shown.display = bool(told)
        shown.update(Group(told))

    def _told_trouble(self) -> Text:
        now = time.monotonic()
        silent = now - self._seen_at
        lines = []
        if self._trouble is not None or silent > OLD_SECONDS:
            since = f"PostgreSQL has not answered for {display.duration(silent)}, retrying"
            reason = f": {display.safe(self._trouble)}" if self._trouble else ""
            lines.append(Text.assemble((since, "bold red"), reason))
        for question, at in self._asked.values():
            if now - at > SLOW_SECONDS:
                lines.append(Text(f"no answer for {display.duration(now - at)}: {question}", style="yellow"))
        return Text("\n").join(lines)

    def _keys_line(self, width: int) -> Text:
        """As many keys as there is room for: those that make sense now first, help and quit always."""
        stopped = self.picture is not None and self.picture.stop is not None
        names = {key: (what if key != "P" or not stopped else "continue all") for key, what, _ in KEYS}
        sensible = [key for key, _, _ in KEYS if key not in {"?", "q"} and self._makes_sense(key)]
        always = ["?", "q"]
        room = width - 2 - sum(len(f"{key} {names[key]}") + 2 for key in always)
        shown = []
        for key in sensible:
            room -= len(f"{key} {names[key]}") + 2
            if room < 0:
                break
            shown.append(key)
        pairs = (Text.assemble((key, "bold cyan"), f" {names[key]}") for key in shown + always)
        return Text("  ").join(pairs)

    def _makes_sense(self, key: str) -> bool:
        run = self.chosen
        if run is None:
            return key == "P"
        return run.state in _SENSIBLE.get(key, frozenset(State))

    # --- asking --------------------------------------------------------------------------------------------------------

    @property
    def chosen(self) -> Progress | None:
        """The run that the keys act on."""
        return self.picture.detail.progress if self.picture and self.picture.detail else None

    def action_pause(self) -> None:
        self._ask_about(wishes.pause)

    def action_resume(self) -> None:
        self._ask_about(wishes.resume)

    def action_cancel(self) -> None:
        self._ask_about(wishes.cancel)

    def action_roll_back(self) -> None:
        self._ask_about(wishes.roll_back)

    def action_approve(self) -> None:
        run = self.chosen
        if run is not None and run.state is not State.WAITING:
            self._tell(f"{run.name} waits for no approval: it is {run.state.words}", refused=True)
            return
        self._ask_about(wishes.approve)

    def action_stop_or_go(self) -> None:
        if self.picture is not None:
            self._ask(wishes.stop_or_go(self.picture.stop))

    def action_pace(self) -> None:
        detail = self.picture.detail if self.picture else None
        if detail is None:
            return
        run = detail.progress

        def chosen(changes: dict[str, float] | None) -> None:
            if changes:
                self._do(f"the pace of {display.safe(run.name)}", wishes.pace(run, changes))

        self.push_screen(questions.PaceForm(run, detail.settings), chosen)

    def action_explain(self) -> None:
        run = self.chosen
        if run is None:
            return
        told: list[RenderableType] = []

        def explain(client: Client) -> str:
            found = client.explain(run.run)
            told.append(display.explanation(f"{found.name} (run {found.run})", found.sentences, found.remedies))
            return ""

        def show() -> None:
            self.push_screen(questions.Reading(told[0]))

        self._do(f"an explanation of {display.safe(run.name)}", explain, then=show)

    def action_help(self) -> None:
        lines = [Text("Keys", style="bold")]
        lines += [Text.assemble(("↑ ↓   ", "bold cyan"), "Choose a run; PgUp and PgDn move what is below")]
        lines += [Text.assemble((f"{key:<6}", "bold cyan"), words) for key, _, words in KEYS]
        lines.append(Text("Every change is confirmed first; Esc cancels it.", style="dim"))
        self.push_screen(questions.Reading(Text("\n").join(lines)))

    def action_leave(self, code: int) -> None:
        self.exit(code or self._code())

    def _code(self) -> int:
        watched = self.picture.runs if self.picture else ()
        return int(any(run.state in {State.FAILED, State.CANCELLED, State.ROLLED_BACK} for run in watched))

    def _ask_about(self, wish: Callable[[Progress], Wish]) -> None:
        if self.chosen is not None:
            self._ask(wish(self.chosen))

    def _ask(self, wish: Wish) -> None:
        def answered(yes: bool | None) -> None:  # noqa: FBT001 - what a screen returns
            if yes:
                self._do(wish.question, wish.act)

        self.push_screen(questions.Question(wish), answered)

    # --- doing ---------------------------------------------------------------------------------------------------------

    def _do(self, question: str, act: Callable[[Client], str], *, then: Callable[[], None] | None = None) -> None:
        """Do it in a thread of its own: the keys keep working while a server does not answer."""
        self._number += 1
        self._asked[self._number] = (question, time.monotonic())
        target = partial(self._doing, self._number, act, then)
        threading.Thread(target=target, name="watch-command", daemon=True).start()

    def _doing(self, asked: int, act: Callable[[Client], str], then: Callable[[], None] | None) -> None:
        try:
            answer, refused = act(self._client), False
        except Exception as exc:  # noqa: BLE001 - a thread's edge: refused or failed, it is told, and the view goes on
            answer, refused = redact(str(exc).strip()) or type(exc).__name__, True
        self._reader.hurry()
        self.post_message(Answered(asked, answer, refused=refused, then=None if refused else then))

    @on(Answered)
    def _on_answered(self, message: Answered) -> None:
        self._asked.pop(message.asked, None)
        if not self._is_there:
            return
        self._show_trouble()
        if message.answer:
            self._tell(message.answer, refused=message.refused)
        if message.then is not None:
            message.then()

    def _tell(self, text: str, *, refused: bool = False) -> None:
        safe = "\n".join(display.safe(line) for line in text.splitlines())
        self.notify(safe, severity="error" if refused else "information", timeout=8, markup=False)

    def _warn(self, text: str) -> None:
        """A warning of the client, from any thread."""
        self.post_message(Answered(0, redact(text), refused=True))
