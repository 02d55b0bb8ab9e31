"""What else feels that rows are changed: triggers, publications, indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.postgres.catalog import Table


def tell_side_effects(found: Findings, table: Table, written: set[str]) -> None:
    """Put down who is moved by a walk that writes these columns."""
    for trigger in table.triggers:
        if trigger.fires_for(written) and not trigger.name.startswith("~backfilld_"):
            reach = ", which has effects outside the database each time" if trigger.reaches_outside else ""
            found.warn(
                f"the trigger {trigger.name} on {table.name} fires for every changed row ({trigger.function}){reach}; "
                "WHEN (coalesce(current_setting('backfilld.batch', true), '') = '') in its definition makes it skip backfilld's batches"
            )
    if table.publications:
        found.warn(f"every changed row of {table.name} is replicated by {', '.join(table.publications)}")
    indexed = sorted(name for name in written if (column := table.column(name)) is not None and column.indexed)
    if indexed:
        found.warn(
            f"{', '.join(indexed)} of {table.name} is indexed, so each changed row adds an entry to every index of the table"
        )
