"""The user's own SQL."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from backfilld.migrations.file.fields import Expression, Table
from backfilld.migrations.file.operations.base import OperationModel


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
