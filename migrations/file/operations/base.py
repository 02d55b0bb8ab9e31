"""What the models of all operations have."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from backfilld.migrations.file.fields import FileModel

#: The table of an operation.
TABLE = Field(
    description="The table: `table` or `schema.table` (default schema: public), exact, never folded.",
    examples=["jobs", "Odd Schema.Order", '"a.b".c'],
)


class Settled(NamedTuple):
    """A column of which an operation decides what becomes of it."""

    column: str
    what: Literal["added", "filled", "renamed", "changed", "replaced", "moved", "dropped"]
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
