"""Backups by Barman, installed and set up by the operator; its `cron` keeps the WAL coming."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from backfilld.migrations.backups import tools
from backfilld.migrations.backups.place import BackupFailed, NotWhole
from backfilld.migrations.backups.providers.archived import Archived, Stretch, ask
from backfilld.migrations.backups.providers.external import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backfilld.migrations.backup_settings import BarmanSettings
    from backfilld.migrations.backups.contents import Server
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.base import Task
    from backfilld.migrations.record.backups import Backup

#: The oldest that it was tried with, and the oldest that takes incremental ones by streaming.
_OLDEST, _INCREMENTAL = (3, 4), (3, 11)
#: What `barman check` says about backups that are there, or not: none of it keeps another from being taken.
_OF_OTHERS = {
    "backup_maximum_age",
    "backup_minimum_size",
    "failed_backups",
    "minimum_redundancy_requirements",
    "wal_maximum_age",
    "wal_size",
}
#: What a backup is that can be used.
_WHOLE = {"DONE"}
#: Its WAL is not archived yet, or it is being copied: a moment later more is known.
_ON_THE_WAY = {"WAITING_FOR_WALS", "STARTED", "SYNCING"}


class Barman(Archived):
    """The provider `barman`."""

    name = "barman"

    def able(self, place: Place, server: Server) -> str:
        settings = _settings(place)
        said = ask([settings.program, "--version"], _unwatched).strip().splitlines()[:1]
        version = said[0] if said else ""
        number = re.search(r"(\d+)\.(\d+)", version)
        oldest = _INCREMENTAL if settings.incremental else _OLDEST
        if number is None or (int(number[1]), int(number[2])) < oldest:
            what = "for incremental backups " if settings.incremental else ""
            msg = f"{what}Barman {oldest[0]}.{oldest[1]} or newer is needed, and {settings.program} is {version or 'silent'}"
            raise BackupFailed(msg)
        shown = _json(settings, ("show-server", settings.server), _unwatched).get(settings.server, {})
        system = shown.get("postgres_systemid") or shown.get("systemid")
        if system is not None and str(system) != server.system_identifier:
            msg = (
                f"Barman's server {settings.server} is another one: its system identifier is {system}, and this one's is "
                f"{server.system_identifier}"
            )
            raise BackupFailed(msg)
        checked = _json(settings, ("check", settings.server), _unwatched, may_fail=True).get(settings.server, {})
        failing = [
            name.replace("_", " ") + (f" ({one['hint']})" if one.get("hint") else "")
            for name, one in checked.items()
            if isinstance(one, dict) and one.get("status") == "FAILED" and name not in _OF_OTHERS
        ]
        if failing:
            msg = f"barman check {settings.server} fails: {', '.join(failing)}"
            raise BackupFailed(msg)
        return f"Barman {number[0]}" if "Barman" not in version else version

    def backup(self, task: Task) -> tuple[Kept, Stretch]:
        settings = _settings(task.place)
        name = f"backfilld-{task.number}-{task.label[-8:]}"
        base = _newest_whole(settings, task.watch) if settings.incremental else None
        based = ("--incremental", base) if base is not None else ()
        taken = _json(
            settings, ("backup", "--name", name, *based, settings.server), task.watch, seconds=settings.seconds
        )
        identifier = taken.get("backup_id")
        if taken.get("error") or not identifier or taken.get("status") not in _WHOLE | _ON_THE_WAY:
            msg = f"barman backup ended with {taken.get('status')}: {taken.get('error') or 'it names no backup'}"
            raise BackupFailed(msg)
        kept = Kept(
            reference=str(identifier),
            where=f"Barman's server {settings.server}, as {name}",
            bytes=int(taken.get("size") or 0),
            details={"server": settings.server, "backup_name": name, "based_on": base, "config": _config(settings)},
        )
        return kept, Stretch(start=str(taken["begin_xlog"]), stop=str(taken["end_xlog"]))

    def look(self, place: Place, backup: Backup, watch: Watch) -> None:
        settings = _settings_for(place, backup)
        identifier = str(backup.details["reference"])
        # What has come is archived by its cron, once a minute, which also looks whether a backup has all of its WAL; a look of ours is
        # not to depend on that.
        _tried([*_command(settings), "archive-wal", settings.server], watch)
        status = _status(settings, identifier, watch)
        if status in _ON_THE_WAY:
            _tried([*_command(settings), "check-backup", settings.server, identifier], watch)
            status = _status(settings, identifier, watch)
        if status in _ON_THE_WAY:
            msg = f"Barman's backup {identifier} is {status}: its WAL is not archived yet (does barman cron run?)"
            raise BackupFailed(msg)
        if status not in _WHOLE:
            raise NotWhole(f"Barman's backup {identifier} is {status}")
        problem = _tried(
            [*_command(settings), "verify-backup", settings.server, identifier], watch, seconds=settings.seconds
        )
        if problem is not None:
            raise NotWhole(f"barman verify-backup: {problem}")

    def missing(self, place: Place, names: Sequence[str], watch: Watch) -> str | None:
        """By one question: each call of Barman takes a second."""
        settings = _settings(place)
        command = [*_command(settings), "get-wal", "--peek", str(len(names)), settings.server, names[0]]
        there = set((_printed(command, watch) or "").split())
        # What is newest lies where it was received; only asking for it shows that.
        return super().missing(place, [one for one in names if one not in there], watch)

    def lay(
        self, place: Place, backup: Backup, data: Path, user: dict[str, Any], watch: Watch
    ) -> None:  # Any: as Popen has it
        del user
        settings = _settings_for(place, backup)
        identifier = str(backup.details["reference"])
        shown = _json(settings, ("show-backup", settings.server, identifier), watch).get(settings.server, {})
        # To where those of the server are, over the data in use. A release that says nothing of them may do that too.
        if (spaces := shown.get("tablespaces")) is None or spaces:
            told = f"its {len(spaces)} tablespaces" if spaces else "tablespaces, of which show-backup says nothing,"
            msg = (
                f"Barman would restore {told} to where those of the server are: it can be verified, and not proved here"
            )
            raise BackupFailed(msg)
        staging = ("--local-staging-path", str(data.with_name("staging"))) if backup.details.get("based_on") else ()
        command = [
            *_command(settings),
            "recover",
            "--target-immediate",
            *staging,
            settings.server,
            identifier,
            str(data),
        ]
        ask(command, watch, seconds=settings.seconds)

    def fetch(self, place: Place, name: str, into: Path, watch: Watch) -> str | None:
        settings = _settings(place)
        problem = _tried([*_command(settings), "get-wal", "-o", str(into), settings.server, name], watch)
        return problem or (None if (into / name).is_file() else "barman get-wal wrote nothing")


def _command(settings: BarmanSettings) -> list[str | Path]:
    return [settings.program, *(("--config", settings.config) if settings.config is not None else ())]


def _config(settings: BarmanSettings) -> str | None:
    """For the commands that a person runs."""
    return str(settings.config) if settings.config is not None else None


def _json(
    settings: BarmanSettings,
    words: Sequence[str],
    watch: Watch,
    *,
    may_fail: bool = False,
    seconds: float | None = None,
) -> dict[str, Any]:  # Any: JSON
    """Its answer. With `may_fail` it ends with 1 where what it tells is bad news. Raises BackupFailed."""
    command = [*_command(settings), "-f", "json", *words]
    given = {} if seconds is None else {"seconds": seconds}
    try:
        printed = ask(command, watch, **given)
    except tools.ToolFailed as exc:
        if not may_fail or not exc.printed.strip():
            raise
        printed = exc.printed
    found = tools.json_of(printed, f"barman {words[0]}")
    if not isinstance(found, dict):
        msg = f"barman {words[0]} answers with JSON that is no object"
        raise BackupFailed(msg)
    return found


def _listed(settings: BarmanSettings, watch: Watch) -> list[dict[str, Any]]:  # Any: JSON
    """Its backups of the server, the newest first."""
    found = _json(settings, ("list-backup", settings.server), watch).get(settings.server, [])
    return [one for one in found if isinstance(one, dict) and "backup_id" in one]


def _status(settings: BarmanSettings, identifier: str, watch: Watch) -> str:
    """What it says of a backup. Raises NotWhole where it has none of this name."""
    for one in _listed(settings, watch):
        if one["backup_id"] == identifier:
            return str(one.get("status"))
    raise NotWhole(f"Barman's server {settings.server} has no backup {identifier} any more")


def _newest_whole(settings: BarmanSettings, watch: Watch) -> str | None:
    """What an incremental backup is based on: the newest full one that can be used."""
    full = [one for one in _listed(settings, watch) if one.get("status") in _WHOLE and one.get("backup_type") == "full"]
    return str(full[0]["backup_id"]) if full else None


def _printed(command: Sequence[str | Path], watch: Watch) -> str | None:
    """What it prints; None where it fails."""
    try:
        return ask(command, watch)
    except tools.ToolFailed:
        return None


def _tried(command: Sequence[str | Path], watch: Watch, *, seconds: float | None = None) -> str | None:
    """None where it goes well; else what it says."""
    try:
        ask(command, watch, **({} if seconds is None else {"seconds": seconds}))
    except tools.ToolFailed as exc:
        return str(exc)
    return None


def _settings(place: Place) -> BarmanSettings:
    if place.settings.barman is None:
        raise BackupFailed("this process has no server of Barman: set backup.barman, as docs/backup.md has it")
    return place.settings.barman


def _settings_for(place: Place, backup: Backup) -> BarmanSettings:
    """Raises BackupFailed where the settings name another server than the one it is of."""
    settings = _settings(place)
    if (server := backup.details.get("server")) != settings.server:
        raise BackupFailed(
            f"backup {backup.backup} is of Barman's server {server}, and the settings name {settings.server}"
        )
    return settings


def _unwatched() -> str | None:
    return None
