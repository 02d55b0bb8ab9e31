"""One run: in a few lines, or all about it on a page."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from backfilld.migrations.record.states import ENDED, Phase, State
from backfilld.monitoring.display.explanation import remedy
from backfilld.monitoring.display.story import by_governor, story
from backfilld.monitoring.display.tables import plain, title
from backfilld.monitoring.display.words import cell, left, phase, rate, rows, share, standing
from backfilld.monitoring.policies import NAMED
from backfilld.monitoring.words import counted, moment, number, safe, size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from backfilld.migrations.record.model import Lane
    from backfilld.monitoring.progress import Progress

#: A page ends with the newest events of its run; `backfilld events` has them all, and what the governor does to all runs.
EVENTS_ON_A_PAGE = 8


def block(progress: Progress) -> RenderableType:
    """A run in four or five lines, as `watch` shows it."""
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(ratio=1, overflow="fold")
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        Text.assemble((safe(progress.name), "bold"), (f"  run {progress.run}", "dim")),
        Text.assemble(
            *(((named, "cyan"), (" · ", "dim")) if (named := phase(progress)) else ()),
            standing(progress),
        ),
    )
    work = [] if progress.state is State.ROLLED_BACK else [_bar(progress), _numbers(progress)]
    return Group(head, *work, *remarks(progress))


def page(
    progress: Progress,
    lanes: Sequence[Lane],
    events: Sequence[Mapping[str, Any]],  # Any: columns of the audit
) -> RenderableType:
    """All about one run."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    if progress.state not in _TAKEN_BACK:
        facts.add_row("phase", _phases(progress))
        facts.add_row("verified", _verified(progress))
    if progress.hot_update_ratio is not None and progress.state not in _TAKEN_BACK:
        facts.add_row("HOT updates", f"{progress.hot_update_ratio:.1%}")
        facts.add_row("order on disk", f"{counted(progress.rows_moved or 0, 'row')} left their page, at most")
    if progress.load is not None:
        facts.add_row("load", _load(progress.load))
    if progress.space is not None and progress.space.get("after", {}).get("heap_bytes"):
        facts.add_row("size", _sizes(progress.space["before"], progress.space["after"]))
    if progress.rollback is not None and progress.state is not State.ROLLED_BACK:
        facts.add_row("rollback", _way_back(progress.rollback))
        for what, words in _kept(progress):
            facts.add_row(what, words)
    facts.add_row("created", f"{moment(progress.created_at)} UTC")
    facts.add_row("last moved", f"{moment(progress.updated_at)} UTC")
    parts: list[RenderableType] = [block(progress), Text(), facts]
    if progress.errors:
        parts += [Text(), title("errors"), _error_table(progress)]
    walking = [lane for lane in lanes if lane.kind != "coordinator"]
    if walking:
        parts += [Text(), title("lanes"), lane_table(walking)]
    if told := [event for event in events if not by_governor(event)]:
        parts += [Text(), title("last events"), story(told[-EVENTS_ON_A_PAGE:])]
    return Group(*parts)


def _kept(progress: Progress) -> Iterator[tuple[str, str]]:
    """What is kept for the way back, and what waits to be brought over."""
    if progress.journal_bytes:
        yield "journal", size(progress.journal_bytes)
    if progress.behind:
        yield "behind", f"{counted(progress.behind, 'row')} to bring over, {progress.behind_seconds:.1f} s"


def _load(load: Mapping[str, Any]) -> str:  # Any: JSON
    """How far a file is staged, what was found of it, and what became of its lines."""
    parts = [counted(load["lines"], "line")]
    if not load["staged"]:
        whole = f" of {size(load['bytes_total'])}" if load["bytes_total"] is not None else ""
        parts.append(f"{size(load['bytes_read'])}{whole} staged")
    done = {name: load[name] for name in ("inserted", "updated", "same", "set_aside", "duplicates")}
    found = load["found"]
    if not (done["inserted"] or done["updated"] or done["same"]) and found["looked_at"]:
        about = (
            ""
            if found["looked_at"] + done["set_aside"] + done["duplicates"] >= load["lines"]
            else f" of {number(found['looked_at'])} looked at"
        )
        parts.append(
            f"to come{about}: {number(found['new'])} new, {number(found['changed'])} changed, {number(found['same'])} the same"
        )
    parts += [f"{number(rows)} {name.replace('_', ' ')}" for name, rows in done.items() if rows]
    if load["reasons"]:
        parts[-1 if not done["duplicates"] else -2] += (
            f" ({', '.join(f'{number(rows)} by {state}' for state, rows in sorted(load['reasons'].items()))})"
        )
    return ", ".join(parts)


def _way_back(rollback: Mapping[str, Any]) -> Text:  # Any: JSON
    """Whether the run can still be rolled back, and what prevents it."""
    if not rollback["possible"]:
        return Text(f"not possible: {rollback['because']}", style="yellow")
    until = rollback["kept_until"]
    return Text(f"possible until {moment(datetime.fromisoformat(until))} UTC" if until else "possible")


