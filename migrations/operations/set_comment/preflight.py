"""Whether what is commented on is there, and the comment that it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning.checks.rules import check_column
from backfilld.migrations.postgres import catalog, constraints, indexes, tables

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import SetComment
    from backfilld.migrations.planning.checks.findings import Case


def examine(case: Case, operation: SetComment) -> Facts:
    """Raises Rejected."""
    return Facts(relation=str(case.table.name), comment=_comment(case, operation))


def _comment(case: Case, operation: SetComment) -> str | None:
    """The present comment; what an earlier operation of the file makes has none. Raises Rejected."""
    table, connection = case.table, case.connection
    if operation.column is not None:
        check_column(case, operation.column)
        if table.column(operation.column) is None:
            return None
        return catalog.column_details(connection, table, operation.column).comment
    if operation.constraint is not None:
        constraint = constraints.find(connection, table, operation.constraint)
        if constraint is None and not _is_made(case, operation.constraint):
            remedy = constraints.likely(connection, table, operation.constraint)
            case.refuse("constraint", f"{table.name} has no constraint {operation.constraint}", remedy)
        return constraint.comment if constraint is not None else None
    if operation.index is not None:
        index = indexes.find(connection, table.name.schema, operation.index)
        found = index.definition if index is not None and index.table == table.name else None
        if found is None and not _is_made(case, operation.index):
            remedy = "Name an index of the table; it is in the schema of its table"
            case.refuse("index", f"{table.name} has no index {operation.index}", remedy)
        return (found.comment or None) if found is not None else None
    return tables.comment(connection, table)


def _is_made(case: Case, name: str) -> bool:
    """Whether an earlier operation of the file gives this name to a rule or an index of the table."""
    makes = (definition.AddCheck, definition.AddForeignKey, definition.AddUnique, definition.CreateIndex)
    return any(
        isinstance(earlier, makes) and (earlier.table, earlier.name) == (case.table.name, name)
        for earlier in case.migration.operations[: case.number]
    )
