"""Verbs before and at the start of a run: new, init, plan, enqueue, run."""

from __future__ import annotations

import time
from pathlib import Path  # noqa: TC003 - typer reads the annotations of these functions when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from backfilld.migrations.errors import Refused, UsageError
from backfilld.migrations.record.states import ENDED, State
from backfilld.producers import answers, completion
from backfilld.producers.cli.options import (
    Again,
    FileOrFolder,
    Json,
    Set,
    Timeout,
    become,
    check_timeout,
    client,
    parameters,
    watching,
)

if TYPE_CHECKING:
    from backfilld.producers.client import Client


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


def plan(context: typer.Context, file: FileOrFolder, *, values: Set = None, as_json: Json = False) -> None:
    """Show what a migration would do, with the lock each statement takes. Changes nothing.

    Example: backfilld plan migrations/jobs.yaml
    """
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw

    if file.is_dir():
        _plan_folder(context, file, parameters(values), as_json=as_json)
        return
    made = client(context, as_json=as_json).plan(file, parameters(values))
    answers.give(as_json=as_json, value=made.to_json, text=lambda: display.plan(made))
    if made.refused:
        raise typer.Exit(Refused.exit_code)
    if not as_json:
        answers.next_step(f"backfilld enqueue {file}")


def _plan_folder(context: typer.Context, folder: Path, values: dict[str, str], *, as_json: bool) -> None:
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw

    found = client(context, as_json=as_json).plan_folder(folder, values)
    if as_json:
        plans = [
            {"name": name, "run": run.to_json() if run else None, "plan": made.to_json() if made else None}
            for name, run, made in found
        ]
        answers.print_json({"plans": plans})
    else:
        for name, run, made in found:
            answers.say(display.line(run) if run else f"{name}: new")
            if made is not None:
                answers.console().print(display.plan(made))
    # What comes after another new one is examined again when it begins.
    first = next((made for _, _, made in found if made is not None), None)
    if first is not None and first.refused:
        raise typer.Exit(Refused.exit_code)
    if not as_json:
        answers.next_step(f"backfilld enqueue {folder}")


def enqueue(  # noqa: PLR0913 - its options
    context: typer.Context,
    file: FileOrFolder,
    *,
    values: Set = None,
    again: Again = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is done, or only the approval of contract is missing.")
    ] = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Start a migration; the workers do it. Safe to repeat: the same file finds its own run.

    Example: backfilld enqueue migrations/jobs.yaml --wait --timeout 3600
    """
    check_timeout(timeout, wait=wait)
    asked = client(context, as_json=as_json)
    if file.is_dir():
        _enqueue_folder(asked, file, parameters(values), again=again, wait=wait, timeout=timeout, as_json=as_json)
        return
    now = asked.enqueue(file, parameters(values), again=again)
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


def _enqueue_folder(  # noqa: PLR0913 - the options of the verb
    asked: Client,
    folder: Path,
    values: dict[str, str],
    *,
    again: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Start the migrations of a folder, and tell where each is; with `wait`, once each is done or waits for an approval alone."""
    now = asked.enqueue_folder(folder, values, again=again)
    if wait:
        deadline = None if timeout is None else time.monotonic() + timeout
        with watching(quiet=as_json) as show:
            for number, one in enumerate(now):
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                now[number] = asked.wait(one.run, left, show)
    if as_json:
        answers.print_json({"runs": [one.to_json() for one in now]})
        return
    for one in now:
        answers.answer(one, as_json=False)
    if any(one.state not in ENDED for one in now):
        answers.next_step("backfilld watch")


def run_here(
    context: typer.Context,
    file: FileOrFolder,
    *,
    values: Set = None,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Do a migration in this process, from start to end: for CI, laptops and small databases. Needs no Redis.

    A folder is done file by file, in the order of their names, up to the first that fails or waits for an approval of its switch.

    Example: backfilld run migrations/jobs.yaml
    """
    asked = client(context, as_json=as_json)
    options = ["--json"] if as_json else []
    if file.is_dir():
        found = asked.record_folder(file, parameters(values), again=again)
        options.append("--folder")
    else:
        found = [asked.record(file, parameters(values), again=again)]
    become(context, "backfilld.worker.foreground", *(str(one.run) for one in found), *options)
