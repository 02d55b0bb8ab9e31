"""What was counted for each persona and command, on record; and whether it is what the migration's file expects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from psycopg.types.json import Jsonb

from backfilld.migrations.queries import queries
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from backfilld.migrations.file.operations import Expect
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "personas")

#: As many keys are named of the rows that a persona gains or loses by one command: what a person reads before deciding.
EXAMPLES = 20
#: Begins an error that is none of the persona's: nobody knows what it will reach.
NOT_COUNTED = "it could not be counted: "


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What a persona may do by one command, before a phase and after it. Units: rows; keys are lists of texts."""

    #: After which phase: switch, or contract where both sets of policies live until then.
    phase: Phase
    #: The table; it may be another one, whose policies read it.
    relation: str
    persona: str
    command: str
    rows_now: int = 0
    rows_then: int = 0
    #: Rows that it could not reach before, and rows that it can no longer reach.
    gained: int = 0
    lost: int = 0
    #: Of some of those rows, a few.
    gained_keys: tuple[tuple[str, ...], ...] = ()
    lost_keys: tuple[tuple[str, ...], ...] = ()
    #: What a statement fails with, for some row.
    error_now: str | None = None
    error_then: str | None = None

    @classmethod
    def from_row(
        cls, row: Mapping[str, Any], *, phase: Phase, relation: str, persona: str
    ) -> Self:  # Any: of the record
        return cls(
            phase=phase,
            relation=relation,
            persona=persona,
            **{name: row[name] for name in ("command", "rows_now", "rows_then", "gained", "lost")},
            gained_keys=_keys(row["gained_keys"]),
            lost_keys=_keys(row["lost_keys"]),
            error_now=row.get("error_now"),
            error_then=row.get("error_then"),
        )

    def unexpected(self, expect: Expect) -> str:
        """Why a person has to look at it, in words and without what is in the rows; empty for no reason."""
        who = f"{self.persona} {_DOES[self.command]}"
        if self._fails and str(self.error_then).startswith(NOT_COUNTED):
            return f"what {self.persona} reaches of {self.relation} is not known: {self.error_then}"
        if self._fails:
            return f"statements of {self.persona} on {self.relation} fail ({self.error_then})"
        if expect.gained != "any" and self.gained > expect.gained:
            return f"{who} {_rows(self.gained)} of {self.relation} that it could not before"
        if expect.lost != "any" and self.lost > expect.lost:
            return f"{who} {_rows(self.lost)} of {self.relation}{_FEWER}"
        return ""

    def examples(self, said: str) -> str:
        """The keys of a few rows of those that `unexpected` speaks of, in parentheses; empty where none is kept."""
        if self._fails:
            return ""
        fewer = said.endswith(_FEWER)
        return named(self.lost, self.lost_keys) if fewer else named(self.gained, self.gained_keys)

    @property
    def _fails(self) -> bool:
        """A statement fails that does not fail today."""
        return self.error_then is not None and self.error_now is None

    def to_json(self) -> dict[str, Any]:  # JSON
        return asdict(self)


_FEWER = " fewer than before"
_DOES = {
    "select": "sees",
    "insert": "may insert",
    "update": "may reach by UPDATE",
    "update_check": "may write back by UPDATE",
    "upsert": "may write by INSERT … ON CONFLICT DO UPDATE",
    "delete": "may delete",
}


def add(connection: Connection, run: int, *, operation: int, lane: int, counted: Iterable[Counted]) -> None:
    """Put down what a batch has counted; in the batch's own transaction."""
    parameters = {
        "run": run,
        "operation": operation,
        "lane": lane,
        "told": Jsonb([one.to_json() for one in counted]),
        "examples": EXAMPLES,
    }
    connection.execute(_SQL["add_rows"], parameters)


def of_run(connection: Connection, run: int) -> dict[int, list[Counted]]:
    """What was counted, by the operation's number; by phase, persona and command."""
    found: dict[int, list[Counted]] = {}
    for row in connection.execute(_SQL["rows_of"], {"run": run}):
        one = Counted.from_row(row, phase=Phase(row["phase"]), relation=row["relation"], persona=row["persona"])
        found.setdefault(row["operation"], []).append(one)
    return found


def forget(connection: Connection, run: int, *, operation: int) -> None:
    """Count again from the beginning."""
    connection.execute(_SQL["forget_rows"], {"run": run, "operation": operation})


def _keys(found: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(key) for key in found)[:EXAMPLES]


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def named(rows: int, keys: Sequence[Sequence[str]]) -> str:
    """The first keys of so many rows, in parentheses; empty where there is none."""
    few = ", ".join(key[0] if len(key) == 1 else f"({', '.join(key)})" for key in keys[:5])
    return f" ({'such as ' if rows > len(keys[:5]) else ''}{few})" if few else ""
