"""The story of a run: who did what, when and why, one sentence for each event of the audit.

An event of an unknown kind is shown by its name and its detail, so that nothing is left out.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from backfilld.migrations.application.checked import MOMENTS
from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring.display.words import STYLES
from backfilld.monitoring.words import counted, duration, number, rows_left, safe, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rich.console import RenderableType

#: The actor of what no person did; as in the audit.
_WORKER = "worker"

#: States that a person asks for; a worker brings about what follows.
_WISHES = {
    State.PAUSING: "asked to pause",
    State.CANCELLING: "asked to cancel",
    State.ROLLING_BACK: "asked to roll back",
}
#: What `running` means after these: a person resumed it.
_RESUMED = frozenset({State.PAUSING, State.PAUSED, State.FAILED})


def story(events: Iterable[Mapping[str, Any]]) -> RenderableType:  # Any: columns of the audit
    """Events day by day, each with its time (UTC), who it was, and what happened."""
    days: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        days.setdefault(day_of(event), []).append(event)
    parts: list[RenderableType] = []
    who = max((len(_who(event)) for day in days.values() for event in day), default=0)
    for day, told in days.items():
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold", min_width=min(who, 12), max_width=24)
        table.add_column(overflow="fold", ratio=1)
        for event in told:
            table.add_row(
                f"{event['at'].astimezone(UTC):%H:%M:%S}", Text(_who(event), style=_style_of(event)), _told(event)
            )
        parts += [Text(day, style="bold"), table]
    return Group(*parts)


def story_line(event: Mapping[str, Any]) -> Text:  # Any: columns of the audit
    """One event on a line, without its day, for `events --follow`."""
    who = Text(f"{_who(event)}  ", style=_style_of(event))
    return Text.assemble((f"{event['at'].astimezone(UTC):%H:%M:%S}  ", "dim"), who, _told(event))


def day_of(event: Mapping[str, Any]) -> str:  # Any: columns of the audit
    """The day of the event, as a heading."""
    return f"{event['at'].astimezone(UTC):%A, %Y-%m-%d} (UTC)"


def _who(event: Mapping[str, Any]) -> str:
    return safe(event["actor"])


def by_governor(event: Mapping[str, Any]) -> bool:  # Any: columns of the audit
    """Whether it tells what the governor does to all runs of the database: a hold by load, another pace."""
    return event["run"] is None and event["actor"] == _WORKER


def _style_of(event: Mapping[str, Any]) -> str:
    """People stand out from workers: readers look for what a person did."""
    return "dim" if event["actor"] == _WORKER else "cyan"


def _told(event: Mapping[str, Any]) -> Text:
    """The sentence, marked when the event is of the whole database."""
    text = Text(sentence(event), style=_weight(event["what"]))
    return text if event["run"] is not None else Text.assemble(("all runs: ", "yellow"), text)


def _weight(what: str) -> str:
    group, _, state = what.partition(".")
    return STYLES[State(state)] if group == "run" and state in {"failed", "completed", "paused", "waiting"} else ""


def sentence(event: Mapping[str, Any]) -> str:  # Any: columns of the audit
    """What happened, in words and on one line."""
    what, detail = str(event["what"]), event["detail"]
    try:
        teller = _SENTENCES.get(what) or _teller_of(what)
        return safe(teller(detail) if teller else _generic(what, detail))
    except (KeyError, TypeError, ValueError):  # written by another release, with another detail
        return safe(_generic(what, detail))


# --- by kind -----------------------------------------------------------------------------------------------------------


def _teller_of(what: str) -> Callable[[Mapping[str, Any]], str] | None:
    """Families of kinds: states, phases, walks."""
    group, _, which = what.partition(".")
    match group:
        case "run" if which in set(State):
            return lambda detail: _state(State(which), detail)
        case "phase":
            return lambda detail: _phase(which, detail)
        case "space":
            return lambda detail: f"size of the tables {which} the walk: {_sizes(detail)}"
        case _ if which == "done":
            return lambda detail: _walked(group, detail)
        case _:
            return None


def _state(state: State, detail: Mapping[str, Any]) -> str:
    if state in _WISHES:
        return "resumed the rollback" if detail.get("again") else _WISHES[state]
    error = detail.get("error")
    reason = str((error.get("message") if isinstance(error, dict) else None) or detail.get("reason") or "")
    match state:
        case State.RUNNING if detail.get("before") == State.QUEUED:
            return "began to work"
        case State.RUNNING if detail.get("before") in _RESUMED:
            return "resumed it"
        case State.RUNNING:
            return f"continues: {reason}" if reason else "continues"
        case State.WAITING:
            return reason or "waits for approval"
        case _:
            return f"{state.words}: {reason}" if reason else state.words


def _phase(phase: str, detail: Mapping[str, Any]) -> str:
    if detail.get("direction") == "back":
        return f"began to undo phase {phase}"
    if "pass" in detail:
        return f"walks the data again (pass {detail['pass']}): {detail.get('reason', '')}"
    return "every phase is over" if phase == Phase.DONE else f"phase {phase} began"


def _sizes(detail: Mapping[str, Any]) -> str:
    return f"heap {size(detail['heap_bytes'])}, indexes {size(detail['index_bytes'])}"


#: Walks that look at rows as each persona.
_AS_PERSONAS = {"compare": "compared the policies for", "confirm": "confirmed what was predicted for"}


def _walked(kind: str, detail: Mapping[str, Any]) -> str:
    if kind == "undo":
        left = f"; {rows_left(detail['left'], detail['keys'])}" if detail.get("left") else ""
        return f"gave {counted(detail['changed'], 'row')} back what the journal kept{left}"
    if kind in _AS_PERSONAS:
        return f"{_AS_PERSONAS[kind]} {counted(detail['rows'], 'row')} as each persona"
    told = [f"read {counted(detail['rows'], 'row')}"]
    told += [f"{number(detail[key])} {key}" for key in ("changed", "missing") if detail.get(key)]
    return f"finished walk {kind}: {', '.join(told)}"


def _changes(detail: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(before)} → {_value(after)}" for name, (before, after) in detail.items())


def _value(value: object) -> str:
    match value:
        case list():
            return "; ".join(str(one) for one in value) or "none"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _session(detail: Mapping[str, Any]) -> str:
    name = detail.get("application_name")
    return f"session {detail['pid']}" + (f" ({name})" if name else "")


def _pace(detail: Mapping[str, Any]) -> str:
    told = [counted(detail["width"], "lane")]
    if detail.get("batch_seconds") is not None:
        told.append(f"batches up to {detail['batch_seconds']:.2g} s")
    if detail.get("rest"):
        told.append(f"{detail['rest']:.2g} s of rest for each second of work")
    return f"set the pace to {', '.join(told)}: {detail['reason']}"


def _purged(detail: Mapping[str, Any]) -> str:
    bytes_ = detail.get("journal_bytes", 0) + detail.get("archive_bytes", 0)
    return f"dropped {size(bytes_)} of old values; they can no longer be restored"


def _still_to_do(detail: Mapping[str, Any]) -> str:
    rows = detail.get("residual_rows", 0)
    return f"{counted(rows, 'row')} still needed work, as accepted" if rows else "no row needs work"


def _found(detail: Mapping[str, Any]) -> str:
    told = [counted(detail["statements"], "statement")]
    told += [f"{number(count)} {str(kind).replace('_', ' ')}" for kind, count in detail["counts"].items()]
    return ", ".join(told)


def _own_values(detail: Mapping[str, Any]) -> str:
    rows = detail.get("own_values", 0)
    return (
        f"; {counted(rows, 'row')} {'holds' if rows == 1 else 'hold'} a value of the application's own" if rows else ""
    )


def _given(detail: Mapping[str, Any]) -> str:
    """What a run was enqueued with: values of its parameters, and the migrations after which it begins."""
    values = ", ".join(f"{name} = {value}" for name, value in detail.get("parameters", {}).items())
    after = ", ".join(detail.get("after", ()))
    return (f", with {values}" if values else "") + (f", to begin after {after}" if after else "")


def _verdicts(commands: Iterable[Mapping[str, Any]]) -> str:  # Any: JSON
    """What each command of the file said."""
    return "; ".join(
        f"{one['name']} passes" if one["passes"] else f"{one['name']} fails from {one['fails_from']} on"
        for one in commands
    )


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "run.enqueued": lambda detail: f"enqueued it, checksum {_short(detail['checksum'])}" + _given(detail),
    "run.examined": lambda detail: "; ".join(["examined it, now that it begins", *detail.get("warnings", ())]),
    "run.verified": lambda detail: f"verified: {_still_to_do(detail)}" + _own_values(detail),
    "residual.accepted": lambda detail: f"accepted {counted(detail['rows'], 'row')} that still needed work",
    "run.residual": lambda detail: f"verification found {counted(detail['residual_rows'], 'row')} still to do",
    "run.tuned": lambda detail: f"set {_changes(detail)}",
    "run.purged": _purged,
    "load.staged": lambda detail: f"read its source: {counted(detail['lines'], 'line')}",
    "load.restarted": lambda detail: (
        f"reads its source anew, as of another moment: {counted(detail['lines'], 'line')} of the last one are forgotten"
    ),
    "phase.approved": lambda detail: f"approved phase {detail['phase']}",
    "application.checked": lambda detail: f"checked the application {MOMENTS[detail['moment']]}: {_found(detail)}",
    "application.accepted": lambda _: "lets contract begin in spite of what checks of the application find",
    "proof.void": lambda detail: f"verifies again, because {'; '.join(detail['changes'])}",
    "policies.unexpected": lambda detail: (
        f"asks before {detail['phase']}: {'; '.join(str(one['said']) for one in detail['findings'])}"
    ),
    "proof.asked": lambda _: "asked about rows that may have been written without the sync trigger",
    "quarantine.retry": lambda _: "asked to retry the quarantined rows",
    "all.stopped": lambda _: "stopped, until backfilld resume --all",
    "all.resumed": lambda _: "lifted the stop",
    "hold.began": lambda detail: f"held: {detail['reason']}",
    "hold.ended": lambda detail: f"no longer held by: {detail['reason']}",
    "pace.changed": _pace,
    "pace.width": lambda detail: f"set the width of the database {detail['max_width'][0]} → {detail['max_width'][1]}",
    "lock.waiting": lambda detail: str(detail["message"]),
    "lock.had": lambda detail: f"acquired its lock after {duration(detail['seconds'])}",
    "blocker.cancelled": lambda detail: f"cancelled the statement of {_session(detail)}, which blocked a lock",
    "blocker.ended": lambda detail: f"ended {_session(detail)}, which blocked a lock",
    "batch.gave_way": lambda detail: (
        f"cancelled a batch of lane {detail['lane']}, for which {_session(detail)} had waited {detail['seconds']:.2g} s"
    ),
    "lane.split": lambda detail: (
        f"lane {detail['lane']} gave {counted(detail['rows'], 'row')} to lane {detail['gives_to']}"
    ),
    "table.rewritten": lambda detail: f"found the table of lane {detail['lane']} rewritten: its pages have moved",
    "application.recorded": lambda detail: (
        f"recorded what the API answers to {counted(len(detail['probes']), 'probe')}"
    ),
    "application.code": lambda detail: f"checked the application's code: {_verdicts(detail['commands'])}",
    "archive.round": lambda detail: (
        f"archived {counted(detail['missing'], 'row')} that had no copy yet, of {number(detail['rows'])} read"
    ),
    "index.built": lambda detail: (
        f"built index {detail['index']} on {detail['table']} in {duration(detail['seconds'])}"
    ),
    "index.dropped": lambda detail: (
        f"dropped index {detail['index']} on {detail['table']} in {duration(detail['seconds'])}"
    ),
    "partitions.made": lambda detail: (
        f"made {', '.join(detail['partitions'])} of {detail['table']}, which reaches to {detail['reaches']} now"
    ),
    "partitions.ended": lambda detail: f"no worker makes partitions of {detail['table']} any more",
    "backup.gate": lambda detail: (
        f"backup {detail['backup']} is {detail['level']}, and {detail['required']} was required: it may begin"
    ),
    "backup.wal": lambda detail: f"WAL for backups was not received: {detail['error']}",
    "backup.failed": lambda detail: f"could not {detail['step']} its backup: {detail['error']}",
    "index.left_invalid": lambda detail: (
        f"left index {detail['index']} on {detail['table']} INVALID; the next attempt drops it"
    ),
}


def _short(checksum: str) -> str:
    return checksum.removeprefix("sha256:")[:12]


def _generic(what: str, detail: Mapping[str, Any]) -> str:
    known = {key: value for key, value in detail.items() if value not in (None, "", {}, [])}
    told = ", ".join(f"{key} {_told_short(value)}" for key, value in known.items())
    return f"{what}: {told}" if told else what


def _told_short(value: object) -> str:
    """A value of an event's detail, shortened; `events --json` has all of it."""
    match value:
        case dict():
            return (
                str(value["message"]) if "message" in value else " ".join(f"{key}={one}" for key, one in value.items())
            )
        case list():
            return " ".join(str(one) for one in value)
        case str() if value.startswith("sha256:"):
            return _short(value)
        case _:
            return str(value)
