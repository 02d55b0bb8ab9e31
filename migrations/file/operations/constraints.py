"""Operations that add rules to a table."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from backfilld.migrations.file.fields import Columns, Expression, FileModel, Name, Table
from backfilld.migrations.file.operations.base import TABLE, OperationModel


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


_ReferentialAction = Literal["no action", "restrict", "cascade", "set null", "set default"]


class AddForeignKey(OperationModel):
    """Add a foreign key, proved for all rows while the application keeps running."""

    kind: ClassVar[Literal["add_foreign_key"]] = "add_foreign_key"
    does = "Add a foreign key."

    table: Table = TABLE
    name: Name = Field(description="The constraint's name.", examples=["orders_customer_fk"])
    columns: Columns = Field(description="The columns that refer, in order.", examples=[["customer_id"]])
    references: References = Field(description="What they refer to.")
    on_delete: _ReferentialAction = Field(default="no action", description="What a DELETE of the referenced row does.")
    on_update: _ReferentialAction = Field(default="no action", description="What an UPDATE of the referenced key does.")


class AddUnique(OperationModel):
    """Add a UNIQUE constraint, by an index that is built while the application keeps running."""

    kind: ClassVar[Literal["add_unique"]] = "add_unique"
    does = "Add a UNIQUE constraint."

    table: Table = TABLE
    name: Name = Field(description="The constraint's name, and its index's.", examples=["users_email_key"])
    columns: Columns = Field(description="The columns that must be unique together, in order.", examples=[["email"]])
