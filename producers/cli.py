"""`backfilld`: the verbs, and the exit codes that scripts rely on; what they print is in `answers`.

0 done · 1 failed · 2 wrong usage or an invalid file · 3 refused by preflight · 4 not finished yet · 5 database or Redis
unreachable · 130 interrupted. What was asked for goes to stdout; warnings and errors go to stderr.
"""

from __future__ import annotations

import functools
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.text import Text

from backfilld.migrations.errors import NotFinished, Refused, UsageError
from backfilld.migrations.record.states import ENDED, Phase, State
from backfilld.monitoring import display
from backfilld.producers import answers, completion

# What a verb alone needs it imports itself: `--help`, completion and `version` take a tenth of a second, not one.
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backfilld.migrations.record.model import Quarantined
    from backfilld.monitoring.progress import Progress
    from backfilld.producers.client import Client

app = typer.Typer(
    name="backfilld",
    help="Change a live PostgreSQL database without losing a row, and with a way back at every step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
quarantine_app = typer.Typer(no_args_is_help=True, help="Rows that could not be converted, and another try for them.")
app.add_typer(quarantine_app, name="quarantine")

#: Quoted from the file format's own example; `backfilld.migrations.file.windows` would take a tenth of the start for it.
EXAMPLE_WINDOW = "Mon-Fri 22:00-06:00 Europe/Berlin"

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="The run's id or its migration's name.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
RunOrAll = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="The run's id or its migration's name; or give --all.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
OptionalRun = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="A run's id or name; all runs without.", autocompletion=completion.runs),
]
All = Annotated[bool, typer.Option("--all", help="All runs of the database, those enqueued later included.")]
FileArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The migration file.", show_default=False, autocompletion=completion.files),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", min=0, help="Give up waiting after this; exit code 4.")
]


@dataclass
class _Globals:
    """The options in front of the verb."""

    database_url: str | None = None
    redis_url: str | None = None


@app.callback()
def _global_options(
    context: typer.Context,
    database_url: Annotated[
        str | None, typer.Option("--database-url", metavar="URL", help="In place of BACKFILLD_DATABASE_URL.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", metavar="URL", help="In place of BACKFILLD_REDIS_URL.")
    ] = None,
) -> None:
    context.obj = _Globals(database_url, redis_url)


