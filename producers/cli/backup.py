"""Verbs about backups: backup now, list, show, verify, prove, expire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backfilld.migrations.errors import UsageError
from backfilld.producers import answers, completion
from backfilld.producers.cli.options import Json, RunArgument, client

if TYPE_CHECKING:
    from backfilld.migrations.record.backups import Backup
    from backfilld.producers.client import Client

Number = Annotated[int, typer.Argument(metavar="BACKUP", help="A backup's number.", show_default=False)]


def now(
    context: typer.Context,
    *,
    table: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="TABLE", help="Whose rows; may be given several times. Default: all tables."),
    ] = None,
    copy: Annotated[
        list[str] | None,
        typer.Option(
            "--copy", metavar="STORE", help="A store; may be given several times. Default: as the settings say."
        ),
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Restore it into a scratch server too, and compare the rows.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take a backup, and read every copy of it back.

    Example: backfilld backup now --table jobs --prove
    """
    _give(client(context, as_json=as_json).backup_now(table or (), copies=copy or (), prove=prove), as_json=as_json)


def listed(
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A run's id or name. Default: all.", autocompletion=completion.runs),
    ] = None,
    *,
    most: Annotated[int, typer.Option("--most", metavar="N", min=1, help="How many, the newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the backups on record, the newest first, and how much is known of each.

    Example: backfilld backup list
    """
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw

    found = client(context, as_json=as_json).backups(run, most=most)
    answers.give(
        as_json=as_json,
        value=lambda: {"backups": [one.to_json() for one in found]},
        text=lambda: display.backups(found),
    )


def show(context: typer.Context, backup: Number, *, as_json: Json = False) -> None:
    """Show one backup: its tables and checksums, its copies, its place in the WAL, and how it was proved.

    Example: backfilld backup show 3
    """
    _give(client(context, as_json=as_json).backup(backup), as_json=as_json)


def verify(context: typer.Context, backup: Number, *, as_json: Json = False) -> None:
    """Read every copy of a backup back, and compare it with what was written.

    Example: backfilld backup verify 3
    """
    _give(client(context, as_json=as_json).verify_backup(backup), as_json=as_json)


def prove(
    context: typer.Context,
    backup: Annotated[
        int | None, typer.Argument(metavar="[BACKUP]", help="A backup's number. Default: the newest.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Restore a backup into a scratch server on this host, and compare its rows with those that were there.

    Example: backfilld backup prove
    """
    _give(client(context, as_json=as_json).prove_backup(backup), as_json=as_json)


def expire(context: typer.Context, *, as_json: Json = False) -> None:
    """Remove backups past their time that nothing needs; the newest and the newest proved one stay.

    Example: backfilld backup expire
    """
    expired = client(context, as_json=as_json).expire_backups()
    answers.give(
        as_json=as_json,
        value=lambda: {"expired": expired},
        text=lambda: f"removed {', '.join(f'backup {one}' for one in expired)}" if expired else "nothing to remove",
    )


def restore(  # noqa: PLR0913 - the options of a verb
    context: typer.Context,
    run: RunArgument,
    *,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table", metavar="TABLE", help="Whose rows; may be given several times. Default: those of the run."
        ),
    ] = None,
    into: Annotated[
        str | None, typer.Option("--into", metavar="SCHEMA", help="A schema for the rows of the backup.")
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Have the provider take the whole database back to that moment; what came after is lost."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --in-place: do it.")] = False,
    copy_back: Annotated[
        bool, typer.Option("--copy-back", help="Put back the rows that are wrong or missing, by a run of its own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Restore rows from the backup taken for a run into a schema beside the tables, compare, and put back what is wrong.

    Example: backfilld restore jobs-new-field --table jobs --into rescue
    """
    asked = client(context, as_json=as_json)
    if in_place:
        _restore_in_place(asked, run, yes=yes, as_json=as_json)
        return
    if into is None:
        msg = "give a schema for the rows of the backup: --into SCHEMA"
        raise UsageError(msg)
    if copy_back:
        rescue, started = asked.restore(run, into, table or ())
    else:
        rescue, started = asked.rescue(run, into, table or ()), None

    def told() -> str:
        lines = [f"from backup {rescue.backup}:"]
        for one in rescue.tables:
            left = f"; not compared: {', '.join(one.left_out)}" if one.left_out else ""
            lines.append(
                f"  {one.table}: {one.missing} missing, {one.different} different, {one.added} added since, "
                f"of {one.rows} saved in {one.saved}{left}"
            )
        if rescue.migration is None:
            lines.append("nothing is to be put back")
        return "\n".join(lines)

    answers.give(
        as_json=as_json,
        value=lambda: {**rescue.to_json(), "run": started.to_json() if started is not None else None},
        text=told,
    )
    if started is not None and not as_json:
        answers.next_of(started)
        answers.next_step(f"backfilld watch {started.name}")


def _restore_in_place(asked: Client, run: str, *, yes: bool, as_json: bool) -> None:
    backup = asked.restore_in_place(run, sure=yes)
    answers.give(
        as_json=as_json,
        value=backup.to_json,
        text=lambda: (
            f"{backup.provider} restores the database to {backup.snapshot_at:%Y-%m-%d %H:%M:%S} UTC; it is away until that is done.\n"
            f"Then, before any worker is started: backfilld cancel {run}"
        ),
    )


def _give(found: Backup, *, as_json: bool) -> None:
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw

    answers.give(as_json=as_json, value=found.to_json, text=lambda: "\n".join(display.backup(found)))
