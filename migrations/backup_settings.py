"""What an operator sets about backups: where copies are kept, how they are made, and what a run needs that says nothing itself.

In the worker's settings and never in a migration file: these hold secrets, and name programs that are run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|min|h|d)")
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
#: As editors check it.
DURATION_PATTERN = r"^\d{1,6}(\.\d{1,3})?\s*(s|min|h|d)$"


def seconds_of(text: str) -> float:
    """`90 s`, `15min`, `1h`, `7d` in seconds. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or not float(found[1]):
        msg = f"{text!r} is no length of time; write a number with s, min, h or d, such as 1h"
        raise ValueError(msg)
    return float(found[1]) * _UNITS[found[2]]


def _checked(text: str) -> str:
    seconds_of(text)
    return text


#: A length of time, as people write it.
Duration = Annotated[str, AfterValidator(_checked)]
StoreName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]

#: What must be known of a backup before a run begins, from nothing to everything.
Level = Literal["off", "recent", "taken", "verified", "proved"]


class StoreSettings(BaseModel):
    """A place for copies of backups: a folder, or a bucket of an S3 service."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: StoreName
    kind: Literal["folder", "s3"]
    #: Where it is, for people; for S3 the region of its signatures too.
    region: Annotated[str, Field(max_length=60)] = ""
    #: `folder`: its path on every worker's host.
    path: Path | None = None
    bucket: str | None = None
    #: `s3`: what every key begins with.
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]*$", max_length=200)] = ""
    #: `s3`: another service than Amazon's, such as https://minio.internal:9000.
    endpoint_url: str | None = None
    #: `s3`: without them boto3 looks where it always looks (AWS_… variables, a role of the machine).
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.path is None) == (self.kind == "folder"):
            msg = f"a store of kind {self.kind} {'needs a' if self.kind == 'folder' else 'has no'} path"
            raise ValueError(msg)
        if (self.bucket is None) == (self.kind == "s3"):
            msg = f"a store of kind {self.kind} {'needs a' if self.kind == 's3' else 'has no'} bucket"
            raise ValueError(msg)
        if self.path is not None and not self.path.is_absolute():
            msg = "path must be absolute: workers are started in different folders"
            raise ValueError(msg)
        if (self.access_key is None) != (self.secret_key is None):
            msg = "access_key and secret_key belong together"
            raise ValueError(msg)
        return self


ValueName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
#: How a backup is taken.
Provider = Literal["pg_dump", "pg_basebackup", "command", "supabase", "barman", "pgbackrest"]
#: Those that keep what they take in a place of their own, not in the stores.
KEEP_THEIR_OWN = frozenset({"command", "supabase", "barman", "pgbackrest"})


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        msg = "path must be absolute: workers are started in different folders"
        raise ValueError(msg)
    return path


class CommandSettings(BaseModel):
    """A script of the operator's that takes backups; docs/backup.md says what it is asked, and how it answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    path: Annotated[Path, AfterValidator(_absolute)]
    #: The most that one call of it may take.
    seconds: Annotated[float, Field(gt=0)] = 3600.0
    #: A snapshot is held for it, as `pg_dump --snapshot` takes one. What it does not take from there cannot be proved.
    snapshot: bool = False
    #: What it takes needs the server's own archive: it counts once that has the WAL up to the mark.
    archive: bool = False
    #: Variables of its environment; the values are never put on record.
    values: dict[ValueName, SecretStr] = Field(default_factory=dict, repr=False)


class SupabaseSettings(BaseModel):
    """A project of Supabase with point-in-time recovery, by its Management API."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: Its reference, as in https://REFERENCE.supabase.co.
    project: Annotated[str, Field(pattern=r"^[a-z0-9]{8,40}$")]
    #: A personal access token; it can restore the project.
    token: SecretStr
    url: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+$")] = "https://api.supabase.com"
    #: How long is waited until a moment can be recovered; it takes two minutes, and longer under load.
    wait_seconds: Annotated[float, Field(gt=0)] = 900.0
    #: Between two looks.
    poll_seconds: Annotated[float, Field(gt=0)] = 10.0


class BarmanSettings(BaseModel):
    """Barman, installed and set up on the worker's host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: As Barman's configuration calls the server.
    server: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    program: Path = Path("barman")
    #: None: where Barman looks by itself.
    config: Path | None = None
    #: Based on the newest full one; a full one is taken without one.
    incremental: bool = False
    seconds: Annotated[float, Field(gt=0)] = 6 * 3600.0


class PgBackRestSettings(BaseModel):
    """pgBackRest, installed and set up on the worker's host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stanza: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    program: Path = Path("pgbackrest")
    config: Path | None = None
    #: Repositories, one after the other: `backup` writes to one only.
    repositories: Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(min_length=1)] = (1,)
    #: It takes a full one by itself where there is none.
    type: Literal["full", "diff", "incr"] = "incr"
    seconds: Annotated[float, Field(gt=0)] = 6 * 3600.0


class Schedule(BaseModel):
    """How often a backup is taken without a run that asks for one, and how often one is restored to see that it can be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Between two backups; None: none are taken by the clock.
    every: Duration | None = None
    #: Between two restores into a scratch server; None: none are made by the clock.
    prove_every: Duration | None = None


