"""Verbs that tell a run what to do: pause, resume, purge, rollback, cancel, pace, approve."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from backfilld.migrations.errors import UsageError
from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring.words import counted, size
from backfilld.producers import answers, completion
from backfilld.producers.cli.options import (
    All,
    Json,
    RunArgument,
    RunOrAll,
    Timeout,
    become,
    check_timeout,
    client,
    watching,
)

if TYPE_CHECKING:
    from backfilld.producers.client import Client

#: Quoted from the file format's own example; `backfilld.migrations.file.windows` would take a tenth of the start for it.
EXAMPLE_WINDOW = "Mon-Fri 22:00-06:00 Europe/Berlin"


def pause(context: typer.Context, run: RunOrAll = None, *, all_runs: All = False, as_json: Json = False) -> None:
    """Stop a run until it is resumed, or with --all every run of the database. No batch is lost; the one in flight ends within
    about a second.

    Example: backfilld pause jobs-new-field
    """
    asked = client(context, as_json=as_json)
    one = _one_or_all(run, "pause", all_runs=all_runs)
    if one is not None:
        answers.answer(asked.pause(one), as_json=as_json)
        return
    stop = asked.pause_all()
    answers.give(
        as_json=as_json,
        value=lambda: {
            "stopped": True,
            "stopped_by": stop.by,
            "stopped_at": stop.at.isoformat(),
            "hold_reason": stop.reason,
        },
        text=lambda: stop.reason,
    )


def resume(context: typer.Context, run: RunOrAll = None, *, all_runs: All = False, as_json: Json = False) -> None:
    """Let a paused or failed run continue from where it stopped, or with --all lift the stop of all runs.

    Example: backfilld resume jobs-new-field
    """
    asked = client(context, as_json=as_json)
    one = _one_or_all(run, "resume", all_runs=all_runs)
    if one is not None:
        answers.answer(asked.resume(one), as_json=as_json)
        return
    was_stopped = asked.resume_all()
    answers.give(
        as_json=as_json,
        value=lambda: {"stopped": False, "stopped_by": None, "stopped_at": None, "hold_reason": None},
        text=lambda: "the stop of all runs is lifted" if was_stopped else "there was no stop of all runs",
    )


def purge(
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run's id or name. Default: every run whose retention has ended.",
            autocompletion=completion.runs,
        ),
    ] = None,
    *,
    now: Annotated[bool, typer.Option("--now", help="Drop them even before their retention ends.")] = False,
    as_json: Json = False,
) -> None:
    """Drop the old values that runs keep for a rollback, once their retention has ended.

    Example: backfilld purge jobs-new-field --now
    """
    asked = client(context, as_json=as_json)
    if now and run is not None and sys.stdin.isatty() and not as_json:
        typer.confirm(
            f"Where {run} changed or dropped values, it can then no longer be rolled back. Drop them?", abort=True
        )
    purged = asked.purge(run, now=now)

    def told() -> str:
        lines = []
        for one in purged:
            rows = f" and {counted(one.rollback_conflicts, 'rollback conflict')}" if one.rollback_conflicts else ""
            lines.append(f"{one.name}: dropped {size(one.journal_bytes + one.archive_bytes)} of old values{rows}")
        return "\n".join(lines) or "nothing to drop"

    answers.give(as_json=as_json, value=lambda: {"purged": [vars(one) for one in purged]}, text=told)


def partitions(
    context: typer.Context,
    table: Annotated[str | None, typer.Argument(metavar="[TABLE]", help="A table, for --end.")] = None,
    *,
    end: Annotated[bool, typer.Option("--end", help="No worker makes partitions of the table any more.")] = False,
    as_json: Json = False,
) -> None:
    """List the tables whose next partitions a worker makes, since a `rebuild` has cut them by ranges; or end that for one.

    Example: backfilld partitions events --end
    """
    if end != (table is not None):
        msg = "name a table and say --end, or give neither"
        raise UsageError(msg)
    asked = client(context, as_json=as_json)
    if table is not None:
        asked.end_partitions(table)
        answers.give(
            as_json=as_json,
            value=lambda: {"ended": table},
            text=lambda: f"no worker makes partitions of {table} any more",
        )
        return
    kept = asked.partitions()

    def told() -> str:
        lines = []
        for one in kept:
            ahead = "not looked at yet" if one.looked_at is None else f"{one.partitions_ahead or 0} ahead"
            reaches = f", to {one.reaches}" if one.reaches is not None else ""
            strays = "; rows are in the default partition" if one.has_strays else ""
            lines.append(f"{one.relation}: {ahead}{reaches}{strays}" + (f"; {one.problem}" if one.problem else ""))
        return "\n".join(lines) or "none"

    answers.give(as_json=as_json, value=lambda: {"partitions": [one.to_json() for one in kept]}, text=told)


def rollback(  # noqa: PLR0913 - the options of a verb
    context: typer.Context,
    run: RunArgument,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is rolled back.")] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Do it in this process, as `run` does; needs no worker.")
    ] = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Roll a run back, wherever it is: what it added is removed, what it changed or dropped is restored.

    Example: backfilld rollback jobs-new-field --wait
    """
    check_timeout(timeout, wait=wait)
    if wait and here:
        msg = "--here waits anyway; leave --wait out"
        raise UsageError(msg)
    asked = client(context, as_json=as_json)
    now = asked.rollback(run)
    if here:
        become(context, "backfilld.worker.foreground", str(now.run), *(["--json"] if as_json else []))
    if wait:
        with watching(quiet=as_json) as show:
            now = asked.wait_for_rollback(now.run, timeout, show)
    if as_json or not wait:
        answers.answer(now, as_json=as_json)
    else:
        answers.say("rolled back")


