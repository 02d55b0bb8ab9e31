"""Whether a CHECK constraint can be added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.operations.add_check.steps import check_body
from backfilld.migrations.planning.checks.rules import takes_over
from backfilld.migrations.planning.checks.walks import key_of

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import AddCheck
    from backfilld.migrations.planning.checks.findings import Case


def examine(case: Case, operation: AddCheck) -> Facts:
    """Raises Rejected."""
    analysis = case.trial.analyse(operation.check, what="check")
    # No other tables, no aggregates, a boolean: PostgreSQL itself says so.
    case.trial.add_constraint(operation.name, check_body(operation.check), check="expression", what="check")
    if analysis.unrepeatable:
        case.warn(
            f"the check calls {', '.join(analysis.unrepeatable)}, which can return different results: a row "
            "that passes today may fail when it is next written, or restored from a backup"
        )
    generated = any(column.generated and column.name in analysis.reads for column in case.table.columns)
    return Facts(
        relation=str(case.table.name),
        key=key_of(case.table),
        # What a generated column is computed from is not asked; any column may be.
        rule_columns=() if generated else tuple(sorted(analysis.reads)),
        adopts=takes_over(case, operation.name),
    )
