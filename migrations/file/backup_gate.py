"""What a migration asks of backups: the key `backup` of its settings. Where they are kept is for the worker's settings to say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from backfilld.migrations.backup_settings import DURATION_PATTERN, Duration, Level, StoreName
from backfilld.migrations.file.fields import FileModel, Table

_LENGTH = WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN})


class BackupGate(FileModel):
    """What must be known of a backup before the run begins."""

    require: Level | None = Field(
        default=None,
        description="What the run waits for before it begins: nothing (`off`), a `recent` backup, one `taken` for it, that was also "
        "`verified` by reading every copy back, or that was also `proved` by restoring it and comparing the rows. Default: what the "
        "worker's settings say; without a store in them, nothing.",
    )
    max_age: Annotated[Duration, _LENGTH] | None = Field(
        default=None,
        description="How old a recent backup may be. Default: what the worker's settings say. Unit: a number with s, min, h or d.",
        examples=["1h"],
    )
    tables: Literal["touched", "all"] | Annotated[tuple[Table, ...], Field(strict=False, min_length=1)] = Field(
        default="touched",
        description="Whose rows it must have: the tables that the operations name (`touched`; raw SQL without a table may touch "
        "any), `all`, or a list.",
        examples=["touched", ["jobs", "customers"]],
    )
    copies: Annotated[tuple[StoreName, ...], Field(strict=False)] = Field(
        default=(),
        description="Names of stores in the worker's settings that must have a copy. Default: those of the settings.",
        examples=[["east", "west"]],
    )
