"""Verbs that look and change nothing: status, watch, explain, events, gate."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backfilld.migrations.record.states import Phase, State
from backfilld.producers import answers, completion
from backfilld.producers.cli.options import (
    Globals,
    Json,
    OptionalRun,
    RunArgument,
    Timeout,
    check_timeout,
    client,
    watching,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from backfilld.monitoring.progress import Progress
    from backfilld.producers.client import Client


def status(
    context: typer.Context,
    run: OptionalRun = None,
    *,
    all_runs: Annotated[bool, typer.Option("--all", help="Include runs that ended long ago.")] = False,
    as_json: Json = False,
) -> None:
    """Show the runs, those that need a person first, or one of them with its lanes and last events.

    Example: backfilld status jobs-new-field --json
    """
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw

    asked = client(context, as_json=as_json)
    if run is not None:
        now = asked.status(run)
        answers.give(
            as_json=as_json,
            value=now.to_json,
            text=lambda: display.page(now, asked.lanes(now.run), asked.events(now.run)),
        )
        return

    def overview() -> RenderableType:
        found, left_out = (asked.runs(), 0) if all_runs else asked.recent()
        return display.overview(found, width=answers.console().width, left_out=left_out)

    answers.give(as_json=as_json, value=lambda: {"runs": [one.to_json() for one in asked.runs()]}, text=overview)


def watch(
    context: typer.Context,
    run: OptionalRun = None,
    *,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines instead of full screen.")] = False,
) -> None:
    """Follow one run, or all: on a terminal in full screen, with keys to pause, resume, slow down, approve and more (? lists
    them); elsewhere in lines, until they are over. Ctrl-C ends the watching, not the run.

    Example: backfilld watch jobs-new-field
    """
    if plain or not _has_screen():
        _watch_lines(context, run)
        return
    asked = client(context)
    # An error in the call or on the way to the database is printed before the screen is taken.
    if run is None:
        asked.check()
        only = None
    else:
        only = asked.status(run).run
    from backfilld.producers.watch import Watch  # noqa: PLC0415 - textual is half a second, for this alone

    given: Globals = context.obj
    code = Watch(given.client, run=only).run()
    raise typer.Exit(1 if code is None else code)  # none: it broke, and has said why


def _watch_lines(context: typer.Context, run: str | None) -> None:
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw

    now: Sequence[Progress] = ()
    with display.Watch(answers.console(), plain=True) as view:
        for now in client(context).watch(run):
            view.show(now)
    if not now:
        answers.say("no run is in progress: backfilld enqueue FILE")
    if any(one.state is not State.COMPLETED for one in now):
        raise typer.Exit(1)


def _has_screen() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in {"", "dumb", "unknown"}


def explain(
    context: typer.Context,
    run: RunArgument,
    *,
    emergency: Annotated[
        bool, typer.Option("--emergency", help="Say what to do when it has done harm, from cheap to dear.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what a run is doing or waiting for, why, and what would let it continue.

    Example: backfilld explain jobs-new-field
    """
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw

    asked = client(context, as_json=as_json)
    if emergency:
        from backfilld.monitoring import emergency as ways_out  # noqa: PLC0415 - for this option alone

        steps = asked.emergency(run)
        answers.give(
            as_json=as_json,
            value=lambda: {"steps": [one.to_json() for one in steps]},
            text=lambda: "\n".join(ways_out.in_words(steps)),
        )
        return
    found = asked.explain(run)
    answers.give(
        as_json=as_json,
        value=found.to_json,
        text=lambda: display.explanation(f"{found.name} (run {found.run})", found.sentences, found.remedies),
    )


def events(
    context: typer.Context,
    run: RunArgument,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new events until the run is over.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show who did what to a run, when and why, and every change of its state.

    Example: backfilld events jobs-new-field --follow
    """
    asked = client(context, as_json=as_json)
    if follow:
        _follow(asked, run, as_json=as_json)
        return
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw

    story = asked.events(run)
    answers.give(
        as_json=as_json,
        value=lambda: {"events": [_event(event) for event in story]},
        text=lambda: display.story(story),
    )


def _follow(asked: Client, run: str, *, as_json: bool) -> None:
    """Events as they come; with --json an object for each, on a line of its own."""
    from rich.text import Text  # noqa: PLC0415 - for the verbs that draw

    from backfilld.monitoring import display  # noqa: PLC0415 - as above

    console, day = answers.console(), None
    for news in asked.follow(run):
        for event in news:
            if as_json:
                answers.print_json(_event(event))
                continue
            if (its_day := display.day_of(event)) != day:
                day = its_day
                console.print(Text(day, style="bold"))
            console.print(display.story_line(event), soft_wrap=True)
        sys.stdout.flush()


def gate(  # noqa: PLR0913 - a command's options
    context: typer.Context,
    run: RunArgument,
    *,
    phase: Annotated[
        str,
        typer.Option("--phase", metavar="PHASE", help="The phase that must be over.", autocompletion=completion.phases),
    ] = Phase.SWITCH.value,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the gate opens.")] = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Exit 0 when a migration's result can be relied on (verified and switched), 4 when not yet, 1 when it failed.

    Example: backfilld gate jobs-new-field --wait --timeout 600
    """
    from backfilld.producers import waiting  # noqa: PLC0415 - psycopg, which help does without

    check_timeout(timeout, wait=wait)
    asked, wanted = client(context, as_json=as_json), waiting.phase_named(phase)
    reference: int | str = run
    if wait:
        with watching(quiet=as_json) as show:
            reference = asked.wait_for_gate(run, phase, timeout, show).run
    with asked.connection() as connection:
        found = waiting.require_open(connection, reference, wanted)
    answers.give(
        as_json=as_json,
        value=lambda: asked.status(found.run).to_json(),
        text=lambda: waiting.opened(found.name, wanted),
    )
    if not as_json and found.state is State.WAITING:
        answers.next_of(found)


def _event(event: dict[str, Any]) -> dict[str, Any]:  # Any: columns of the audit, and JSON
    return {**event, "at": event["at"].isoformat()}
