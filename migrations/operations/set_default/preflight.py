"""Whether a column can have a DEFAULT, and whether PostgreSQL takes this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.planning.checks.columns import old_default
from backfilld.migrations.planning.checks.rules import check_column

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import SetDefault
    from backfilld.migrations.planning.checks.findings import Case


def examine(case: Case, operation: SetDefault) -> Facts:
    """Raises Rejected."""
    check_column(case, operation.column)
    before = old_default(case, operation.column)
    # What it calls is seen in a view, and that its type can be assigned in the column itself.
    case.trial.analyse(operation.default, what="the default")
    case.trial.check_default(operation.column, operation.default)
    return Facts(relation=str(case.table.name), default=before)
