"""Whether what a run has proved still holds, and what is done where it does not.

A proof is worth what it relies on: the columns, and the sync trigger that keeps them right while the application writes. A session
that drops, disables or renames one of them leaves a trace in the catalog (`structure_now` in the schema), and a row that the trigger
could not compute is in the quarantine. Asked before verify, before each step of switch and contract, and under the lock of that step.

a column is gone             the run pauses and names it; the trigger fails no statement and keeps every value meanwhile
the trigger was changed      it is made again, and the data is proved again
rows are in the quarantine   the run pauses, as it does in verify
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.operations.residual import in_need
from backfilld.migrations.record import audit, lanes, quarantine, runs, structure
from backfilld.migrations.record.states import LaneKind, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.operations import Action, Operation, Reliance, Walk
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.record.structure import StructureChange


@dataclass(frozen=True, kw_only=True)
class Rechecked:
    """What the lanes of a recheck found, all operations together."""

    lanes: int
    open: int
    residual: int
    own: int


class Proof:
    """What the proof of one run relies on."""

    def __init__(self, connection: Connection, run: Run, operations: Sequence[Operation]) -> None:
        self._connection = connection
        self._run = run
        self._operations = operations

    def remember(self, *, switched: bool) -> None:
        """What it relies on is as it should be at this moment; after each step of ours."""
        parts = [one.part for one in self._reliances(switched=switched)]
        if parts:
            structure.remember(self._connection, self._run.run, parts)

    def changes(self) -> list[StructureChange]:
        """What was changed by another session since."""
        return structure.changes(self._connection, self._run.run)

    @property
    def holds(self) -> bool:
        """Whether the data is verified, and nothing has happened since."""
        known = runs.get(self._connection, self._run.run)
        return known is not None and known.verified_at is not None

    @property
    def accepts_residual(self) -> bool:
        """Whether a person has said that rows may stay which the application keeps writing."""
        return audit.latest(self._connection, self._run.run, what="residual.accepted") is not None

    def residual_may_stay(self, pass_: int) -> bool:
        """Whether no operation relies on the rows that the look at all rows in this pass has found."""
        return not in_need(self._operations, lanes.residual_of(self._connection, self._run.run, pass_=pass_))

    def require(self) -> None:
        """Raises ChangedMeanwhile where something was: the coordinator's next step sees to it. Asked under a step's lock."""
        if self.changes():
            raise runs.ChangedMeanwhile

    def repairs(self, changes: Sequence[StructureChange], *, switched: bool) -> list[Action]:
        """What makes the triggers again that were changed."""
        found = self._reliances(switched=switched)
        return [one.again for one in found if any(f" {one.trigger} on " in change.what for change in changes)]

    def _reliances(self, *, switched: bool) -> list[Reliance]:
        return [
            one
            for operation in self._operations
            for one in (operation.relies_on(switched=switched), *operation.also_relies_on(switched=switched))
            if one is not None
        ]

    def record_void(self, changes: Sequence[StructureChange]) -> None:
        """Put down that the proof does not hold any longer, and why."""
        audit.record(
            self._connection, self._run.run, actor=runs.WORKER, what="proof.void", changes=[str(one) for one in changes]
        )

    def ask_about_own_values(self, rows: int) -> str:
        """What to ask a person, once, about rows that hold a value of their own; empty where none may have missed an update."""
        if not rows or not self._was_interrupted():
            return ""
        what = "1 row holds another value" if rows == 1 else f"{rows} rows hold other values"
        return (
            f"{what} than the expression gives, and the sync trigger was off for a time: they are the application's own, or missed "
            f"an update. Set those to NULL that are to be computed, then: backfilld resume {self._run.name}"
        )

    def ask_about_names(self, rows: int) -> str:
        """What to ask a person, once, about rows that differ under two names; empty where nothing was written without the trigger."""
        renames = [walk for walk in self.walks if not walk.writes]
        if not renames or not self._was_interrupted():
            return ""
        return f"{self.differing(rows)}; from then on the old name's value counts where they differ"

    def _was_interrupted(self) -> bool:
        """Whether rows may have been written without the trigger since a person was last asked about them; who is asked now."""
        events = [audit.latest(self._connection, self._run.run, what=what) for what in ("proof.void", "proof.asked")]
        void, asked = (event["event"] if event is not None else 0 for event in events)
        if void <= asked:
            return False
        audit.record(self._connection, self._run.run, actor=runs.WORKER, what="proof.asked")
        return True

    # The recheck, which lanes do while the run stays in its contract phase

    @property
    def walks(self) -> list[Walk]:
        return [walk for operation in self._operations if (walk := operation.recheck()) is not None]

    def rechecked(self) -> Rechecked:
        """How far the recheck is."""
        found = [
            lanes.of_walk(self._connection, self._run.run, kind=walk.kind, operation=walk.operation)
            for walk in self.walks
        ]
        return Rechecked(
            lanes=sum(one.lanes for one in found),
            open=sum(one.open for one in found),
            residual=sum(one.residual for one in found),
            own=sum(one.own for one in found),
        )

    def forget_recheck(self) -> None:
        """Let the next recheck begin anew."""
        for walk in self.walks:
            lanes.forget_walk(self._connection, self._run.run, kind=walk.kind, operation=walk.operation)

    def differing(self, rows: int) -> str:
        """What a person is asked to do about rows that a recheck found wrong and may not write."""
        tables = ", ".join(str(walk.table) for walk in self.walks if not walk.writes)
        return (
            f"{rows} rows of {tables} hold different values under the old and the new name: they were written while the sync trigger "
            f"was off. Give both names the value that is right, then: backfilld resume {self._run.name}"
        )

    def gone(self, changes: Sequence[StructureChange]) -> str:
        """What a person is asked to do about columns or a table that are gone; empty where none is."""
        gone = [str(change) for change in changes if change.gone and (change.is_column or change.what == "table")]
        if not gone:
            return ""
        return (
            f"{' and '.join(gone)}, renamed or dropped by another session. Values are kept as they were, and none are computed "
            f"meanwhile. Give it its name back, then: backfilld resume {self._run.name}; or take the run back: "
            f"backfilld rollback {self._run.name}"
        )

    def in_the_middle(self, why: str, phase: Phase) -> str:
        """What a person is asked where a switch or a contract has begun, and the data cannot be verified as it was before."""
        name = self._run.name
        return (
            f"{why}, in the middle of {phase}. Look at the rows that were written meanwhile, then: backfilld resume {name}; or take "
            f"the run back: backfilld rollback {name}"
        )

    def quarantined(self) -> int:
        return quarantine.count(self._connection, self._run.run)

    def retries_open(self, pass_: int) -> bool:
        return bool(lanes.count_open(self._connection, self._run.run, pass_=pass_, kinds={LaneKind.RETRY}))


def is_switched(phase: Phase) -> bool:
    """Whether the sync triggers have turned round, as the first step of a phase finds it."""
    return phase.is_past(Phase.SWITCH)
