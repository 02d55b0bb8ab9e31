"""What a person may ask for in the view: how it is asked first, what will happen in words, and how it is done.

Whether it makes sense is the record's to say: what it refuses is shown as it is said there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.record.states import State
from backfilld.monitoring import display

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.record.pace import Stop
    from backfilld.monitoring.progress import Progress
    from backfilld.producers.client import Client


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A change that was not yet confirmed."""

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
            "It stays paused until somebody resumes it: r.",
        ),
        act=lambda client: _line(client.pause(run.run)),
    )


def resume(run: Progress) -> Wish:
    says = "It goes on from where it stopped."
    if run.state is State.FAILED:
        says = "It tries again where it failed; what was wrong should be mended first."
    return Wish(question=f"Resume {_named(run)}?", says=(says,), act=lambda client: _line(client.resume(run.run)))


def cancel(run: Progress) -> Wish:
    return Wish(
        question=f"Cancel {_named(run)}?",
        says=(
            "It stops for good, and its name is free again.",
            "What it has done stays, the columns and sync triggers it added included.",
            f"They can be taken away afterwards: backfilld rollback {run.name}",
        ),
        act=lambda client: _line(client.cancel(run.run)),
        grave=True,
    )


def roll_back(run: Progress) -> Wish:
    return Wish(
        question=f"Roll {_named(run)} back?",
        says=(
            "What it added goes, and what it changed or dropped comes back.",
            "The application must not rely on the new structure any more.",
            "It cannot be turned forward again; the file can be enqueued anew.",
        ),
        act=lambda client: _line(client.rollback(run.run)),
        grave=True,
    )


def approve(run: Progress) -> Wish:
    phase = run.phase
    says = (
        f"Phase {phase} begins at once.",
        *(
            ("It takes away what the old structure needed; every instance of the application must know the new one.",)
            if phase == "contract"
            else ()
        ),
    )
    return Wish(
        question=f"Approve {phase} of {_named(run)}?",
        says=says,
        act=lambda client: _line(client.approve(run.run, phase)),
    )


def stop_or_go(stop: Stop | None) -> Wish:
    """Stop all runs, or let them go on where they are stopped."""
    if stop is not None:
        return Wish(
            question="Let all runs of this database go on?",
            says=(
                f"They were stopped by {display.safe(stop.by)} at {display.moment(stop.at)} UTC.",
                "A run that was paused by itself stays paused.",
            ),
            act=lambda client: "all runs may go on" if client.resume_all() else "there was no stop of all runs",
        )
    return Wish(
        question="Stop all runs of this database?",
        says=(
            "Batches in flight end within about a second; none is lost.",
            "Runs that are enqueued later wait as well, until somebody lets all go on: P.",
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
