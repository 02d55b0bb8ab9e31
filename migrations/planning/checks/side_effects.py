"""What else feels that rows are changed: triggers, publications, indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.postgres.user_code import fired, update_rules

if TYPE_CHECKING:
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.planning.checks.findings import Case


def tell_side_effects(case: Case, facts: Facts) -> None:
    """Put down who is moved by a walk that writes these columns."""
    found, table, written = case.found, case.table, [target.column for target in facts.targets]
    for trigger in fired(case.connection, table, written):
        reach = ", which has effects outside the database each time" if trigger.reaches_outside else ""
        every = "changed row" if trigger.for_rows else "batch"
        found.warn(
            f"the trigger {trigger.name} on {table.name} fires for every {every} ({trigger.schema}.{trigger.function}){reach}; "
            "WHEN (coalesce(current_setting('backfilld.batch', true), '') = '') in its definition makes it skip backfilld's batches"
        )
    if table.publications:
        found.warn(f"every changed row of {table.name} is replicated by {', '.join(table.publications)}")
    indexed = sorted(name for name in written if (column := table.column(name)) is not None and column.indexed)
    if indexed:
        found.warn(
            f"{', '.join(indexed)} of {table.name} is indexed, so each changed row adds an entry to every index of the table"
        )


def refuse_update_rules(case: Case) -> None:
    """A batch updates inside of a WITH, where PostgreSQL does not apply rules, or says that it cannot."""
    if rules := update_rules(case.connection, case.table):
        case.refuse(
            "rule",
            f"the rule {', '.join(rules)} rewrites every UPDATE of {case.table.name}, which cannot be combined with a batch",
            "Write it as a trigger, or disable it for the time of the run (ALTER TABLE … DISABLE RULE)",
        )
