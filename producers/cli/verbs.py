"""The whole command: the options in front of the verb, and every verb, in the order in which help lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from backfilld.producers import answers
from backfilld.producers.cli import backup, before, code, control, looking, processes, rows
from backfilld.producers.cli.options import Globals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class _Command(TyperCommand):
    """A verb whose flags are shown without a type: they take no value."""

    def get_params(self, ctx: Any) -> list[Any]:  # Any: typer's own, which it does not export
        return _flags_bare(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:  # Any: as above
        return _flags_bare(super().get_params(ctx))


def _flags_bare(options: list[Any]) -> list[Any]:  # Any: as above
    for option in options:
        if getattr(option, "is_flag", False) and option.metavar is None:
            option.metavar = ""
    return options


app = typer.Typer(
    name="backfilld",
    cls=_Group,
    help="Change a live PostgreSQL database without losing a row, and with a way back at every step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_backup = typer.Typer(
    cls=_Group, no_args_is_help=True, help="Take backups, look at them, prove them by a restore, and give them up."
)
_quarantine = typer.Typer(
    cls=_Group, no_args_is_help=True, help="List the rows that could not be converted or loaded, retry or export them."
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    if wanted:
        processes.version()
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    database_url: Annotated[
        str | None, typer.Option("--database-url", metavar="URL", help="Instead of BACKFILLD_DATABASE_URL.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", metavar="URL", help="Instead of BACKFILLD_REDIS_URL.")
    ] = None,
    *,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    context.obj = Globals(database_url, redis_url)


def _register(
    group: typer.Typer, verbs: Mapping[str, Callable[..., Any]]
) -> None:  # Any: each verb has its own options
    for name, verb in verbs.items():
        group.command(name, cls=_Command)(answers.told(verb))


_register(
    app,
    {
        "init": before.init,
        "new": before.new,
        "plan": before.plan,
        "enqueue": before.enqueue,
        "run": before.run_here,
        "uses": code.uses,
        "codegen": code.codegen,
        "types": code.types,
        "check": code.check,
        "status": looking.status,
        "watch": looking.watch,
        "explain": looking.explain,
        "events": looking.events,
        "gate": looking.gate,
        "pause": control.pause,
        "resume": control.resume,
        "approve": control.approve,
        "pace": control.pace,
        "cancel": control.cancel,
        "rollback": control.rollback,
        "purge": control.purge,
        "partitions": control.partitions,
        "restore": backup.restore,
    },
)
app.add_typer(_quarantine, name="quarantine")
_register(_quarantine, {"list": rows.quarantine_list, "retry": rows.quarantine_retry, "export": rows.quarantine_export})
app.add_typer(_backup, name="backup")
_register(
    _backup,
    {
        "now": backup.now,
        "list": backup.listed,
        "show": backup.show,
        "verify": backup.verify,
        "prove": backup.prove,
        "expire": backup.expire,
        "recover": backup.recover,
    },
)
_register(
    app,
    {
        "worker": processes.worker,
        "notify": processes.notify,
        "demo": processes.demo,
        "schema": processes.schema,
        "uninstall": processes.uninstall,
        "version": processes.version,
    },
)
