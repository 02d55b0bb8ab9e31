"""What to do when a run has done harm, from cheap to dear, with its own names, times and places in the WAL. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.record.backups import Backup
    from backfilld.monitoring.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Step:
    """One way out: what it does, what it costs, and the commands."""

    title: str
    note: str
    commands: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {"title": self.title, "note": self.note, "commands": list(self.commands)}


def steps(run: Progress, backup: Backup | None, tables: Sequence[str], *, before: str | None = None) -> list[Step]:
    """The ways out for a run, the cheapest first.

    `backup` is the one to go back to: taken for it, or the recent one that let it begin. `before` is where the WAL was when it began.
    """
    found = [
        Step(
            title="Stop everything",
            note="No batch is lost, and the application goes on. Nothing below is in a hurry after this.",
            commands=("backfilld pause --all", f"backfilld explain {run.name}"),
        ),
        _roll_back(run),
    ]
    if backup is None:
        found.append(
            Step(
                title="Rows from a backup",
                note="No backup was taken for this run. An older one may have the rows.",
                commands=("backfilld backup list",),
            )
        )
        return found
    if backup.provider == "supabase":
        found.append(_of_a_project(run, backup))
        return found
    schema = f"rescue_{run.run}"
    asked = " ".join(f"--table {_quoted(one)}" for one in tables)
    found.append(
        Step(
            title="Put back the rows that are wrong",
            note=f"From backup {backup.backup} ({backup.level}) of {_at(backup)}, into the schema {schema}; compared by key. Rows "
            "that were added since stay, and so do later writes to rows that are as they were. It can be rolled back.",
            commands=(
                f"backfilld pause {run.name}",
                "backfilld resume --all",
                f"backfilld restore {run.name} {asked} --into {schema}",
                f"backfilld restore {run.name} {asked} --into {schema}_2 --copy-back",
            ),
        )
    )
    place = before or backup.restore_point_lsn or backup.lsn_stop
    moment = f"WAL {place} of timeline {backup.timeline}, system {backup.system_identifier}"
    target = (
        (f"recovery_target_name = '{backup.restore_point}'",)
        if backup.restore_point and before is None
        else (f"recovery_target_lsn = '{place}'", "recovery_target_inclusive = off")
    )
    if backup.provider == "pg_basebackup":
        found.append(_another_server(run, backup, asked, moment, before))
    else:
        found.append(
            Step(
                title="Restore another server to the moment before, and take rows from there",
                note=f"{_WHERE.get(backup.provider, _NOT_OURS)} The moment is {moment}.",
                commands=(
                    *_commands(backup, place),
                    *(() if backup.provider in _WHERE else (*target, "recovery_target_action = 'promote'")),
                    f"backfilld restore {run.name} {asked} --into {schema}_3 --from postgresql://HOST/DATABASE",
                ),
            )
        )
    found.append(
        Step(
            title="Restore this server in place",
            note="Loses everything that anybody has written since. A person decides, with the application and the workers stopped: in "
            "what is restored the run is queued, and a worker would begin it again.",
            commands=(*target, "recovery_target_action = 'pause'", "backfilld pause --all"),
        )
    )
    return found


#: Where the physical backup is that another server is restored from.
_WHERE = {
    "barman": "Barman has the backup and the WAL. On another host: it puts tablespaces to where they were.",
    "pgbackrest": "pgBackRest has the backup and the WAL. On another host, or with --tablespace-map-all.",
}
_NOT_OURS = "Needs a physical backup and an archive of the WAL, which are not backfilld's."


def _commands(backup: Backup, place: str | None) -> tuple[str, ...]:
    """How a provider that keeps its own restores another server to a place in the WAL."""
    details, reference = backup.details, backup.details.get("reference")
    config = f" --config={_quoted(str(details['config']))}" if details.get("config") else ""
    if backup.provider == "barman":
        words = f"--target-lsn {place} --exclusive --target-action promote {details.get('server')} {reference} FOLDER"
        return (f"barman{config} recover {words}",)
    if backup.provider == "pgbackrest":
        words = f"--set={reference} --type=lsn --target={place} --target-exclusive --target-action=promote --archive-mode=off"
        return (f"pgbackrest{config} --stanza={details.get('stanza')} {words} --pg1-path=FOLDER restore",)
    return ()


def _another_server(run: Progress, backup: Backup, asked: str, moment: str, before: str | None) -> Step:
    """With backups and WAL of our own."""
    own = f"backfilld backup recover FOLDER --label {backup.label}"
    at_the_moment = f"backfilld backup recover FOLDER --lsn {before}"
    note = f"FOLDER is on a host that has the stores, and is owned by the server's user. The moment is {moment}."
    if before is not None:
        note += f" Where the WAL since the backup is lost too, its own mark is the nearest: --label {backup.label}."
    return Step(
        title="Restore another server to the moment before, and take rows from there",
        note=note,
        commands=(
            own if before is None else at_the_moment,
            "pg_ctl start --pgdata=FOLDER --log=FOLDER/server.log --options=--port=5499",
            "until pg_isready --quiet --host=localhost --port=5499; do sleep 1; done",
            f"backfilld restore {run.name} {asked} --into rescue_{run.run}_3 --from postgresql://localhost:5499/{backup.details.get('database', '')}",
        ),
    )


def in_words(found: Sequence[Step]) -> list[str]:
    """The page, line by line."""
    lines: list[str] = []
    for number, one in enumerate(found, 1):
        lines += [f"{number}. {one.title}", f"   {one.note}", *(f"     {command}" for command in one.commands), ""]
    return lines[:-1]


def _of_a_project(run: Progress, backup: Backup) -> Step:
    return Step(
        title="Restore the project in place",
        note=f"To {_at(backup)}, the last whole second before the run's first change. Loses everything that anybody has written "
        "since. A person decides, with the application and the workers stopped.",
        commands=(
            f"backfilld restore {run.name} --in-place --yes",
            f"backfilld cancel {run.name}",
        ),
    )


def _roll_back(run: Progress) -> Step:
    known = run.rollback or {}
    note = "Brings back what the run replaced or removed; what others wrote since stays."
    if not known.get("possible", True):
        note = f"Not possible now: {known.get('because')}."
    return Step(title="Roll the run back", note=note, commands=(f"backfilld rollback {run.name} --wait",))


def _at(backup: Backup) -> str:
    return f"{backup.snapshot_at:%Y-%m-%d %H:%M:%S} UTC" if backup.snapshot_at else "an unknown moment"


def _quoted(name: str) -> str:
    return name if name.replace("_", "").replace(".", "").isalnum() else "'" + name.replace("'", "'\\''") + "'"
