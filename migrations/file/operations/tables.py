"""Operations on a table as a whole."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from backfilld.migrations.file.fields import Name, Table, Text
from backfilld.migrations.file.operations.base import TABLE, OperationModel
from backfilld.migrations.identifiers import TableName, Wrong, shown


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


class EnableRowSecurity(OperationModel):
    """Have PostgreSQL ask the policies of a table for each row that a role reads or writes."""

    kind: ClassVar[Literal["enable_row_security"]] = "enable_row_security"
    does = "Turn row level security on."

    table: Table = TABLE
    force: bool = Field(default=False, description="Ask the policies for the table's owner too.")

    @property
    def subject(self) -> str:
        return "for its owner too" if self.force else "for all but its owner"


class RenameTable(OperationModel):
    """Give a table another name; until contract a view under the old name lets applications use either."""

    kind: ClassVar[Literal["rename_table"]] = "rename_table"
    does = "Give a table another name."

    table: Table = TABLE
    to: Name = Field(description="The new name, exact; the table stays in its schema.", examples=["tasks"])

    @model_validator(mode="after")
    def _another_name(self) -> Self:
        if self.to == self.table.name:
            raise Wrong("`to` is the name that the table has", "Write the new name of the table.", at=("to",))
        return self

    @property
    def renamed(self) -> TableName:
        """The table under its new name."""
        return TableName(self.table.schema, self.to)

    @property
    def subject(self) -> str:
        return f"to {self.to}"

    @property
    def fails_after_contract(self) -> str:
        return f"a statement that names {shown(str(self.table))} fails"


class DropTable(OperationModel):
    """Take a table away; it is kept, out of reach, until the retention ends."""

    kind: ClassVar[Literal["drop_table"]] = "drop_table"
    does = "Drop a table."

    table: Table = TABLE

    @property
    def subject(self) -> str:
        return "the table and its rows"

    @property
    def fails_after_contract(self) -> str:
        return f"a statement that names {shown(str(self.table))} fails"
