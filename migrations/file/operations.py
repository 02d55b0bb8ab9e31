"""The operations as a migration file writes them: each one change of one table, with the rules of the file alone."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import ConfigDict, Field, model_validator

from backfilld.migrations.file.fields import Columns, Expression, FileModel, Function, Name, Table
from backfilld.migrations.identifiers import Wrong, shown

#: The table of an operation.
_TABLE = Field(
    description="The table: `table` or `schema.table` (default schema: public), exact, never folded.",
    examples=["jobs", "Odd Schema.Order", '"a.b".c'],
)


class Settled(NamedTuple):
    """A column of which an operation decides what becomes of it."""

    column: str
    what: Literal["added", "filled", "renamed", "changed", "dropped"]
    #: Where the file says so, below the operation.
    at: tuple[str | int, ...]


class OperationModel(FileModel):
    """What the models of all operations have."""

    kind: ClassVar[str]
    #: What it does, for editors.
    does: ClassVar[str]

    @property
    def subject(self) -> str:
        """What it is about, in a few words: the name that it gives, unless the operation says otherwise."""
        return str(getattr(self, "name", ""))

    @property
    def summary(self) -> str:
        """The operation in a few words, as a person would tell it to another."""
        return f"{self.kind} {getattr(self, 'table', '')}: {self.subject}"

    @property
    def settles(self) -> tuple[Settled, ...]:
        """The columns of which it decides what becomes of them: two operations of one file cannot."""
        return ()

    @property
    def fails_after_contract(self) -> str:
        """What an application that knows the old structure can no longer do from contract on; empty for nothing."""
        return ""


class ColumnSpec(FileModel):
    """A column to add."""

    name: Name = Field(description="The column's name, exact, never folded to lower case.", examples=["new_field"])
    type: Expression = Field(description="The column's type, as in CREATE TABLE.", examples=["text", "numeric(12, 2)"])


class AddColumn(OperationModel):
    """Add a column, fill it in every existing row, keep it right while the application writes, and verify it."""

    model_config = ConfigDict(
        json_schema_extra={  # `_not_null_has_values`, for editors
            "if": {"properties": {"not_null": {"const": True}}, "required": ["not_null"]},
            "then": {"anyOf": [{"required": ["backfill"]}, {"required": ["default"]}]},
        }
    )

    kind: ClassVar[Literal["add_column"]] = "add_column"
    does = "Add a column and fill it."

    table: Table = _TABLE
    column: ColumnSpec = Field(description="The new column.")
    backfill: Expression | None = Field(
        default=None,
        description="SQL expression over the columns of the row that gives the new column's value.",
        examples=["upper(status)"],
    )
    default: Expression | None = Field(
        default=None, description="SQL expression of the new column's DEFAULT.", examples=["'new'", "now()"]
    )
    not_null: bool = Field(
        default=False, description="Make the column NOT NULL once it is filled; needs `backfill` or `default`."
    )
    computed: bool = Field(
        default=False,
        description="The column is derived for good: until contract every row that is written gets the value of `backfill`, "
        "whatever the application wrote. Otherwise the application's values are kept, and rows without one are filled.",
    )

    @model_validator(mode="after")
    def _computed_by_something(self) -> Self:
        if self.computed and self.backfill is None:
            raise Wrong(
                "a computed column needs the expression that computes it",
                "Add `backfill:`, or remove `computed:`.",
                at=("computed",),
            )
        return self

    @model_validator(mode="after")
    def _not_null_has_values(self) -> Self:
        if self.not_null and self.backfill is None and self.default is None:
            raise Wrong(
                "a NOT NULL column needs a value for the existing rows",
                "Add `backfill:` or `default:`, or remove `not_null:`.",
                at=("not_null",),
            )
        return self

    @property
    def subject(self) -> str:
        return f"{self.column.name} {self.column.type}"

    @property
    def settles(self) -> tuple[Settled, ...]:
        return (Settled(self.column.name, "added", ("column", "name")),)

    @property
    def fails_after_contract(self) -> str:
        # Until then the sync trigger gives such a row its value.
        if not self.not_null or self.backfill is None or self.default is not None:
            return ""
        return f"an INSERT that leaves out {shown(f'{self.table.name}.{self.column.name}')} fails"


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

    table: Table = _TABLE
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


class RenameColumn(OperationModel):
    """Give a column another name, while applications that use either name keep running."""

    kind: ClassVar[Literal["rename_column"]] = "rename_column"
    does = "Give a column another name."

    table: Table = _TABLE
    old: Name = Field(alias="from", description="The column's present name, exact.", examples=["total"])
    new: Name = Field(alias="to", description="The new name, exact.", examples=["revenue"])

    @model_validator(mode="after")
    def _another_name(self) -> Self:
        if self.old == self.new:
            raise Wrong("`from` and `to` are the same name", "Write the new name of the column.", at=("to",))
        return self

    @property
    def subject(self) -> str:
        return f"{self.old} to {self.new}"

    @property
    def settles(self) -> tuple[Settled, ...]:
        return (Settled(self.old, "renamed", ("from",)), Settled(self.new, "added", ("to",)))

    @property
    def fails_after_contract(self) -> str:
        return f"a statement that names {shown(f'{self.table.name}.{self.old}')} fails"


class ChangeType(OperationModel):
    """Give a column another type: a second column of the new type is filled beside it, and once all values are verified the two change places."""

    kind: ClassVar[Literal["change_type"]] = "change_type"
    does = "Give a column another type."

    table: Table = _TABLE
    column: Name = Field(description="The column, exact.", examples=["device_info"])
    type: Expression = Field(description="The new type, as in CREATE TABLE.", examples=["jsonb", "bigint"])
    up: Expression | None = Field(
        default=None,
        description="SQL expression over the row that gives the new value (default: a cast).",
        examples=["coalesce(device_info::jsonb, '{}')"],
    )
    down: Expression | None = Field(
        default=None,
        description="SQL expression over the row that gives the old value from the new one, for the way back; it names the "
        "column, which then has the new type (default: a cast).",
        examples=["device_info::text"],
    )
    default: Expression | None = Field(
        default=None,
        description="The column's DEFAULT from the switch on (default: the present one, cast to the new type).",
        examples=["'{}'"],
    )

    @property
    def subject(self) -> str:
        return f"{self.column} to {self.type}"

    @property
    def settles(self) -> tuple[Settled, ...]:
        return (Settled(self.column, "changed", ("column",)),)


class SetNotNull(OperationModel):
    """Make a column NOT NULL, without a scan under a lock that stops the application."""

    kind: ClassVar[Literal["set_not_null"]] = "set_not_null"
    does = "Make a column NOT NULL."

    table: Table = _TABLE
    column: Name = Field(description="The column, exact.", examples=["status"])
    backfill: Expression | None = Field(
        default=None,
        description="SQL expression that gives rows whose value is NULL one; without it such rows stop the run.",
        examples=["'unknown'"],
    )

    @property
    def subject(self) -> str:
        return self.column

    @property
    def settles(self) -> tuple[Settled, ...]:
        return (Settled(self.column, "filled", ("column",)),)


class DropColumn(OperationModel):
    """Drop a column, once its values are archived."""

    kind: ClassVar[Literal["drop_column"]] = "drop_column"
    does = "Drop a column."

    table: Table = _TABLE
    column: Name = Field(description="The column, exact.", examples=["legacy_code"])

    @property
    def subject(self) -> str:
        return self.column

    @property
    def settles(self) -> tuple[Settled, ...]:
        return (Settled(self.column, "dropped", ("column",)),)

    @property
    def fails_after_contract(self) -> str:
        return f"a statement that names {shown(f'{self.table.name}.{self.column}')} fails"


class AddCheck(OperationModel):
    """Add a CHECK constraint, proved for all rows while the application keeps running."""

    kind: ClassVar[Literal["add_check"]] = "add_check"
    does = "Add a CHECK constraint."

    table: Table = _TABLE
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

    table: Table = _TABLE
    name: Name = Field(description="The constraint's name.", examples=["orders_customer_fk"])
    columns: Columns = Field(description="The columns that refer, in order.", examples=[["customer_id"]])
    references: References = Field(description="What they refer to.")
    on_delete: _ReferentialAction = Field(default="no action", description="What a DELETE of the referenced row does.")
    on_update: _ReferentialAction = Field(default="no action", description="What an UPDATE of the referenced key does.")


class AddUnique(OperationModel):
    """Add a UNIQUE constraint, by an index that is built while the application keeps running."""

    kind: ClassVar[Literal["add_unique"]] = "add_unique"
    does = "Add a UNIQUE constraint."

    table: Table = _TABLE
    name: Name = Field(description="The constraint's name, and its index's.", examples=["users_email_key"])
    columns: Columns = Field(description="The columns that must be unique together, in order.", examples=[["email"]])


class CreateIndex(OperationModel):
    """Build an index while the application keeps running."""

    kind: ClassVar[Literal["create_index"]] = "create_index"
    does = "Build an index."

    table: Table = _TABLE
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

    table: Table = _TABLE
    name: Name = Field(description="The index's name; it is in the schema of its table.", examples=["jobs_status_idx"])


class Sql(OperationModel):
    """Run your own SQL in one transaction, with short lock timeouts and retries; `rollback` undoes it."""

    kind: ClassVar[Literal["sql"]] = "sql"
    does = "Run your own SQL."

    table: Table | None = Field(default=None, description="The table it is about, if there is one.", examples=["jobs"])
    run: Expression = Field(
        description="The statements.", examples=["CREATE VIEW open_jobs AS SELECT * FROM public.jobs"]
    )
    rollback: Expression = Field(description="The statements that undo `run`.", examples=["DROP VIEW public.open_jobs"])
    phase: Literal["expand", "switch", "contract"] = Field(default="expand", description="The phase in which it runs.")
    allow: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="Rules of the linter that may be broken here, after review.",
        examples=[["ban-drop-column"]],
    )

    @property
    def summary(self) -> str:
        return f"sql in {self.phase}"


#: All of them, in the order in which editors offer them.
Operation = (
    AddColumn
    | RenameColumn
    | ChangeType
    | SetNotNull
    | DropColumn
    | AddCheck
    | AddForeignKey
    | AddUnique
    | CreateIndex
    | DropIndex
    | Backfill
    | Sql
)
