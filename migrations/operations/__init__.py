"""What each operation is, a folder of its own. `bind` joins a migration's operations with what is known of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.operations.base import (
    Action,
    Archived,
    Guard,
    Index,
    Operation,
    Reliance,
    Statement,
    Step,
    Walk,
)
from backfilld.migrations.operations.registry import REGISTRY
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName

__all__ = [
    "Action",
    "Archived",
    "Guard",
    "Index",
    "Operation",
    "Reliance",
    "Statement",
    "Step",
    "Walk",
    "bind",
    "bind_one",
    "steps",
    "walks",
]


def bind(migration: Migration, facts: Sequence[Facts]) -> tuple[Operation, ...]:
    """The operations of a migration, each with its facts; none while they are not known, as of a run that begins after others."""
    if not facts:
        return ()
    return tuple(
        bind_one(migration, number, known)
        for number, (_, known) in enumerate(zip(migration.operations, facts, strict=True))
    )


def bind_one(migration: Migration, number: int, facts: Facts) -> Operation:
    """One operation of a migration with its facts."""
    definition = migration.operations[number]
    kind = REGISTRY[type(definition)]
    return kind.bind(definition=definition, facts=facts, migration=migration.name, number=number)


def walks(operations: Sequence[Operation]) -> dict[tuple[str, int, TableName], Walk]:
    """Every walk between two steps, forward or on the way back, by its kind, its operation's number and its table."""
    found: dict[tuple[str, int, TableName], Walk] = {}

    def look(several: Sequence[Step]) -> None:
        for step in several:
            if isinstance(step, Walk):
                found[step.kind, step.operation, step.table] = step
            look(step.back)

    for phase in Phase:
        look(steps(operations, phase))
    for operation in operations:
        look(operation.undo())
        if (recheck := operation.recheck()) is not None:
            look((recheck,))
    return found


def steps(operations: Sequence[Operation], phase: Phase) -> tuple[Step, ...]:
    """The steps of a phase, operation by operation. Those of the backfill phase come once its lanes have ended."""
    match phase:
        case Phase.EXPAND:
            each = [operation.expand() for operation in operations]
        case Phase.VERIFY:
            each = [operation.verify() for operation in operations]
        case Phase.SWITCH:
            each = [operation.switch() for operation in operations]
        case Phase.CONTRACT:
            each = [operation.contract() for operation in operations]
        case Phase.BACKFILL:
            each = [operation.fill() for operation in operations]
        case Phase.DONE:
            each = []
    return tuple(step for several in each for step in several)
