"""Operations on the rules of a table."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from backfilld.migrations.file.fields import Columns, Expression, FileModel, Name, Table
from backfilld.migrations.file.operations.base import TABLE, OperationModel
from backfilld.migrations.identifiers import Wrong


class AddCheck(OperationModel):
    """Add a CHECK constraint, proved for all rows while the application keeps running."""

    kind: ClassVar[Literal["add_check"]] = "add_check"
    does = "Add a CHECK constraint."

    table: Table = TABLE
    name: Name = Field(description="The constraint's name.", examples=["orders_total_positive"])
    check: Expression = Field(description="SQL condition that every row must meet.", examples=["total >= 0"])


class References(FileModel):
    """The table that a foreign key points to."""

    table: Table = Field(description="The referenced table, exact.", examples=["customers"])
    columns: Columns | None = Field(
        default=None, description="Its columns (default: its primary key).", examples=[["id"]]
    )


ReferentialAction = Literal["no action", "restrict", "cascade", "set null", "set default"]


class AddForeignKey(OperationModel):
    """Add a foreign key, proved for all rows while the application keeps running."""

    kind: ClassVar[Literal["add_foreign_key"]] = "add_foreign_key"
    does = "Add a foreign key."

    table: Table = TABLE
    name: Name = Field(description="The constraint's name.", examples=["orders_customer_fk"])
    columns: Columns = Field(description="The columns that refer, in order.", examples=[["customer_id"]])
    references: References = Field(description="What they refer to.")
    on_delete: ReferentialAction = Field(default="no action", description="What a DELETE of the referenced row does.")
    on_update: ReferentialAction = Field(default="no action", description="What an UPDATE of the referenced key does.")


class AddUnique(OperationModel):
    """Add a UNIQUE constraint, by an index that is built while the application keeps running."""

    kind: ClassVar[Literal["add_unique"]] = "add_unique"
    does = "Add a UNIQUE constraint."

    table: Table = TABLE
    name: Name = Field(description="The constraint's name, and its index's.", examples=["users_email_key"])
    columns: Columns = Field(description="The columns that must be unique together, in order.", examples=[["email"]])


class AddPrimaryKey(OperationModel):
    """Make columns the primary key, by an index that is built, and NOT NULL that is proved, while the application keeps running."""

    kind: ClassVar[Literal["add_primary_key"]] = "add_primary_key"
    does = "Add a primary key."

    table: Table = TABLE
    columns: Columns = Field(description="The columns of the key, in order.", examples=[["id"]])

    @property
    def subject(self) -> str:
        return ", ".join(self.columns)


class DropConstraint(OperationModel):
    """Drop a CHECK, UNIQUE or FOREIGN KEY constraint; its definition is kept, and the way back proves it for all rows again."""

    kind: ClassVar[Literal["drop_constraint"]] = "drop_constraint"
    does = "Drop a constraint."

    table: Table = TABLE
    name: Name = Field(description="The constraint's name.", examples=["orders_total_positive"])


class RenameConstraint(OperationModel):
    """Give a constraint another name, and with it the index that it may have."""

    kind: ClassVar[Literal["rename_constraint"]] = "rename_constraint"
    does = "Give a constraint another name."

    table: Table = TABLE
    old: Name = Field(alias="from", description="The constraint's present name, exact.", examples=["orders_check"])
    new: Name = Field(alias="to", description="The new name, exact.", examples=["orders_total_positive"])

    @model_validator(mode="after")
    def _another_name(self) -> Self:
        if self.old == self.new:
            raise Wrong("`from` and `to` are the same name", "Write the new name of the constraint.", at=("to",))
        return self

    @property
    def subject(self) -> str:
        return f"{self.old} to {self.new}"
