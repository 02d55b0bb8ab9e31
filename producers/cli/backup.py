"""Verbs about backups: backup now, list, show, verify, prove, expire, recover; and restore."""

from __future__ import annotations

import os
import re
import shlex
from datetime import datetime
from pathlib import Path  # noqa: TC003 - typer reads the annotations of these functions when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from backfilld.migrations.errors import UsageError
from backfilld.producers import answers, completion
from backfilld.producers.cli.options import Json, client

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


def recover(  # noqa: PLR0913 - the options of a verb
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="The data folder of the new server; it is made.", show_default=False),
    ],
    *,
    label: Annotated[
        str | None,
        typer.Option(
            "--label", metavar="LABEL", help="A backup, as `backup show` has it. Default: the newest that will do."
        ),
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="STORE", help="Where from. Default: the first store that has it.")
    ] = None,
    lsn: Annotated[
        str | None, typer.Option("--lsn", metavar="LSN", help="Up to this place in the WAL, and nothing from there on.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Up to this instant, with its time zone: 2026-05-04T12:00:00Z."),
    ] = None,
    latest: Annotated[bool, typer.Option("--latest", help="Up to the end of the WAL that there is.")] = False,
    as_json: Json = False,
) -> None:
    """Make the data folder of a new server from a physical backup and its WAL; it recovers when it is started. Needs no database.

    Example: backfilld backup recover /var/lib/postgresql/before --lsn 0/15F3A98
    """
    if sum((lsn is not None, at is not None, latest)) > 1:
        msg = "give one of --lsn, --at and --latest"
        raise UsageError(msg)
    if lsn is not None and re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", lsn) is None:
        msg = f"--lsn: {lsn} is no place in the WAL, such as 0/15F3A98"
        raise UsageError(msg)
    made = client(context, as_json=as_json).recover_server(
        folder.absolute(), label=label, store=store, lsn=lsn, at=_instant(at), latest=latest
    )
    quoted = shlex.quote(str(made.folder))
    stops = ", ".join(f"{name} = {value}" for name, value in made.target.items() if name != "recovery_target_inclusive")
    answers.give(
        as_json=as_json,
        value=made.to_json,
        text=lambda: "\n".join(
            (
                f"{made.folder} is made from {made.label} of store {made.store}; started, it recovers to {stops or 'the end of the WAL'}",
                *((f"chown -R postgres: {quoted}",) if os.geteuid() == 0 else ()),
                f"{made.program} start --pgdata={quoted} --log={quoted}/server.log --options=--port=5499",
                "until pg_isready --quiet --host=localhost --port=5499; do sleep 1; done",
            )
        ),
    )


def _instant(at: str | None) -> datetime | None:
    if at is None:
        return None
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        msg = f"--at: {at} is no instant, such as 2026-05-04T12:00:00Z"
        raise UsageError(msg) from None
    if found.tzinfo is None:
        msg = f"--at: {at} has no time zone; write {at}Z for UTC"
        raise UsageError(msg)
    return found


def restore(  # noqa: PLR0913 - the options of a verb
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run's id or name. Default: none, with --backup or --from.",
            autocompletion=completion.runs,
        ),
    ] = None,
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
    backup: Annotated[
        int | None, typer.Option("--backup", metavar="N", help="Another backup than that of the run's gate.")
    ] = None,
    from_url: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="No backup, but a server that was restored to a moment."),
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
    """Restore rows from the backup of a run's gate into a schema beside the tables, compare, and put back what is wrong.

    Example: backfilld restore jobs-new-field --table jobs --into rescue
    """
    asked = client(context, as_json=as_json)
    if backup is not None and from_url is not None:
        msg = "give one of --backup and --from"
        raise UsageError(msg)
    if in_place:
        if run is None or backup is not None or from_url is not None:
            msg = "--in-place needs a run, and goes back to the backup of its gate"
            raise UsageError(msg)
        _restore_in_place(asked, run, yes=yes, as_json=as_json)
        return
    if into is None:
        msg = "give a schema for the rows of the backup: --into SCHEMA"
        raise UsageError(msg)
    if copy_back:
        rescue, started = asked.restore(run, into, table or (), backup=backup, from_url=from_url)
    else:
        rescue, started = asked.rescue(run, into, table or (), backup=backup, from_url=from_url), None

    def told() -> str:
        lines = [f"from backup {rescue.backup}:" if rescue.backup is not None else "from the other server:"]
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