def _sizes(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """How the walk changed the sizes of the tables and their indexes."""
    return ", ".join(
        f"{what} {size(before[part])} > {size(after[part])}"
        + (f" ({after[part] / before[part] - 1:+.0%})" if before[part] else "")
        for what, part in (("heap", "heap_bytes"), ("indexes", "index_bytes"))
    )


def _bar(progress: Progress) -> RenderableType:
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    is_still = progress.state in _STOPPED or progress.hold_reason
    style = "red" if progress.state is State.FAILED else "yellow" if is_still else "green"
    bar.add_row(
        ProgressBar(total=100, completed=progress.percent, complete_style=style, finished_style=style),
        Text(share(progress)),
    )
    return bar


_STOPPED = frozenset({State.PAUSED, State.PAUSING, State.CANCELLING, State.CANCELLED})
#: Nothing of what was done and verified is there any more, or soon will be.
_TAKEN_BACK = frozenset({State.ROLLING_BACK, State.ROLLED_BACK})


def _numbers(progress: Progress) -> Text:
    parts = [rows(progress)]
    if progress.state is State.RUNNING or progress.old_values_walk is not None:
        parts += [rate(progress), f"{left(progress)} left" if left(progress) else ""]
    if progress.state is State.RUNNING:
        parts.append(f"{counted(progress.lanes, 'lane')}, width {progress.width}")
    return Text(" · ".join(part for part in parts if part))


def remarks(progress: Progress, *, commands: bool = True) -> list[Text]:
    """What a person should know or do, one line each; `commands` adds those to type."""
    remarks = []
    if progress.index_work is not None:
        remarks.append(Text.assemble(("index ", "cyan"), safe(progress.index_work.in_words)))
    elif progress.hold_reason:
        mark = "" if progress.state is State.WAITING else "hold  "
        remarks.append(Text.assemble((mark, "yellow"), remedy(progress.hold_reason)))
    remarks += [
        Text(safe(one.in_words), style="red" if one.still_comes else "yellow") for one in progress.after_contract
    ]
    remarks += [Text(safe(one.in_words), style="yellow") for one in progress.policies[:NAMED]]
    if more := progress.policies[NAMED:]:
        remarks.append(
            Text(f"and {counted(len(more), 'more')}: backfilld explain {safe(progress.name)}", style="yellow")
        )
    if progress.application is not None and progress.application["counts"] and progress.state not in ENDED:
        found = ", ".join(f"{number(n)} {kind.replace('_', ' ')}" for kind, n in progress.application["counts"].items())
        how = remedy(f": backfilld explain {progress.name}" if commands else "")
        remarks.append(Text.assemble((f"the check of the application found {found}", "yellow"), how))
    if progress.state in {State.FAILED, State.PAUSED}:
        told = f". What helps: backfilld explain {safe(progress.name)}" if commands else ""
        remarks += [
            Text.assemble(("error ", "red"), safe(error["message"]).removesuffix("."), remedy(told))
            for error in progress.errors[:1]
        ]
    taken_back = progress.state in {State.CANCELLED, State.ROLLED_BACK}
    lines = progress.load["set_aside"] if progress.load is not None and not taken_back else 0
    aside = [f"{counted(progress.quarantined, 'row')} quarantined"] if progress.quarantined else []
    aside += [f"{counted(lines, 'line')} set aside"] if lines else []
    if aside:
        which = remedy(f": backfilld quarantine list {progress.name}")
        remarks.append(Text.assemble((" and ".join(aside), "yellow"), which))
    return remarks


def _phases(progress: Progress) -> Text:
    words = []
    for one in Phase:
        done = progress.phase.is_past(one) or progress.state is State.COMPLETED
        words.append((str(one), "bold" if one is progress.phase else "green" if done else "dim"))
    return Text(" > ", style="dim").join(Text(word, style=style) for word, style in words)


def _verified(progress: Progress) -> Text:
    if progress.verified and progress.residual_rows:
        return Text(f"yes, but for {counted(progress.residual_rows, 'row')} that a person accepted", style="yellow")
    if progress.verified:
        return Text("yes, no row needs work", style="green")
    if progress.residual_rows:
        return Text(f"no, {counted(progress.residual_rows, 'row')} still needed work", style="yellow")
    return Text("not yet")


def _error_table(progress: Progress) -> Table:
    table = plain("lane", "class", "SQLSTATE", "message")
    for error in progress.errors:
        table.add_row(
            *(
                cell(error.get(key) if error.get(key) is not None else "")
                for key in ("lane", "class", "sqlstate", "message")
            )
        )
    return table


def lane_table(lanes: Iterable[Lane]) -> Table:
    table = plain("lane", "kind", "table", "state", "walked", "changed", "batches", "retried", right=range(4, 8))
    for lane in lanes:
        state = "done" if lane.done_at is not None else "retrying" if lane.attempts else "open"
        table.add_row(
            str(lane.lane),
            lane.kind,
            cell(lane.relation),
            Text(state, style={"done": "dim", "retrying": "yellow"}.get(state, "")),
            number(lane.rows_walked),
            number(lane.rows_changed),
            number(lane.batches_committed),
            number(lane.batches_retried),
        )
    return table
