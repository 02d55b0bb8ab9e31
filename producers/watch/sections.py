"""The parts of the screen, as text of a given width, made of values."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from backfilld.migrations.record.states import STOPPING, State
from backfilld.monitoring import display

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from backfilld.migrations.record.model import Lane
    from backfilld.monitoring.pace import Signal
    from backfilld.monitoring.progress import Progress
    from backfilld.producers.watch.reading import Detail, Picture

#: How many lanes get a bar: fifty would be unreadable.
MOST_LANES = 16
#: Where the bar of a signal stands when it is at its hard limit: there is room for what is beyond.
_HARD_AT = 0.8


def heading(run: Progress) -> RenderableType:
    """Which run, its phase and state, and since when."""
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(ratio=1, overflow="fold")
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        Text.assemble((display.safe(run.name), "bold"), (f"  run {run.run}", "dim")),
        Text.assemble(
            (f"{display.phase(run)} " if display.phase(run) else "", "cyan"),
            display.standing(run),
            (f" for {display.duration(_seconds(run))}", "dim"),
        ),
    )
    return head


def numbers(run: Progress, width: int) -> RenderableType:
    """The bar, its rows, and why it does not move."""
    if run.state is State.ROLLED_BACK:
        return Group(Text("everything it did is undone", style="dim"), *why(run))
    share = f"{display.share(run):>7}"
    parts = [display.rows(run)]
    if run.state is State.RUNNING or run.old_values_walk is not None:
        parts.append(display.rate(run))
    if display.left(run):
        parts.append(f"{display.left(run)} left")
    if run.verified:
        parts.append("verified")
    long_bar = bar(run.percent / 100, max(width - len(share) - 1, 4), style_of(run))
    return Group(Text.assemble(long_bar, " ", share), Text(" · ".join(part for part in parts if part)), *why(run))


def why(run: Progress) -> list[Text]:
    """What a person should know or do, one line each."""
    told = display.remarks(run, commands=False)
    if run.state is State.PAUSED and not run.errors:
        told.append(Text.assemble("paused until it is resumed: ", ("r", "bold")))
    if run.state in STOPPING:
        told.append(Text("waiting until no batch is in flight: about a second, with a worker running", style="yellow"))
    if run.state is State.FAILED:
        told.append(
            Text.assemble(("e", "bold"), " explains it; ", ("r", "bold"), " resumes it once the cause is fixed")
        )
    return told


def style_of(run: Progress) -> str:
    if run.state is State.FAILED:
        return "red"
    if run.hold is not None or run.state in STOPPING | {State.PAUSED, State.CANCELLED, State.ROLLED_BACK}:
        return "yellow"
    return "green"


def _seconds(run: Progress) -> float:
    """For how long what the heading says has been so."""
    return run.hold.seconds if run.hold is not None and run.state is State.RUNNING else run.state_seconds


def bar(share: float, width: int, style: str) -> Text:
    """A bar that is `width` cells long, in halves of a cell."""
    halves = round(min(max(share, 0.0), 1.0) * width * 2)
    full = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return Text.assemble((full, style), ("─" * (width - len(full)), "dim"))


# --- lanes -------------------------------------------------------------------------------------------------------------


def lanes(detail: Detail, width: int) -> RenderableType:
    """Progress of each lane of the present walk; finished lanes in one line."""
    if not detail.lanes:
        return Text("no walk yet", style="dim")
    open_ = [lane for lane in detail.lanes if lane.done_at is None]
    done = [lane for lane in detail.lanes if lane.done_at is not None]
    parts: list[RenderableType] = []
    for lane in _most_interesting(open_):
        parts.append(_lane(lane, width))
        if lane.attempts and lane.last_error:
            message = str(lane.last_error.get("message") or lane.last_error.get("reason") or "")
            parts.append(Text(f"     {display.safe(message)}", style="yellow", no_wrap=True, overflow="ellipsis"))
    if len(open_) > MOST_LANES:
        parts.append(Text(f"and {len(open_) - MOST_LANES} more", style="dim"))
    if done:
        walked = sum(lane.rows_walked for lane in done)
        parts.append(Text(f"{display.counted(len(done), 'lane')} done, {display.counted(walked, 'row')}", style="dim"))
    return Group(*parts)


def _most_interesting(open_: Sequence[Lane]) -> list[Lane]:
    """Retrying lanes and working lanes before sleeping ones; in the order of their numbers."""
    first = sorted(open_, key=lambda lane: (not lane.attempts, lane.next_run_at is None, lane.lane))[:MOST_LANES]
    return sorted(first, key=lambda lane: lane.lane)


def _lane(lane: Lane, width: int) -> Text:
    expected = lane.rows_expected or 0
    share = min(lane.rows_walked / expected, 0.999) if expected else 0.0
    state, style = _lane_state(lane)
    told = f"{share:6.1%}" if expected else display.counted(lane.rows_walked, "row")
    rest = f" {told} {state}"
    return Text.assemble(
        (f"{lane.lane:>3} ", "dim"), bar(share, max(min(width - len(rest) - 5, 40), 4), style), rest[: width - 8]
    )


def _lane_state(lane: Lane) -> tuple[str, str]:
    if lane.attempts:
        return f"{lane.kind}, try {lane.attempts + 1}", "yellow"
    if lane.next_run_at is None:
        return f"{lane.kind}, waits its turn", "dim"
    return lane.kind, "green"


# --- pace and signals --------------------------------------------------------------------------------------------------


def pace(picture: Picture) -> RenderableType:
    """The pace of the database, and the settings of the chosen run."""
    now = picture.pace
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("width", f"{now.width} of at most {now.max_width} lanes, all runs together")
    if now.rest:
        table.add_row("rest", f"{now.rest:.2g} s after each second of work")
    if now.batch_seconds is not None:
        table.add_row("batches", f"{now.batch_seconds:.2g} s at most")
    if picture.stop is not None:
        table.add_row("stop", Text(display.safe(picture.stop.reason), style="yellow"))
    elif now.hold_reason:
        table.add_row("hold", Text(display.safe(now.hold_reason), style="yellow"))
    if now.age_seconds is None:
        table.add_row("reading", Text("none yet: is a worker running?", style="yellow"))
    elif now.age_seconds > 3:
        table.add_row("reading", Text(f"{display.duration(now.age_seconds)} old", style="yellow"))
    if picture.detail is not None:
        own = picture.detail.settings
        table.add_row("this run", f"{own.lanes} lanes, batches of {own.batch_seconds:g} s, nice {own.nice:g}")
    return table


def signals(found: Iterable[Signal], width: int) -> RenderableType:
    """Every load signal on a bar, with a mark at its soft limit and one at its hard limit; the nearest to that first."""
    # In steps, so that two that are about as near do not swap places twice a second.
    told = sorted(found, key=lambda one: (-round(_nearness(one) * 4), one.name))
    if not told:
        return Text("no load reading yet: is a worker running?", style="dim")
    longest = min(max(len(_signal_name(one)) for one in told), max(width // 2, 12))
    values = max(len(_value(one)) for one in told)
    limits = max(len(_limit(one)) for one in told)
    cells = min(width - longest - values - limits - 3, 24)
    return Group(*(_signal(one, longest, cells, values) for one in told))


def _nearness(signal: Signal) -> float:
    """How near a signal is to its hard limit; one that cannot be read holds, so it is there."""
    if signal.value is None:
        return 2.0
    if not signal.hard:
        return 0.0
    return signal.value / signal.hard if signal.hard > 0 else 0.0


def _signal_name(signal: Signal) -> str:
    return display.signal_name(signal.name)


def _value(signal: Signal) -> str:
    return "unreadable" if signal.value is None else display.signal_value(signal.name, signal.value)


def _limit(signal: Signal) -> str:
    return "" if signal.hard is None else f"of {display.signal_value(signal.name, signal.hard)}"


def _signal(signal: Signal, longest: int, cells: int, values: int) -> Text:
    name = _signal_name(signal)[:longest].ljust(longest)
    style = "green"
    if signal.value is None or (signal.hard is not None and signal.value >= signal.hard):
        style = "red"
    elif signal.soft is not None and signal.value > signal.soft:
        style = "yellow"
    gauge = Text()
    if cells >= 6:
        if signal.value is not None and signal.hard is not None:
            gauge = _gauge(signal.value, signal.soft, signal.hard, cells, style)
        else:
            gauge = Text("─" * cells, style="dim")
        gauge.append(" ")
    return Text.assemble(name, " ", gauge, (_value(signal).rjust(values), style), (f" {_limit(signal)}", "dim"))


def _gauge(value: float, soft: float | None, hard: float, cells: int, style: str) -> Text:
    """The value as a bar, with `╎` at the soft limit and `┃` at the hard one."""
    low = min(0.0, value, soft or 0.0)  # signals of the operator's own may be negative
    span = (hard - low) / _HARD_AT or 1.0
    at = [round((mark - low) / span * (cells - 1)) for mark in (value, soft if soft is not None else hard, hard)]
    filled, soft_at, hard_at = (min(max(one, 0), cells - 1) for one in at)
    text = Text()
    for cell in range(cells):
        if cell == hard_at:
            text.append("┃", style="red")
        elif cell == soft_at:
            text.append("╎", style="yellow")
        else:
            text.append("━" if cell < filled else "─", style=style if cell < filled else "dim")
    return text


# --- events ------------------------------------------------------------------------------------------------------------


def events(detail: Detail, most: int) -> RenderableType:
    """The newest first, each with its time (UTC)."""
    if not detail.events:
        return Text("nothing yet", style="dim")
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    today = detail.events[-1]["at"].astimezone(UTC).date()
    for event in list(reversed(detail.events))[:most]:
        at = event["at"].astimezone(UTC)
        who = str(event["actor"])
        by = "" if who == "worker" else f"  {display.safe(who)}"
        mark = "" if event["run"] is not None else "all runs: "
        table.add_row(
            f"{at:%H:%M:%S}" if at.date() == today else f"{at:%m-%d %H:%M}",
            Text.assemble((mark, "yellow"), display.sentence(event), (by, "cyan")),
        )
    return table
