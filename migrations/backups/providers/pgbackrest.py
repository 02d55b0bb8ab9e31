"""Backups by pgBackRest, installed and set up by the operator: each repository is backed up to, one after the other.

It is run on the host of the server, or where its configuration has the server's data folder. What it kept is found again by an
annotation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from backfilld.migrations.backups import tools
from backfilld.migrations.backups.physical import recovery
from backfilld.migrations.backups.place import BackupFailed, NotWhole
from backfilld.migrations.backups.providers.archived import Archived, Stretch, ask
from backfilld.migrations.backups.providers.external import Kept

if TYPE_CHECKING:
    from pathlib import Path

    from backfilld.migrations.backup_settings import PgBackRestSettings
    from backfilld.migrations.backups.contents import Server
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.base import Task
    from backfilld.migrations.record.backups import Backup

#: The oldest that can annotate a backup.
_OLDEST = (2, 41)
_ANNOTATION = "backfilld"
#: A stanza that is well, and one without a backup yet.
_WELL = {0, 2}
#: As `verify --output=text --verbose` has it.
_VERDICT = re.compile(r"backup: (\S+), status: ([^,\n]+)")


class PgBackRest(Archived):
    """The provider `pgbackrest`."""

    name = "pgbackrest"

    def able(self, place: Place, server: Server) -> str:
        settings = _settings(place)
        version = ask([settings.program, "version"], _unwatched).strip()
        found = re.search(r"(\d+)\.(\d+)", version)
        if found is None or (int(found[1]), int(found[2])) < _OLDEST:
            msg = f"pgBackRest {_OLDEST[0]}.{_OLDEST[1]} or newer is needed, to find a backup again, and {settings.program} is {version}"
            raise BackupFailed(msg)
        for repository in settings.repositories:
            stanza = _info(settings, repository, _unwatched)
            status = stanza.get("status", {})
            if status.get("code") not in _WELL:
                msg = f"stanza {settings.stanza} in repository {repository}: {status.get('message')}; pgbackrest --stanza={settings.stanza} check"
                raise BackupFailed(msg)
            systems = {str(one.get("system-id")) for one in stanza.get("db", ())}
            if server.system_identifier not in systems:
                msg = (
                    f"stanza {settings.stanza} in repository {repository} is of another server: its system identifier is "
                    f"{', '.join(sorted(systems)) or 'none'}, and this one's is {server.system_identifier}"
                )
                raise BackupFailed(msg)
        return version

    def backup(self, task: Task) -> tuple[Kept, Stretch]:
        settings = _settings(task.place)
        taken: dict[int, dict[str, Any]] = {}
        for repository in settings.repositories:
            command = _command(settings, "backup", f"--repo={repository}", f"--type={settings.type}")
            ask([*command, f"--annotation={_ANNOTATION}={task.label}"], task.watch, seconds=settings.seconds)
            known = _info(settings, repository, task.watch).get("backup", ())
            ours = [one for one in known if (one.get("annotation") or {}).get(_ANNOTATION) == task.label]
            if len(ours) != 1 or ours[0].get("error"):
                what = f"found {ours[0].get('error')} in it" if ours else "does not list it"
                msg = f"pgBackRest has taken a backup into repository {repository}, and {what}"
                raise BackupFailed(msg)
            taken[repository] = ours[0]
        first = taken[settings.repositories[0]]
        kept = Kept(
            reference=str(first["label"]),
            where=f"stanza {settings.stanza}, repositories {', '.join(map(str, taken))}",
            bytes=int(first["info"]["size"]),
            details={
                "stanza": settings.stanza,
                "config": str(settings.config) if settings.config is not None else None,
                "labels": {str(repository): one["label"] for repository, one in taken.items()},
                "stored_bytes": {str(number): one["info"]["repository"]["delta"] for number, one in taken.items()},
            },
        )
        return kept, Stretch(start=str(first["lsn"]["start"]), stop=str(first["lsn"]["stop"]))

    def look(self, place: Place, backup: Backup, watch: Watch) -> None:
        """It reads all of a repository. What a backup refers to must be well too."""
        settings = _settings_for(place, backup)
        for repository, label in backup.details["labels"].items():
            listed = {one["label"]: one for one in _info(settings, int(repository), watch).get("backup", ())}
            if label not in listed:
                raise NotWhole(f"repository {repository} has no backup {label} any more")
            command = _command(settings, "verify", f"--repo={repository}", "--output=text", "--verbose")
            said = ask(command, watch, seconds=settings.seconds)
            verdicts = dict(_VERDICT.findall(said))
            for one in (label, *(listed[label].get("reference") or ())):
                if one not in verdicts:
                    msg = f"pgbackrest verify says nothing of {one} in repository {repository}: {said.strip()[-300:]}"
                    raise BackupFailed(msg)
                if verdicts[one] != "valid":
                    raise NotWhole(f"pgbackrest verify finds {one} in repository {repository} {verdicts[one]}")

    def lay(
        self, place: Place, backup: Backup, data: Path, user: dict[str, Any], watch: Watch
    ) -> None:  # Any: as Popen has it
        settings = _settings_for(place, backup)
        elsewhere = data.with_name("tablespaces")
        for one in (data, elsewhere):
            one.mkdir(mode=0o700)
            recovery.give(one, user)
        repository, label = next(iter(backup.details["labels"].items()))
        command = _command(settings, "restore", f"--repo={repository}", f"--set={label}", f"--pg1-path={data}")
        # Never to where the tablespaces of the real server are.
        quiet = ("--type=immediate", "--archive-mode=off", f"--tablespace-map-all={elsewhere}")
        ask([*command, *quiet], watch, seconds=settings.seconds)

    def fetch(self, place: Place, name: str, into: Path, watch: Watch) -> str | None:
        settings = _settings(place)
        command = _command(settings, "archive-get", name, str(into / name))
        try:
            ask(command, watch)
        except BackupFailed as exc:
            (into / name).unlink(missing_ok=True)
            return str(exc)
        return None if (into / name).is_file() else "pgbackrest archive-get wrote nothing"


def _command(settings: PgBackRestSettings, verb: str, *words: str) -> list[str | Path]:
    config = (f"--config={settings.config}",) if settings.config is not None else ()
    said = ("--log-level-console=off", "--log-level-stderr=error")
    return [settings.program, f"--stanza={settings.stanza}", *config, *said, verb, *words]


def _info(settings: PgBackRestSettings, repository: int, watch: Watch) -> dict[str, Any]:  # Any: JSON
    """What it knows of the stanza. Raises BackupFailed."""
    printed = ask(_command(settings, "info", "--output=json", f"--repo={repository}"), watch)
    found = tools.json_of(printed, "pgbackrest info")
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], dict):
        msg = f"pgbackrest info tells of no stanza {settings.stanza} in repository {repository}"
        raise BackupFailed(msg)
    return found[0]


def _settings(place: Place) -> PgBackRestSettings:
    if place.settings.pgbackrest is None:
        raise BackupFailed("this process has no stanza of pgBackRest: set backup.pgbackrest, as docs/backup.md has it")
    return place.settings.pgbackrest


def _settings_for(place: Place, backup: Backup) -> PgBackRestSettings:
    """Raises BackupFailed where the settings name another stanza than the one it is in."""
    settings = _settings(place)
    if (stanza := backup.details.get("stanza")) != settings.stanza:
        raise BackupFailed(f"backup {backup.backup} is in stanza {stanza}, and the settings name {settings.stanza}")
    return settings


def _unwatched() -> str | None:
    return None
