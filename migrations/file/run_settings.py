"""The settings of a run, as a migration file writes them and as `backfilld pace` changes them while it runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from backfilld.migrations.file.backup_gate import BackupGate
from backfilld.migrations.file.fields import MOST_WINDOWS, Approvals, Expression, FileModel, Windows
from backfilld.migrations.record.states import Phase


class RunSettings(FileModel):
    """How a run behaves; may be changed while it runs."""

    lanes: int = Field(
        default=2, ge=1, le=64, description="Parts of the table that are processed at the same time. Unit: lanes."
    )
    batch_seconds: float = Field(
        default=0.5, ge=0.01, le=30, description="How long one batch, one transaction, should take. Unit: seconds."
    )
    nice: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Time spent waiting for each second of work: 0 never waits, 1 works half of the time. Unit: ratio.",
    )
    wal_mb_per_second: float = Field(
        default=16.0,
        ge=0,
        le=100_000,
        description="How much WAL the batches may write in a second while other sessions are active; 0 sets no limit. Unit: "
        "megabytes per second.",
    )
    walk: Literal["auto", "pages", "keys", "ordered"] = Field(
        default="auto",
        description="How tables are walked: by `pages`, a stripe of each at a time, which is quickest and lets tables grow "
        "least; by `keys`; or `ordered`, by one lane that keeps the order of the rows on disk. `auto` is by pages wherever that is "
        "right, and ordered where a BRIN index, a CLUSTER mark or range reads of a correlated index live by the order.",
    )
    approve: Approvals = Field(
        default=(Phase.CONTRACT,),
        strict=False,  # a file has lists, not tuples
        description="Phases that wait for `backfilld approve` before they start.",
        json_schema_extra={"uniqueItems": True},
    )
    max_quarantined: int = Field(
        default=100,
        ge=0,
        le=100_000,
        description="Rows that may fail and be quarantined before the run pauses. Unit: rows.",
    )
    give_way_ms: int = Field(
        default=250,
        ge=0,
        le=60_000,
        description="How long a session may wait for a batch before the batch is cancelled and made smaller; 0 never "
        "gives way. Unit: milliseconds.",
    )
    lock_timeout_ms: int = Field(
        default=100,
        ge=10,
        le=1000,
        description="How long one try of a schema change may wait for its lock, with other sessions queued behind it. "
        "Unit: milliseconds.",
    )
    lock_deadline_seconds: float = Field(
        default=1800.0,
        ge=1,
        le=604_800,
        description="How long a schema change retries in all before the run pauses and names the blocking sessions. Unit: seconds.",
    )
    cancel_blockers: Literal["never", "idle", "queries", "all"] = Field(
        default="never",
        description="Which sessions that block a schema change may be stopped: none (`never`), sessions that are `idle` in a "
        "transaction (they are ended), `queries` that run (they are cancelled), or `all` of these.",
    )
    cancel_after_seconds: float = Field(
        default=60.0,
        ge=1,
        le=86_400,
        description="How long a session must have been idle, or its query have run, before `cancel_blockers` stops it. "
        "Unit: seconds.",
    )
    allow_functions: tuple[Expression, ...] = Field(
        default=(),
        strict=False,  # a file has lists, not tuples
        description="Functions that expressions may call although they act outside of the row, or depend on what is outside of "
        "it: names, with the schema where it is not `pg_catalog`.",
        examples=[["pg_sleep"]],
    )
    windows: Windows = Field(
        default=(),
        strict=False,  # a file has lists, not tuples
        description="Hours in which the run may work, by the database's clock: days, hours and a time zone. Without any, it may "
        "always. Unit: local time.",
        examples=[["Mon-Fri 22:00-06:00 Europe/Berlin"]],
        json_schema_extra={"maxItems": MOST_WINDOWS},
    )
    journal: bool = Field(
        default=True,
        description="Whether in-place changes keep the old values, so that `rollback` can bring them back. Unit: on or off.",
    )
    durable_batches: bool = Field(
        default=False,
        description="Whether every batch waits until it is on disk, and on a synchronous standby. Without, a crash of the server may "
        "take back the last batches, which are done again; phases, gates and commands always wait. Unit: on or off.",
    )
    backup: BackupGate | None = Field(
        default=None,
        description="What must be known of a backup before the run begins. Default: what the worker's settings say.",
        examples=[{"require": "proved"}],
    )
    retention_days: float = Field(
        default=7.0,
        ge=0,
        le=3650,
        description="How long the old values are kept once the run is completed; `backfilld purge` drops what has expired. "
        "Unit: days.",
    )
