"""Words and numbers: how a state, a rate, a time or a name reads, wherever it stands.

Names and messages come from databases and files, so they are shown as they are, never read as markup and never sent raw to
the terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from backfilld.migrations.record.states import Phase, State

if TYPE_CHECKING:
    from datetime import datetime

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


def safe(value: object) -> str:
    """Text of a user's on one line, with nothing in it that a terminal would obey."""
    return "".join(
        c if c.isprintable() else " " if c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in str(value)
    )


def cell(value: object) -> Text:
    """The same for a table: a bare str in one would be read as markup."""
    return Text(safe(value))


def number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Two units at most: 44 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def size(amount: float | None) -> str:
    """Bytes, in the units PostgreSQL uses."""
    if amount is None:
        return "?"
    value = float(amount)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.1f} {unit}" if 0 < value < 10 and unit != "B" else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


def figure(value: float) -> str:
    """A measured value in three figures, and large ones without an exponent."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


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
