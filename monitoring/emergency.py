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


def steps(run: Progress, backup: Backup | None, tables: Sequence[str]) -> list[Step]:
    """The ways out for a run, the cheapest first. `backup` is the newest whole one that was taken for it."""
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
    target = (
        f"recovery_target_name = '{backup.restore_point}'"
        if backup.restore_point
        else f"recovery_target_lsn = '{backup.lsn_stop}'"
    )
    found.append(
        Step(
            title="Restore another server to the moment before, and take rows from there",
            note=f"Needs a physical backup and an archive of the WAL, which are not backfilld's. The moment is WAL "
            f"{backup.restore_point_lsn or backup.lsn_stop} of timeline {backup.timeline}, system {backup.system_identifier}.",
            commands=(target, "recovery_target_action = 'promote'"),
        )
    )
    found.append(
        Step(
            title="Restore this server in place",
            note="Loses everything that anybody has written since. A person decides, with the application stopped.",
            commands=(target, "recovery_target_action = 'pause'"),
        )
    )
    return found


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
