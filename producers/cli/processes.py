"""Verbs that are not about a run: worker, notify, demo, schema, version."""

from __future__ import annotations

from typing import Annotated

import typer

import backfilld
from backfilld.migrations.errors import UsageError
from backfilld.producers import answers
from backfilld.producers.cli.options import Json, become


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


def version() -> None:
    """Print the version.

    Example: backfilld version
    """
    answers.say(f"backfilld {backfilld.__version__}")