def main() -> None:
    """The command `backfilld`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows ? in place of a traceback
    app(prog_name="backfilld")


# --- before a run ------------------------------------------------------------------------------------------------------


@app.command()
@answers.told
def init(context: typer.Context, *, as_json: Json = False) -> None:
    """Make the schema backfilld in the database, or bring it up to date.

    Example: backfilld init
    """
    applied = _client(context, as_json=as_json).init()
    if as_json:
        answers.print_json({"applied": applied})
    else:
        answers.say(
            f"schema backfilld brought to version {applied[-1]}" if applied else "schema backfilld is up to date"
        )


@app.command()
@answers.told
def plan(context: typer.Context, file: FileArgument, *, as_json: Json = False) -> None:
    """Show what a migration would do, with the lock each statement takes. Changes nothing.

    Example: backfilld plan migrations/jobs.yaml
    """
    made = _client(context, as_json=as_json).plan(file)
    if as_json:
        answers.print_json(made.to_json())
    else:
        answers.show(display.plan(made))
    if made.refused:
        raise typer.Exit(Refused.exit_code)
    if not as_json:
        answers.next_step(f"backfilld enqueue {file}")


@app.command()
@answers.told
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
    """Start a migration; the workers do it. May be run again: the same file finds its own run.

    Example: backfilld enqueue migrations/jobs.yaml --wait --timeout 3600
    """
    if timeout is not None and not wait:
        msg = "--timeout is for --wait"
        raise UsageError(msg)
    client = _client(context, as_json=as_json)
    now = client.enqueue(file)
    if wait:
        with _watching(quiet=as_json) as show:
            now = client.wait(now.run, timeout, show)
    if as_json or not wait:
        answers.answer(now, as_json=as_json, then=_after_enqueue(now.state))
    elif now.state is State.WAITING:
        answers.say(f"verified and ready to use; {now.phase} waits: backfilld approve {now.name} --phase {now.phase}")
    else:
        answers.say("done and verified")


def _after_enqueue(state: State) -> str:
    """What to type once a file has its run: nothing when that run is over."""
    return "" if state in ENDED else "backfilld gate NAME --wait, or backfilld watch NAME"


@app.command("run")
@answers.told
def run_here(context: typer.Context, file: FileArgument, *, as_json: Json = False) -> None:
    """Do a migration in this process, from start to end: for CI, laptops and small databases. Needs no Redis.

    Example: backfilld run migrations/jobs.yaml
    """
    now = _client(context, as_json=as_json).record(file)
    _become(context, "backfilld.worker.foreground", str(now.run), *(["--json"] if as_json else []))


# --- looking -----------------------------------------------------------------------------------------------------------


@app.command()
@answers.told
def status(
    context: typer.Context,
    run: OptionalRun = None,
    *,
    all_runs: Annotated[bool, typer.Option("--all", help="Those too that ended long ago.")] = False,
    as_json: Json = False,
) -> None:
    """Show the runs, those that need somebody first, or one of them with its lanes and last events.

    Example: backfilld status jobs-new-field --json
    """
    client = _client(context, as_json=as_json)
    if run is not None:
        now = client.status(run)
        if as_json:
            answers.print_json(now.to_json())
        else:
            answers.show(display.page(now, client.lanes(now.run), client.events(now.run)))
    elif as_json:
        answers.print_json({"runs": [one.to_json() for one in client.runs()]})
    else:
        found, left_out = (client.runs(), 0) if all_runs else client.recent()
        console = answers.console()
        console.print(display.overview(found, width=console.width, left_out=left_out))


@app.command()
@answers.told
def watch(
    context: typer.Context,
    run: OptionalRun = None,
    *,
    plain: Annotated[
        bool, typer.Option("--plain", help="Lines in place of the full screen, as off a terminal.")
    ] = False,
) -> None:
    """Follow one run, or all: on a terminal in full screen, with keys to pause, resume, slow down, approve and more (? shows
    them); elsewhere in lines, until they are over. Ctrl-C ends the watching, not the run.

    Example: backfilld watch jobs-new-field
    """
    if plain or not _has_screen():
        _watch_lines(context, run)
        return
    client = _client(context)
    # What is wrong with the call or the way to the database is said before the screen is taken.
    if run is None:
        client.check()
        only = None
    else:
        only = client.status(run).run
    from backfilld.producers.watch import Watch  # noqa: PLC0415 - textual is half a second, for this alone

    given: _Globals = context.obj
    view = Watch(lambda warn: _make_client(given, warn), run=only)
    code = view.run()
    raise typer.Exit(1 if code is None else code)  # none: it broke, and has said of what


def _watch_lines(context: typer.Context, run: str | None) -> None:
    now: Sequence[Progress] = ()
    with display.Watch(answers.console(), plain=True) as view:
        for now in _client(context).watch(run):
            view.show(now)
    if not now:
        answers.say("nothing is going on: backfilld enqueue FILE")
    if any(one.state is not State.COMPLETED for one in now):
        raise typer.Exit(1)


def _has_screen() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in {"", "dumb", "unknown"}


@app.command()
@answers.told
def explain(context: typer.Context, run: RunArgument, *, as_json: Json = False) -> None:
    """Say in words what a run is doing or waiting for, why, and what would let it go on.

    Example: backfilld explain jobs-new-field
    """
    found = _client(context, as_json=as_json).explain(run)
    if as_json:
        answers.print_json(found.to_json())
    else:
        answers.show(display.explanation(f"{found.name} (run {found.run})", found.sentences, found.remedies))


@app.command()
@answers.told
def events(
    context: typer.Context,
    run: RunArgument,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens, until the run is over.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show who did what to a run, when and why, and every change of its state.

    Example: backfilld events jobs-new-field --follow
    """
    client = _client(context, as_json=as_json)
    if follow:
        _follow(client, run, as_json=as_json)
        return
    story = client.events(run)
    if as_json:
        answers.print_json({"events": [_event(event) for event in story]})
    else:
        answers.show(display.story(story))


def _follow(client: Client, run: str, *, as_json: bool) -> None:
    """Events as they come; with --json an object for each, on a line of its own."""
    console, day = answers.console(), None
    for news in client.follow(run):
        for event in news:
            if as_json:
                answers.print_json(_event(event))
                continue
            if (its_day := display.day_of(event)) != day:
                day = its_day
                console.print(Text(day, style="bold"))
            console.print(display.story_line(event), soft_wrap=True)
        sys.stdout.flush()


