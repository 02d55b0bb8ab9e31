"""Operations on a table as a whole."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from backfilld.migrations.file.fields import Columns, Expression, FileModel, Name, Table, Text
from backfilld.migrations.file.operations.base import TABLE, OperationModel
from backfilld.migrations.file.operations.constraints import References, ReferentialAction
from backfilld.migrations.identifiers import NAME_BYTES, TableName, Wrong, shown


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


class NewColumn(FileModel):
    """A column of a new table."""

    name: Name = Field(description="The column's name, exact, never folded to lower case.", examples=["total"])
    type: Expression = Field(description="The column's type, as in CREATE TABLE.", examples=["numeric(12, 2)"])
    not_null: bool = Field(default=False, description="The column may not be NULL.")
    default: Expression | None = Field(
        default=None, description="SQL expression of the column's DEFAULT.", examples=["0", "now()"]
    )
    identity: Literal["always", "by default"] | None = Field(
        default=None, description="A sequence fills the column: `always`, or `by default` where no value is given."
    )
    references: References | None = Field(default=None, description="What the column refers to.")
    on_delete: ReferentialAction = Field(default="no action", description="What a DELETE of the referenced row does.")
    comment: Text | None = Field(default=None, description="The comment on the column.", examples=["in cents"])

    @model_validator(mode="after")
    def _filled_once(self) -> Self:
        if self.identity is not None and self.default is not None:
            raise Wrong("`identity` and `default` both fill the column", "Keep one of the two.", at=("default",))
        return self


class NewCheck(FileModel):
    """A CHECK constraint of a new table."""

    name: Name = Field(description="The constraint's name.", examples=["invoices_total_positive"])
    check: Expression = Field(description="SQL condition that every row must meet.", examples=["total >= 0"])


class NewForeignKey(FileModel):
    """A foreign key of a new table."""

    name: Name = Field(description="The constraint's name.", examples=["invoices_customer_fk"])
    columns: Columns = Field(description="The columns that refer, in order.", examples=[["customer_id"]])
    references: References = Field(description="What they refer to.")
    on_delete: ReferentialAction = Field(default="no action", description="What a DELETE of the referenced row does.")
    on_update: ReferentialAction = Field(default="no action", description="What an UPDATE of the referenced key does.")


class CreateTable(OperationModel):
    """Create a table with its keys, rules and comments; its foreign keys lock what they refer to for a moment only."""

    kind: ClassVar[Literal["create_table"]] = "create_table"
    does = "Create a table."

    table: Table = TABLE
    columns: Annotated[tuple[NewColumn, ...], Field(strict=False)] = Field(
        description="The columns, in order.",
        # Counted below: pydantic's own count leaves out entries that are wrong in themselves.
        json_schema_extra={"minItems": 1},
    )
    primary_key: Columns | None = Field(default=None, description="The columns of the primary key.", examples=[["id"]])
    unique: Annotated[tuple[Columns, ...], Field(strict=False)] = Field(
        default=(), description="Lists of columns that must be unique together.", examples=[[["email"]]]
    )
    checks: Annotated[tuple[NewCheck, ...], Field(strict=False)] = Field(default=(), description="CHECK constraints.")
    foreign_keys: Annotated[tuple[NewForeignKey, ...], Field(strict=False)] = Field(
        default=(), description="Foreign keys of several columns, or with a name of their own."
    )
    comment: Text | None = Field(default=None, description="The comment on the table.", examples=["what was paid"])
    row_security: bool | None = Field(
        default=None,
        description="Whether row level security is on (default: only on Supabase, where an API reaches the table).",
    )

    @model_validator(mode="after")
    def _of_its_own_columns(self) -> Self:
        names = [column.name for column in self.columns]
        if not names:
            raise Wrong("there is no column", "Write at least one, behind a dash.", at=("columns",))
        for number, name in enumerate(names):
            if name in names[:number]:
                raise Wrong(
                    f"there are two columns `{shown(name)}`", "Keep one of the two.", at=("columns", number, "name")
                )
        listed = [
            (("primary_key",), self.primary_key or ()),
            *((("unique", number), columns) for number, columns in enumerate(self.unique)),
            *((("foreign_keys", number, "columns"), key.columns) for number, key in enumerate(self.foreign_keys)),
        ]
        for at, columns in listed:
            for name in columns:
                if name not in names:
                    problem = f"the table gets no column `{shown(name)}`"
                    raise Wrong(problem, f"It gets {', '.join(map(shown, names))}.", at=at)
        return self

    @property
    def all_foreign_keys(self) -> tuple[NewForeignKey, ...]:
        """Those of single columns, under the names that PostgreSQL would give them, and the others."""
        of_columns = tuple(
            NewForeignKey(
                name=_key_name(self.table.name, column.name),
                columns=(column.name,),
                references=column.references,
                on_delete=column.on_delete,
            )
            for column in self.columns
            if column.references is not None
        )
        return of_columns + self.foreign_keys

    @property
    def subject(self) -> str:
        return ", ".join(column.name for column in self.columns)


def _key_name(table: str, column: str) -> str:
    """TABLE_COLUMN_fkey, of which PostgreSQL keeps so many bytes."""
    room = NAME_BYTES - len("_fkey")
    return f"{f'{table}_{column}'.encode()[:room].decode(errors='ignore')}_fkey"


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
