"""The user's own SQL."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from backfilld.migrations.file.fields import Expression, FileModel, Table
from backfilld.migrations.file.operations.base import OperationModel
from backfilld.migrations.identifiers import Wrong


class SqlStep(FileModel):
    """One transaction, and the one that takes it back."""

    run: Expression = Field(
        description="The statements of one transaction.",
        examples=["ALTER TABLE public.jobs ALTER status DROP NOT NULL"],
    )
    rollback: Expression = Field(
        description="The statements that undo it.", examples=["ALTER TABLE public.jobs VALIDATE CONSTRAINT has_status"]
    )


class Sql(OperationModel):
    """Run your own SQL, one transaction after the other, with short lock timeouts and retries; `rollback` undoes each."""

    model_config = ConfigDict(
        json_schema_extra={  # `_one_way_to_say_it`, for editors
            "oneOf": [
                {"required": ["run", "rollback"], "properties": {"steps": False}},
                {"required": ["steps"], "properties": {"run": False, "rollback": False}},
            ]
        }
    )

    kind: ClassVar[Literal["sql"]] = "sql"
    does = "Run your own SQL."

    table: Table | None = Field(default=None, description="The table it is about, if there is one.", examples=["jobs"])
    run: Expression | None = Field(
        default=None,
        description="The statements, which are one transaction.",
        examples=["CREATE VIEW open_jobs AS SELECT * FROM public.jobs"],
    )
    rollback: Expression | None = Field(
        default=None, description="The statements that undo `run`.", examples=["DROP VIEW public.open_jobs"]
    )
    steps: Annotated[tuple[SqlStep, ...], Field(strict=False)] | None = Field(  # a file has lists, not tuples
        default=None,
        description="In place of `run` and `rollback`: several transactions, in order, each with its own `rollback`.",
        json_schema_extra={"minItems": 1},
    )
    phase: Literal["expand", "switch", "contract"] = Field(default="expand", description="The phase in which it runs.")
    allow: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="Rules of the linter that may be broken here, after review.",
        examples=[["ban-drop-column"]],
    )

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if self.steps is not None:
            for key in ("run", "rollback"):
                if getattr(self, key) is not None:
                    raise Wrong(
                        f"`{key}` stands beside `steps`, each of which has its own",
                        "Make it a step, or remove it.",
                        at=(key,),
                    )
            if not self.steps:
                raise Wrong("there is no step", "Write at least one with `run` and `rollback`.", at=("steps",))
            return self
        for key, other in (("run", "the SQL to run, or `steps:`"), ("rollback", "the SQL that undoes `run`")):
            if getattr(self, key) is None:
                raise Wrong(f"the key `{key}` is missing", f"Add `{key}:` with {other}.", at=(key,))
        return self

    @property
    def transactions(self) -> tuple[SqlStep, ...]:
        """The transactions, in order, however the file writes them."""
        if self.steps is not None:
            return self.steps
        return (SqlStep.model_construct(run=self.run or "", rollback=self.rollback or ""),)

    def place(self, number: int, key: Literal["run", "rollback"]) -> str:
        """Where a text of a transaction stands, below the operation."""
        return key if self.steps is None else f"steps[{number}].{key}"

    @property
    def summary(self) -> str:
        return f"sql in {self.phase}"
