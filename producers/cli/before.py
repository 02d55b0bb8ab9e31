"""Verbs before and at the start of a run: new, init, plan, enqueue, run."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations of these functions when it runs
from typing import Annotated

import typer

from backfilld.migrations.errors import Refused, UsageError
from backfilld.migrations.record.states import State
from backfilld.producers import answers, completion
from backfilld.producers.cli.options import FileArgument, Json, Timeout, become, check_timeout, client, watching


def new(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table, as `table` or `schema.table`.")],
    operation: Annotated[
        str,
        typer.Argument(
            metavar="OPERATION", help="What to do with it, such as add_column.", autocompletion=completion.operations
        ),
    ],
    *,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="COLUMN", help="The column it is about; may be repeated. Default: a likely one."
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Write this file, which must not exist. Default: print it."),
    ] = None,
) -> None:
    """Draft a migration file for a table: the names that are there, every key explained. Changes nothing.

    Example: backfilld new jobs add_column --column priority --write migrations/priority.yaml
    """
    text = client(context).new(table, operation, columns=column or ())
    if write is None:
        answers.say(text)
        return
    try:
        with write.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as exc:
        msg = f"{write} is there already, and is not overwritten"
        raise UsageError(msg) from exc
    except OSError as exc:
        msg = f"{write} cannot be written: {exc.strerror}"
        raise UsageError(msg) from exc
    answers.say(f"wrote {write}; edit it")
    answers.next_step(f"backfilld plan {write}")


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
    if applied and not as_json:
        answers.next_step("backfilld new TABLE OPERATION --write FILE, or backfilld plan FILE")


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
        answers.answer(now, as_json=as_json)
    elif now.state is State.WAITING:
        answers.say(f"verified and ready to use; {now.phase} waits for approval")
        answers.next_of(now)
    else:
        answers.say("done and verified")


def run_here(context: typer.Context, file: FileArgument, *, as_json: Json = False) -> None:
    """Do a migration in this process, from start to end: for CI, laptops and small databases. Needs no Redis.

    Example: backfilld run migrations/jobs.yaml
    """
    now = client(context, as_json=as_json).record(file)
    become(context, "backfilld.worker.foreground", str(now.run), *(["--json"] if as_json else []))
