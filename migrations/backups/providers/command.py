"""Backups by a script of the operator's, which the worker's settings allow by its name.

    PATH able       can it take one? {"version": "…"}
    PATH take       take one: {"reference": "…", "kept": "…", "bytes": 1, "at": "2026-05-04T12:00:00Z"}
    PATH verify     look at it: {"whole": true}, or {"whole": false, "problem": "…"}
    PATH restore    restore it elsewhere: {"url": "postgresql://…"}
    PATH discard    throw away what `restore` made: {}

What it is told comes in variables, libpq's own among them; it answers with one JSON object and exit code 0. Nothing that it is told by
a migration file becomes a part of a command line: names of tables come as JSON.
"""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, TypeVar

import psycopg
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from backfilld.migrations.backups import contents, programs, tools
from backfilld.migrations.backups.physical import archiver, segments, wal
from backfilld.migrations.backups.physical import tools as physical
from backfilld.migrations.backups.place import BackupFailed, NotWhole
from backfilld.migrations.backups.providers.external import External, Kept
from backfilld.migrations.errors import Unreachable
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.record import backups

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.backup_settings import CommandSettings, Level
    from backfilld.migrations.backups.contents import Held, Server
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.base import Mark, Read, Task
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup

_Text = Annotated[str, Field(min_length=1, max_length=500)]
#: Each is there at every call, and empty where it has no meaning: a shell with `set -u` is satisfied.
_NO_VARIABLES = dict.fromkeys(
    (
        "BACKFILLD_BACKUP",
        "BACKFILLD_LABEL",
        "BACKFILLD_RUN",
        "BACKFILLD_TABLES",
        "BACKFILLD_SNAPSHOT",
        "BACKFILLD_REFERENCE",
    ),
    "",
)
#: A script that is asked whether it can does not take a backup.
ABLE_SECONDS = 60.0


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class _Able(_Answer):
    version: _Text


class _Took(_Answer):
    reference: _Text
    kept: _Text
    bytes: Annotated[int, Field(ge=0)] = 0
    at: AwareDatetime | None = None


class _Looked(_Answer):
    whole: bool
    problem: Annotated[str, Field(max_length=500)] = ""


class _Restored(_Answer):
    url: _Text


class _Discarded(_Answer):
    pass


class Command(External):
    """The provider `command`."""

    name = "command"
    whole = False

    def joins(self, place: Place) -> bool:
        return _settings(place).snapshot

    def able(self, place: Place, server: Server) -> str:
        variables = {"BACKFILLD_SERVER_VERSION": str(server.server_version)}
        return _ask(place, "able", variables, _Able, _unwatched, seconds=ABLE_SECONDS).version

    def keep(self, task: Task) -> Kept:
        if _settings(task.place).archive:
            with connected(task.place.url) as connection:
                _require_archive(connection)
        variables = {
            "BACKFILLD_BACKUP": str(task.number),
            "BACKFILLD_LABEL": task.label,
            "BACKFILLD_RUN": "" if task.run is None else str(task.run),
            "BACKFILLD_TABLES": json.dumps(
                None if task.everything else [[one.name.schema, one.name.name] for one in task.tables]
            ),
            "BACKFILLD_SNAPSHOT": task.snapshot,
            "BACKFILLD_SERVER_VERSION": str(task.server.server_version),
        }
        took = _ask(task.place, "take", variables, _Took, task.watch)
        secrets = _secrets(task.place)
        return Kept(
            reference=_without(secrets, took.reference),
            where=_without(secrets, took.kept),
            bytes=took.bytes,
            at=took.at,
            details={"command": task.place.settings.command},
        )

    def settle(self, task: Task, kept: Kept, mark: Mark) -> None:
        del kept
        if not _settings(task.place).archive:
            return
        with connected(task.place.url) as connection:
            backups.grows(
                connection, task.number, 0
            )  # recovery stops at the first record from the mark on: there is one now
            wal.switch(connection)
            last = segments.holding(task.server.timeline, mark.lsn, physical.facts(connection).segment_bytes)
            archiver.wait_for(connection, last, task.watch, patience=task.place.settings.wal.patience)

    def verify(self, place: Place, backup: Backup, read: Read, watch: Watch) -> None:  # noqa: ARG002 - it has no objects
        looked = _ask(place, "verify", _about(backup), _Looked, watch)
        if not looked.whole:
            raise NotWhole(tools.hidden(looked.problem, _secrets(place)) or "its script says that it is not whole")

    def lacks(self, place: Place, connection: Connection, tables: Sequence[Held], level: Level) -> list[str]:
        del connection, tables
        if level == "proved" and not self.joins(place):
            return ["what its script saves cannot be compared: let it join a snapshot, and set snapshot = true for it"]
        return []

    @contextmanager
    def restored(
        self,
        place: Place,
        backup: Backup,
        read: Read,  # noqa: ARG002 - it has no objects
        watch: Watch,
        *,
        only: Sequence[TableName] = (),  # noqa: ARG002 - the script restores what it has
    ) -> Iterator[tuple[str, str]]:
        """Raises BackupFailed also where the script had no snapshot: what it holds cannot be compared then."""
        if not backup.tables:
            msg = f"backup {backup.backup} cannot be compared: its script joins no snapshot (snapshot = true in its settings)"
            raise BackupFailed(msg)
        try:
            url = _ask(place, "restore", _about(backup), _Restored, watch).url
            _require_elsewhere(url, place)
            yield url, ""
        except BaseException:
            with suppress(BackupFailed):  # what came first tells more
                _ask(place, "discard", _about(backup), _Discarded, _unwatched)
            raise
        _ask(place, "discard", _about(backup), _Discarded, _unwatched)


