"""One file per operation. `bind` joins a migration's operations with what is known of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from migrations import definition
from migrations.operations.add_column import AddColumn
from migrations.operations.backfill import Backfill
from migrations.operations.base import Action, Guard, Operation, Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrations.definition import Migration
    from migrations.facts import Facts
    from migrations.states import Phase

__all__ = ["Action", "Guard", "Operation", "Statement", "actions", "bind"]


def bind(migration: Migration, facts: Sequence[Facts]) -> tuple[Operation, ...]:
    """The operations of a migration, each with its facts."""
    bound: list[Operation] = []
    for number, (operation, known) in enumerate(zip(migration.operations, facts, strict=True)):
        match operation:
            case definition.AddColumn():
                bound.append(AddColumn(definition=operation, facts=known, migration=migration.name, number=number))
            case definition.Backfill():
                bound.append(Backfill(definition=operation, facts=known))
            case _:
                assert_never(operation)
    return tuple(bound)


def actions(operations: Sequence[Operation], phase: Phase) -> tuple[Action, ...]:
    """The actions of a phase, operation by operation. The backfill phase has none: its work is done by lanes."""
    return tuple(action for operation in operations for action in getattr(operation, phase.value, tuple)())
