"""What is said of a run: sentences, and remedies, which end in a command wherever there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backfilld.migrations.holds import Cause


@dataclass(frozen=True)
class Remedy:
    """What would let a run continue."""

    text: str


#: Sentences as texts, and what would help.
Told = Iterator[str | Remedy]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One run in words."""

    run: int
    name: str
    #: What holds the run, where it is held.
    cause: Cause | None
    #: What is going on, and why.
    sentences: tuple[str, ...]
    #: What would let it continue, each with its command where there is one.
    remedies: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "run": self.run,
            "name": self.name,
            "cause": str(self.cause) if self.cause is not None else None,
            "sentences": list(self.sentences),
            "remedies": list(self.remedies),
        }
