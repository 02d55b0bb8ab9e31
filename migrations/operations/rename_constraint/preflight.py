"""Whether a constraint can have another name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import constraints, indexes

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import RenameConstraint
    from backfilld.migrations.planning.checks.findings import Case

#: Kinds whose index has the constraint's name: an index of a schema, and a name of INSERT … ON CONFLICT ON CONSTRAINT.
_WITH_INDEX = frozenset({"p", "u", "x"})


def examine(case: Case, operation: RenameConstraint) -> Facts:
    table, connection = case.table, case.connection
    facts = Facts(relation=str(table.name))
    found = constraints.find(connection, table, operation.old)
    if found is None:
        remedy = constraints.likely(connection, table, operation.old)
        case.refuse("constraint", f"{table.name} has no constraint {operation.old}", remedy)
        return facts
    if found.inherited:
        case.refuse("constraint", f"{operation.old} is inherited from a parent table", "Rename it there")
    taken = constraints.find(connection, table, operation.new)
    name = TableName(table.name.schema, operation.new)
    if taken is not None:
        case.refuse("name", f"{table.name} already has a constraint {operation.new}", "Choose another name")
    elif found.kind in _WITH_INDEX and indexes.find(connection, name.schema, name.name) is not None:
        case.refuse("name", f"there is already something called {name}, the name of its index", "Choose another name")
    if found.kind in _WITH_INDEX:
        case.warn(f"from the switch on INSERT … ON CONFLICT ON CONSTRAINT {operation.old} fails")
    return facts
