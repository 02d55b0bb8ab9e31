"""The changes that the view offers: the question before each, what will happen, and how it is done.

The record decides whether a change makes sense, and the view shows its refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.application.checked import holding
from backfilld.migrations.record.states import State
from backfilld.monitoring import display
from backfilld.monitoring.words import sentence

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.record.pace import Stop
    from backfilld.monitoring.progress import Progress
    from backfilld.producers.client import Client


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A change that is not confirmed yet."""

    question: str
    #: What will happen, one line each.
    says: tuple[str, ...]
    #: Does it, and returns what to show.
    act: Callable[[Client], str]
    #: One key more: it cannot be taken back, or not easily.
    grave: bool = False


def pause(run: Progress) -> Wish:
    return Wish(
        question=f"Pause {_named(run)}?",
        says=(
            "The batches in flight end within about a second; none is lost.",
            "It stays paused until it is resumed: r.",
        ),
        act=lambda client: _line(client.pause(run.run)),
    )


def resume(run: Progress) -> Wish:
    says = "It continues from where it stopped."
    if run.state is State.FAILED:
        says = "It retries where it failed; fix the cause first."
    return Wish(question=f"Resume {_named(run)}?", says=(says,), act=lambda client: _line(client.resume(run.run)))


def cancel(run: Progress) -> Wish:
    return Wish(
        question=f"Cancel {_named(run)}?",
        says=(
            "It stops for good, and its name is free again.",
            "What it has done stays, the columns and sync triggers it added included.",
            f"To remove them afterwards: backfilld rollback {run.name}",
        ),
        act=lambda client: _line(client.cancel(run.run)),
        grave=True,
    )


def roll_back(run: Progress) -> Wish:
    return Wish(
        question=f"Roll {_named(run)} back?",
        says=(
            "What it added is removed, and what it changed or dropped is restored.",
            "The application must no longer rely on the new structure.",
            "A rolled back run cannot be resumed; the file can be enqueued again.",
        ),
        act=lambda client: _line(client.rollback(run.run)),
        grave=True,
    )


def approve(run: Progress) -> Wish:
    phase = run.phase
    found = holding(run.application) if phase == "contract" else ()
    says = (
        f"Phase {phase} begins at once.",
        *(
            ("It removes the old structure; every instance of the application must use the new one.",)
            if phase == "contract"
            else ()
        ),
        *(sentence(display.safe(one.in_words)) for one in run.after_contract),
        *(sentence(display.safe(one.in_words)) for one in found),
    )
    return Wish(
        question=f"Approve {phase} of {_named(run)}?",
        says=says,
        act=lambda client: _line(client.approve(run.run, phase, yes=True)),
        grave=any(one.still_comes for one in run.after_contract) or bool(found),
    )


def stop_or_go(stop: Stop | None) -> Wish:
    """Stop all runs, or lift the stop."""
    if stop is not None:
        return Wish(
            question="Let all runs of this database continue?",
            says=(
                f"They were stopped by {display.safe(stop.by)} at {display.moment(stop.at)} UTC.",
                "A run with a pause of its own stays paused.",
            ),
            act=lambda client: (
                "the stop of all runs is lifted" if client.resume_all() else "there was no stop of all runs"
            ),
        )
    return Wish(
        question="Stop all runs of this database?",
        says=(
            "Batches in flight end within about a second; none is lost.",
            "Runs that are enqueued later wait as well, until the stop is lifted: P.",
        ),
        act=lambda client: client.pause_all().reason,
    )


def pace(run: Progress, changes: dict[str, float]) -> Callable[[Client], str]:
    """Set what was chosen in the form; keys are settings of a run."""

    def act(client: Client) -> str:
        report = client.pace(
            run.run,
            nice=changes.get("nice"),
            lanes=int(changes["lanes"]) if "lanes" in changes else None,
            batch_seconds=changes.get("batch_seconds"),
        )
        return "\n".join(display.changes(report))

    return act


def _named(run: Progress) -> str:
    return f"{display.safe(run.name)} (run {run.run})"


def _line(run: Progress) -> str:
    return display.line(run)
