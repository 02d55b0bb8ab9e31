"""Runs in progress: a block each that is redrawn in a terminal, elsewhere a line whenever something changed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from backfilld.monitoring.display.page import block
from backfilld.monitoring.display.words import line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from rich.console import Console, RenderableType

    from backfilld.migrations.holds import Cause
    from backfilld.migrations.record.states import Phase, State
    from backfilld.monitoring.progress import Progress

#: Without a terminal, at most one line per run in this time, unless its state or phase changed: logs are kept and read.
LINE_EVERY_SECONDS = 2.0
#: A line that says the same is printed again after this: silence for ever could mean anything.
SAME_EVERY_SECONDS = 30.0


class Watch:
    """The live view: a block per run that is redrawn in a terminal; elsewhere a line whenever something changed."""

    def __init__(self, console: Console, *, plain: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """`plain`: lines on a terminal too."""
        redraws = console.is_terminal and not console.is_dumb_terminal and not plain
        self._console = console
        self._clock = clock
        self._live = Live(console=console, auto_refresh=False, transient=False) if redraws else None
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
        """Show the runs as they are now; may be called at any rate."""
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
        standing = (progress.phase, progress.state, progress.hold.cause if progress.hold is not None else None)
        if told is not None and told.standing == standing:
            pause = SAME_EVERY_SECONDS if told.text == text else LINE_EVERY_SECONDS
            if now - told.at < pause:
                return
        self._told[progress.run] = _Told(now, standing, text)
        self._console.print(Text(text), soft_wrap=True)


@dataclass(frozen=True)
class _Told:
    """The last line that was printed of a run."""

    at: float
    standing: tuple[Phase, State, Cause | None]
    text: str
