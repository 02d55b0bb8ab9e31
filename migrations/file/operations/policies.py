"""Operations on the policies of a table."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from backfilld.migrations.file.fields import Expression, FileModel, Name, Table
from backfilld.migrations.file.operations.base import TABLE, OperationModel
from backfilld.migrations.identifiers import Wrong, shown

#: Everybody, as PostgreSQL calls it; no role can have this name.
PUBLIC = "public"


def _check_rows(value: object) -> object:
    if value == "any" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise Wrong(f"`{shown(str(value))}` is not a number of rows", "Write a whole number from 0 on, or `any`.")


Rows = Annotated[
    int | Literal["any"],
    BeforeValidator(_check_rows, json_schema_input_type=Annotated[int, Field(ge=0)] | Literal["any"]),
]


class NewPolicy(FileModel):
    """A policy of the table's new set."""

    name: Name = Field(description="The policy's name.", examples=["jobs_read"])
    for_: Literal["all", "select", "insert", "update", "delete"] = Field(
        default="all", alias="for", description="The command that it is asked for."
    )
    to: Annotated[tuple[Name, ...], Field(strict=False, json_schema_extra={"minItems": 1, "uniqueItems": True})] = (
        Field(
            default=(PUBLIC,),
            description="The roles that it is asked for; `public` is everybody.",
            examples=[["authenticated"]],
        )
    )
    using: Expression | None = Field(
        default=None,
        description="SQL condition for rows that are there.",
        examples=["customer_id = (SELECT auth.uid())"],
    )
    check: Expression | None = Field(
        default=None,
        description="SQL condition for rows that are written; where it is missing `using` is asked.",
        examples=["customer_id = (SELECT auth.uid())"],
    )
    restrictive: bool = Field(
        default=False, description="Rows must meet it as well, where otherwise they may meet it instead of others."
    )

    @model_validator(mode="after")
    def _fits_its_command(self) -> Self:
        if not self.to:
            raise Wrong("there is no role in the list", "Write at least one, or remove the key.", at=("to",))
        for index, role in enumerate(self.to):
            if role in self.to[:index]:
                raise Wrong(f"`{shown(role)}` is in the list twice", "Keep one of the two.", at=("to", index))
        if self.for_ == "insert" and self.using is not None:
            raise Wrong("an INSERT has no row that is there", "Write `check:` in place of `using:`.", at=("using",))
        if self.for_ in {"select", "delete"} and self.check is not None:
            raise Wrong(f"{self.for_.upper()} writes no row", "Write `using:` in place of `check:`.", at=("check",))
        if self.using is None and self.check is None:
            needed = "check" if self.for_ == "insert" else "using"
            raise Wrong("the policy has no condition", f'Add `{needed}:`; `{needed}: "true"` is every row.')
        return self


class Expect(FileModel):
    """How many rows a persona may gain or lose, by one command, before a person is asked."""

    gained: Rows = Field(default=0, description="Rows that it could not read or write before, at most.")
    lost: Rows = Field(default="any", description="Rows that it can no longer read or write, at most.")


class ReplacePolicies(OperationModel):
    """Give a table another set of policies, and show beforehand which rows each persona gains and loses."""

    model_config = ConfigDict(json_schema_extra={"required": ["table", "policies"]})

    kind: ClassVar[Literal["replace_policies"]] = "replace_policies"
    does = "Replace the policies of a table."

    table: Table = TABLE
    policies: Annotated[tuple[NewPolicy, ...], Field(strict=False)] = Field(
        description="All policies that the table has afterwards.",
        json_schema_extra={"minItems": 1},  # counted below: pydantic's own count leaves out entries that are wrong
    )
    keep_both: bool = Field(
        default=False, description="Create the new policies at the switch, and drop the old ones in contract only."
    )
    expect: Expect = Field(default_factory=Expect, description="What each persona may gain or lose unasked.")
    enable: bool = Field(default=False, description="Turn row level security on at the switch, where it is off.")
    force: bool = Field(default=False, description="With `enable`: ask the policies for the table's owner too.")

    @model_validator(mode="after")
    def _a_set(self) -> Self:
        if not self.policies:
            raise Wrong(
                "there is no policy in the list, and without one nobody reads or writes a row",
                "Write at least one, behind a dash.",
                at=("policies",),
            )
        names = [policy.name for policy in self.policies]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise Wrong(
                    f"there are two policies `{shown(name)}`", "Keep one of the two.", at=("policies", number, "name")
                )
        if self.force and not self.enable:
            raise Wrong("`force` says whom `enable` is for", "Add `enable: true`, or remove `force:`.", at=("force",))
        return self

    @property
    def subject(self) -> str:
        return ", ".join(policy.name for policy in self.policies)
