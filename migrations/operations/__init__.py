"""One file per operation. `bind` joins a migration's operations with what is known of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations.add_check.steps import AddCheck
from backfilld.migrations.operations.add_column.steps import AddColumn
from backfilld.migrations.operations.add_foreign_key.steps import AddForeignKey
from backfilld.migrations.operations.add_unique.steps import AddUnique
from backfilld.migrations.operations.backfill.steps import Backfill
from backfilld.migrations.operations.base import Action, Archived, Guard, Index, Operation, Statement, Step, Walk
from backfilld.migrations.operations.change_type.steps import ChangeType
from backfilld.migrations.operations.create_index.steps import CreateIndex
from backfilld.migrations.operations.drop_column.steps import DropColumn
from backfilld.migrations.operations.drop_index.steps import DropIndex
from backfilld.migrations.operations.rename_column.steps import RenameColumn
from backfilld.migrations.operations.set_not_null.steps import SetNotNull
from backfilld.migrations.operations.sql.steps import Sql
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration

__all__ = [
    "Action",
    "Archived",
    "Guard",
    "Index",
    "Operation",
    "Statement",
    "Step",
    "Walk",
    "bind",
    "bind_one",
    "steps",
    "walks",
]


def bind(migration: Migration, facts: Sequence[Facts]) -> tuple[Operation, ...]:
    """The operations of a migration, each with its facts."""
    return tuple(
        bind_one(migration, number, known)
        for number, (_, known) in enumerate(zip(migration.operations, facts, strict=True))
    )


def bind_one(migration: Migration, number: int, facts: Facts) -> Operation:  # noqa: C901, PLR0911, PLR0912 - one for each operation
    """One operation of a migration with its facts."""
    operation = migration.operations[number]
    match operation:
        case definition.AddColumn():
            return AddColumn(definition=operation, facts=facts, migration=migration.name, number=number)
        case definition.Backfill():
            return Backfill(definition=operation, facts=facts, number=number)
        case definition.ChangeType():
            return ChangeType(definition=operation, facts=facts, migration=migration.name, number=number)
        case definition.DropColumn():
            return DropColumn(definition=operation, facts=facts, migration=migration.name, number=number)
        case definition.RenameColumn():
            return RenameColumn(definition=operation, facts=facts, migration=migration.name, number=number)
        case definition.SetNotNull():
            return SetNotNull(definition=operation, facts=facts, migration=migration.name, number=number)
        case definition.AddCheck():
            return AddCheck(definition=operation, facts=facts)
        case definition.AddForeignKey():
            return AddForeignKey(definition=operation, facts=facts)
        case definition.AddUnique():
            return AddUnique(definition=operation, facts=facts)
        case definition.CreateIndex():
            return CreateIndex(definition=operation, facts=facts)
        case definition.DropIndex():
            return DropIndex(definition=operation, facts=facts)
        case definition.Sql():
            return Sql(definition=operation, facts=facts)
        case _:
            assert_never(operation)


def walks(operations: Sequence[Operation]) -> dict[tuple[str, int], Walk]:
    """Every walk between two steps, forward or on the way back, by its kind and its operation's number."""
    found: dict[tuple[str, int], Walk] = {}

    def look(several: Sequence[Step]) -> None:
        for step in several:
            if isinstance(step, Walk):
                found[step.kind, step.operation] = step
            look(step.back)

    for phase in Phase:
        look(steps(operations, phase))
    for operation in operations:
        look(operation.undo())
    return found


def steps(operations: Sequence[Operation], phase: Phase) -> tuple[Step, ...]:
    """The steps of a phase, operation by operation. The backfill phase has none: its work is done by lanes."""
    match phase:
        case Phase.EXPAND:
            each = [operation.expand() for operation in operations]
        case Phase.VERIFY:
            each = [operation.verify() for operation in operations]
        case Phase.SWITCH:
            each = [operation.switch() for operation in operations]
        case Phase.CONTRACT:
            each = [operation.contract() for operation in operations]
        case Phase.BACKFILL | Phase.DONE:
            each = []
    return tuple(step for several in each for step in several)
