"""How a run reads: its state, its rows, its rate and what is left, in a table or on a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from backfilld.migrations.record.states import LaneKind, Phase, State
from backfilld.monitoring.progress import WALKING
from backfilld.monitoring.words import counted, duration, number, safe

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
    """The state, or `held`: a hold is not a state, but it is what people look for."""
    if progress.state is State.RUNNING and progress.hold_reason:
        return Text("held", style="yellow")
    return Text(progress.state.words, style=STYLES[progress.state])


def phase(progress: Progress) -> str:
    """The phase; none of a run that is over."""
    return "" if progress.phase is Phase.DONE or progress.state is State.ROLLED_BACK else str(progress.phase)


def left(progress: Progress) -> str:
    """The time left; nothing while it is held, because then it is unknown."""
    return "" if progress.eta_seconds is None or progress.hold_reason else duration(progress.eta_seconds)


def share(progress: Progress) -> str:
    """How much of the present work is done; nothing of a run that is rolled back, of which nothing is there any more."""
    return "" if progress.state is State.ROLLED_BACK else f"{progress.percent:.1f} %"


def rows(progress: Progress) -> str:
    """The rows of the present walk, and how many were changed where that is not the same; empty where none is known."""
    kept = progress.old_values_walk
    if progress.state is State.ROLLED_BACK or (progress.state is State.ROLLING_BACK and kept is None):
        return ""
    if kept is not None:
        done = _DONE_TO_KEPT[kept.kind].format(personas=counted(progress.personas, "persona"))
        return _of(kept.rows_walked, kept.rows_total, done, about=True)
    if not progress.rows_total and progress.rows_compared:
        return f"{counted(progress.rows_compared, 'row')} compared as {counted(progress.personas, 'persona')}"
    if progress.rows_total is None:
        return counted(progress.rows_done, "row") if progress.rows_done else ""
    if progress.phase is Phase.VERIFY:
        return _of(progress.rows_verified, progress.rows_total, " verified") if progress.rows_total else ""
    if progress.phase in WALKING:
        walked = _of(progress.rows_walked, progress.rows_total, about=True, is_over=progress.percent >= 100)
        all_rows = progress.rows_walked
    else:
        walked, all_rows = counted(progress.rows_total, "row"), progress.rows_total
    return walked if progress.rows_done == all_rows else f"{walked}, {number(progress.rows_done)} changed"


#: What a walk between two steps does with the rows.
_DONE_TO_KEPT = {
    LaneKind.ARCHIVE: " archived",
    LaneKind.RESTORE: " restored",
    LaneKind.UNDO: " undone",
    LaneKind.COMPARE: " compared as {personas}",
    LaneKind.CONFIRM: " looked at as {personas}",
}


def _of(walked: int, total: int, done: str = "", *, about: bool = False, is_over: bool = False) -> str:
    """`5 of 10 rows`; never more than all, and never all while some may be left: the total may be an estimate."""
    if walked > total or (about and not is_over and walked == total):
        return f"{counted(walked, 'row')}{done} so far"
    return f"{number(walked)} of {'about ' if about and not is_over else ''}{counted(total, 'row')}{done}"


def line(progress: Progress) -> str:
    """A run on one line, for logs: no colour, no control character."""
    standing = " ".join(part for part in (phase(progress), progress.state.words) if part)
    parts = [f"{progress.name} (run {progress.run}): {standing}"]
    if progress.rows_total is not None or progress.old_values_walk is not None:
        parts += [part for part in (share(progress), rows(progress)) if part]
    if progress.state is State.RUNNING:
        parts += [rate(progress), f"width {progress.width}"]
    if progress.eta_seconds is not None:
        parts.append(f"{duration(progress.eta_seconds)} left")
    if progress.index_work is not None:
        parts.append(progress.index_work.in_words)
    if progress.quarantined:
        parts.append(f"{number(progress.quarantined)} quarantined")
    if progress.load is not None and progress.load["set_aside"]:
        parts.append(f"{counted(progress.load['set_aside'], 'line')} set aside")
    if progress.hold_reason and not progress.index_work:
        parts.append(progress.hold_reason if progress.state is State.WAITING else f"hold: {progress.hold_reason}")
    if progress.state in {State.FAILED, State.PAUSED} and progress.errors:
        parts.append(f"error: {progress.errors[0]['message']}")
    return safe(", ".join(parts))
