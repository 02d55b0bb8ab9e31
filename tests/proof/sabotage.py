"""Mistakes, made on purpose in a worker of the harness: a harness that does not find them proves nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backfilld.migrations.operations import Action
from backfilld.migrations.operations.add_column.steps import AddColumn
from backfilld.migrations.record.states import VERIFY_OWN_STEPS
from backfilld.migrations.walks.firing import THEIRS
from backfilld.worker.lanes.batch import Batch
from backfilld.worker.phases.coordinator import Coordinator
from backfilld.worker.phases.prover import Prover

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.operations import Step
    from backfilld.migrations.record.step_context import StepContext
    from backfilld.worker.lanes.batch import Tally


def _checkpoint_apart() -> None:
    """Rows are committed, and their checkpoint after them: who dies in between does them twice."""
    run = Batch.run

    def broken(batch: Batch, *arguments: Any, **options: Any) -> Tally:  # Any: handed on
        tally = run(batch, *arguments, **options)
        batch.connection.execute(THEIRS)  # for what waits for the COMMIT
        batch.connection.execute("COMMIT")
        batch.connection.execute("BEGIN")
        return tally

    Batch.run = broken  # type: ignore[method-assign, assignment] # this is the mistake


def _no_sync_trigger() -> None:
    """The column is added without what keeps it right."""
    expand = AddColumn.expand

    def broken(operation: AddColumn) -> tuple[Step, ...]:
        (action,) = expand(operation)
        assert isinstance(action, Action)
        kept = tuple(statement for statement in action.statements if "TRIGGER" not in statement.sql.as_string())
        return (replace(action, statements=kept),)

    AddColumn.expand = broken  # type: ignore[method-assign, assignment] # this is the mistake


def _half_a_way_back() -> None:
    """What took the trigger away leaves its function."""
    gone = AddColumn._gone

    def broken(operation: AddColumn) -> Action:
        action = gone(operation)
        return replace(action, statements=action.statements[:-1])

    AddColumn._gone = broken  # type: ignore[method-assign, assignment] # this is the mistake


def _blind_verify() -> None:
    """Verify is believed without having looked."""

    def broken(coordinator: Coordinator, context: StepContext) -> list[Any]:
        coordinator.number = max(coordinator.number, VERIFY_OWN_STEPS)
        return coordinator._act(context)

    def believed(_prover: Prover, _context: StepContext) -> None:
        return None

    Coordinator._verify = broken  # type: ignore[method-assign, assignment] # this is the mistake
    Prover.again = believed  # type: ignore[method-assign, assignment] # which it would find out by itself


WAYS: dict[str, Callable[[], None]] = {
    "checkpoint apart": _checkpoint_apart,
    "no sync trigger": _no_sync_trigger,
    "half a way back": _half_a_way_back,
    "blind verify": _blind_verify,
}
