"""What a migration changes of the names that an application's code uses: said by its operations alone, without a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from backfilld.migrations.file import operations as file

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName


@dataclass(frozen=True, kw_only=True)
class Change:
    """A table, or a column of one, that code which names it will not find as it was."""

    #: The operation, by its number in the file.
    operation: int
    table: TableName
    #: None for the table as a whole.
    column: str | None = None
    what: Literal["renamed", "changed", "nullable", "dropped"]
    #: The new name, or the new type; empty where there is none.
    becomes: str = ""

    @property
    def name(self) -> str:
        """The column, or the table, as code names it."""
        return self.table.name if self.column is None else self.column

    @property
    def subject(self) -> str:
        return str(self.table) if self.column is None else f"{self.table}.{self.column}"

    @property
    def in_words(self) -> str:
        """What becomes of it, as a sentence goes on after its name."""
        match self.what:
            case "renamed":
                return f"becomes {self.becomes}; both names work from the switch to contract"
            case "changed":
                return f"has the type {self.becomes} from the switch on" if self.becomes else "changes at the switch"
            case "nullable":
                return "may be NULL from the switch on"
            case "dropped":
                return "is gone after contract"


def changes(migration: Migration) -> tuple[Change, ...]:
    """What the operations of a migration rename, retype or drop, in the order of the file."""
    return tuple(change for number, operation in enumerate(migration.operations) for change in _of(number, operation))


def unknown(migration: Migration) -> tuple[int, ...]:
    """The operations whose text alone does not say what they change: SQL of the user's own."""
    return tuple(number for number, one in enumerate(migration.operations) if isinstance(one, file.Sql))


def _of(number: int, operation: file.Operation) -> list[Change]:
    match operation:
        case file.RenameTable():
            return [Change(operation=number, table=operation.table, what="renamed", becomes=operation.to)]
        case file.DropTable():
            return [Change(operation=number, table=operation.table, what="dropped")]
        case file.DropNotNull():
            return [Change(operation=number, table=operation.table, column=operation.column, what="nullable")]
    found = []
    for column, what, _ in operation.settles:
        if what == "added" or what == "filled" or operation.table is None:  # noqa: PLR1714 - mypy narrows by these
            continue
        becomes = {"renamed": "new", "changed": "type"}.get(what, "")
        found.append(
            Change(
                operation=number,
                table=operation.table,
                column=column,
                what=what,
                becomes=str(getattr(operation, becomes, "") or "") if becomes else "",
            )
        )
    return found
