"""What a check of the application's statements found, for people and as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backfilld.migrations.application.corpus import Statement
    from backfilld.migrations.errors import Finding
    from backfilld.migrations.record.states import Phase

#: A text is shown up to here; the whole of it may be megabytes.
_MOST_CHARACTERS = 500


def shortened(text: str) -> str:
    """A statement on one line, up to what a person reads of it."""
    text = " ".join(text.split())
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


@dataclass(frozen=True, kw_only=True)
class Named:
    """A statement as a report names it."""

    statement: str
    #: `pg_stat_statements`, or the file and line, or the function.
    source: str
    roles: tuple[str, ...]
    calls: int | None
    calls_per_hour: float | None

    @classmethod
    def of(cls, statement: Statement) -> dict[str, Any]:  # Any: as its fields
        return {
            "statement": shortened(statement.text),
            "source": statement.source,
            "roles": statement.roles,
            "calls": statement.calls,
            "calls_per_hour": statement.calls_per_hour,
        }


@dataclass(frozen=True, kw_only=True)
class Breaks(Named):
    """It succeeds today, and fails from a phase on."""

    phase: Phase
    sqlstate: str
    message: str


@dataclass(frozen=True, kw_only=True)
class LosesIndex(Named):
    """It reads a table by an index today, and from a phase on there is none that it could use."""

    phase: Phase
    table: str
    #: About how many rows the table has.
    rows: int
    #: The indexes that its plan uses today.
    indexes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Unchecked(Named):
    """Nobody knows what becomes of it."""

    because: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The statements of an application beside a migration."""

    #: The file says what to check of the application; otherwise only a finding is worth a word.
    asked: bool = False
    #: Statements of which it is known what becomes of them; `elsewhere` of them name no table of the migration.
    checked: int = 0
    elsewhere: int = 0
    breaks: tuple[Breaks, ...] = ()
    loses_index: tuple[LosesIndex, ...] = ()
    cannot_be_checked: tuple[Unchecked, ...] = ()
    #: What could not be looked at, and what would change that.
    silence: tuple[Finding, ...] = ()
    #: What of the migration was not done to the copies.
    untried: tuple[str, ...] = ()

    @property
    def unchecked(self) -> int:
        return len(self.cannot_be_checked)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "checked": self.checked,
            "unchecked": self.unchecked,
            **{k: v for k, v in asdict(self).items() if k != "checked"},
        }
