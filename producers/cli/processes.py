"""Verbs that are not about a run: worker, notify, demo, schema, version."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

import backfilld
from backfilld.migrations.errors import UsageError
from backfilld.monitoring.words import counted, size
from backfilld.producers import answers
from backfilld.producers.cli.options import Json, become, client

if TYPE_CHECKING:
    from backfilld.producers.uninstall import Uninstalled


def worker(
    context: typer.Context,
    *,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads of each: as many lanes at once.")] = 2,
) -> None:
    """Run the workers that do the migrations, until a signal stops them.

    Example: backfilld worker --processes 2 --threads 4
    """
    become(context, "backfilld.worker.supervisor", "--processes", str(processes), "--threads", str(threads))


def notify(
    channel: Annotated[
        str | None, typer.Argument(metavar="[CHANNEL]", help="A channel of the settings. Default: all of them.")
    ] = None,
    *,
    test: Annotated[bool, typer.Option("--test", help="Send a message that says it is a test.")] = False,
    as_json: Json = False,
) -> None:
    """Test the channels of notifications: exit code 0 when each of them took the message.

    Example: backfilld notify --test
    """
    from backfilld.migrations import settings  # noqa: PLC0415 - for this verb alone
    from backfilld.monitoring import notices  # noqa: PLC0415 - for this verb alone

    if not test:
        raise UsageError("notifications are sent by the worker; only a test can be sent here: backfilld notify --test")
    sent = notices.send_test(settings.load(), channel)
    answers.give(
        as_json=as_json,
        value=lambda: {"sent": [vars(one) for one in sent]},
        text=lambda: "\n".join(f"{one.channel}: {one.error or 'delivered'}" for one in sent),
    )
    if any(one.error for one in sent):
        raise typer.Exit(1)


def demo() -> None:
    """Try it out: a database, an application and a migration, all removed at the end. Needs the extra `embedded`.

    Example: backfilld demo
    """
    from backfilld.producers import demo as demo_module  # noqa: PLC0415 - brings servers along that no other verb needs

    demo_module.main()


def schema() -> None:
    """Print the JSON Schema of migration files, for editors.

    Example: backfilld schema > backfilld.schema.json
    """
    from backfilld.migrations.file import migration as definition  # noqa: PLC0415 - for this verb alone

    answers.print_json(definition.json_schema(), indent=2)


def uninstall(
    context: typer.Context,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Give up the old values that are kept, and what else is named as lost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take backfilld out of the database: its triggers and its schema. Refused while a run is open or old values are kept.

    Example: backfilld uninstall --dry-run
    """
    asked = client(context, as_json=as_json)
    if not dry_run and sys.stdin.isatty() and not as_json:
        answers.say(_dropped(asked.uninstall(dry_run=True, force=force)))
        typer.confirm("Drop it all?", abort=True)
    found = asked.uninstall(dry_run=dry_run, force=force)
    answers.give(as_json=as_json, value=lambda: {"dry_run": dry_run, **asdict(found)}, text=lambda: _dropped(found))


def _dropped(found: Uninstalled) -> str:
    if not found.tables:
        return "there is no schema backfilld in this database"
    does, lost = ("dropped", "lost") if found.removed else ("would drop", "would be lost")
    lines = [f"{does} the trigger {one}" for one in found.triggers]
    lines.append(f"{does} the schema backfilld: {counted(found.tables, 'table')}, {size(found.bytes)}")
    return "\n".join([*lines, *(f"{lost}: {one.problem}" for one in found.lost)])


def version() -> None:
    """Print the version.

    Example: backfilld version
    """
    answers.say(f"backfilld {backfilld.__version__}")