def cancel(
    context: typer.Context,
    run: RunArgument,
    *,
    here: Annotated[
        bool, typer.Option("--here", help="See it to its end in this process, as `run` does; needs no worker.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Stop a run for good. What it has done stays, and its name is free again.

    Example: backfilld cancel jobs-new-field
    """
    now = client(context, as_json=as_json).cancel(run)
    if here:
        become(context, "backfilld.worker.foreground", str(now.run), "--cancel", *(["--json"] if as_json else []))
    answers.answer(now, as_json=as_json)


def pace(  # noqa: PLR0913 - a command's options
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="A run's id or name. Default: the database.", autocompletion=completion.runs
        ),
    ] = None,
    *,
    lanes: Annotated[int | None, typer.Option(help="Lanes of the run that may work at once.")] = None,
    batch_seconds: Annotated[float | None, typer.Option(help="How long one batch should take.")] = None,
    nice: Annotated[
        float | None, typer.Option(help="Seconds of rest for each second of work: 1 works half of the time.")
    ] = None,
    give_way_ms: Annotated[
        int | None,
        typer.Option(help="How long a session may wait for a batch before the batch is cancelled; 0: never cancel."),
    ] = None,
    lock_timeout_ms: Annotated[
        int | None, typer.Option(help="How long one try of a schema change may wait for its lock.")
    ] = None,
    lock_deadline_seconds: Annotated[
        float | None, typer.Option(help="How long a schema change keeps trying before the run pauses.")
    ] = None,
    cancel_blockers: Annotated[
        str | None,
        typer.Option(metavar="WHO", help="Sessions it may cancel to get its lock: never, idle, queries or all."),
    ] = None,
    cancel_after_seconds: Annotated[
        float | None, typer.Option(help="How long they must have been idle, or their query have run, before that.")
    ] = None,
    max_quarantined: Annotated[
        int | None, typer.Option(help="Rows that may be quarantined before the run pauses.")
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help=f"Hours to work in, such as '{EXAMPLE_WINDOW}'; may be repeated."),
    ] = None,
    any_time: Annotated[bool, typer.Option("--any-time", help="Remove all windows.")] = False,
    width: Annotated[
        int | None, typer.Option(help="Lanes that may work at once in this database, all runs together.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how fast the database and a run may be worked, or change it, from the next batch on.

    Example: backfilld pace jobs-new-field --nice 1 --width 2
    """
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw

    if any_time and window:
        msg = "--any-time removes the windows that --window sets; give one of the two"
        raise UsageError(msg)
    now = client(context, as_json=as_json).pace(
        run,
        lanes=lanes,
        batch_seconds=batch_seconds,
        nice=nice,
        give_way_ms=give_way_ms,
        lock_timeout_ms=lock_timeout_ms,
        lock_deadline_seconds=lock_deadline_seconds,
        cancel_blockers=cancel_blockers,
        cancel_after_seconds=cancel_after_seconds,
        max_quarantined=max_quarantined,
        windows=() if any_time else window or None,
        width=width,
    )
    answers.give(
        as_json=as_json,
        value=now.to_json,
        text=lambda: "\n".join(display.changes(now) if now.changed else display.pace(now)),
    )


def approve(  # noqa: PLR0913 - the options of a verb
    context: typer.Context,
    run: RunArgument,
    *,
    phase: Annotated[
        str | None,
        typer.Option(
            "--phase",
            metavar="PHASE",
            help="The phase that may begin, also before it is reached. Default: the phase that waits.",
            autocompletion=completion.phases,
        ),
    ] = None,
    residual: Annotated[
        bool,
        typer.Option(
            "--residual",
            help="In place of a phase: accept the rows that still need work, as the application keeps writing them.",
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Do not ask; approve contract even while statements come that fail after it."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Let a phase begin that waits for a person; without --phase the one that waits.

    Example: backfilld approve jobs-new-field --phase contract
    """
    asked = client(context, as_json=as_json)
    if phase is not None:
        from backfilld.producers.waiting import phase_named  # noqa: PLC0415 - brings PostgreSQL's driver along

        phase_named(phase)
    if residual:
        if phase is not None:
            msg = "--residual accepts rows, and --phase approves a phase; give one of the two"
            raise UsageError(msg)
        now = asked.accept_residual(run)
        answers.answer(
            now, as_json=as_json, before=f"{counted(now.residual_rows or 0, 'residual row')} of {now.name} may stay"
        )
        return
    if not yes and sys.stdin.isatty() and not as_json:
        yes = _confirmed(asked, run, phase)
    elif not as_json:
        _tell_unexpected(asked, run, phase)
    now, approved = asked.approved(run, phase, yes=yes)
    # Where it was approved in advance, another phase may come first.
    waits = now.state is State.WAITING and now.phase is not approved
    first = f", and {now.phase}, which comes first, waits for approval" if waits else ""
    answers.answer(now, as_json=as_json, before=f"{approved} of {now.name} is approved{first}")


def _confirmed(asked: Client, run: str, phase: str | None) -> bool:
    """Whether a person lets contract make statements fail, or policies do what nobody expected. Aborts when they do not; False where
    there was nothing to ask.
    """
    waits = asked.status(run).phase
    fails: list[str] = []
    if Phase.CONTRACT in {phase, waits if phase is None else None}:
        fails = [
            *(one.in_words for one in asked.after_contract(run)),
            *(one.problem for one in asked.against_contract(run)),
        ]
    for one in fails:
        answers.say(one)
    if not _tell_unexpected(asked, run, phase) and not fails:
        return False
    typer.confirm(f"Approve {phase or waits} of {run}?", abort=True)
    return True


def _tell_unexpected(asked: Client, run: str, phase: str | None) -> bool:
    """Show what nobody expected of the policies that the phase puts into force; False where there is nothing."""
    now = asked.status(run)
    if phase not in {None, now.phase}:
        return False
    for one in now.policies:
        answers.say(one.in_words)
    return bool(now.policies)


def _one_or_all(run: str | None, verb: str, *, all_runs: bool) -> str | None:
    """The run that was named, or None for all. Raises UsageError for neither and for both."""
    if (run is None) is all_runs:
        return run
    msg = f"name a run, or all of them: backfilld {verb} RUN, or backfilld {verb} --all"
    raise UsageError(msg)
