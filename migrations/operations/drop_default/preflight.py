"""Whether a column has a DEFAULT that can be taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.planning.checks.columns import column_of, old_default

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import DropDefault
    from backfilld.migrations.planning.checks.findings import Case


def examine(case: Case, operation: DropDefault) -> Facts:
    """Raises Rejected."""
    column = column_of(case.table, operation.column)
    before = old_default(case, operation.column)
    if before is None:
        case.refuse("column", f"{case.table.name}.{operation.column} has no DEFAULT", "Remove the operation")
    elif column.not_null:
        case.warn(
            f"{operation.column} is NOT NULL: after contract an INSERT that leaves it out fails; `drop_not_null` in the same "
            "file lets it be NULL"
        )
    return Facts(relation=str(case.table.name), default=before)
