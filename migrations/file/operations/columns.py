"""Operations on the columns of a table."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from backfilld.migrations.file.fields import Expression, FileModel, Name, OneOrMore, Table
from backfilld.migrations.file.operations.base import TABLE, OperationModel, Settled
from backfilld.migrations.identifiers import Wrong, shown


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

    table: Table = TABLE
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


class RenameColumn(OperationModel):
    """Give a column another name, while applications that use either name keep running."""

    kind: ClassVar[Literal["rename_column"]] = "rename_column"
    does = "Give a column another name."

    table: Table = TABLE
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

    table: Table = TABLE
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


class ChangeKey(OperationModel):
    """Give a key other values of another type, and every column that refers to it with them, in one switch."""

    kind: ClassVar[Literal["change_key"]] = "change_key"
    does = "Give a key other values, and all that refers to it."

    table: Table = TABLE
    column: Name = Field(description="The column of the key, exact.", examples=["id"])
    type: Expression = Field(description="The new type, as in CREATE TABLE.", examples=["uuid"])
    values: Expression = Field(
        description="SQL expression that gives each row its new value, once; it may give another one each time.",
        examples=["gen_random_uuid()"],
    )
    down: Expression | None = Field(
        default=None,
        description="SQL expression for the old value of a row that is added after the switch, for a key without a DEFAULT.",
        examples=["nextval('public.old_numbers')"],
    )

    @property
    def subject(self) -> str:
        return f"{self.column} to {self.type}"

    @property
    def settles(self) -> tuple[Settled, ...]:
        return (Settled(self.column, "changed", ("column",)),)


class ChangeColumns(OperationModel):
    """Let other columns of the row say what some say now: split one, or merge several; both are usable until contract."""

    kind: ClassVar[Literal["change_columns"]] = "change_columns"
    does = "Split or merge columns."

    table: Table = TABLE
    up: Annotated[dict[Name, Expression], Field(min_length=1)] = Field(
        description="The new columns, each with the SQL expression over the row that gives its value, and whose type it has.",
        examples=[{"first_name": "split_part(name, ' ', 1)", "last_name": "split_part(name, ' ', 2)"}],
    )
    down: Annotated[dict[Name, Expression], Field(min_length=1)] = Field(
        description="The columns that they replace, each with the SQL expression over the new columns that gives its value back.",
        examples=[{"name": "concat_ws(' ', first_name, last_name)"}],
    )

    @model_validator(mode="after")
    def _other_names(self) -> Self:
        for name in self.up:
            if name in self.down:
                raise Wrong(
                    f"`{shown(name)}` is in `up` and in `down`",
                    "Give the new column another name; `rename_column` gives it that one once this run has ended.",
                    at=("up", name),
                )
        return self

    @property
    def subject(self) -> str:
        return f"{', '.join(self.down)} to {', '.join(self.up)}"

    @property
    def settles(self) -> tuple[Settled, ...]:
        return (
            *(Settled(name, "replaced", ("down", name)) for name in self.down),
            *(Settled(name, "added", ("up", name)) for name in self.up),
        )

    @property
    def fails_after_contract(self) -> str:
        names = " or ".join(shown(f"{self.table.name}.{name}") for name in self.down)
        return f"a statement that names {names} fails"


class MoveColumn(OperationModel):
    """Move a column to another table whose rows refer to those of this one; both columns are usable until contract."""

    kind: ClassVar[Literal["move_column"]] = "move_column"
    does = "Move a column to another table."

    table: Table = Field(
        alias="from",
        description="The table that has the column: `table` or `schema.table` (default schema: public), exact, never folded.",
        examples=["orders"],
    )
    column: Name = Field(description="The column, exact; it keeps its name.", examples=["note"])
    to: Table = Field(description="The table that gets it, exact.", examples=["order_notes"])
    on: OneOrMore = Field(
        description="The column of that table, or a list of its columns, that refers to the row by a foreign key and is unique.",
        examples=["order_id"],
    )

    @model_validator(mode="after")
    def _another_table(self) -> Self:
        if self.table == self.to:
            raise Wrong("`from` and `to` are the same table", "Write the table that gets the column.", at=("to",))
        return self

    @property
    def subject(self) -> str:
        return f"{self.column} to {self.to}"

    @property
    def settles(self) -> tuple[Settled, ...]:
        return (Settled(self.column, "moved", ("column",)),)

    @property
    def fails_after_contract(self) -> str:
        return f"a statement that names {shown(f'{self.table.name}.{self.column}')} fails"


class SetNotNull(OperationModel):
    """Make a column NOT NULL, without a scan under a lock that stops the application."""

    kind: ClassVar[Literal["set_not_null"]] = "set_not_null"
    does = "Make a column NOT NULL."

    table: Table = TABLE
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

    table: Table = TABLE
    column: Name = Field(description="The column, exact.", examples=["legacy_code"])
    down: Expression | None = Field(
        default=None,
        description="SQL expression over the other columns of the row that gives rows added since the switch a value on the way "
        "back (default: the column's DEFAULT).",
        examples=["'unknown'"],
    )

    @property
    def subject(self) -> str:
        return self.column

    @property
    def settles(self) -> tuple[Settled, ...]:
        return (Settled(self.column, "dropped", ("column",)),)

    @property
    def fails_after_contract(self) -> str:
        return f"a statement that names {shown(f'{self.table.name}.{self.column}')} fails"


class _OfColumn(OperationModel):
    """What the operations on one property of a column have."""

    table: Table = TABLE
    column: Name = Field(description="The column, exact.", examples=["status"])

    @property
    def subject(self) -> str:
        return self.column


class DropNotNull(_OfColumn):
    """Let a column be NULL; the way back proves NOT NULL again before it is set."""

    kind: ClassVar[Literal["drop_not_null"]] = "drop_not_null"
    does = "Let a column be NULL."


class SetDefault(_OfColumn):
    """Give a column a DEFAULT, or another one, for rows that are added from the switch on."""

    kind: ClassVar[Literal["set_default"]] = "set_default"
    does = "Give a column a DEFAULT."

    default: Expression = Field(description="SQL expression of the DEFAULT.", examples=["'new'", "now()"])

    @property
    def subject(self) -> str:
        return f"{self.column} to {self.default}"


class DropDefault(_OfColumn):
    """Take a column's DEFAULT away, once no application relies on it."""

    kind: ClassVar[Literal["drop_default"]] = "drop_default"
    does = "Take a column's DEFAULT away."

    @property
    def fails_after_contract(self) -> str:
        column = shown(f"{self.table.name}.{self.column}")
        return f"an INSERT that leaves out {column} gets NULL, or fails where the column is NOT NULL"
