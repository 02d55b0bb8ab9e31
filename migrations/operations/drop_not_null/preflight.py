"""Whether a column may become nullable, and NOT NULL be proved again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.planning.checks.columns import column_of
from backfilld.migrations.planning.checks.live_runs import refuse_walked
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres import catalog, indexes

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import DropNotNull
    from backfilld.migrations.planning.checks.findings import Case


def examine(case: Case, operation: DropNotNull) -> Facts:
    """Raises Rejected."""
    table, name = case.table, operation.column
    column = column_of(table, name)
    if not column.not_null:
        case.refuse("column", f"{table.name}.{name} may be NULL already", "Remove the operation")
    elif because := _because(case, name):
        case.refuse("column", f"{table.name}.{name} must stay NOT NULL: {because}", "Keep it, or change that first")
    refuse_walked(case, {name}, what=f"{name} cannot become nullable")
    case.warn(
        f"a row in which {name} is NULL blocks a rollback until it has a value; views, functions and applications that read "
        f"{name} may meet NULL from expand on"
    )
    return Facts(relation=str(table.name), key=key_of(table))


def _because(case: Case, name: str) -> str:
    """What needs the column NOT NULL; empty for nothing."""
    table = case.table
    details = catalog.column_details(case.connection, table, name)
    if details.identity:
        return "it is an identity column"
    if details.inherited:
        return "a parent of the table has it NOT NULL"
    for key in table.keys:
        if key.is_primary and name in {one.name for one in key.columns}:
            return f"it is part of the primary key {key.name}"
    quoted = {name, f'"{name.replace(chr(34), chr(34) * 2)}"'}
    for index in indexes.of_table(case.connection, table.oid):
        uses = indexes.uses(case.connection, index.oid)
        if uses is not None and uses.replica_identity and index.definition and quoted & set(index.definition.keys):
            return f"the replica identity uses the index {index.definition.name}"
    return ""