@app.command()
@answers.told
def gate(  # noqa: PLR0913 - a command's options
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The migration's name.", show_default=False, autocompletion=completion.runs
        ),
    ],
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
    if timeout is not None and not wait:
        msg = "--timeout is for --wait"
        raise UsageError(msg)
    client = _client(context, as_json=as_json)
    if wait:
        with _watching(quiet=as_json) as show:
            client.wait_for_gate(name, phase, timeout, show)
    elif not client.gate(name, phase):
        now = client.status(name)
        msg = f"run {now.name} is {now.state} in phase {now.phase}, {now.percent:.1f} % done"
        reason = f" ({now.hold_reason})" if now.hold_reason else ""
        raise NotFinished(f"{msg}{reason}; to wait for it: backfilld gate {now.name} --phase {phase} --wait")
    if as_json:
        answers.print_json(client.status(name).to_json())
    else:
        answers.say(f"open: {name} is verified, and {phase} is over")


# --- control -----------------------------------------------------------------------------------------------------------


@app.command()
@answers.told
def pause(context: typer.Context, run: RunOrAll = None, *, all_runs: All = False, as_json: Json = False) -> None:
    """Stop a run until it is resumed, or with --all every run of the database. No batch is lost; the one in flight ends within
    about a second.

    Example: backfilld pause jobs-new-field
    """
    client = _client(context, as_json=as_json)
    one = _one_or_all(run, "pause", all_runs=all_runs)
    if one is not None:
        answers.answer(client.pause(one), as_json=as_json, then="backfilld resume NAME")
        return
    stop = client.pause_all()
    if as_json:
        answers.print_json(
            {"stopped": True, "stopped_by": stop.by, "stopped_at": stop.at.isoformat(), "hold_reason": stop.reason}
        )
    else:
        answers.say(stop.reason)


@app.command()
@answers.told
def resume(context: typer.Context, run: RunOrAll = None, *, all_runs: All = False, as_json: Json = False) -> None:
    """Let a paused or failed run go on from where it stopped, or with --all lift the stop of all runs.

    Example: backfilld resume jobs-new-field
    """
    client = _client(context, as_json=as_json)
    one = _one_or_all(run, "resume", all_runs=all_runs)
    if one is not None:
        answers.answer(client.resume(one), as_json=as_json, then="backfilld watch NAME")
        return
    was_stopped = client.resume_all()
    if as_json:
        answers.print_json({"stopped": False, "stopped_by": None, "stopped_at": None, "hold_reason": None})
    else:
        answers.say("all runs may go on" if was_stopped else "there was no stop of all runs")


@app.command()
@answers.told
def purge(
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run's id or name; all whose time is over without.",
            autocompletion=completion.runs,
        ),
    ] = None,
    *,
    now: Annotated[bool, typer.Option("--now", help="Although the time for which they are kept is not over.")] = False,
    as_json: Json = False,
) -> None:
    """Drop the old values that are kept so that a run can be rolled back, once its retention is over.

    Example: backfilld purge jobs-new-field --now
    """
    client = _client(context, as_json=as_json)
    if now and run is not None and sys.stdin.isatty() and not as_json:
        typer.confirm(
            f"{run} can then not be rolled back any more where it changed or dropped values. Drop them?", abort=True
        )
    purged = client.purge(run, now=now)
    if as_json:
        answers.print_json({"purged": [vars(one) for one in purged]})
        return
    for one in purged:
        answers.say(
            f"{one.name}: {one.journal_bytes + one.archive_bytes} bytes of old values and {one.rollback_conflicts} rollback conflicts dropped"
        )
    if not purged:
        answers.say("nothing to drop")


@app.command()
@answers.told
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
    """Take a run back, from wherever it is: what it added goes, what it changed or dropped comes back.

    Example: backfilld rollback jobs-new-field --wait
    """
    if timeout is not None and not wait:
        msg = "--timeout is for --wait"
        raise UsageError(msg)
    if wait and here:
        msg = "--here waits by itself; leave --wait out"
        raise UsageError(msg)
    client = _client(context, as_json=as_json)
    now = client.rollback(run)
    if here:
        _become(context, "backfilld.worker.foreground", str(now.run), *(["--json"] if as_json else []))
    if wait:
        with _watching(quiet=as_json) as show:
            now = client.wait_for_rollback(now.run, timeout, show)
    if as_json or not wait:
        answers.answer(now, as_json=as_json, then="backfilld watch NAME")
    else:
        answers.say("rolled back")


