"""What is found in the code of an application, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from backfilld.producers.code.changes import Change


@dataclass(frozen=True, kw_only=True)
class Named:
    """A place in a source where a table, or a column of one, is named for certain."""

    #: Where the name begins in the text, in characters.
    at: int
    #: None where the code does not say which schema.
    schema: str | None
    table: str
    #: None for the table itself.
    column: str | None
    #: select, filter, order, values, row, type, table, sql, model, realtime.
    how: str

    def is_about(self, change: Change) -> bool:
        return (
            self.table == change.table.name
            and self.column == change.column
            and (self.schema is None or self.schema == change.table.schema)
        )


@dataclass(frozen=True, kw_only=True)
class Use:
    """A line that names what a migration changes: for certain, or by the word alone."""

    file: Path
    #: Both 1-based; the column counts characters.
    line: int
    column: int
    text: str
    change: Change
    #: How it is used; empty for a mere mention.
    how: str = ""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "file": str(self.file),
            "line": self.line,
            "column": self.column,
            "text": self.text,
            "operation": self.change.operation,
            "names": self.change.subject,
            "what": self.change.what,
            "becomes": self.change.becomes or None,
            **({"how": self.how} if self.how else {}),
        }


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A file, or a part of one, that could not be looked at."""

    file: Path
    because: str

    def to_json(self) -> dict[str, str]:
        return {"file": str(self.file), "because": self.because}


@dataclass
class Uses:
    """Where an application names what a migration changes."""

    changes: Sequence[Change]
    #: Operations of which the file alone does not say what they change.
    unknown: Sequence[int] = ()
    files: int = 0
    certain: list[Use] = field(default_factory=list)
    #: The word alone: it may be about something else.
    mentions: list[Use] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "files": self.files,
            "changes": [
                {"operation": one.operation, "names": one.subject, "what": one.what, "becomes": one.becomes or None}
                for one in self.changes
            ],
            "unknown_operations": list(self.unknown),
            "certain": _as_json(self.certain),
            "mentions": _as_json(self.mentions),
            "unread": _as_json(self.unread),
        }


def _as_json(several: Iterable[Use | Unread]) -> list[dict[str, Any]]:  # Any: JSON
    return [one.to_json() for one in several]
