"""How a run reads: its state, its rows, its rate and what is left, in a table or on a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring.words import duration, number, safe

if TYPE_CHECKING:
    from backfilld.monitoring.progress import Progress

STYLES: dict[State, str] = {
    State.QUEUED: "cyan",
    State.RUNNING: "green",
    State.WAITING: "yellow",
    State.PAUSING: "yellow",
    State.PAUSED: "yellow",
    State.CANCELLING: "yellow",
    State.CANCELLED: "dim",
    State.ROLLING_BACK: "yellow",
    State.ROLLED_BACK: "dim",
    State.FAILED: "bold red",
    State.COMPLETED: "bold green",
}


def cell(value: object) -> Text:
    """Text of a user's for a table: a bare str in one would be read as markup."""
    return Text(safe(value))


def rate(progress: Progress) -> str:
    return f"{number(progress.rows_per_second)} rows/s"


def standing(progress: Progress) -> Text:
    """The state; a hold is none, but it is what one looks for."""
    if progress.state is State.RUNNING and progress.hold_reason:
        return Text("held", style="yellow")
    return Text(progress.state.replace("_", " "), style=STYLES[progress.state])


def left(progress: Progress) -> str:
    """How long it will take still; nothing while it is held, because nobody knows."""
    return "" if progress.eta_seconds is None or progress.hold_reason else duration(progress.eta_seconds)


def rows(progress: Progress) -> str:
    """What has been passed over and what was changed; one number where they agree."""
    if progress.rows_total is None:
        return f"{number(progress.rows_done)} rows"
    walked = f"{number(progress.rows_walked)} of {number(progress.rows_total)} rows"
    if progress.phase is Phase.VERIFY:
        return f"{number(progress.rows_verified)} of {number(progress.rows_total)} rows verified"
    return walked if progress.rows_done == progress.rows_walked else f"{walked}, {number(progress.rows_done)} changed"


def line(progress: Progress) -> str:
    """A run on one line, for logs: no colour, no control character."""
    standing = [str(progress.state)] if progress.phase is Phase.DONE else [str(progress.phase), str(progress.state)]
    parts = [f"{progress.name} (run {progress.run}): {' '.join(standing)}"]
    if progress.rows_total is not None:
        parts += [f"{progress.percent:.1f} %", rows(progress)]
    if progress.state is State.RUNNING:
        parts += [rate(progress), f"width {progress.width}"]
    if progress.eta_seconds is not None:
        parts.append(f"{duration(progress.eta_seconds)} left")
    if progress.index_work is not None:
        parts.append(progress.index_work.in_words)
    if progress.quarantined:
        parts.append(f"{number(progress.quarantined)} quarantined")
    if progress.hold_reason and not progress.index_work:
        parts.append(progress.hold_reason if progress.state is State.WAITING else f"hold: {progress.hold_reason}")
    if progress.state in {State.FAILED, State.PAUSED} and progress.errors:
        parts.append(f"error: {progress.errors[0]['message']}")
    return safe(", ".join(parts))
