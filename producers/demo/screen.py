"""What is seen while the demo runs: a line for each step, and in a terminal the run's progress below them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from backfilld.monitoring import display

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType

    from backfilld.monitoring.progress import Progress

#: Often enough to look alive, seldom enough to cost nothing beside the migration.
REFRESH_PER_SECOND = 8


class Screen:
    """Steps as they happen, with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._live = (
            Live(console=console, transient=True, refresh_per_second=REFRESH_PER_SECOND)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def title(self, text: str) -> None:
        self._console.print(Text(text, style="bold"), soft_wrap=True)
        self._console.print()

    def step(self, text: str) -> None:
        """Something has happened, or begins."""
        seconds = time.monotonic() - self._began
        self._console.print(Text.assemble((f"{seconds:5.1f} s  ", "dim"), display.safe(text)), soft_wrap=True)

    def busy(self, text: str) -> None:
        """What is being waited for; seen in a terminal only."""
        self._show(Spinner("dots", Text(display.safe(text), style="dim")))

    def progress(self, progress: Progress) -> None:
        """Where the run is; seen in a terminal only."""
        self._show(display.block(progress))

    def _show(self, renderable: RenderableType) -> None:
        if self._live is not None:
            self._live.update(Group(Text(), renderable))
