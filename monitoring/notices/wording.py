"""The words of notices: facts in, text out.

Nothing that the server said about a row is repeated here: an error is named by its class and SQLSTATE, a hold by its cause and
signal. `backfilld explain` shows the rest to people who may read the database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from psycopg import errors

from backfilld.monitoring.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

Severity = Literal["info", "success", "warning", "failure"]


_SEVERITIES: dict[str, Severity] = {
    "approval": "warning",
    "failed": "failure",
    "held": "warning",
    "paused": "warning",
    "completed": "success",
    "rolled_back": "info",
    "cancelled": "info",
    "quarantine": "warning",
    "test": "info",
}

#: Why a run stopped by itself, by the class of its error.
_PROBLEMS = {
    "blocked": "the lock of a table could not be acquired in time",
    "quarantine": "rows could not be converted and are quarantined",
    "violated": "rows break the rule that is being verified",
    "privilege": "row security, or a missing privilege, keeps the role from the rows",
    "undone": "a trigger of the table keeps rows from being changed",
    "residual": "rows still need work after several passes: the application keeps writing them",
}

#: What holds a run, by cause; see `backfilld.migrations.holds`.
_CAUSES = {
    "stop": "a person has stopped all runs",
    "load": "a load signal is over its limit",
    "blind": "the database's load cannot be read",
    "workers": "no worker can take work",
    "lock": "other sessions hold the lock of a table",
    "index": "an index build waits for older transactions",
    "application": "the application still needs what contract removes, or a statement of it got worse",
    "error": "a lane waits to retry after an error",
}


@dataclass(frozen=True, kw_only=True)
class Message:
    """A notice in words, and as a payload for programs."""

    #: The same at each delivery attempt.
    id: str
    subject: str
    body: str
    severity: Severity
    #: What a webhook sends. Any: JSON.
    payload: Mapping[str, Any]


def word(delivery: str, about: str, facts: Mapping[str, Any]) -> Message:
    """Put a notice into words. Any: its facts are JSON."""
    subject, reason, commands = _subject(about, facts), _reason(about, facts), _commands(about, facts)
    lines = [
        f"{subject}.",
        "",
        *(f"{title}: {text}" for title, text in _table(facts, reason) if text),
        *(["", "What to do:", *(f"  {command}" for command in commands)] if commands else []),
    ]
    severity, body = _SEVERITIES[about], "\n".join(lines)
    payload = {
        "id": delivery,
        "about": about,
        "run": facts.get("run"),
        "name": facts.get("name"),
        "target": facts.get("target"),
        "database": facts.get("database"),
        "phase": facts.get("phase"),
        "state": facts.get("state"),
        "since": facts.get("since"),
        "at": facts.get("at"),
        "severity": severity,
        "subject": subject,
        "body": body,
        "reason": reason,
        "sqlstate": _sqlstate(_cause_of(about, facts)),
        "rows_done": facts.get("rows_done"),
        "rows_total": facts.get("rows_total"),
        "rows_quarantined": facts.get("rows_quarantined"),
        "verified": facts.get("verified"),
        "hold": facts.get("hold"),
        "reminder": facts.get("reminder", 0),
        "commands": list(commands),
    }
    return Message(id=delivery, subject=subject, body=body, severity=severity, payload=payload)


def _subject(about: str, facts: Mapping[str, Any]) -> str:
    name, phase = facts.get("name"), facts.get("phase")
    again = f", for {in_words(facts['seconds'])} now" if facts.get("reminder") else ""
    still = " still" if facts.get("reminder") else ""
    match about:
        case "approval":
            told = f"{still} waits for approval of {phase}{again}"
        case "failed":
            told = f" has failed in {phase}{again}"
        case "paused":
            told = f" has paused itself in {phase}{again}"
        case "held":
            also = len(facts["hold"]["also"])
            others = f" and {counted(also, 'other run')}" if also else ""
            told = f"{others} {'have' if also else 'has'} been held for {in_words(facts['hold']['seconds'])}"
        case "quarantine":
            told = f" has quarantined {counted(facts['rows_quarantined'], 'row')}"
        case "test":
            return "backfilld can reach you here"
        case _:  # an end: completed, rolled back, cancelled
            told = f" is {about.replace('_', ' ')}"
    return f"{name}{told}"


def _table(facts: Mapping[str, Any], reason: str | None) -> list[tuple[str, str | None]]:
    done, total, aside = facts.get("rows_done"), facts.get("rows_total"), facts.get("rows_quarantined")
    of_total = f" of {total:,}" if total is not None and done is not None and total >= done else ""
    rows = f"{done:,}{of_total} changed" if done is not None else None
    if rows and aside:
        rows += f", {aside:,} quarantined"
    hold = facts.get("hold") or {}
    return [
        ("Why", reason),
        ("Database", facts.get("database")),
        ("Run", f"{facts['run']}, {facts['state']} in {facts['phase']}" if facts.get("run") else None),
        ("Rows", rows),
        ("Verified", None if facts.get("verified") is None else "yes" if facts["verified"] else "no"),
        ("Also held", ", ".join(hold.get("also", ()))),
        ("At", str(facts.get("at") or "").replace("T", " ")),
    ]


def _reason(about: str, facts: Mapping[str, Any]) -> str | None:
    hold, problem = facts.get("hold"), _cause_of(about, facts)
    if about == "held" and hold:
        cause = _CAUSES.get(hold["cause"], str(hold["cause"]))
        if hold.get("signal"):
            return f"{cause}: {hold['signal']}"
        return _with_state(cause, problem)
    if about == "approval" and (found := facts.get("application")):
        told = ", ".join(f"{count} {kind}" for kind, count in found.items())
        return f"a check of the application found {told}; backfilld explain tells which"
    if problem:
        known = _PROBLEMS.get(str(problem.get("class")), "an error that retrying does not solve")
        where = f", in {problem['relation']}" if problem.get("relation") else ""
        return _with_state(known, problem) + where
    return None


def _cause_of(about: str, facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The error that is the reason of a notice; None where another thing is."""
    holds = about == "held" and (facts.get("hold") or {}).get("cause") == "error"
    return facts.get("problem") if holds or about in {"failed", "paused"} else None


