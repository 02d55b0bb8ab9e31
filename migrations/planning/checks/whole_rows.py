"""Code that compares whole rows, which fails once a row has a column of a type without equality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.file.migration import AddColumn, ChangeColumns, ChangeType
from backfilld.migrations.postgres.user_code import row_comparisons, rows_compare

if TYPE_CHECKING:
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Operation
    from backfilld.migrations.planning.checks.findings import Case


def find_row_comparisons(case: Case, operation: Operation, facts: Facts) -> None:
    """Put down the triggers and rules that will fail for the application once the new column is there."""
    if not isinstance(operation, AddColumn | ChangeType | ChangeColumns):
        return
    types = [target.type for target in facts.targets]
    if "json" in types:
        case.warn(
            f"json has no equality, so SELECT DISTINCT, GROUP BY and UNION over rows of {case.table.name} fail; use jsonb"
        )
    if not all(rows_compare(case.connection, type_) for type_ in types) and (
        named := row_comparisons(case.connection, case.table)
    ):
        case.found.row_comparisons[case.number] = named
