"""Operations on the rows of a table."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from backfilld.migrations.file.fields import Columns, Expression, Function, Name, Table
from backfilld.migrations.file.operations.base import TABLE, OperationModel, Settled
from backfilld.migrations.identifiers import Wrong, shown


class DeleteRows(OperationModel):
    """Delete the rows that meet a condition, in batches; the way back inserts them again."""

    kind: ClassVar[Literal["delete_rows"]] = "delete_rows"
    does = "Delete the rows that meet a condition."

    table: Table = TABLE
    where: Expression = Field(
        description="SQL condition: these rows are deleted, and none may be left when the run is verified.",
        examples=["status = 'draft' AND created_at < ${before}"],
    )

    @property
    def subject(self) -> str:
        return shown(self.where)


class Backfill(OperationModel):
    """Change the contents of existing columns, row by row: by SQL expressions, or by a Python function."""

    model_config = ConfigDict(
        json_schema_extra={  # `_one_way_to_change_rows`, for editors
            "oneOf": [
                {"required": ["set"], "properties": {"transform": False, "writes": False, "reads": False}},
                {"required": ["transform", "writes"], "properties": {"set": False}},
            ]
        }
    )

    kind: ClassVar[Literal["backfill"]] = "backfill"
    does = "Change the contents of existing columns."

    table: Table = TABLE
    assignments: Annotated[dict[Name, Expression], Field(min_length=1)] | None = Field(
        default=None,
        alias="set",
        description="Column names, each with the SQL expression of its new value.",
        examples=[{"status": "lower(status)"}],
    )
    transform: Function | None = Field(
        default=None,
        description="In place of `set`: the Python function `module:function` that receives rows and returns them.",
        examples=["myapp.backfills:normalise_phone"],
    )
    writes: Columns | None = Field(
        default=None, description="The columns that `transform` gives new values.", examples=[["phone_e164"]]
    )
    reads: Columns | None = Field(
        default=None,
        description="The columns that `transform` receives beside the key (default: every column of the table).",
        examples=[["phone", "country"]],
    )
    where: Expression | None = Field(
        default=None,
        description="SQL condition: only these rows are changed, and none may be left when the run is verified.",
        examples=["status <> lower(status)"],
    )

    @model_validator(mode="after")
    def _one_way_to_change_rows(self) -> Self:
        if self.assignments is not None and self.transform is not None:
            raise Wrong(
                "`set` and `transform` are two ways to change the same rows",
                "Keep one of the two.",
                at=("transform",),
            )
        if self.assignments is not None and (self.writes or self.reads) is not None:
            raise Wrong(
                "`writes` and `reads` are for a `transform`, and SQL names its columns itself",
                "Remove it.",
                at=("writes" if self.writes is not None else "reads",),
            )
        if self.assignments is None and self.transform is None:
            at = "transform" if (self.writes or self.reads) is not None else "set"
            raise Wrong(
                f"the key `{at}` is missing",
                "Add `set:` with SQL expressions or `transform:` with a Python function to the operation.",
                at=(at,),
            )
        if self.transform is not None and self.writes is None:
            raise Wrong(
                "the key `writes` is missing: backfilld cannot see which columns a function changes",
                "Add `writes:` with the columns that the function gives new values, for example [phone_e164].",
                at=("writes",),
            )
        return self

    @property
    def written(self) -> tuple[str, ...]:
        """The columns that get new values."""
        return self.writes or tuple(self.assignments or ())

    @property
    def subject(self) -> str:
        return ", ".join(self.written)

    @property
    def settles(self) -> tuple[Settled, ...]:
        return tuple(
            Settled(name, "filled", ("writes", number) if self.writes else ("set", name))
            for number, name in enumerate(self.written)
        )
