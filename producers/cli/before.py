"""Verbs before and at the start of a run: init, plan, enqueue, run."""

from __future__ import annotations

from typing import Annotated

import typer

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import ENDED, State
from backfilld.producers import answers
from backfilld.producers.cli.options import FileArgument, Json, Timeout, become, check_timeout, client, watching


def init(
    context: typer.Context,
    *,
    published: Annotated[
        bool,
        typer.Option("--published", help="Even where a publication of all tables would send it on to subscribers."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Create the schema backfilld in the database, or upgrade it.

    Example: backfilld init
    """
    applied = client(context, as_json=as_json).init(published=published)
    answers.give(
        as_json=as_json,
        value=lambda: {"applied": applied},
        text=lambda: f"schema backfilld: version {applied[-1]}" if applied else "schema backfilld is up to date",
    )


def plan(context: typer.Context, file: FileArgument, *, as_json: Json = False) -> None:
    """Show what a migration would do, with the lock each statement takes. Changes nothing.

    Example: backfilld plan migrations/jobs.yaml
    """
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw

    made = client(context, as_json=as_json).plan(file)
    answers.give(as_json=as_json, value=made.to_json, text=lambda: display.plan(made))
    if made.refused:
        raise typer.Exit(Refused.exit_code)
    if not as_json:
        answers.next_step(f"backfilld enqueue {file}")


def enqueue(
    context: typer.Context,
    file: FileArgument,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is done, or only an approval is missing.")
    ] = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Start a migration; the workers do it. Safe to repeat: the same file finds its own run.

    Example: backfilld enqueue migrations/jobs.yaml --wait --timeout 3600
    """
    check_timeout(timeout, wait=wait)
    asked = client(context, as_json=as_json)
    now = asked.enqueue(file)
    if wait:
        with watching(quiet=as_json) as show:
            now = asked.wait(now.run, timeout, show)
    if as_json or not wait:
        # Nothing to wait for when the run of this file is over.
        then = "" if now.state in ENDED else "backfilld gate NAME --wait, or backfilld watch NAME"
        answers.answer(now, as_json=as_json, then=then)
    elif now.state is State.WAITING:
        answers.say(f"verified and ready to use; {now.phase} waits: backfilld approve {now.name} --phase {now.phase}")
    else:
        answers.say("done and verified")


def run_here(context: typer.Context, file: FileArgument, *, as_json: Json = False) -> None:
    """Do a migration in this process, from start to end: for CI, laptops and small databases. Needs no Redis.

    Example: backfilld run migrations/jobs.yaml
    """
    now = client(context, as_json=as_json).record(file)
    become(context, "backfilld.worker.foreground", str(now.run), *(["--json"] if as_json else []))