@app.command()
@answers.told
def cancel(context: typer.Context, run: RunArgument, *, as_json: Json = False) -> None:
    """Stop a run for good. What it has done stays, and its name is free again.

    Example: backfilld cancel jobs-new-field
    """
    now = _client(context, as_json=as_json).cancel(run)
    answers.answer(
        now, as_json=as_json, then="backfilld rollback NAME takes away what it left; enqueue the file again to go on"
    )


@app.command()
@answers.told
def pace(  # noqa: PLR0913 - a command's options
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="A run's id or name; the database without.", autocompletion=completion.runs
        ),
    ] = None,
    *,
    lanes: Annotated[int | None, typer.Option(help="Slices of its tables that are worked on at once.")] = None,
    batch_seconds: Annotated[float | None, typer.Option(help="How long one batch should take.")] = None,
    nice: Annotated[
        float | None, typer.Option(help="Waiting for each second of work: 1 works half of the time.")
    ] = None,
    give_way_ms: Annotated[
        int | None, typer.Option(help="How long others may wait for a batch before it is cancelled; 0: for ever.")
    ] = None,
    lock_timeout_ms: Annotated[
        int | None, typer.Option(help="How long one try of a schema change may wait for its lock.")
    ] = None,
    lock_deadline_seconds: Annotated[
        float | None, typer.Option(help="How long a schema change tries before the run pauses.")
    ] = None,
    cancel_blockers: Annotated[
        str | None,
        typer.Option(metavar="WHO", help="Who is sent away when in its way: never, idle, queries or all."),
    ] = None,
    cancel_after_seconds: Annotated[
        float | None, typer.Option(help="How long they must have been idle, or their query have run.")
    ] = None,
    max_quarantined: Annotated[int | None, typer.Option(help="Rows set aside before the run pauses.")] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help=f"Hours to work in, such as '{EXAMPLE_WINDOW}'; may be given several times."),
    ] = None,
    any_time: Annotated[bool, typer.Option("--any-time", help="Take all windows away.")] = False,
    width: Annotated[
        int | None, typer.Option(help="Lanes of this database, all runs together, that may work at once.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how hard the database and a run may be worked, or change it: what is named, from the next batch on.

    Example: backfilld pace jobs-new-field --nice 1 --width 2
    """
    if any_time and window:
        msg = "--any-time takes the windows away that --window names; give one of the two"
        raise UsageError(msg)
    now = _client(context, as_json=as_json).pace(
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
    if as_json:
        answers.print_json(now.to_json())
    else:
        for line in display.changes(now) if now.changed else display.pace(now):
            answers.say(line)


@app.command()
@answers.told
def approve(
    context: typer.Context,
    run: RunArgument,
    *,
    phase: Annotated[
        str,
        typer.Option(
            "--phase",
            metavar="PHASE",
            help="The phase that may begin.",
            show_default=False,
            autocompletion=completion.phases,
        ),
    ],
    as_json: Json = False,
) -> None:
    """Let a phase begin that waits for a person; may be said in advance.

    Example: backfilld approve jobs-new-field --phase contract
    """
    now = _client(context, as_json=as_json).approve(run, phase)
    if not as_json:
        answers.say(f"{phase} of {now.name} is approved")
    answers.answer(now, as_json=as_json, then=f"backfilld gate NAME --phase {phase} --wait")


@quarantine_app.command("list")
@answers.told
def quarantine_list(context: typer.Context, run: RunArgument, *, as_json: Json = False) -> None:
    """Show the rows of a run that could not be converted, each with its error.

    Example: backfilld quarantine list jobs-new-field
    """
    rows = _client(context, as_json=as_json).quarantine(run)
    if as_json:
        answers.print_json({"quarantined": [_row(row) for row in rows]})
        return
    answers.show(display.quarantine(rows))
    if rows:
        answers.next_step(f"mend them, or what refuses them, and then: backfilld quarantine retry {run}")


@quarantine_app.command("retry")
@answers.told
def quarantine_retry(context: typer.Context, run: RunArgument, *, as_json: Json = False) -> None:
    """Try all quarantined rows of a run again, and let it go on.

    Example: backfilld quarantine retry jobs-new-field
    """
    answers.answer(_client(context, as_json=as_json).retry(run), as_json=as_json, then="backfilld watch NAME")


# --- processes and the rest --------------------------------------------------------------------------------------------


@app.command()
@answers.told
def worker(
    context: typer.Context,
    *,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads of each: as many lanes at once.")] = 2,
) -> None:
    """Run the workers that do the migrations, until told to stop.

    Example: backfilld worker --processes 2 --threads 4
    """
    _become(context, "backfilld.worker.supervisor", "--processes", str(processes), "--threads", str(threads))


@app.command()
@answers.told
def notify(
    channel: Annotated[
        str | None, typer.Argument(metavar="[CHANNEL]", help="A channel of the settings; all of them without.")
    ] = None,
    *,
    test: Annotated[bool, typer.Option("--test", help="Send a message that says it is a test.")] = False,
    as_json: Json = False,
) -> None:
    """Try the channels that notifications go out by: exit code 0 when each of them took the message.

    Example: backfilld notify --test
    """
    from backfilld.migrations import settings  # noqa: PLC0415 - for this verb alone
    from backfilld.monitoring import notices  # noqa: PLC0415 - for this verb alone

    if not test:
        raise UsageError("News is sent by the worker; what can be sent from here is a test: backfilld notify --test")
    sent = notices.send_test(settings.load(), channel)
    if as_json:
        answers.print_json({"sent": [vars(one) for one in sent]})
    else:
        for one in sent:
            answers.say(f"{one.channel}: {one.error or 'taken'}")
    if any(one.error for one in sent):
        raise typer.Exit(1)


@app.command()
@answers.told
def demo() -> None:
    """Try it out: a database, an application and a migration, all thrown away at the end. Needs nothing installed.

    Example: backfilld demo
    """
    from backfilld.producers import demo as demo_module  # noqa: PLC0415 - brings servers along that nobody else needs

    demo_module.main()


@app.command()
@answers.told
def schema() -> None:
    """Print the JSON Schema of migration files, for editors.

    Example: backfilld schema > backfilld.schema.json
    """
    from backfilld.migrations.file import migration as definition  # noqa: PLC0415 - for this verb alone

    answers.print_json(definition.json_schema(), indent=2)


@app.command()
@answers.told
def version() -> None:
    """Print the version.

    Example: backfilld version
    """
    answers.say(f"backfilld {_version()}")


# --- helpers, in order of use ------------------------------------------------------------------------------------------


def _client(context: typer.Context, *, as_json: bool = False) -> Client:
    return _make_client(context.obj, functools.partial(answers.warn, as_json=as_json))


def _make_client(given: _Globals, warn: Callable[[str], None]) -> Client:
    from backfilld.producers.client import Client  # noqa: PLC0415 - nine tenths of the start

    return Client(given.database_url, given.redis_url, warn=warn)


def _one_or_all(run: str | None, verb: str, *, all_runs: bool) -> str | None:
    """The run that was named, or None for all. Raises UsageError for neither and for both."""
    if (run is None) is all_runs:
        return run
    msg = f"name a run, or all of them: backfilld {verb} RUN, or backfilld {verb} --all"
    raise UsageError(msg)


@contextmanager
def _watching(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """What to show while waiting; nothing when the output is for a program."""
    if quiet:
        yield None
        return
    with display.Watch(answers.console()) as view:
        yield lambda now: view.show([now])


def _become(context: typer.Context, module: str, *arguments: str) -> NoReturn:
    """Go on as another module of ours: `producers` may not import `worker`, and signals reach it without a go-between."""
    given: _Globals = context.obj
    for variable, url in (("BACKFILLD_DATABASE_URL", given.database_url), ("BACKFILLD_REDIS_URL", given.redis_url)):
        if url is not None:
            os.environ[variable] = url
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606 - no shell, and our own module


def _event(event: dict[str, Any]) -> dict[str, Any]:  # Any: columns of the audit, and JSON
    return {**event, "at": event["at"].isoformat()}


def _row(row: Quarantined) -> dict[str, Any]:  # Any: JSON
    return {
        "operation": row.operation,
        "table": row.relation,
        "key": list(row.key),
        "sqlstate": row.sqlstate,
        "error": row.error,
        "attempts": row.attempts,
        "retry": row.retry,
        "quarantined_at": row.quarantined_at.isoformat(),
    }


def _version() -> str:
    try:
        return metadata.version("backfilld")
    except metadata.PackageNotFoundError:
        return "from a source tree"