class WalSettings(BaseModel):
    """Where physical backups get the WAL from: received here by pg_receivewal, or out of the operator's own archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: What is received is kept here, on this host or on a disk that all workers share. None: nothing is received.
    folder: Path | None = None
    #: The replication slot of the receiver.
    slot: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,63}$")] = "backfilld"
    #: Fetches a file `%f` of the archive to `%p`, as PostgreSQL's own setting of this name does.
    restore_command: Annotated[str, Field(min_length=1)] | None = None
    #: How long a backup waits until the WAL up to its mark has come.
    patience: Duration = "5min"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.folder is not None and self.restore_command is not None:
            msg = "the WAL comes from a folder that it is received into, or by restore_command, not from both"
            raise ValueError(msg)
        if self.folder is not None and not self.folder.is_absolute():
            msg = "folder must be absolute: workers are started in different folders"
            raise ValueError(msg)
        if self.restore_command is not None and not ("%f" in self.restore_command and "%p" in self.restore_command):
            msg = "restore_command needs %f, the name of a file, and %p, where it is to be put"
            raise ValueError(msg)
        return self


class BackupSettings(BaseModel):
    """How backups are made here, and what a run needs whose file says nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: How they are taken.
    provider: Provider = "pg_dump"
    #: None: `default_level`.
    require: Level | None = None
    #: Up to this size of the tables a proof is cheap: about half a minute of the server's processor for each GB.
    proved_up_to_bytes: Annotated[int, Field(ge=0)] = 2**30
    #: A backup of this age will do where a recent one is enough.
    max_age: Duration = "24h"
    #: Stores that a backup is copied to; none: all of them.
    copies: tuple[StoreName, ...] = ()
    #: Where pg_dump, pg_restore, initdb and postgres are. None: those on the PATH, of Debian's packages, or of `backfilld[embedded]`.
    programs: Path | None = None
    #: The most that is written in a second, compressed as it is, in megabytes; pg_basebackup is sent no more, and checksums are read
    #: as much slower as the copy was. 0 sets no limit.
    mb_per_second: Annotated[float, Field(ge=0)] = 0.0
    #: Schemas that a role may not read, as Supabase has them.
    exclude_schemas: tuple[str, ...] = ()
    #: How long a backup is kept; the last proved one, and those of runs that can still be rolled back, are kept longer.
    keep: Duration = "14d"
    schedule: Schedule = Schedule()
    #: Scripts that may be run, by their names.
    commands: dict[StoreName, CommandSettings] = Field(default_factory=dict)
    #: `command`: which of them.
    command: StoreName | None = None
    supabase: SupabaseSettings | None = None
    barman: BarmanSettings | None = None
    pgbackrest: PgBackRestSettings | None = None
    #: `pg_basebackup`: a checkpoint comes first; `spread` takes its time as the server's own do, `fast` is a burst of writes.
    checkpoint: Literal["spread", "fast"] = "spread"
    #: `pg_basebackup`: incremental ones in a row, each based on the one before; 0: all are whole ones.
    incrementals: Annotated[int, Field(ge=0, le=1000)] = 24
    #: `pg_basebackup`: how old a whole one may be that others are based on.
    full_every: Duration = "7d"
    wal: WalSettings = WalSettings()

    @model_validator(mode="after")
    def _set_up(self) -> Self:
        if self.provider in KEEP_THEIR_OWN and getattr(self, self.provider) is None:
            msg = f"the provider {self.provider} needs backup.{self.provider}"
            raise ValueError(msg)
        if self.command is not None and self.command not in self.commands:
            msg = f"backup.commands has no {self.command}"
            raise ValueError(msg)
        if self.keeps_its_own and self.copies:
            msg = f"the provider {self.provider} keeps its backups itself, and has no copies in stores"
            raise ValueError(msg)
        if self.provider == "supabase" and self.require == "proved":
            msg = "Supabase restores a project in place only, so its backups cannot be proved: verified is the most"
            raise ValueError(msg)
        return self

    @property
    def keeps_its_own(self) -> bool:
        """Its backups are in a place of the provider's own, not in the stores."""
        return self.provider in KEEP_THEIR_OWN

    @property
    def oldest_seconds(self) -> dict[str, float]:
        """How old the newest backup, and the newest proved one, become when all goes as the schedule has it; none without one."""
        every, prove = self.schedule.every, self.schedule.prove_every
        between = seconds_of(every) if every is not None else 0.0
        found = {"newest": between} if every is not None else {}
        if prove is not None:
            found["proved"] = seconds_of(prove) + between  # what is restored may be that old itself
        return found

    def default_level(self, size: int) -> tuple[Level, str]:
        """What a run needs that changes tables of this size, where nobody says; and why."""
        if self.provider == "supabase":
            return "taken", "it costs a wait of some minutes, and puts the moment to go back to on record"
        if self.keeps_its_own or self.provider == "pg_basebackup":
            return "recent", "a backup of the whole server for each run is dear"
        if size <= self.proved_up_to_bytes:
            return "proved", "the tables are small enough for it to be cheap (backup.proved_up_to_bytes)"
        return "recent", "the tables are too large for a proof to be cheap (backup.proved_up_to_bytes)"
