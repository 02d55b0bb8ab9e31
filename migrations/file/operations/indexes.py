"""Operations on the indexes of a table."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from backfilld.migrations.file.fields import Columns, Expression, Name, Table
from backfilld.migrations.file.operations.base import TABLE, OperationModel
from backfilld.migrations.identifiers import Wrong


class CreateIndex(OperationModel):
    """Build an index while the application keeps running."""

    kind: ClassVar[Literal["create_index"]] = "create_index"
    does = "Build an index."

    table: Table = TABLE
    name: Name = Field(description="The index's name.", examples=["jobs_status_idx"])
    columns: Columns | None = Field(
        default=None, description="The columns it holds, in order.", examples=[["status", "created_at"]]
    )
    expressions: Expression | None = Field(
        default=None,
        description="In place of `columns`: the contents of the parentheses of CREATE INDEX.",
        examples=["lower(email), created_at DESC"],
    )
    unique: bool = Field(default=False, description="Whether no two rows may have the same values.")
    method: Name = Field(default="btree", description="The access method.", examples=["btree", "gin"])
    include: Columns | None = Field(
        default=None, description="Columns that the index holds without ordering by them.", examples=[["total"]]
    )
    storage: Annotated[dict[Name, bool | int | float | str], Field(min_length=1)] | None = Field(
        default=None,
        alias="with",
        description="Storage parameters of the index, as in WITH of CREATE INDEX.",
        examples=[{"fillfactor": 70}],
    )
    where: Expression | None = Field(
        default=None, description="SQL condition: the index holds only these rows.", examples=["status = 'open'"]
    )

    @model_validator(mode="after")
    def _of_something(self) -> Self:
        if (self.columns is None) == (self.expressions is None):
            raise Wrong(
                "an index is of `columns` or of `expressions`, one of the two",
                "Write `columns:` with names, or `expressions:` with the contents of the parentheses of CREATE INDEX.",
                at=("expressions",) if self.expressions is not None else (),
            )
        return self


class DropIndex(OperationModel):
    """Drop an index while the application keeps running; its definition is kept."""

    kind: ClassVar[Literal["drop_index"]] = "drop_index"
    does = "Drop an index."

    table: Table = TABLE
    name: Name = Field(description="The index's name; it is in the schema of its table.", examples=["jobs_status_idx"])
