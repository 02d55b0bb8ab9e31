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
    provider: Literal["pg_dump", "pg_basebackup"] = "pg_dump"
    #: None: `off` without a store; with one, `proved` where the tables of a run are small enough, else `recent`.
    require: Level | None = None
    #: Up to this size of the tables a proof is cheap: about half a minute of the server's processor for each GB.
    proved_up_to_bytes: Annotated[int, Field(ge=0)] = 2**30
    #: A backup of this age will do where a recent one is enough.
    max_age: Duration = "24h"
    #: Stores that a backup is copied to; none: all of them.
    copies: tuple[StoreName, ...] = ()
    #: Where pg_dump, pg_restore, initdb and postgres are. None: those on the PATH, of Debian's packages, or of `backfilld[embedded]`.
    programs: Path | None = None
    #: The most that is read from the server in a second, in megabytes; 0 sets no limit.
    mb_per_second: Annotated[float, Field(ge=0)] = 0.0
    #: Schemas that a role may not read, as Supabase has them.
    exclude_schemas: tuple[str, ...] = ()
    #: How long a backup is kept; the last proved one, and those of runs that can still be rolled back, are kept longer.
    keep: Duration = "14d"
    schedule: Schedule = Schedule()
    #: `pg_basebackup`: a checkpoint comes first; `spread` takes its time as the server's own do, `fast` is a burst of writes.
    checkpoint: Literal["spread", "fast"] = "spread"
    #: `pg_basebackup`: incremental ones in a row, each based on the one before; 0: all are whole ones.
    incrementals: Annotated[int, Field(ge=0, le=1000)] = 24
    #: `pg_basebackup`: how old a whole one may be that others are based on.
    full_every: Duration = "7d"
    wal: WalSettings = WalSettings()
