"""What nobody expected of other policies, while a phase waits for a person: which persona gains or loses which rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backfilld.migrations.policies import results
from backfilld.migrations.record import audit
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.policies.results import Counted
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run

#: As many are named on a page; all of them are in `status --json`.
NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Unexpected:
    """What a persona gains or loses that the migration's file does not expect."""

    operation: int
    #: What was found, in words.
    said: str
    counted: Counted

    @property
    def in_words(self) -> str:
        return f"{self.said}{self.counted.examples(self.said)}"

    def to_json(self) -> dict[str, Any]:  # JSON
        return {"operation": self.operation, "said": self.said, **self.counted.to_json()}


def unexpected(connection: Connection, runs: Iterable[Run]) -> dict[int, tuple[Unexpected, ...]]:
    """By run, for those that wait: what a person has to look at before the phase begins."""
    return {run.run: found for run in runs if run.state is State.WAITING and (found := _of(connection, run))}


def _of(connection: Connection, run: Run) -> tuple[Unexpected, ...]:
    events = audit.every(connection, run.run, what="policies.unexpected")
    events = [event["detail"] for event in events if event["detail"]["phase"] == run.phase]
    if not events:
        return ()
    counted = {
        (operation, one.relation, one.persona, one.command): one
        for operation, several in results.of_run(connection, run.run).items()
        for one in several
        if one.phase is run.phase
    }
    return tuple(
        Unexpected(operation=event["operation"], said=found["said"], counted=one)
        for event in events
        for found in event["findings"]
        if (one := counted.get((event["operation"], found["relation"], found["persona"], found["command"]))) is not None
    )