def _with_state(text: str, problem: Mapping[str, Any] | None) -> str:
    state = _sqlstate(problem)
    if state is None:
        return text
    condition = _condition(state)
    return f"{text} ({state}{f', {condition}' if condition else ''})"


def _sqlstate(problem: Mapping[str, Any] | None) -> str | None:
    state = str((problem or {}).get("sqlstate") or "")
    return state if re.fullmatch(r"[0-9A-Z]{5}", state) else None


def _condition(sqlstate: str) -> str | None:
    """PostgreSQL's name for a SQLSTATE; None for one of the application's own."""
    try:
        name = errors.lookup(sqlstate).__name__
    except KeyError:
        return None
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def _commands(about: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    name, phase = facts.get("name"), facts.get("phase")
    match about:
        case "approval":
            return (f"backfilld approve {name} --phase {phase}", f"backfilld rollback {name}")
        case "failed":
            return (f"backfilld explain {name}", f"backfilld resume {name}", f"backfilld rollback {name}")
        case "paused":
            return (f"backfilld explain {name}", f"backfilld resume {name}")
        case "held":
            return (f"backfilld explain {name}",)
        case "quarantine":
            return (f"backfilld quarantine list {name}",)
        case _:
            return ()


def in_words(seconds: float) -> str:
    """A length of time as people say it: in the largest unit of which there are two, or else in minutes."""
    for unit, size in (("day", 86400), ("hour", 3600)):
        if seconds >= 2 * size:
            return counted(int(seconds // size), unit)
    return counted(max(int(seconds // 60), 1), "minute")
