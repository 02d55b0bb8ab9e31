"""What a check of the application found at one moment of a run, as its event has it. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: As many findings of a check are on record, each with its text; all of them are counted.
_MOST_ON_RECORD = 50


class Moment(StrEnum):
    """When the application is checked. The plans of a statement are kept by `before`, `after_switch` and `before_contract`."""

    BEFORE = "before"
    BEFORE_SWITCH = "before_switch"
    AFTER_SWITCH = "after_switch"
    #: While contract waits for a person: what speaks against it, which is what `approve` is refused for.
    WAITING = "waiting"
    BEFORE_CONTRACT = "before_contract"
    #: Of the API alone: what is found then is only told.
    AFTER_CONTRACT = "after_contract"


#: Each in words that follow "the check of the application".
MOMENTS = {
    Moment.BEFORE: "before the run",
    Moment.BEFORE_SWITCH: "before the switch",
    Moment.AFTER_SWITCH: "after the switch",
    Moment.WAITING: "while contract waits for approval",
    Moment.BEFORE_CONTRACT: "before contract",
    Moment.AFTER_CONTRACT: "after contract",
}


class Kind(StrEnum):
    """What a finding is about. A closed set: it is a metric's label."""

    #: A statement that fails from a phase on, as the plan has it.
    BREAKS = "breaks"
    #: A statement that can use no index of a table any more from a phase on, as the plan has it.
    LOSES_INDEX = "loses_index"
    #: A statement that came since the switch, or a function that is there, and that fails after contract.
    NEEDED = "needed"
    #: A statement that is slower, or fails, on the real tables.
    REGRESSION = "regression"
    #: An answer of the application's API that is not what it was before the run.
    API = "api"
    #: A command of the file that fails on the application's code, by the newest verdict of `backfilld check`.
    CODE = "code"
    #: What could not be looked at.
    UNKNOWN = "unknown"
    #: A statement or a function of which nobody knows what becomes of it.
    UNCHECKED = "unchecked"


#: Findings for which contract is held.
HOLDING = frozenset({Kind.NEEDED, Kind.REGRESSION, Kind.API, Kind.CODE, Kind.UNKNOWN})


@dataclass(frozen=True, kw_only=True)
class Told:
    """One finding."""

    kind: Kind
    #: In one sentence, without its full stop.
    problem: str
    remedy: str = ""
    statement: str = ""
    source: str = ""
    roles: tuple[str, ...] = ()
    calls: int | None = None
    #: The plans of a regression, in one line each.
    plan_before: str = ""
    plan_after: str = ""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Told:  # Any: JSON
        known: dict[str, Any] = {**stored, "kind": Kind(stored["kind"]), "roles": tuple(stored.get("roles", ()))}
        return cls(**known)

    @property
    def in_words(self) -> str:
        """The finding with its statement and, of a regression, both plans."""
        words = f"{self.problem}: {self.statement}" if self.statement else self.problem
        return f"{words}. Before: {self.plan_before}. Now: {self.plan_after}" if self.plan_before else words


@dataclass(frozen=True, kw_only=True)
class Checked:
    """All that was found at one moment."""

    moment: Moment
    #: Statements of which is known what becomes of them.
    statements: int = 0
    told: tuple[Told, ...] = ()
    #: How many there were of each kind, those that are not on record included.
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, moment: Moment, told: Iterable[Told], *, statements: int) -> Checked:
        found = sorted(told, key=lambda one: one.kind not in HOLDING)  # what holds is on record first
        counts = Counter(str(one.kind) for one in found)
        return cls(moment=moment, statements=statements, told=tuple(found[:_MOST_ON_RECORD]), counts=dict(counts))

    def and_also(self, told: Iterable[Told]) -> Checked:
        """The same with what was found elsewhere at that moment, which comes first."""
        more = tuple(told)
        counts = Counter(self.counts) + Counter(str(one.kind) for one in more)
        return replace(self, told=(*more, *self.told)[:_MOST_ON_RECORD], counts=dict(counts))

    def is_like(self, other: Checked) -> bool:
        """Whether another check found the same: then the record need not say it again."""
        return [(one.kind, one.statement) for one in self.told] == [(one.kind, one.statement) for one in other.told]

    @property
    def holding(self) -> tuple[Told, ...]:
        """What contract is held for."""
        return tuple(one for one in self.told if one.kind in HOLDING)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "moment": str(self.moment),
            "statements": self.statements,
            "counts": dict(self.counts),
            "findings": [asdict(one) for one in self.told],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Checked:  # Any: JSON
        """Read what `to_json` wrote; other keys are left."""
        return cls(
            moment=Moment(stored["moment"]),
            statements=stored["statements"],
            told=tuple(Told.from_json(one) for one in stored["findings"]),
            counts=stored["counts"],
        )


def holding(stored: Mapping[str, Any] | None) -> tuple[Told, ...]:  # Any: JSON
    """What contract is held for, of a check that is on record; nothing where there is none."""
    return Checked.from_json(stored).holding if stored is not None else ()
