"""A live table made anew beside itself."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from backfilld.migrations.file.fields import Columns, Expression, FileModel, Name, Table
from backfilld.migrations.file.operations.base import TABLE, OperationModel, Settled
from backfilld.migrations.file.operations.partitioning import PartitionBy
from backfilld.migrations.identifiers import Wrong, shown

#: Storage parameters are words and numbers; what they may be is PostgreSQL's to say.
StorageValue = str | int | float | bool


class RebuiltColumn(FileModel):
    """What becomes of one column in the new table."""

    type: Expression | None = Field(default=None, description="The column's new type.", examples=["bigint"])
    up: Expression | None = Field(
        default=None,
        description="SQL expression of the new value over the old row (default: a cast to the new type).",
        examples=["device::jsonb"],
    )
    down: Expression | None = Field(
        default=None,
        description="SQL expression of the old value over the new row, for the way back (default: a cast to the old type).",
        examples=["device::text"],
    )
    drop: bool = Field(default=False, description="The new table does not have the column.")

    @model_validator(mode="after")
    def _is_changed_or_dropped(self) -> Self:
        if self.drop and (self.type is not None or self.up is not None):
            raise Wrong(
                "a column that is dropped has no new type and no new value", "Remove `type` and `up`, or `drop`."
            )
        if not self.drop and self.type is None:
            raise Wrong("there is neither a `type` nor `drop: true`", "Say what becomes of the column.")
        return self


class Rebuild(OperationModel):
    """Make a table anew beside itself while it is used, and put the new one in its place in one transaction."""

    kind: ClassVar[Literal["rebuild"]] = "rebuild"
    does = "Make a table anew beside itself, and put the new one in its place."

    table: Table = TABLE
    columns: Annotated[dict[Name, RebuiltColumn], Field(strict=False)] = Field(
        default={},
        description="Columns that get another type or are dropped, by name. All others stay as they are.",
        examples=[{"id": {"type": "bigint"}, "legacy_code": {"drop": True}}],
    )
    order: Columns | None = Field(
        default=None,
        description="The columns that come first in the new table, in order; the others follow as they were.",
        examples=[["id", "customer_id", "created_at"]],
    )
    with_: dict[Name, StorageValue] = Field(
        default={},
        alias="with",
        description="Storage parameters of the new table; those that it has and that are not named here stay.",
        examples=[{"fillfactor": 80}],
    )
    tablespace: Name | None = Field(default=None, description="The tablespace of the new table.", examples=["fast"])
    cluster_by: Columns | None = Field(
        default=None,
        description="Rows are written in the order of these columns (CLUSTER, before anybody uses the new table).",
        examples=[["customer_id", "created_at"]],
    )

    primary_key: Columns | None = Field(
        default=None,
        description="The columns of the new table's primary key: those of the old one first, and then others.",
        examples=[["id", "created_at"]],
    )
    partition_by: PartitionBy | None = Field(
        default=None, description="The new table is partitioned, by ranges, by lists of values or by hash."
    )

    @model_validator(mode="after")
    def _of_columns_that_stay(self) -> Self:
        dropped = {name for name, one in self.columns.items() if one.drop}
        for key in ("order", "cluster_by", "primary_key"):
            for index, name in enumerate(getattr(self, key) or ()):
                if name in dropped:
                    raise Wrong(
                        f"`{shown(name)}` is dropped and has no place there", "Remove one of the two.", at=(key, index)
                    )
        if self.partition_by is not None and self.partition_by.column in dropped:
            raise Wrong(
                f"`{shown(self.partition_by.column)}` is dropped and cannot be the partition key",
                "Remove one of the two.",
                at=("partition_by",),
            )
        if self.partition_by is not None and self.cluster_by is not None:
            raise Wrong("rows of several partitions have no order together", "Remove `cluster_by`.", at=("cluster_by",))
        return self

    @property
    def subject(self) -> str:
        parts = [f"{name} {'dropped' if one.drop else f'as {one.type}'}" for name, one in self.columns.items()]
        if self.partition_by is not None:
            parts.append(f"partitioned by {self.partition_by.column}")
        return ", ".join(parts) or "as it is"

    @property
    def settles(self) -> tuple[Settled, ...]:
        return tuple(
            Settled(column=name, what="dropped" if one.drop else "changed", at=("columns", name))
            for name, one in self.columns.items()
        )
