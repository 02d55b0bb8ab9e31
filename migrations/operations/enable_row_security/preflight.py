"""Whether row level security can be turned on, and who will see nothing then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.file import migration as definition
from backfilld.migrations.policies import advice
from backfilld.migrations.postgres import policies, tables

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import EnableRowSecurity
    from backfilld.migrations.planning.checks.findings import Case


def examine(case: Case, operation: EnableRowSecurity) -> Facts:
    table = case.table
    nature = tables.nature(case.connection, table)
    if nature.row_security and (nature.forced or not operation.force):
        state = "enabled and forced" if nature.forced else "enabled"
        case.refuse("row_security", f"row level security of {table.name} is already {state}", "Remove the operation")
    made = any(
        isinstance(earlier, definition.Sql) and "CREATE POLICY" in str(earlier.model_dump()).upper()
        for earlier in case.migration.operations[: case.number]
    )
    if not nature.policies and not made:
        who = "every role without BYPASSRLS, its owner included," if operation.force else "every role but its owner"
        case.warn(
            f"{table.name} has no policy [0008]: from the switch on {who} sees no row and can write none; create the policies first, "
            "by an `sql` operation that stands before this one"
        )
    if tables.has_public_api(case.connection):
        past = policies.views_past(case.connection, table.oid, ["anon", "authenticated"], forced=operation.force)
        for text in advice.of_views(str(table.name), past):
            case.warn(text)
    if operation.force:
        case.warn(
            f"FORCE applies to the owner of {table.name}: a later run needs a role with BYPASSRLS to change its rows"
        )
    return Facts(relation=str(table.name), row_security=nature.row_security)