_A = TypeVar("_A", bound=_Answer)


def _ask(  # noqa: PLR0913 - one call of the script; each is named
    place: Place, act: str, variables: dict[str, str], answer: type[_A], watch: Watch, *, seconds: float | None = None
) -> _A:
    """What the script answers. Raises BackupFailed, and what the watch raises."""
    settings = _settings(place)
    secrets = _secrets(place)
    environment = {
        **programs.environment(place.url, application_name=named("backup")),
        **{name: value.get_secret_value() for name, value in settings.values.items()},
        **_NO_VARIABLES,
        **variables,
    }
    command = [str(settings.path), act]
    printed = tools.run(command, environment, seconds=seconds or settings.seconds, watch=watch, secrets=secrets)
    found = tools.json_of(printed, f"{settings.path.name} {act}", secrets=secrets)
    try:
        return answer.model_validate(found)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        msg = f"{settings.path.name} {act} answers what is not expected: {where}: {first['msg']}"
        raise BackupFailed(msg) from None


def _require_archive(connection: Connection) -> None:
    if not archiver.look(connection).is_on:
        raise BackupFailed("archive_mode is off, and the settings of its script say that it needs the server's archive")
    archiver.require_well(connection)


def _settings(place: Place) -> CommandSettings:
    settings = place.settings
    if settings.command is None or settings.command not in settings.commands:
        msg = "this process has no script for backups: set BACKFILLD_BACKUP__COMMAND, as docs/backup.md has it"
        raise BackupFailed(msg)
    return settings.commands[settings.command]


def _about(backup: Backup) -> dict[str, str]:
    return {
        "BACKFILLD_BACKUP": str(backup.backup),
        "BACKFILLD_LABEL": backup.label,
        "BACKFILLD_REFERENCE": str(backup.details["reference"]),
        "BACKFILLD_SERVER_VERSION": str(backup.server_version),
    }


def _secrets(place: Place) -> list[str]:
    """What must not be on record: the values of the settings, and what the database's URL opens it with."""
    given = psycopg.pq.Conninfo.parse(place.url.encode())
    passwords = [one.val.decode() for one in given if one.keyword == b"password" and one.val]
    return [place.url, *passwords, *(one.get_secret_value() for one in _settings(place).values.values())]


def _without(secrets: list[str], text: str) -> str:
    if tools.hidden(text, secrets) != text:
        msg = "its script answers with a secret of the settings in it, which would be on record"
        raise BackupFailed(msg)
    return text


def _require_elsewhere(url: str, place: Place) -> None:
    """What is compared with itself is always the same. Raises BackupFailed."""
    try:
        with connected(url) as there, connected(place.url) as here:
            same = contents.is_same(there, here)
    except (psycopg.Error, Unreachable) as exc:
        msg = f"what its script has restored cannot be reached: {tools.hidden(str(exc), [url, *_secrets(place)])}"
        raise BackupFailed(msg) from None
    if same:
        raise BackupFailed("its script answers with this database itself, and nothing is proved by that")


def _unwatched() -> str | None:
    return None
