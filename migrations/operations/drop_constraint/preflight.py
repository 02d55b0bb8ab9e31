"""Whether a constraint can be dropped, and come back without a lock that stops the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.planning.checks.live_runs import refuse_walked
from backfilld.migrations.planning.checks.rules import kept_rule
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres import constraints, indexes

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import DropConstraint
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.constraints import ConstraintDetails
    from backfilld.migrations.postgres.definitions import IndexDefinition

#: From here on a partitioned table takes a foreign key that is NOT VALID.
_PARTITIONED_NOT_VALID = 180_000
#: What is not dropped, by its kind, and what to do instead.
_INSTEAD = {
    "p": "Keep it: rows are named and walked by it, and replication identifies them by it. If it must go, use an `sql` operation",
    "n": "Use drop_not_null",
    "t": "Drop the trigger with an `sql` operation",
    "x": "Use an `sql` operation, if its loss is intended: it could only be restored under a lock that blocks the application",
}


def examine(case: Case, operation: DropConstraint) -> Facts:
    table, name = case.table, operation.name
    nothing = Facts(relation=str(table.name))
    found = constraints.find(case.connection, table, name)
    if found is None:
        remedy = constraints.likely(case.connection, table, name)
        case.refuse("constraint", f"{table.name} has no constraint {name}", remedy)
        return nothing
    before = len(case.found.findings)
    _refuse_what_cannot_come_back(case, name, found)
    index = _index(case, name, found) if found.kind == "u" else None
    if len(case.found.findings) > before:
        return nothing
    _warn(case, name, found)
    return Facts(relation=str(table.name), key=key_of(table), rules=(kept_rule(case, name, found),), index=index)


def _refuse_what_cannot_come_back(case: Case, name: str, found: ConstraintDetails) -> None:
    partitioned = case.table.kind == "p"
    if found.kind in _INSTEAD:
        case.refuse("constraint", f"{name} is {constraints.KINDS[found.kind]}", _INSTEAD[found.kind])
    elif found.inherited:
        case.refuse("constraint", f"{name} is inherited from a parent table", "Drop it there")
    elif not found.enforced:
        case.refuse(
            "constraint", f"{name} is NOT ENFORCED, so there is nothing to prove", "Drop it with an `sql` operation"
        )
    elif partitioned and (
        found.kind == "u" or (found.kind == "f" and case.found.backend.version < _PARTITIONED_NOT_VALID)
    ):
        case.refuse(
            "partitioned",
            f"{name} is {constraints.KINDS[found.kind]} of a partitioned table, which could only be restored under a lock that "
            "blocks the application",
            "Drop it with an `sql` operation, if its loss is intended",
        )


def _index(case: Case, name: str, found: ConstraintDetails) -> IndexDefinition | None:
    """The index of a UNIQUE constraint, where nothing else needs it."""
    named = indexes.find(case.connection, case.table.name.schema, name)
    uses = indexes.uses(case.connection, named.oid) if named is not None else None
    if named is None or named.definition is None or uses is None:
        return None
    for key in uses.foreign_keys:
        case.refuse("foreign_key", f"the foreign key {key} depends on {name}", "Drop the foreign key first")
    if uses.replica_identity:
        table = case.table.name.identifier.as_string()
        case.refuse(
            "replica_identity",
            f"{name} is the replica identity of {case.table.name}: without it, published updates and deletes fail",
            f"First ALTER TABLE {table} REPLICA IDENTITY DEFAULT, or use another index",
        )
    if "USING btree" not in named.definition.rest:
        case.refuse(
            "constraint",
            f"{name} is WITHOUT OVERLAPS, which could only be restored under a lock that blocks the application",
            "Drop it with an `sql` operation, if its loss is intended",
        )
    if {column.name for column in key_of(case.table)} == set(found.columns):
        refuse_walked(case, set(found.columns), what=f"{name} cannot be dropped")
    if uses.clustered:
        case.warn(f"{case.table.name} is clustered on {name}; CLUSTER without an index name will fail")
    return named.definition


def _warn(case: Case, name: str, found: ConstraintDetails) -> None:
    """What the constraint did for the application."""
    if found.kind == "u":
        columns = ", ".join(found.columns)
        case.warn(f"from the switch on duplicates are accepted, and INSERT … ON CONFLICT ({columns}) fails")
    actions = [part for part in ("ON DELETE", "ON UPDATE") if f" {part} " in found.definition]
    if found.kind == "f" and actions:
        case.warn(f"from the switch on {' and '.join(actions)} of {name} do nothing: rows that refer stay as they are")
    case.warn(f"rows that break {name} block a rollback until they are fixed; it names them")
