"""Rows that still need work, and who could not do with them: whether a person may say that they are fine as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from backfilld.migrations.operations.base import Operation


def in_need(operations: Sequence[Operation], found: Collection[int]) -> tuple[int, ...]:
    """The operations, by number, that rely on every row being right where residual rows were `found`, by operation.

    One that only writes values in place does not, nor does any of another table. Statements of a user's own may rely on anything.
    Where it is not known which rows were found, as after a recheck, all tables are looked at.
    """
    tables = {operations[number].table for number in found or range(len(operations))}
    return tuple(
        number
        for number, operation in enumerate(operations)
        if operation.table in {*tables, None} and not _only_writes(operation)
    )


def _only_writes(operation: Operation) -> bool:
    structure = (operation.expand(), operation.verify(), operation.switch(), operation.contract())
    return operation.rewrite() is not None and not any(structure)
