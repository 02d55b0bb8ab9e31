"""Operations on a table as a whole."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from backfilld.migrations.file.fields import Name, Table, Text
from backfilld.migrations.file.operations.base import TABLE, OperationModel
from backfilld.migrations.identifiers import Wrong


class SetComment(OperationModel):
    """Comment on a table, or on one of its columns, constraints or indexes."""

    kind: ClassVar[Literal["set_comment"]] = "set_comment"
    does = "Comment on a table, or on a part of it."

    table: Table = TABLE
    column: Name | None = Field(default=None, description="The column that is commented on.", examples=["total"])
    constraint: Name | None = Field(
        default=None, description="The constraint that is commented on.", examples=["orders_total_positive"]
    )
    index: Name | None = Field(
        default=None, description="The index that is commented on.", examples=["jobs_status_idx"]
    )
    comment: Text = Field(description="The comment; an empty text removes it.", examples=["in cents"])

    @model_validator(mode="after")
    def _on_one_thing(self) -> Self:
        named = [key for key in ("column", "constraint", "index") if getattr(self, key) is not None]
        if len(named) > 1:
            raise Wrong(
                f"`{named[0]}` and `{named[1]}` are two things to comment on",
                "Keep one of the two, and write another `set_comment` for the other.",
                at=(named[1],),
            )
        return self

    @property
    def subject(self) -> str:
        part = next((key for key in ("column", "constraint", "index") if getattr(self, key) is not None), None)
        return f"{part} {getattr(self, part)}" if part is not None else "the table"
